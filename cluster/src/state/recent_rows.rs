//! Rows that apply or readers lately met, so that whoever comes next for the same place or secret finds
//! them without a search in RocksDB. A poll reads three of them, and most name the same few secrets.
//!
//! Invariant: what is found at a moment is what the database holds at that moment. Apply and readers of
//! several moments share the rows, so each says since when it holds; a row that is written is noted as
//! such before anybody can read at the moment after, and what a reader found is noted only while nobody
//! has begun to write over it.

use super::table::Table;
use bytes::Bytes;
use conclave_raft::state_machine::LogPosition;
use lru::LruCache;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Memory for one table's rows in bytes.
const TABLE_BYTES: usize = 8 * 1024 * 1024;
/// Parts with a lock of their own.
const PARTS: usize = 16;
/// Rows beyond this many bytes are not remembered: few would displace many.
const ROW_BYTES_MAX: usize = 4 * 1024;
/// What a row takes beside its key and value: the map's and the list's links, two allocations.
const ROW_OVERHEAD_BYTES: usize = 128;
/// Tables whose rows are read again soon: those of a write name the same rows as the one before.
const REMEMBERED: [Table; 4] = [Table::Meta, Table::Place, Table::Secret, Table::Version];

/// What recent keys hold; `None` for one that is not there.
pub struct RecentRows {
    /// The moment up to which writes were noted, or are being noted now.
    written: AtomicU64,
    parts: [Mutex<[Part; REMEMBERED.len()]>; PARTS],
}

/// A state: how many entries of the log are in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(u64);

impl Moment {
    /// With everything applied up to this position.
    pub fn after(applied: Option<LogPosition>) -> Self {
        Self(applied.map_or(0, |position| position.index + 1))
    }
}

impl RecentRows {
    /// Nothing is remembered of a database that is at this moment.
    pub fn new(now: Moment) -> Self {
        Self {
            written: AtomicU64::new(now.0),
            parts: Default::default(),
        }
    }

    /// What is remembered of a key as it was at a moment.
    pub fn get(&self, table: Table, key: &[u8], at: Moment) -> Option<Option<Bytes>> {
        let position = remembered(table)?;
        let mut part = self.part(key);
        let row = part[position].rows.get(key)?;
        (row.since <= at).then(|| row.value.clone())
    }

    /// Remembers what was read at a moment, unless a later one is written already.
    pub fn note_read(&self, table: Table, key: &[u8], value: Option<&[u8]>, at: Moment) {
        let Some(position) = remembered(table) else { return };
        let mut part = self.part(key);
        // Whoever writes says so before it takes this lock: if it is not to be seen here, it will come
        // and put its own row over this one.
        if self.written.load(Ordering::Acquire) <= at.0 {
            part[position].note(key, value, at);
        }
    }

    /// From here on rows are written that hold from this moment on. To be called before they are noted.
    pub fn begin_writing(&self, from: Moment) {
        self.written.store(from.0, Ordering::Release);
    }

    /// Remembers what is written.
    pub fn note_written(&self, table: Table, key: &[u8], value: Option<&[u8]>, from: Moment) {
        if let Some(position) = remembered(table) {
            self.part(key)[position].note(key, value, from);
        }
    }

    /// Forgets everything: what was noted is perhaps not what was written.
    pub fn forget(&self) {
        for part in &self.parts {
            *part.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
        }
    }

