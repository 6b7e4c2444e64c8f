# The two commands of the README are `make dev` and `make test`. Both build with the one profile
# (release), so that RocksDB is compiled once; what is measured is linked again, more slowly, from it.

.DEFAULT_GOAL := help
BUILT = $(or $(CARGO_TARGET_DIR),target)/release
DISTRIBUTION = $(or $(CARGO_TARGET_DIR),target)/distribution
.PHONY: help dev test lint bench bench-hour jepsen soak planted simulate fuzz needs

# Options for `conclave dev`, as in: make dev DEV="--fresh --nodes 5"
DEV ?=
# Arguments for `cargo test`, as in: make test TEST="--test first_path"
TEST ?=
# Options for `conclave-jepsen run` and `soak`, as in: make jepsen JEPSEN="--seed 7 --nodes 5 --mixed"
JEPSEN ?=
HOURS ?= 1
# Options for `conclave-benchmark run`, as in: make bench BENCH="--only put,get --rounds 3 --seconds 10"
BENCH ?=
MINUTES ?= 60
# How many seeds, from which one on, as in: make simulate SEEDS=1000 FIRST=1; or one alone: SEED=7
SEEDS ?= 100
FIRST ?= 1
SEED ?=
# How long each fuzz target is explored, and which (a part of its name): make fuzz SECONDS=600 TARGET=name::
SECONDS ?= 60
TARGET ?=
# A fault of the product's own, to see that it is found, as in: make simulate PLANT=LogNotSynced
PLANT ?=

help:
	@echo 'make dev     install what is missing, build, and run three nodes on this machine'
	@echo 'make test    the same build, and every test'
	@echo 'make jepsen  a few minutes of real faults on real nodes, and a verdict (root)'
	@echo 'make soak HOURS=n  the same with every fault, mixed too, for hours (root)'
	@echo 'make planted  plants faults in a build of its own, and demands that they are found (root)'
	@echo 'make bench   beside etcd and a bare handler, in turns; writes the tables of docs/benchmarks.md (root)'
	@echo 'make bench-hour MINUTES=60  mixed load for an hour: memory, files, latency over time'
	@echo 'make simulate  many seeds of the simulated cluster: SEEDS=1000, or one: SEED=7'
	@echo 'make fuzz SECONDS=60  any bytes where peers, disks, clients and people give us some'
	@echo 'make lint    rustfmt and clippy, warnings denied'

needs:
	@scripts/install-needs

dev: needs
	cargo build --release --workspace
	@cargo run --release --quiet --bin conclave -- dev $(DEV)

# Tests that need what this machine lacks are skipped, and listed at the end; with
# CONCLAVE_NO_SKIPS=1 they fail instead.
test: needs
	cargo build --release --workspace
	@scripts/with-many-files scripts/test $(TEST)

# Alone on the machine. All data lies in target/benchmark, unless BENCH="--folder ..." says otherwise.
bench: needs
	@scripts/install-bench-needs
	scripts/build-distribution
	@scripts/with-many-files $(DISTRIBUTION)/conclave-benchmark run $(BENCH)

bench-hour: needs
	@scripts/install-bench-needs
	scripts/build-distribution
	@scripts/with-many-files $(DISTRIBUTION)/conclave-benchmark hour --minutes $(MINUTES) $(BENCH)

# Exit code 2 of the harness, "too little was done to tell", is a failure too. See docs/reliability.md.
jepsen: needs
	@scripts/install-jepsen-needs
	cargo build --release --workspace
	@scripts/with-many-files $(BUILT)/conclave-jepsen run $(JEPSEN)

# Faults are planted in a build of its own, and each must be found. The plain program is put back
# before anything runs.
planted: needs
	@scripts/install-jepsen-needs
	cargo build --release --package conclave --bin conclave --features planted-faults
	cp $(BUILT)/conclave $(BUILT)/conclave-with-planted-faults
	cargo build --release --workspace
	@scripts/with-many-files $(BUILT)/conclave-jepsen planted --conclave $(BUILT)/conclave-with-planted-faults

soak: needs
	@scripts/install-jepsen-needs
	cargo build --release --workspace
	@scripts/with-many-files $(BUILT)/conclave-jepsen soak --hours $(HOURS) $(JEPSEN)

# A seed that fails prints the line that replays it. SIMULATE_TRACE=file writes every event of one seed.
simulate: needs
	SIMULATE_FIRST=$(or $(SEED),$(FIRST)) SIMULATE_SEEDS=$(if $(SEED),1,$(SEEDS)) SIMULATE_PLANT=$(PLANT) \
	  scripts/with-many-files cargo test --release --workspace --test simulation -- --ignored --exact many_seeds_hold --nocapture

# `scripts/fuzz seeds` and `scripts/fuzz keep` make the corpora: see docs/reliability.md.
fuzz: needs
	cargo build --release --workspace
	@scripts/fuzz $(SECONDS) $(TARGET)

lint: needs
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
