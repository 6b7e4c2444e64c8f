//! Rows that apply read or wrote lately, so that the next command about the same place or secret finds
//! them without a search in RocksDB.
//!
//! Invariant: what is remembered of a key is what the database holds. So it lives within the lock
//! under which rows are written, and whoever writes rows notes them, or drops all of this.

use super::table::Table;
use bytes::Bytes;
use lru::LruCache;

/// Memory for one table's rows in bytes.
const TABLE_BYTES: usize = 8 * 1024 * 1024;
/// Rows beyond this many bytes are not remembered: few would displace many.
const ROW_BYTES_MAX: usize = 4 * 1024;
/// What a row takes beside its key and value: the map's and the list's links, two allocations.
const ROW_OVERHEAD_BYTES: usize = 128;

/// What recent keys hold; `None` for one that is not there.
pub struct RecentRows([Option<Recent>; Table::ALL.len()]);

impl RecentRows {
    /// Nothing is remembered.
    pub fn new() -> Self {
        Self(Table::ALL.map(|table| remembers(table).then(Recent::default)))
    }

    /// What is remembered of a key.
    pub fn get(&mut self, table: Table, key: &[u8]) -> Option<Option<Bytes>> {
        let rows = &mut self.0[table.position()].as_mut()?.rows;
        rows.get(key).cloned()
    }

    /// Remembers what a key holds.
    pub fn note(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        if let Some(recent) = &mut self.0[table.position()] {
            recent.note(key, value);
        }
    }
}

/// Tables whose rows are read again soon: those of a write name the same rows as the one before.
fn remembers(table: Table) -> bool {
    matches!(table, Table::Meta | Table::Place | Table::Secret | Table::Version)
}

struct Recent {
    rows: LruCache<Vec<u8>, Option<Bytes>>,
    bytes: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            rows: LruCache::unbounded(),
            bytes: 0,
        }
    }
}

impl Recent {
    fn note(&mut self, key: &[u8], value: Option<&[u8]>) {
        let size_bytes = size_bytes(key, value);
        if size_bytes > ROW_BYTES_MAX {
            if let Some(before) = self.rows.pop(key) {
                self.bytes -= self::size_bytes(key, before.as_deref());
            }
            return;
        }
        self.bytes += size_bytes;
        // Of just that size: encoders leave room.
        let value = value.map(Bytes::copy_from_slice);
        if let Some(remembered) = self.rows.get_mut(key) {
            self.bytes -= self::size_bytes(key, remembered.as_deref());
            *remembered = value;
        } else {
            self.rows.put(key.to_vec(), value);
        }
        while self.bytes > TABLE_BYTES
            && let Some((key, value)) = self.rows.pop_lru()
        {
            self.bytes -= self::size_bytes(&key, value.as_deref());
        }
    }
}

fn size_bytes(key: &[u8], value: Option<&[u8]>) -> usize {
    key.len() + value.map_or(0, <[u8]>::len) + ROW_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_is_remembered_and_also_that_there_is_none() {
        let mut recent = RecentRows::new();
        assert_eq!(recent.get(Table::Place, b"key"), None);
        recent.note(Table::Place, b"key", Some(b"a"));
        recent.note(Table::Place, b"key", Some(b"b"));
        assert_eq!(
            recent.get(Table::Place, b"key"),
            Some(Some(Bytes::from_static(b"b")))
        );
        assert_eq!(recent.get(Table::Secret, b"key"), None);
        recent.note(Table::Place, b"key", None);
        assert_eq!(recent.get(Table::Place, b"key"), Some(None));
    }

    #[test]
    fn a_row_that_became_large_is_not_remembered_as_it_was() {
        let mut recent = RecentRows::new();
        recent.note(Table::Secret, b"key", Some(b"small"));
        recent.note(Table::Secret, b"key", Some(&[0; ROW_BYTES_MAX]));
        assert_eq!(recent.get(Table::Secret, b"key"), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut recent = Recent::default();
        let value = [0; 1024];
        let rows = u32::try_from(TABLE_BYTES / 1024 * 2).unwrap();
        for number in 0..rows {
            recent.note(&number.to_be_bytes(), Some(&value));
            assert!(recent.bytes <= TABLE_BYTES);
        }
        assert!(recent.rows.peek(&0_u32.to_be_bytes()[..]).is_none());
        assert!(recent.rows.peek(&(rows - 1).to_be_bytes()[..]).is_some());
        let counted: usize = recent
            .rows
            .iter()
            .map(|(key, value)| size_bytes(key, value.as_deref()))
            .sum();
        assert_eq!(counted, recent.bytes);
    }
}