    fn part(&self, key: &[u8]) -> MutexGuard<'_, [Part; REMEMBERED.len()]> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let part = &self.parts[hasher.finish() as usize % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table's position among those that are remembered.
fn remembered(table: Table) -> Option<usize> {
    REMEMBERED.iter().position(|remembered| *remembered == table)
}

struct Part {
    rows: LruCache<Vec<u8>, Row>,
    bytes: usize,
}

struct Row {
    since: Moment,
    value: Option<Bytes>,
}

impl Default for Part {
    fn default() -> Self {
        Self {
            rows: LruCache::unbounded(),
            bytes: 0,
        }
    }
}

impl Part {
    fn note(&mut self, key: &[u8], value: Option<&[u8]>, since: Moment) {
        let size_bytes = size_bytes(key, value);
        if size_bytes > ROW_BYTES_MAX {
            if let Some(before) = self.rows.pop(key) {
                self.bytes -= self::size_bytes(key, before.value.as_deref());
            }
            return;
        }
        self.bytes += size_bytes;
        let row = Row {
            since,
            // Of just that size: encoders leave room.
            value: value.map(Bytes::copy_from_slice),
        };
        if let Some(remembered) = self.rows.get_mut(key) {
            self.bytes -= self::size_bytes(key, remembered.value.as_deref());
            *remembered = row;
        } else {
            self.rows.put(key.to_vec(), row);
        }
        while self.bytes > TABLE_BYTES / PARTS
            && let Some((key, row)) = self.rows.pop_lru()
        {
            self.bytes -= self::size_bytes(&key, row.value.as_deref());
        }
    }
}

fn size_bytes(key: &[u8], value: Option<&[u8]>) -> usize {
    key.len() + value.map_or(0, <[u8]>::len) + ROW_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"key";

    fn found(rows: &RecentRows, table: Table, at: u64) -> Option<Option<Bytes>> {
        rows.get(table, KEY, Moment(at))
    }

    fn write(rows: &RecentRows, value: Option<&[u8]>, from: u64) {
        rows.begin_writing(Moment(from));
        rows.note_written(Table::Place, KEY, value, Moment(from));
    }

    #[test]
    fn the_last_value_is_remembered_and_also_that_there_is_none() {
        let rows = RecentRows::new(Moment(0));
        assert_eq!(found(&rows, Table::Place, 0), None);
        write(&rows, Some(b"a"), 1);
        write(&rows, Some(b"b"), 2);
        assert_eq!(
            found(&rows, Table::Place, 2),
            Some(Some(Bytes::from_static(b"b")))
        );
        assert_eq!(found(&rows, Table::Secret, 2), None);
        write(&rows, None, 3);
        assert_eq!(found(&rows, Table::Place, 3), Some(None));
    }

    #[test]
    fn an_earlier_reader_does_not_find_what_was_written_later() {
        let rows = RecentRows::new(Moment(1));
        rows.note_read(Table::Place, KEY, Some(b"a"), Moment(1));
        write(&rows, Some(b"b"), 2);
        assert_eq!(found(&rows, Table::Place, 1), None);
        assert_eq!(
            found(&rows, Table::Place, 5),
            Some(Some(Bytes::from_static(b"b")))
        );
    }

    #[test]
    fn what_an_earlier_reader_found_is_not_remembered_over_what_is_written() {
        let rows = RecentRows::new(Moment(1));
        rows.begin_writing(Moment(2));
        rows.note_read(Table::Place, KEY, Some(b"a"), Moment(1));
        assert_eq!(found(&rows, Table::Place, 2), None);
        rows.note_written(Table::Place, KEY, Some(b"b"), Moment(2));
        rows.note_read(Table::Place, KEY, Some(b"a"), Moment(1));
        assert_eq!(
            found(&rows, Table::Place, 2),
            Some(Some(Bytes::from_static(b"b")))
        );
        rows.forget();
        assert_eq!(found(&rows, Table::Place, 2), None);
    }

    #[test]
    fn readers_beside_a_writer_find_only_what_held_at_their_moment() {
        // A row holds its moment; readers of a moment that was published find just that, or nothing.
        let (rows, published) = (RecentRows::new(Moment(0)), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut at = 0;
                    while at < 20_000 {
                        at = published.load(Ordering::Acquire);
                        if let Some(value) = found(&rows, Table::Place, at) {
                            let value = value.expect("it is there in each moment");
                            let held = u64::from_be_bytes(value[..].try_into().unwrap());
                            assert_eq!(held, at);
                        }
                        rows.note_read(Table::Place, KEY, Some(&at.to_be_bytes()), Moment(at));
                    }
                });
            }
            for from in 1..=20_000_u64 {
                write(&rows, Some(&from.to_be_bytes()), from);
                published.store(from, Ordering::Release);
            }
        });
    }

    #[test]
    fn a_row_that_became_large_is_not_remembered_as_it_was() {
        let rows = RecentRows::new(Moment(0));
        write(&rows, Some(b"small"), 1);
        write(&rows, Some(&[0; ROW_BYTES_MAX]), 2);
        assert_eq!(found(&rows, Table::Place, 2), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut part = Part::default();
        let value = [0; 1024];
        let rows = u32::try_from(TABLE_BYTES / PARTS / 1024 * 2).unwrap();
        for number in 0..rows {
            part.note(&number.to_be_bytes(), Some(&value), Moment(0));
            assert!(part.bytes <= TABLE_BYTES / PARTS);
        }
        assert!(part.rows.peek(&0_u32.to_be_bytes()[..]).is_none());
        assert!(part.rows.peek(&(rows - 1).to_be_bytes()[..]).is_some());
        let counted: usize = part
            .rows
            .iter()
            .map(|(key, row)| size_bytes(key, row.value.as_deref()))
            .sum();
        assert_eq!(counted, part.bytes);
    }
}
