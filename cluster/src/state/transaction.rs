//! Reads and writes of apply, over the database, until one batch carries them all.
//!
//! Layers lie over one another: the run of entries, the entry, a command's parts. A layer is kept
//! (merged into the one below) or undone. When an entry ends, the digest takes up its writes, so
//! that the figure at an index does not depend on how entries were cut into runs.

use super::{
    database::{Database, Direction, KeyRange},
    digest::{DIGEST_INTERVAL, DIGESTS_KEPT, Digest},
    recent::Recent,
    recent_rows::Moment,
    table::Table,
};
use crate::model::{Place, ProposalId, SecretId, SecretRecord, Token};
use bytes::Bytes;
use conclave_raft::codec;
use rocksdb::{ReadOptions, WriteBatch};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    ops::ControlFlow,
};

/// The key of the running digest in its table.
pub const RUNNING_DIGEST_KEY: &[u8] = b"running";

/// A run of entries that is being applied.
pub struct Transaction<'d> {
    database: &'d Database,
    recent: &'d mut Recent,
    /// Before the run.
    before: Moment,
    run: Layer,
    layers: Vec<Layer>,
    digest: Digest,
    changed: BTreeSet<(u64, SecretId)>,
}

/// What was written, by table.
#[derive(Default)]
struct Layer([BTreeMap<Vec<u8>, Write>; Table::ALL.len()]);

/// A key's last write.
struct Write {
    /// `None`: deleted.
    value: Option<Bytes>,
    /// Before this entry the key was never written, so that there is nothing that it replaces.
    is_new: bool,
}

/// What a run of entries leaves.
pub struct Finished {
    /// Everything to write, the digests included.
    pub batch: WriteBatch,
    /// The digest after it.
    pub digest: Digest,
    /// Secrets of which edges have to hear ([`crate::node::Change::Secret`]), with the index of the entry.
    pub changed: BTreeSet<(u64, SecretId)>,
}

impl<'d> Transaction<'d> {
    /// Begins a run over a state at this moment with this digest, with which `recent` agrees. It runs
    /// ahead from here on: whoever does not write what is finished drops it.
    pub fn new(database: &'d Database, before: Moment, digest: Digest, recent: &'d mut Recent) -> Self {
        Self {
            database,
            recent,
            before,
            run: Layer::default(),
            layers: Vec::new(),
            digest,
            changed: BTreeSet::new(),
        }
    }

    /// Begins a layer that is ended by [`Self::keep`] or [`Self::undo`].
    pub fn begin(&mut self) {
        self.layers.push(Layer::default());
    }

    /// Merges the last layer into the one below.
    pub fn keep(&mut self) {
        let top = self.layers.pop().expect("begin came before keep");
        let below = self
            .layers
            .last_mut()
            .expect("an entry's own layer ends with end_entry");
        for (below, top) in below.0.iter_mut().zip(top.0) {
            for (key, write) in top {
                insert(below, key, write);
            }
        }
    }

    /// Forgets the last layer.
    pub fn undo(&mut self) {
        self.layers.pop().expect("begin came before undo");
    }

    /// Writes a record.
    pub fn put<T: Serialize>(&mut self, table: Table, key: &[u8], record: &T) {
        self.write(table, key, Some(codec::encode(record).into()), false);
    }

    /// Writes a record whose key no earlier entry ever wrote.
    pub fn put_new<T: Serialize>(&mut self, table: Table, key: &[u8], record: &T) {
        self.put_new_bytes(table, key, codec::encode(record).into());
    }

    /// As [`Self::put_new`], with bytes as they are; none where a key says all by being there.
    pub fn put_new_bytes(&mut self, table: Table, key: &[u8], bytes: Bytes) {
        self.write(table, key, Some(bytes), true);
    }

    /// Writes a key that says all by being there.
    pub fn put_key(&mut self, table: Table, key: &[u8]) {
        self.write(table, key, Some(Bytes::new()), false);
    }

