//! Every metric of this crate: its name, help and unit in one place.
//!
//! No metric has a label that could name a secret or a person.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::time::Duration;

/// Synced writes of the log.
pub const LOG_SYNCS: &str = "conclave_raft_log_syncs_total";
/// How long a synced write of the log took.
pub const LOG_SYNC_SECONDS: &str = "conclave_raft_log_sync_seconds";
/// Entries that shared one synced write.
pub const LOG_BATCH_ENTRIES: &str = "conclave_raft_log_batch_entries";
/// Bytes of entries that shared one synced write.
pub const LOG_BATCH_BYTES: &str = "conclave_raft_log_batch_bytes";
/// Size of the log on disk.
pub const LOG_BYTES: &str = "conclave_raft_log_bytes";
/// Snapshots that were taken.
pub const SNAPSHOTS_TAKEN: &str = "conclave_raft_snapshots_taken_total";
/// Snapshots of another node that were installed.
pub const SNAPSHOTS_INSTALLED: &str = "conclave_raft_snapshots_installed_total";
/// Bytes of snapshots that were sent.
pub const SNAPSHOT_SENT_BYTES: &str = "conclave_raft_snapshot_sent_bytes_total";
/// Bytes of snapshots that were received.
pub const SNAPSHOT_RECEIVED_BYTES: &str = "conclave_raft_snapshot_received_bytes_total";
/// Snapshots of another node that were refused: for want of room, damaged, or bad.
pub const SNAPSHOTS_REFUSED: &str = "conclave_raft_snapshots_refused_total";
/// Bytes of entries that were sent to followers.
pub const APPEND_SENT_BYTES: &str = "conclave_raft_append_sent_bytes_total";
/// Connections to other nodes that were made.
pub const CONNECTIONS_MADE: &str = "conclave_raft_connections_made_total";
/// Connections to other nodes that replace one that broke.
pub const RECONNECTS: &str = "conclave_raft_reconnects_total";
/// Attempts to connect to another node that failed or were refused.
pub const CONNECTIONS_FAILED: &str = "conclave_raft_connections_failed_total";
/// Free space on the data directory's file system.
pub const SPACE_FREE_BYTES: &str = "conclave_raft_space_free_bytes";
/// Whether free space is below the reserve.
pub const SPACE_BELOW_RESERVE: &str = "conclave_raft_space_below_reserve";
/// Proposals and appends that were refused for want of space.
pub const SPACE_REFUSALS: &str = "conclave_raft_space_refusals_total";
/// Entries that were applied.
pub const APPLIED_ENTRIES: &str = "conclave_raft_applied_entries_total";
/// How long one batch took to apply.
pub const APPLY_SECONDS: &str = "conclave_raft_apply_seconds";

