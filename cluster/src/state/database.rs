//! The RocksDB database of the state: opening it, its options, and its errors.
//!
//! Every error names the directory and the column family; RocksDB's own message names the file.

use super::table::Table;
use bytes::Bytes;
use conclave_raft::{
    codec,
    storage::{background_writes::write_in_background, write_ahead_log},
};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DBRecoveryMode, FlushOptions, Options, ReadOptions, WriteBatch, WriteOptions, checkpoint::Checkpoint,
};
use serde::de::DeserializeOwned;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Memory for blocks that were read.
const BLOCK_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Memory for writes that are not in a table file yet, over all column families.
const WRITE_BUFFERS_BYTES: usize = 64 * 1024 * 1024;
/// The same for one column family. Half of the whole, so that a busy one gets large files.
const WRITE_BUFFER_BYTES: usize = 32 * 1024 * 1024;
/// Write-ahead log that may pile up because a quiet column family holds old entries.
const WRITE_AHEAD_LOG_BYTES: u64 = 128 * 1024 * 1024;
/// File descriptors for table files.
const OPEN_FILES: i32 = 512;
/// RocksDB's own message log: it names files and timings, never keys.
const MESSAGE_LOG_BYTES: usize = 1024 * 1024;

/// An open database. Writers are serialised by the store; readers are many.
pub struct Database {
    rocks: DB,
    // Dropped after `rocks`, so that files go only once nobody reads them.
    files: Files,
}

/// Which keys of a table.
#[derive(Clone, Debug, Default)]
pub struct KeyRange {
    /// The first, included.
    pub start: Vec<u8>,
    /// The end, excluded; `None` for the table's end.
    pub end: Option<Vec<u8>>,
}

/// The order in which keys are visited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Ascending,
    Descending,
}

impl KeyRange {
    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            start: prefix.to_vec(),
            end: super::rows::after_prefix(prefix),
        }
    }

    /// Every key from `start` on.
    pub fn from(start: Vec<u8>) -> Self {
        Self { start, end: None }
    }
}

impl Database {
    /// Opens a database, or makes one if the directory has none. What a power cut tore off is gone
    /// then, and all that came after it: the log replays that.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        write_ahead_log::cut_at_first_tear(directory, || first_needed_log(directory))?;
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families =
            Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(&cache)));
        let rocks = DB::open_cf_descriptors(&database_options(), directory, families)
            .map_err(|error| open_error(directory, &error))?;
        Ok(Self {
            rocks,
            files: Files::new(directory),
        })
    }

    /// Opens an existing database without changing its files.
    pub fn open_read_only(directory: &Path) -> io::Result<Self> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families =
            Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(&cache)));
        let mut options = database_options();
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        let rocks = DB::open_cf_descriptors_read_only(&options, directory, families, false)
            .map_err(|error| rocks_error(directory, None, &error))?;
        Ok(Self {
            rocks,
            files: Files::new(directory),
        })
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.files.directory
    }

    /// The files are removed once the last reader is gone.
    pub fn retire(&self) {
        self.files.retired.store(true, Ordering::Release);
    }

    /// The latest value of a key.
    pub fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.rocks
            .get_pinned_cf(self.family(table), key)
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|error| self.error(table, &error))
    }

    /// Visits keys of a table, of the snapshot in `options` if there is one.
    pub fn cursor(
        &self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
        mut options: ReadOptions,
    ) -> Cursor<'_> {
        options.set_iterate_lower_bound(range.start.clone());
        if let Some(end) = &range.end {
            options.set_iterate_upper_bound(end.clone());
        }
        let iterator = self.rocks.raw_iterator_cf_opt(self.family(table), options);
        Cursor {
            database: self,
            table,
            iterator,
            direction,
            started: false,
        }
    }

    /// Writes a batch atomically. Not synced: the log is the durable copy.
    pub fn write(&self, batch: WriteBatch) -> io::Result<()> {
        self.rocks
            .write_opt(batch, &WriteOptions::default())
            .map_err(|error| rocks_error(self.directory(), None, &error))
    }

    /// Makes everything written so far durable. A failure must not be retried.
    pub fn sync(&self) -> io::Result<()> {
        self.rocks
            .flush_wal(true)
            .map_err(|error| rocks_error(self.directory(), None, &error))
    }

    /// Writes what is only in memory (and in the write-ahead log) into tables, as a checkpoint does first.
    /// Other writes go on meanwhile.
    pub fn write_out(&self) -> io::Result<()> {
        let families = Table::ALL.map(|table| self.family(table));
        self.rocks
            .flush_cfs_opt(&families, &FlushOptions::default())
            .map_err(|error| rocks_error(self.directory(), None, &error))
    }

    /// Writes a copy of the present state as hard links into `directory`, which must not exist.
    pub fn checkpoint(&self, directory: &Path) -> io::Result<()> {
        Checkpoint::new(&self.rocks)
            .and_then(|checkpoint| checkpoint.create_checkpoint(directory))
            .map_err(|error| rocks_error(self.directory(), None, &error))
    }

    /// About how many bytes the rows of a table have, in files and in memory.
    pub fn approximate_bytes(&self, table: Table) -> u64 {
        let figure = |name| {
            let found = self.rocks.property_int_value_cf(self.family(table), name);
            found.ok().flatten().unwrap_or(0)
        };
        figure(rocksdb::properties::ESTIMATE_LIVE_DATA_SIZE)
            + figure(rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES)
    }

    /// RocksDB itself, for snapshots.
    pub(super) fn rocks(&self) -> &DB {
        &self.rocks
    }

    /// A table's column family.
    pub(super) fn family(&self, table: Table) -> &ColumnFamily {
        self.rocks
            .cf_handle(table.name())
            .expect("every table was opened as a column family")
    }

    /// Decodes a stored row. One that cannot be decoded is local damage.
    pub fn decode<T: DeserializeOwned>(&self, table: Table, row: &[u8]) -> io::Result<T> {
        codec::decode(row).map_err(|error| self.damage(table, &error.to_string()))
    }

    /// Local damage in a table.
    pub fn damage(&self, table: Table, what: &str) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "state database {}: column family {}: {what}",
                self.directory().display(),
                table.name()
            ),
        )
    }

    pub(super) fn error(&self, table: Table, error: &rocksdb::Error) -> io::Error {
        rocks_error(self.directory(), Some(table), error)
    }
}