    /// Deletes a key.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.write(table, key, None, false);
    }

    /// The entry that applied a proposal, if its outcome is remembered.
    pub fn entry_of(&self, proposal: ProposalId) -> Option<u64> {
        self.recent.proposals.entry_of(proposal)
    }

    /// Notes that the window has a proposal's outcome.
    pub fn note_remembered(&mut self, proposal: ProposalId, index: u64) {
        self.recent.proposals.remember(proposal, index);
    }

    /// Notes that the window has it no more.
    pub fn note_forgotten(&mut self, proposal: ProposalId) {
        self.recent.proposals.forget(proposal);
    }

    /// Ends an entry: its writes become part of the run and of the digest. A figure is kept where
    /// the index says so.
    pub fn end_entry(&mut self, index: u64) -> io::Result<()> {
        let entry = self.layers.pop().expect("begin came before end_entry");
        assert!(self.layers.is_empty(), "an entry ends after all of its parts");
        for (table, writes) in Table::ALL.into_iter().zip(entry.0) {
            for (key, Write { value, is_new }) in writes {
                let before = if is_new {
                    debug_assert!(self.read(table, &key)?.is_none(), "{table:?}: the key is not new");
                    None
                } else {
                    self.read(table, &key)?
                };
                if before == value {
                    continue;
                }
                if table == Table::Secret
                    && self.concerns_edges(before.as_deref(), value.as_deref())?
                    && let Ok(secret) = key.as_slice().try_into()
                {
                    self.changed.insert((index, SecretId(secret)));
                }
                if let Some(before) = before {
                    self.digest.remove(table, &key, &before);
                }
                if let Some(value) = &value {
                    self.digest.add(table, &key, value);
                }
                self.run.0[table.position()].insert(key, Write { value, is_new });
            }
        }
        if index.is_multiple_of(DIGEST_INTERVAL) {
            let digests = &mut self.run.0[Table::Digest.position()];
            digests.insert(
                index.to_be_bytes().to_vec(),
                Write::of(Some(codec::encode(&self.digest).into())),
            );
            if let Some(old) = index.checked_sub(DIGEST_INTERVAL * DIGESTS_KEPT) {
                digests.insert(old.to_be_bytes().to_vec(), Write::of(None));
            }
        }
        Ok(())
    }

    /// Ends the run, after which the state is at this moment.
    pub fn finish(mut self, after: Moment) -> Finished {
        assert!(self.layers.is_empty(), "a run ends after its last entry");
        self.run.0[Table::Digest.position()].insert(
            RUNNING_DIGEST_KEY.to_vec(),
            Write::of(Some(codec::encode(&self.digest).into())),
        );
        let mut batch = WriteBatch::default();
        self.recent.rows.begin_writing(after);
        for (table, writes) in Table::ALL.into_iter().zip(self.run.0) {
            let family = self.database.family(table);
            for (key, Write { value, .. }) in writes {
                self.recent
                    .rows
                    .note_written(table, &key, value.as_deref(), after);
                match value {
                    Some(value) => batch.put_cf(family, key, value),
                    None => batch.delete_cf(family, key),
                }
            }
        }
        Finished {
            batch,
            digest: self.digest,
            changed: self.changed,
        }
    }

    /// Reads a record.
    pub fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> io::Result<Option<T>> {
        self.read(table, key)?
            .map(|row| self.database.decode(table, &row))
            .transpose()
    }

    /// Whether there is such a key.
    pub fn contains(&self, table: Table, key: &[u8]) -> io::Result<bool> {
        Ok(self.read(table, key)?.is_some())
    }

    /// Visits pairs in order until `visit` breaks.
    pub fn scan(
        &self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let mut written = self.written(table, range);
        if direction == Direction::Descending {
            written.reverse();
        }
        let mut written = written.into_iter().peekable();
        let mut cursor = self
            .database
            .cursor(table, range, direction, ReadOptions::default());
        let mut stored = cursor.next()?;
        loop {
            let order = match (stored, written.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((stored, _)), Some((written, _))) => match direction {
                    Direction::Ascending => stored.cmp(written.as_slice()),
                    Direction::Descending => written.as_slice().cmp(stored),
                },
            };
            let flow = if order.is_lt() {
                match stored {
                    Some((key, value)) => visit(key, value)?,
                    None => ControlFlow::Continue(()),
                }
            } else {
                match written.next() {
                    Some((key, Some(value))) => visit(&key, &value)?,
                    _ => ControlFlow::Continue(()),
                }
            };
            if flow.is_break() {
                return Ok(());
            }
            if order.is_le() {
                stored = cursor.next()?;
            }
        }
    }

    /// Decodes a row that a scan visited.
    pub fn decode<T: DeserializeOwned>(&self, table: Table, row: &[u8]) -> io::Result<T> {
        self.database.decode(table, row)
    }

    /// Local damage in a table.
    pub fn damage(&self, table: Table, what: &str) -> io::Error {
        self.database.damage(table, what)
    }

    fn write(&mut self, table: Table, key: &[u8], value: Option<Bytes>, is_new: bool) {
        let layer = self.layers.last_mut().expect("writes happen within an entry");
        insert(
            &mut layer.0[table.position()],
            key.to_vec(),
            Write { value, is_new },
        );
    }

    fn read(&self, table: Table, key: &[u8]) -> io::Result<Option<Bytes>> {
        let position = table.position();
        let written = self
            .layers
            .iter()
            .rev()
            .chain([&self.run])
            .find_map(|layer| layer.0[position].get(key))
            .map(|write| write.value.clone());
        if let Some(value) = written {
            return Ok(value);
        }
        let rows = &self.recent.rows;
        if let Some(value) = rows.get(table, key, self.before) {
            return Ok(value);
        }
        let stored = self.database.get(table, key)?;
        rows.note_read(table, key, stored.as_deref(), self.before);
        Ok(stored)
    }

    /// Whether edges cache what a secret's record said before.
    fn concerns_edges(&self, before: Option<&[u8]>, after: Option<&[u8]>) -> io::Result<bool> {
        let (Some(before), Some(after)) = (before, after) else {
            return Ok(true);
        };
        let before: SecretRecord = self.database.decode(Table::Secret, before)?;
        let after: SecretRecord = self.database.decode(Table::Secret, after)?;
        let is_the_clusters = |place: Place| place.namespace == Token::SYSTEM_NAMESPACE;
        Ok(after.place.is_some_and(is_the_clusters)
            || before.place != after.place
            || before.name != after.name)
    }

    fn written(&self, table: Table, range: &KeyRange) -> Vec<(Vec<u8>, Option<Bytes>)> {
        let mut all = BTreeMap::new();
        for layer in [&self.run].into_iter().chain(&self.layers) {
            let writes = &layer.0[table.position()];
            for (key, write) in writes.range(range.start.clone()..) {
                if range.end.as_ref().is_some_and(|end| key >= end) {
                    break;
                }
                all.insert(key.clone(), write.value.clone());
            }
        }
        all.into_iter().collect()
    }
}

impl Write {
    fn of(value: Option<Bytes>) -> Self {
        Self { value, is_new: false }
    }
}

/// Writes over what the same entry wrote before; a key that was new then still is.
fn insert(writes: &mut BTreeMap<Vec<u8>, Write>, key: Vec<u8>, write: Write) {
    match writes.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert(write);
        }
        Entry::Occupied(mut occupied) => {
            let before = occupied.get_mut();
            before.is_new |= write.is_new;
            before.value = write.value;
        }
    }
}