/// Upper bounds of histogram buckets for durations in seconds: 50 µs to 10 s.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Upper bounds of histogram buckets for counts of entries.
pub const ENTRIES_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Upper bounds of histogram buckets for bytes: 256 B to 16 MiB.
pub const BYTES_BUCKETS: &[f64] = &[
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// The buckets of every histogram of this crate, for the exporter.
pub const HISTOGRAM_BUCKETS: &[(&str, &[f64])] = &[
    (LOG_SYNC_SECONDS, SECONDS_BUCKETS),
    (LOG_BATCH_ENTRIES, ENTRIES_BUCKETS),
    (LOG_BATCH_BYTES, BYTES_BUCKETS),
    (APPLY_SECONDS, SECONDS_BUCKETS),
];

/// Gives the recorder every metric's unit and help. Called once, after it is installed.
pub fn describe() {
    describe_counter!(LOG_SYNCS, Unit::Count, "Synced writes of the log.");
    describe_histogram!(
        LOG_SYNC_SECONDS,
        Unit::Seconds,
        "How long a synced write of the log took."
    );
    describe_histogram!(
        LOG_BATCH_ENTRIES,
        Unit::Count,
        "Entries that shared one synced write of the log."
    );
    describe_histogram!(
        LOG_BATCH_BYTES,
        Unit::Bytes,
        "Bytes of entries that shared one synced write of the log."
    );
    describe_gauge!(LOG_BYTES, Unit::Bytes, "Size of the entries in the log.");
    describe_counter!(SNAPSHOTS_TAKEN, Unit::Count, "Snapshots that this node took.");
    describe_counter!(
        SNAPSHOTS_INSTALLED,
        Unit::Count,
        "Snapshots of another node that this node installed."
    );
    describe_counter!(
        SNAPSHOT_SENT_BYTES,
        Unit::Bytes,
        "Bytes of snapshots sent to other nodes."
    );
    describe_counter!(
        SNAPSHOT_RECEIVED_BYTES,
        Unit::Bytes,
        "Bytes of snapshots received from other nodes."
    );
    describe_counter!(
        SNAPSHOTS_REFUSED,
        Unit::Count,
        "Snapshots of other nodes refused: no room for them, damaged, or bad."
    );
    describe_counter!(
        APPEND_SENT_BYTES,
        Unit::Bytes,
        "Bytes of log entries sent to followers."
    );
    describe_counter!(
        CONNECTIONS_MADE,
        Unit::Count,
        "Connections made to other nodes, the first ones included."
    );
    describe_counter!(
        RECONNECTS,
        Unit::Count,
        "Connections to other nodes made anew after one broke."
    );
    describe_counter!(
        CONNECTIONS_FAILED,
        Unit::Count,
        "Attempts to connect to another node that failed or were refused."
    );
    describe_gauge!(
        SPACE_FREE_BYTES,
        Unit::Bytes,
        "Free space on the data directory's file system."
    );
    describe_gauge!(
        SPACE_BELOW_RESERVE,
        Unit::Count,
        "1 while free space is below the reserve, else 0."
    );
    describe_counter!(
        SPACE_REFUSALS,
        Unit::Count,
        "Proposals and appends refused for want of space."
    );
    describe_counter!(APPLIED_ENTRIES, Unit::Count, "Entries applied to the state.");
    describe_histogram!(
        APPLY_SECONDS,
        Unit::Seconds,
        "How long one batch of entries took to apply."
    );
    // Counters are there from the start, so that the first event is seen as an increase.
    for name in [
        LOG_SYNCS,
        SNAPSHOTS_TAKEN,
        SNAPSHOTS_INSTALLED,
        SNAPSHOT_SENT_BYTES,
        SNAPSHOT_RECEIVED_BYTES,
        SNAPSHOTS_REFUSED,
        APPEND_SENT_BYTES,
        CONNECTIONS_MADE,
        RECONNECTS,
        CONNECTIONS_FAILED,
        SPACE_REFUSALS,
        APPLIED_ENTRIES,
    ] {
        counter!(name).increment(0);
    }
}

pub(crate) fn log_synced(took: Duration, entries: usize, bytes: usize) {
    counter!(LOG_SYNCS).increment(1);
    histogram!(LOG_SYNC_SECONDS).record(took.as_secs_f64());
    if entries > 0 {
        histogram!(LOG_BATCH_ENTRIES).record(entries as f64);
        histogram!(LOG_BATCH_BYTES).record(bytes as f64);
    }
}

pub(crate) fn log_bytes(bytes: u64) {
    gauge!(LOG_BYTES).set(bytes as f64);
}

pub(crate) fn applied(entries: usize, took: Duration) {
    counter!(APPLIED_ENTRIES).increment(entries as u64);
    histogram!(APPLY_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn snapshot_taken() {
    counter!(SNAPSHOTS_TAKEN).increment(1);
}

pub(crate) fn snapshot_installed() {
    counter!(SNAPSHOTS_INSTALLED).increment(1);
}

pub(crate) fn snapshot_refused() {
    counter!(SNAPSHOTS_REFUSED).increment(1);
}

pub(crate) fn snapshot_sent_bytes(bytes: usize) {
    counter!(SNAPSHOT_SENT_BYTES).increment(bytes as u64);
}

pub(crate) fn snapshot_received_bytes(bytes: usize) {
    counter!(SNAPSHOT_RECEIVED_BYTES).increment(bytes as u64);
}

pub(crate) fn append_sent_bytes(bytes: usize) {
    counter!(APPEND_SENT_BYTES).increment(bytes as u64);
}

pub(crate) fn connected(again: bool) {
    counter!(CONNECTIONS_MADE).increment(1);
    if again {
        counter!(RECONNECTS).increment(1);
    }
}

pub(crate) fn connection_failed() {
    counter!(CONNECTIONS_FAILED).increment(1);
}

pub(crate) fn space(free_bytes: u64, below_reserve: bool) {
    gauge!(SPACE_FREE_BYTES).set(free_bytes as f64);
    gauge!(SPACE_BELOW_RESERVE).set(f64::from(u8::from(below_reserve)));
}

pub(crate) fn space_refused() {
    counter!(SPACE_REFUSALS).increment(1);
}
