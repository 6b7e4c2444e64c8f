//! How RocksDB writes its tables while entries wait to be synced. A full memtable is tens of mebibytes,
//! and all nodes' fill at the same entry: written as fast as can be, each held up every put of the cluster
//! for a quarter of a second (docs/measurements.md). The invariant: tables are written evenly, and out to
//! the disk as they grow.
//!
//! The threads that do it keep their priority: on a machine that has more to do than it can they would
//! starve, and puts with them once the next memtable is full too.

use rocksdb::Options;

/// The most that one database writes of tables, in bytes a second. Above what a node takes in with values
/// of ordinary size; with large ones puts wait for it, as they would for the disk.
const TABLE_BYTES_PER_S: i64 = 128 * 1024 * 1024;
/// The rate is given out in portions of so long, in microseconds: a sync waits for one at most.
const PORTION_US: i64 = 20_000;
/// One in so many portions goes to compaction first, else to what is in memory only.
const FAIRNESS: i32 = 10;
/// After so many bytes what was written goes out to the disk. A write-ahead log that nobody syncs, as the
/// state's, would else go out at once when it is full.
const OUT_EVERY_BYTES: u64 = 1024 * 1024;

/// Makes a database write tables in the background of Raft's log, whichever of the two it is.
pub fn write_in_background(options: &mut Options) {
    options.set_ratelimiter(TABLE_BYTES_PER_S, PORTION_US, FAIRNESS);
    options.set_bytes_per_sync(OUT_EVERY_BYTES);
    options.set_wal_bytes_per_sync(OUT_EVERY_BYTES);
}
