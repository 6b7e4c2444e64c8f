# The two commands of the README are `make dev` and `make test`. Both build with the one profile
# (release), so that RocksDB is compiled once.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help dev test lint needs

# Options for `conclave dev`, as in: make dev DEV="--fresh --nodes 5"
DEV ?=
# Arguments for the test programs, as in: make test TEST="--test first_path"
TEST ?=
# RocksDB and the process tests open many files.
RAISE_LIMITS := ulimit -n "$$(ulimit -Hn)" 2>/dev/null || true

help:
	@echo 'make dev     install what is missing, build, and run three nodes on this machine'
	@echo 'make test    the same build, and every test'
	@echo 'make lint    rustfmt and clippy, warnings denied'

needs:
	@scripts/install-needs

dev: needs
	cargo build --release --workspace
	@$(RAISE_LIMITS); exec cargo run --release --quiet --bin conclave -- dev $(DEV)

# Tests that need what this machine lacks are skipped, and listed at the end; with
# CONCLAVE_NO_SKIPS=1 they fail instead.
test: needs
	cargo build --release --workspace
	@$(RAISE_LIMITS)
	skipped="$$(mktemp)"
	trap 'rm -f "$$skipped"' EXIT
	result=0
	CONCLAVE_SKIPPED_FILE="$$skipped" cargo test --release --workspace $(TEST) || result=$$?
	if [ -s "$$skipped" ]; then echo 'Skipped:'; sort -u "$$skipped" | sed 's/^/  /'; else echo 'Nothing was skipped.'; fi
	exit "$$result"

lint: needs
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

.ONESHELL: test