/// Visits keys in order.
pub struct Cursor<'d> {
    database: &'d Database,
    table: Table,
    iterator: DBRawIterator<'d>,
    direction: Direction,
    started: bool,
}

impl Cursor<'_> {
    /// The next pair, or `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<(&[u8], &[u8])>> {
        match (self.started, self.direction) {
            (false, Direction::Ascending) => self.iterator.seek_to_first(),
            (false, Direction::Descending) => self.iterator.seek_to_last(),
            (true, Direction::Ascending) => self.iterator.next(),
            (true, Direction::Descending) => self.iterator.prev(),
        }
        self.started = true;
        self.current()
    }

    /// The first pair at or beyond `key` in the cursor's direction.
    pub fn seek(&mut self, key: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
        match self.direction {
            Direction::Ascending => self.iterator.seek(key),
            Direction::Descending => self.iterator.seek_for_prev(key),
        }
        self.started = true;
        self.current()
    }

    fn current(&self) -> io::Result<Option<(&[u8], &[u8])>> {
        match self.iterator.item() {
            Some(pair) => Ok(Some(pair)),
            None => match self.iterator.status() {
                Ok(()) => Ok(None),
                Err(error) => Err(self.database.error(self.table, &error)),
            },
        }
    }
}

struct Files {
    directory: PathBuf,
    retired: AtomicBool,
}

impl Files {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            retired: AtomicBool::new(false),
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            // The next start removes it.
            tracing::warn!(directory = %self.directory.display(), %error, "a replaced state was not removed");
        }
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Tears were cut before; should one be left, nothing beyond it is taken. What was synced (and
    // perhaps purged from the log since) must be there: RocksDB keeps note of it in the manifest.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(WRITE_AHEAD_LOG_BYTES);
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES);
    write_in_background(&mut options);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(MESSAGE_LOG_BYTES);
    options
}

fn table_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    // Each write reads the row that it replaces (for the digest); the filter answers for new ones.
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    // Ciphertext, digests and tokens do not compress.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options
}

/// The number of the first write-ahead log that is needed, by the manifest. Changes nothing of the database.
fn first_needed_log(directory: &Path) -> io::Result<u64> {
    let mut options = database_options();
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    let number = DB::list_cf(&options, directory)
        .and_then(|families| DB::open_cf_for_read_only(&options, directory, families, false))
        .and_then(|rocks| rocks.property_int_value("rocksdb.min-log-number-to-keep"))
        .map_err(|error| open_error(directory, &error))?;
    number.ok_or_else(|| {
        io::Error::other(format!(
            "state database {}: RocksDB does not tell which write-ahead logs it needs",
            directory.display()
        ))
    })
}

/// RocksDB names damaged table files, but not a write-ahead log that it cannot replay.
fn open_error(directory: &Path, error: &rocksdb::Error) -> io::Error {
    let named = rocks_error(directory, None, error);
    if named.kind() != io::ErrorKind::InvalidData || error.as_ref().contains(".sst") {
        return named;
    }
    let logs = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut logs: Vec<String> = logs
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .map(|path| path.display().to_string())
        .collect();
    logs.sort();
    io::Error::new(
        named.kind(),
        format!("{named} (write-ahead logs: {})", logs.join(", ")),
    )
}

fn rocks_error(directory: &Path, table: Option<Table>, error: &rocksdb::Error) -> io::Error {
    let kind = match error.kind() {
        rocksdb::ErrorKind::Corruption => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    let table = table
        .map(|table| format!(": column family {}", table.name()))
        .unwrap_or_default();
    io::Error::new(
        kind,
        format!("state database {}{table}: {error}", directory.display()),
    )
}
