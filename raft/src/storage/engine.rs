//! The seam between the log and what holds its bytes.
//!
//! An engine is an ordered store of byte keys that tells synced from unsynced writes. It keeps two
//! promises: a batch is applied whole or not at all, in order; and once a synced write returned,
//! it and every write before it survive a power cut. Buffered writes survive the end of the
//! process, not that of the machine. Calls block; the callers keep them off the async threads.

use bytes::Bytes;
use std::{io, ops::Range, path::Path, sync::Arc};

/// Where a node's log lies, also while nobody has it open. Calls block.
pub trait LogDisk: Send + Sync + 'static {
    /// Opens the log, or makes an empty one. Nobody else may have it open. What it then shows survives
    /// a power cut, also what a process wrote that ended before it had synced it: the node tells
    /// others of all that it finds here, as of what it has durably.
    ///
    /// # Errors
    /// Names what is damaged or in use.
    fn open(&self) -> io::Result<Arc<dyn LogEngine>>;

    /// Whether there is a log.
    fn exists(&self) -> bool;

    /// Moves the log, which nobody has open, into a folder of the data directory. The next
    /// [`Self::open`] makes an empty one.
    ///
    /// # Errors
    /// The file system's.
    fn set_aside(&self, folder: &Path) -> io::Result<()>;
}

/// What a write must survive before it returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// A power cut; so do all the writes before it.
    Synced,
    /// The end of the process.
    Buffered,
}

/// A change in a [`Batch`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets a key.
    Put { key: Bytes, value: Bytes },
    /// Deletes every key in the range.
    DeleteRange { keys: Range<Bytes> },
}

/// Changes that are applied together, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change::Put {
            key: key.into(),
            value: value.into(),
        });
    }

    /// Deletes every key from `keys.start` up to, not including, `keys.end`.
    pub fn delete_range(&mut self, keys: Range<Bytes>) {
        self.changes.push(Change::DeleteRange { keys });
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The changes, in order.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}

/// Sees one pair of a scan; says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<bool> + 'a;

/// An ordered store of byte keys; see the module's promises.
pub trait LogEngine: Send + Sync + 'static {
    /// Where the bytes lie, for messages: a directory.
    fn location(&self) -> String;

    /// The value of a key.
    ///
    /// # Errors
    /// Names the file when stored bytes are damaged.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Gives `visit` each pair of the range in order, from one consistent view, until it returns
    /// false.
    ///
    /// # Errors
    /// As [`Self::get`], and whatever `visit` returns.
    fn scan(&self, keys: Range<Bytes>, visit: &mut Visit<'_>) -> io::Result<()>;

    /// Applies a batch.
    ///
    /// # Errors
    /// After a failure it is unknown what is durable: nothing more may be written, and nothing
    /// retried.
    fn write(&self, batch: Batch, durability: Durability) -> io::Result<()>;

    /// Gives the space of deleted keys in the range back, where that takes work. Slow; other calls go
    /// on meanwhile.
    fn reclaim(&self, keys: Range<Bytes>);

    /// Ends [`Self::reclaim`] where it runs, for good: it may take longer than a node has for stopping. What
    /// it leaves is given back by the next one after a start. Nothing is written after this.
    fn stop_reclaiming(&self);
}
