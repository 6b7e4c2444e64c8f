//! The table of faults, each against real processes over real TLS: one file a row. The tests
//! take turns, because they measure elections and bounds in real time.

#[path = "../support/mod.rs"]
mod support;

mod behind;
mod clocks;
mod damage;
mod disks;
mod hand_over;
mod kills;
mod partition;
mod power_cut;
mod space;
