//! Faults that are planted on purpose, one at a time, so that `jepsen/` can be shown to find them.
//! This exists only with the feature `planted-faults`, which no build for users has. Each place that
//! asks is marked with that feature.

use std::sync::LazyLock;

/// Names the fault in a node's environment.
pub const VARIABLE: &str = "CONCLAVE_PLANTED_FAULT";

/// Whether this fault is planted in this process.
pub fn is_planted(fault: &str) -> bool {
    static PLANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(VARIABLE).ok());
    PLANTED.as_deref() == Some(fault)
}
