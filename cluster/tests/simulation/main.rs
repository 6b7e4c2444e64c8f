//! Whole nodes on one thread, in a simulated network, by a simulated clock, on disks that forget what
//! was not synced: everything that happens follows from one seed, and properties that must always hold
//! are checked after each step.
//!
//! | file         | idea                                                                      |
//! |--------------|---------------------------------------------------------------------------|
//! | `simulation` | one seed: a cluster forms, faults come, faults stop, the cluster must heal |
//! | `machine`    | a machine: its disk, its clocks, and what a power cut leaves               |
//! | `disk`       | the log's disk, watched                                                    |
//! | `network`    | connections between machines, watched                                      |
//! | `faults`     | what goes wrong, and when                                                  |
//! | `workload`   | what clients do                                                            |
//! | `history`    | what happened                                                              |
//! | `invariants` | what must hold of every history, one file a property                       |
//! | `trace`      | the hash of a history                                                      |
//! | `dice`       | draws that follow from a seed                                              |
//! | `seeds`      | seeds in processes of their own, where the system's randomness is one too   |
//!
//! `make simulate SEEDS=1000` runs many seeds, `make simulate SEED=7` runs one.
//! The method is that of FoundationDB's simulation (Zhou et al., "FoundationDB: A Distributed Unbundled
//! Transactional Key Value Store", 2021, section 4) with the network of turmoil.

mod dice;
mod disk;
mod faults;
mod history;
mod invariants;
mod machine;
mod network;
mod seeds;
mod simulation;
mod trace;
mod workload;

use seeds::{Batch, Plant, run_many, run_one};
use std::{env, time::Duration};

/// So many seeds in every test run.
const SEEDS_OF_A_TEST_RUN: u64 = 24;

#[test]
fn dozens_of_seeds_hold() {
    let batch = Batch {
        first: 1,
        seeds: SEEDS_OF_A_TEST_RUN,
        plant: Plant::Nothing,
    };
    let summary = run_many(&batch);
    println!("{summary}");
    assert!(summary.failures.is_empty(), "{summary}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    // Without snapshots: `simulation` says why.
    let first = run_one(1000, Plant::Nothing).expect("the seed holds");
    assert_eq!(first, run_one(1000, Plant::Nothing).expect("the seed holds"));
    let other = run_one(1002, Plant::Nothing).expect("the seed holds");
    assert_ne!(first.trace, other.trace);
}

#[test]
fn a_log_that_is_not_synced_is_caught() {
    caught(Plant::LogNotSynced, "");
}

#[test]
fn damage_that_is_not_seen_is_caught() {
    caught(Plant::DamageUnseen, "started on a damaged log");
}

#[test]
fn a_disk_that_was_put_back_and_takes_part_is_caught() {
    caught(Plant::RevertUnseen, "put back to what it was");
}

#[test]
fn a_node_that_does_not_see_its_disk_fill_is_caught() {
    caught(Plant::SpaceUnwatched, "full disks does not hold");
}

#[test]
fn a_failed_write_that_is_acknowledged_is_caught() {
    caught(Plant::FailedWriteAcknowledged, "");
}

/// One of the first seeds shows what is planted, by a failure that says so.
fn caught(plant: Plant, says: &str) {
    let found = (1..=40).find_map(|seed| run_one(seed, plant).err());
    let found = found.expect("what is planted is found by one of the first seeds");
    assert!(found.contains(says), "{found}");
    println!("caught: {found}");
}

/// What `make simulate` runs: `SIMULATE_SEEDS` seeds from `SIMULATE_FIRST` on.
#[test]
#[ignore = "as many seeds as one asks for: make simulate"]
fn many_seeds_hold() {
    let number = |name: &str, default| {
        let given = env::var(name).ok().filter(|given| !given.is_empty());
        given.map_or(default, |given| given.parse().expect("a number"))
    };
    let batch = Batch {
        first: number("SIMULATE_FIRST", 1),
        seeds: number("SIMULATE_SEEDS", 1),
        plant: Plant::named(&env::var("SIMULATE_PLANT").unwrap_or_default()),
    };
    let summary = run_many(&batch);
    println!("{summary}");
    assert!(
        summary.failures.is_empty(),
        "{} seeds failed",
        summary.failures.len()
    );
}

/// One seed in this process; `seeds` starts it in one of its own.
#[test]
#[ignore = "what the others start in processes of their own"]
fn one_seed() {
    seeds::be_the_child();
}

/// The longest that one seed may take in real time, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
