//! The log's bytes in RocksDB.
//!
//! Invariant: a database opens only if nothing before the tail of its write-ahead log is damaged
//! (see [`super::write_ahead_log`]); what is damaged later is named when it is read.

use super::{
    background_writes::write_in_background,
    durable_directory,
    engine::{Batch, Change, Durability, LogDisk, LogEngine, Visit},
    write_ahead_log,
};
use bytes::Bytes;
use rocksdb::{
    CompactOptions, DB, DBRecoveryMode, Direction, IteratorMode, Options, ReadOptions, WriteBatch,
    WriteOptions,
};
use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A [`LogDisk`] within a data directory.
pub struct RocksDisk {
    directory: PathBuf,
}

impl RocksDisk {
    const DIRECTORY: &str = "log";

    /// The log of this data directory.
    pub fn within(data_dir: &Path) -> Self {
        Self {
            directory: data_dir.join(Self::DIRECTORY),
        }
    }
}

impl LogDisk for RocksDisk {
    fn open(&self) -> io::Result<Arc<dyn LogEngine>> {
        Ok(Arc::new(RocksEngine::open(&self.directory)?))
    }

    fn exists(&self) -> bool {
        self.directory.exists()
    }

    fn set_aside(&self, folder: &Path) -> io::Result<()> {
        fs::rename(&self.directory, folder.join(Self::DIRECTORY))
    }
}

/// A [`LogEngine`] in a directory.
pub struct RocksEngine {
    database: DB,
    directory: PathBuf,
}

impl RocksEngine {
    /// Memory for writes that are in the write-ahead log only: 32 MiB.
    const WRITE_BUFFER_BYTES: usize = 32 * 1024 * 1024;
    /// File descriptors for table files; more files are opened and closed as they are read.
    const OPEN_FILES: i32 = 256;

    /// Opens the database in `directory`, or makes it.
    ///
    /// # Errors
    /// Refuses a database that is open elsewhere, and one with damage before the tail of its
    /// write-ahead log, naming the file.
    pub fn open(directory: &Path) -> io::Result<Self> {
        write_ahead_log::cut_torn_tail(directory)?;
        durable_directory::make_durable(directory)?;
        // What is replayed is written to a table and synced before this returns: `avoid_flush_during_recovery`
        // stays off.
        let database = DB::open(&options(), directory).map_err(|error| named(directory, error))?;
        Ok(Self {
            database,
            directory: directory.to_owned(),
        })
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_write_buffer_size(RocksEngine::WRITE_BUFFER_BYTES);
    write_in_background(&mut options);
    // Values are ciphertext: they do not compress.
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options.set_max_open_files(RocksEngine::OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 * 1024 * 1024);
    options.set_max_manifest_file_size(4 * 1024 * 1024);
    options
}

impl LogEngine for RocksEngine {
    fn location(&self) -> String {
        self.directory.display().to_string()
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let value = self
            .database
            .get(key)
            .map_err(|error| named(&self.directory, error))?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, keys: Range<Bytes>, visit: &mut Visit<'_>) -> io::Result<()> {
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(keys.end.to_vec());
        let from = IteratorMode::From(&keys.start, Direction::Forward);
        for pair in self.database.iterator_opt(from, read) {
            let (key, value) = pair.map_err(|error| named(&self.directory, error))?;
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        let mut changes = WriteBatch::default();
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => changes.put(key, value),
                Change::DeleteRange { keys } => changes.delete_range(&keys.start, &keys.end),
            }
        }
        let mut write = WriteOptions::default();
        write.set_sync(durability == Durability::Synced);
        self.database
            .write_opt(changes, &write)
            .map_err(|error| named(&self.directory, error))
    }

    /// Deleted entries lie behind a tombstone until their files are compacted.
    fn reclaim(&self, keys: Range<Bytes>) {
        let mut compaction = CompactOptions::default();
        compaction.set_exclusive_manual_compaction(false);
        self.database
            .compact_range_opt(Some(&keys.start), Some(&keys.end), &compaction);
    }

    fn stop_reclaiming(&self) {
        self.database.cancel_all_background_work(false);
    }
}

/// RocksDB names the damaged file itself where it knows it; the directory is always named.
fn named(directory: &Path, error: rocksdb::Error) -> io::Error {
    let kind = match error.kind() {
        rocksdb::ErrorKind::Corruption => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("database {}: {error}", directory.display()))
}
