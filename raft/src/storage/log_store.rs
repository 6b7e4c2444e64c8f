//! The log: openraft's `RaftLogStorage` and `RaftLogReader` over any [`LogEngine`].
//!
//! One thread writes. It takes whatever is queued (appends, votes, truncations, purges) in order,
//! writes all of it as one batch with one sync, and only then answers, so that concurrent proposals
//! share a sync. Entries are in memory, and readable, as soon as `append` returns; the newest stay
//! there within a limit of bytes, so that replication and apply rarely read the disk.
//!
//! Invariants:
//! - The log has no hole, on disk or in memory; one that is found is damage.
//! - What was acknowledged (a flush callback, a saved vote, a truncation) is durable.
//! - All writes are serial, in the order in which openraft asked.
//! - After a failed write nothing is written or retried: see [`OnFatal`].
//!
//! Keys: `entry/` and the index (big-endian), `vote`, `committed`, `purged`; the values are records
//! as [`super::record`] frames them.

use super::{
    engine::{Batch, Durability, LogEngine},
    fatal::OnFatal,
    record,
};
use crate::{
    metric_definitions as metric,
    runtime::{DedicatedThread, Runtime},
    state_machine::LogPosition,
    types::{
        Entry, LeaderId, LogId, LogTypes, Payload, Proposal, Vote, decode_membership, encode_membership,
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture, stream};
use openraft::{
    AsyncRuntime, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Makes the state durable up to the given position, and fails if it cannot. Called before entries
/// are deleted.
pub type BeforePurge = Arc<dyn Fn(LogPosition) -> BoxFuture<'static, io::Result<()>> + Send + Sync>;

/// Hard limit on one stored entry: 32 MiB. Admission has a smaller one.
pub const ENTRY_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// The limits of a [`LogStore`], and what it calls.
#[derive(Clone)]
pub struct LogStoreOptions {
    /// False only in tests that show what syncing is for: then nothing is synced.
    pub sync: bool,
    /// How many bytes of entries stay in memory after they were written.
    pub memory_limit_bytes: usize,
    /// How many bytes of entries may wait to be written; then `append` waits.
    pub queue_limit_bytes: usize,
    /// How many bytes one read for replication or apply returns (at least one entry).
    pub read_limit_bytes: usize,
    /// Called when the disk failed.
    pub on_fatal: OnFatal,
    /// Called before entries are deleted.
    pub before_purge: BeforePurge,
}

impl Default for LogStoreOptions {
    fn default() -> Self {
        Self {
            sync: true,
            memory_limit_bytes: 32 * 1024 * 1024,
            queue_limit_bytes: 64 * 1024 * 1024,
            read_limit_bytes: 2 * 1024 * 1024,
            on_fatal: OnFatal::exit(),
            before_purge: Arc::new(|_| Box::pin(async { Ok(()) })),
        }
    }
}

/// What of the log survives a power cut now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DurableLog {
    /// The last entry, or the last purged one when there is none.
    pub last: Option<LogId>,
    /// The vote.
    pub vote: Option<Vote>,
}

/// The log. Clones share it; its thread ends when the last one is dropped.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    writer: Arc<Writer>,
}

impl LogStore {
    /// How many operations may wait to be written.
    const QUEUE_LENGTH: usize = 1024;

    /// Opens the log in `engine`. Reads every stored entry once. Blocks on the disk.
    ///
    /// # Errors
    /// Names the record that is damaged or missing.
    pub fn open(engine: Arc<dyn LogEngine>, options: LogStoreOptions) -> io::Result<Self> {
        let memory = load(&*engine)?;
        let queued_bytes = Arc::new(Semaphore::new(options.queue_limit_bytes));
        let shared = Arc::new(Shared {
            engine,
            options,
            memory: Mutex::new(memory),
            queued_bytes,
        });
        let (sender, receiver) = mpsc::channel(Self::QUEUE_LENGTH);
        let thread = Runtime::spawn_thread("raft-log", write_all(shared.clone(), receiver))?;
        Ok(Self {
            shared,
            writer: Arc::new(Writer {
                sender,
                _thread: thread,
            }),
        })
    }

    /// What of the log survives a power cut now. Other nodes compare it with what this one
    /// acknowledged to them.
    pub fn durable(&self) -> DurableLog {
        let memory = self.shared.lock();
        DurableLog {
            last: memory.durable_last,
            vote: memory.vote,
        }
    }

    /// The last entry, durable or not.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.shared.lock().last
    }

    /// Whether the log has this very entry. Does not read the disk: of an old one that is not in memory
    /// any more it tells by the last entry whether it can be there.
    pub fn holds(&self, log_id: LogId) -> bool {
        let memory = self.shared.lock();
        match memory.tail_range(log_id.index..log_id.index + 1).next() {
            Some(entry) => entry.log_id == log_id,
            None => memory
                .last
                .is_some_and(|last| log_id <= last && log_id.index <= last.index),
        }
    }

    /// How large the entries are together, from the last purged one on, in bytes.
    pub fn log_bytes(&self) -> u64 {
        self.shared.lock().sizes_bytes
    }

    /// How large the entries after `index` are together, in bytes.
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        let memory = self.shared.lock();
        let Some(index) = index else {
            return memory.sizes_bytes;
        };
        let kept = memory.last.map_or(0, |last| last.index.saturating_sub(index));
        memory
            .sizes
            .iter()
            .rev()
            .take(usize::try_from(kept).unwrap_or(usize::MAX))
            .map(|size| u64::from(*size))
            .sum()
    }

    /// The greatest index that can be purged so that the newest `bytes` stay; `None` if all do.
    pub fn purgeable_keeping(&self, bytes: u64) -> Option<u64> {
        let memory = self.shared.lock();
        let last = memory.last?.index;
        let mut kept = 0;
        for (before_last, size) in memory.sizes.iter().rev().enumerate() {
            kept += u64::from(*size);
            if kept > bytes {
                return Some(last - before_last as u64);
            }
        }
        None
    }

    /// Gives the space of purged entries back to the file system. Appends go on meanwhile.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn reclaim(&self) -> io::Result<()> {
        let Some(purged) = self.shared.lock().purged else {
            return Ok(());
        };
        let shared = self.shared.clone();
        Runtime::spawn_blocking(move || shared.engine.reclaim(entry_key(0)..entry_key(purged.index + 1)))
            .await
    }

    /// Queues an operation. `change` updates the memory in the same order in which the writer sees
    /// the operations.
    async fn queue<T>(
        &self,
        change: impl FnOnce(&mut Memory) -> io::Result<(Operation, T)>,
    ) -> io::Result<T> {
        let place = self
            .writer
            .sender
            .reserve()
            .await
            .map_err(|_| io::Error::other("the log's writer has ended"))?;
        let mut memory = self.shared.lock();
        memory.check_not_failed()?;
        let (operation, result) = change(&mut memory)?;
        place.send(operation);
        Ok(result)
    }
}

impl RaftLogStorage<LogTypes> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<LogTypes>> {
        let memory = self.shared.lock();
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: memory.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            shared: self.shared.clone(),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        let done = self
            .queue(|_| {
                let (reply, done) = oneshot::channel();
                Ok((Operation::SaveVote { vote, reply }, done))
            })
            .await?;
        answered(done).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.queue(|memory| {
            memory.committed = committed;
            Ok((Operation::SaveCommitted { committed }, ()))
        })
        .await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<LogTypes>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Encoded here, off the lock and off the writer's thread.
        let mut records = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let encoded = Bytes::from(record::seal(&EntryRecord::from(&entry)));
            if encoded.len() > ENTRY_LIMIT_BYTES {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "entry {} has {} bytes; the limit is {ENTRY_LIMIT_BYTES}",
                        entry.log_id,
                        encoded.len()
                    ),
                ));
            }
            bytes += encoded.len();
            records.push((entry, encoded));
        }
        // One append larger than the whole queue goes through alone.
        let counted = bytes.min(self.shared.options.queue_limit_bytes).max(1);
        let permit = self
            .shared
            .queued_bytes
            .clone()
            .acquire_many_owned(u32::try_from(counted).unwrap_or(u32::MAX))
            .await
            .map_err(|_| io::Error::other("the log's writer has ended"))?;
        self.queue(move |memory| {
            memory.check_follows(records.iter().map(|(entry, _)| entry.log_id.index))?;
            memory.sequence += 1;
            let mut encoded = Vec::with_capacity(records.len());
            for (entry, record) in records {
                encoded.push((entry.log_id.index, record.clone()));
                memory.append(entry, record.len());
            }
            let append = Append {
                records: encoded,
                bytes,
                sequence: memory.sequence,
                last: memory.last,
                callback,
                _permit: permit,
            };
            Ok((Operation::Append(append), ()))
        })
        .await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |log_id| log_id.index + 1);
        let done = self
            .queue(|memory| {
                memory.truncate(from, last_log_id);
                let (reply, done) = oneshot::channel();
                Ok((
                    Operation::Truncate {
                        from,
                        last: memory.last,
                        reply,
                    },
                    done,
                ))
            })
            .await?;
        answered(done).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        if let Err(error) = (self.shared.options.before_purge)(log_id.into()).await {
            let reason = format!("the state could not be made durable before the log is purged: {error}");
            self.shared.fail(&reason);
            return Err(io::Error::other(reason));
        }
        let done = self
            .queue(|memory| {
                let moves_end = memory.last < Some(log_id);
                memory.purge(log_id);
                let (reply, done) = oneshot::channel();
                Ok((
                    Operation::Purge {
                        upto: log_id,
                        moves_end,
                        last: memory.last,
                        reply,
                    },
                    done,
                ))
            })
            .await?;
        answered(done).await
    }
}

async fn answered(done: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    done.await
        .map_err(|_| io::Error::other("the log's writer has ended"))?
}

/// Reads the log. Each replication and apply has one.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    /// How often a read starts anew because the log was truncated or purged meanwhile.
    const RETRIES: usize = 64;

    /// The entries of the range that the log holds; all of them, or the first ones within
    /// `limit_bytes` (at least one).
    async fn read(&self, range: Range<u64>, limit_bytes: Option<usize>) -> io::Result<Vec<Entry>> {
        for _ in 0..Self::RETRIES {
            let (on_disk, in_memory, generation) = {
                let memory = self.shared.lock();
                memory.check_not_failed()?;
                let range = memory.within(range.clone(), limit_bytes);
                let memory_from = memory.tail_from().clamp(range.start, range.end);
                let tail = memory
                    .tail_range(memory_from..range.end)
                    .cloned()
                    .collect::<Vec<_>>();
                (range.start..memory_from, tail, memory.generation)
            };
            if on_disk.is_empty() {
                return Ok(in_memory);
            }
            let shared = self.shared.clone();
            let wanted = on_disk.clone();
            let read = Runtime::spawn_blocking(move || read_entries(&*shared.engine, wanted)).await?;
            // What was read may be of a log that is not the present one any more.
            if self.shared.lock().generation != generation {
                continue;
            }
            let mut entries = read?;
            let found = entries.len() as u64;
            if found != on_disk.end - on_disk.start {
                return Err(hole(&*self.shared.engine, on_disk.start + found));
            }
            entries.extend(in_memory);
            return Ok(entries);
        }
        Err(io::Error::other(
            "the log was truncated again and again while it was read",
        ))
    }

    /// The entries of the range, read as they are wanted, within the limit of bytes at a time.
    fn stream(&self, range: Range<u64>) -> impl Stream<Item = io::Result<Entry>> + Send + 'static {
        let reader = self.clone();
        stream::try_unfold(range, move |range| {
            let reader = reader.clone();
            async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let limit_bytes = reader.shared.options.read_limit_bytes;
                let entries = reader.read(range.clone(), Some(limit_bytes)).await?;
                Ok(entries.last().map(|last| last.log_id.index + 1).map(|next| {
                    (
                        stream::iter(entries.into_iter().map(Ok::<_, io::Error>)),
                        next..range.end,
                    )
                }))
            }
        })
        .map(|chunk: io::Result<_>| match chunk {
            Ok(entries) => entries.left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        })
        .flatten()
    }
}

impl RaftLogReader<LogTypes> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.read(half_open(&range), None).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, Some(self.shared.options.read_limit_bytes))
            .await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.stream(half_open(&range)).boxed()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.lock().vote)
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

/// What the store, its readers and its writer share.
struct Shared {
    engine: Arc<dyn LogEngine>,
    options: LogStoreOptions,
    memory: Mutex<Memory>,
    queued_bytes: Arc<Semaphore>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no holder of the lock panics")
    }

    /// Refuses everything from now on, and says so once.
    fn fail(&self, reason: &str) {
        let first = {
            let mut memory = self.lock();
            let first = memory.failed.is_none();
            memory.failed.get_or_insert_with(|| reason.to_owned());
            first
        };
        if first {
            self.options.on_fatal.call(reason);
        }
    }
}

/// The log as readers see it.
#[derive(Default)]
pub(super) struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// The last entry, or the last purged one.
    last: Option<LogId>,
    /// As [`Self::last`], of what survives a power cut.
    durable_last: Option<LogId>,
    /// The stored size of every entry, the last one's last.
    sizes: VecDeque<u32>,
    sizes_bytes: u64,
    /// The newest entries.
    tail: VecDeque<TailEntry>,
    tail_bytes: usize,
    /// Counts appends; the writer has written all up to `written`.
    sequence: u64,
    written: u64,
    /// Counts truncations and purges.
    generation: u64,
    failed: Option<String>,
}

struct TailEntry {
    entry: Entry,
    bytes: usize,
    sequence: u64,
}

impl Memory {
    fn check_not_failed(&self) -> io::Result<()> {
        match &self.failed {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None => Ok(()),
        }
    }

    /// There must be no hole; only the first entry of an empty log may have any index.
    fn check_follows(&self, indexes: impl Iterator<Item = u64>) -> io::Result<()> {
        let mut next = if self.sizes.is_empty() {
            None
        } else {
            Some(self.end())
        };
        for index in indexes {
            if next.is_some_and(|next| next != index) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "entry {index} would leave a hole; the next is {}",
                        next.unwrap_or_default()
                    ),
                ));
            }
            next = Some(index + 1);
        }
        Ok(())
    }

    fn append(&mut self, entry: Entry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.sizes
            .push_back(u32::try_from(bytes).expect("an entry is within its limit"));
        self.sizes_bytes += bytes as u64;
        self.tail.push_back(TailEntry {
            entry,
            bytes,
            sequence: self.sequence,
        });
        self.tail_bytes += bytes;
    }

    fn truncate(&mut self, from: u64, last: Option<LogId>) {
        self.generation += 1;
        let removed = self.end().saturating_sub(from.max(self.first()));
        for _ in 0..removed {
            self.sizes_bytes -= self.sizes.pop_back().map_or(0, u64::from);
        }
        while self
            .tail
            .back()
            .is_some_and(|entry| entry.entry.log_id.index >= from)
        {
            self.tail_bytes -= self.tail.pop_back().map_or(0, |entry| entry.bytes);
        }
        if removed > 0 {
            self.last = last.max(self.purged);
        }
    }

    fn purge(&mut self, upto: LogId) {
        self.generation += 1;
        let removed = (upto.index + 1).min(self.end()).saturating_sub(self.first());
        for _ in 0..removed {
            self.sizes_bytes -= self.sizes.pop_front().map_or(0, u64::from);
        }
        while self
            .tail
            .front()
            .is_some_and(|entry| entry.entry.log_id.index <= upto.index)
        {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| entry.bytes);
        }
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(self.purged);
    }

    /// Forgets the oldest entries that were written, down to the limit.
    fn shrink(&mut self, limit_bytes: usize) {
        while self.tail_bytes > limit_bytes
            && self
                .tail
                .front()
                .is_some_and(|entry| entry.sequence <= self.written)
        {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| entry.bytes);
        }
    }

    /// One past the last entry's index; where the log is empty, the same as [`Self::first`].
    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// The first entry's index.
    fn first(&self) -> u64 {
        self.end() - self.sizes.len() as u64
    }

    /// The part of a range that the log holds, cut to the first entries within `limit_bytes`.
    fn within(&self, range: Range<u64>, limit_bytes: Option<usize>) -> Range<u64> {
        let start = range.start.max(self.first());
        let end = range.end.min(self.end()).max(start);
        let Some(limit_bytes) = limit_bytes else {
            return start..end;
        };
        let skipped = usize::try_from(start - self.first()).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut limited = start;
        for size in self
            .sizes
            .iter()
            .skip(skipped)
            .take(usize::try_from(end - start).unwrap_or(usize::MAX))
        {
            bytes += *size as usize;
            if bytes > limit_bytes && limited > start {
                break;
            }
            limited += 1;
        }
        start..limited
    }

    /// The index from which on every entry is in memory.
    fn tail_from(&self) -> u64 {
        self.end() - self.tail.len() as u64
    }

    fn tail_range(&self, range: Range<u64>) -> impl Iterator<Item = &Entry> {
        let from = self.tail_from();
        let at = |index: u64| {
            usize::try_from(index.saturating_sub(from))
                .unwrap_or(usize::MAX)
                .min(self.tail.len())
        };
        self.tail
            .range(at(range.start)..at(range.end))
            .map(|entry| &entry.entry)
    }
}

/// The thread that writes; ended, with all that was queued written, when the store is dropped.
struct Writer {
    // Dropped before the thread, which ends then.
    sender: mpsc::Sender<Operation>,
    _thread: DedicatedThread,
}

/// What the writer is asked.
enum Operation {
    Append(Append),
    SaveVote {
        vote: Vote,
        reply: oneshot::Sender<io::Result<()>>,
    },
    SaveCommitted {
        committed: Option<LogId>,
    },
    Truncate {
        from: u64,
        last: Option<LogId>,
        reply: oneshot::Sender<io::Result<()>>,
    },
    Purge {
        upto: LogId,
        /// Whether it reaches beyond the last entry, as after the installation of a snapshot.
        moves_end: bool,
        last: Option<LogId>,
        reply: oneshot::Sender<io::Result<()>>,
    },
}

struct Append {
    records: Vec<(u64, Bytes)>,
    bytes: usize,
    sequence: u64,
    /// The last entry after this.
    last: Option<LogId>,
    callback: IOFlushed<LogTypes>,
    /// Room in the queue, given back when this is dropped.
    _permit: OwnedSemaphorePermit,
}

/// How many bytes of entries one batch takes at most (or one append, if that is larger).
const BATCH_LIMIT_BYTES: usize = 16 * 1024 * 1024;

async fn write_all(shared: Arc<Shared>, mut queue: mpsc::Receiver<Operation>) {
    while let Some(first) = queue.recv().await {
        let mut operations = vec![first];
        let mut bytes = operations[0].bytes();
        while bytes < BATCH_LIMIT_BYTES
            && let Ok(next) = queue.try_recv()
        {
            bytes += next.bytes();
            operations.push(next);
        }
        write_batch(&shared, operations, bytes);
    }
}

fn write_batch(shared: &Shared, operations: Vec<Operation>, bytes: usize) {
    let failed = shared.lock().check_not_failed();
    let written = failed.and_then(|()| {
        let synced = shared.options.sync && operations.iter().any(Operation::must_be_synced);
        #[cfg(feature = "planted-faults")]
        let synced = synced && !crate::planted::is_planted("unsynced-log");
        let durability = if synced {
            Durability::Synced
        } else {
            Durability::Buffered
        };
        let mut batch = Batch::default();
        operations
            .iter()
            .for_each(|operation| operation.write_into(&mut batch));
        let started = Instant::now();
        let written = shared.engine.write(batch, durability);
        if synced {
            let entries: usize = operations.iter().map(Operation::entries).sum();
            metric::log_synced(started.elapsed(), entries, bytes);
        }
        written
    });
    if let Err(error) = &written {
        shared.fail(&format!(
            "the log in {} could not be written: {error}",
            shared.engine.location()
        ));
    } else {
        let mut memory = shared.lock();
        operations
            .iter()
            .for_each(|operation| operation.note_written(&mut memory));
        memory.shrink(shared.options.memory_limit_bytes);
        metric::log_bytes(memory.sizes_bytes);
    }
    let result = || match &written {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    for operation in operations {
        match operation {
            Operation::Append(append) => append.callback.io_completed(result()),
            Operation::SaveCommitted { .. } => {}
            Operation::SaveVote { reply, .. }
            | Operation::Truncate { reply, .. }
            | Operation::Purge { reply, .. } => {
                // Whoever asked may have gone; what was asked is done.
                let _ = reply.send(result());
            }
        }
    }
}

impl Operation {
    fn bytes(&self) -> usize {
        if let Self::Append(append) = self {
            append.bytes
        } else {
            0
        }
    }

    fn entries(&self) -> usize {
        if let Self::Append(append) = self {
            append.records.len()
        } else {
            0
        }
    }

    /// A purge needs no sync: what it deletes is in the durable state, and comes back harmlessly. One
    /// that moves the log's end does: other nodes hear of that end, and a log that ends earlier after
    /// a power cut would be taken for a reverted disk. What is committed may be forgotten: a leader
    /// tells it again.
    fn must_be_synced(&self) -> bool {
        match self {
            Self::Append(_) | Self::SaveVote { .. } | Self::Truncate { .. } => true,
            Self::Purge { moves_end, .. } => *moves_end,
            Self::SaveCommitted { .. } => false,
        }
    }

    fn write_into(&self, batch: &mut Batch) {
        match self {
            Self::Append(append) => {
                append
                    .records
                    .iter()
                    .for_each(|(index, record)| batch.put(entry_key(*index), record.clone()));
            }
            Self::SaveVote { vote, .. } => batch.put(VOTE_KEY, record::seal(&VoteRecord::from(vote))),
            Self::SaveCommitted { committed } => {
                batch.put(COMMITTED_KEY, record::seal(&committed.map(LogPosition::from)));
            }
            Self::Truncate { from, .. } => batch.delete_range(entry_key(*from)..after_every_entry()),
            Self::Purge { upto, .. } => {
                batch.put(PURGED_KEY, record::seal(&LogPosition::from(*upto)));
                batch.delete_range(entry_key(0)..entry_key(upto.index.saturating_add(1)));
            }
        }
    }

    fn note_written(&self, memory: &mut Memory) {
        match self {
            Self::Append(append) => {
                memory.written = append.sequence;
                memory.durable_last = append.last;
            }
            Self::SaveVote { vote, .. } => memory.vote = Some(*vote),
            Self::SaveCommitted { .. } => {}
            Self::Truncate { last, .. } | Self::Purge { last, .. } => memory.durable_last = *last,
        }
    }
}

pub(super) const VOTE_KEY: &[u8] = b"vote";
pub(super) const COMMITTED_KEY: &[u8] = b"committed";
pub(super) const PURGED_KEY: &[u8] = b"purged";
const ENTRY_PREFIX: &[u8] = b"entry/";

pub(super) fn entry_key(index: u64) -> Bytes {
    [ENTRY_PREFIX, &index.to_be_bytes()].concat().into()
}

fn after_every_entry() -> Bytes {
    Bytes::from_static(b"entry0")
}

/// The stored form of an entry.
#[derive(Serialize, Deserialize)]
struct EntryRecord {
    position: LogPosition,
    payload: PayloadRecord,
}

#[derive(Serialize, Deserialize)]
enum PayloadRecord {
    Blank,
    Proposal(Bytes),
    Membership(Bytes),
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            Payload::Blank => PayloadRecord::Blank,
            Payload::Normal(proposal) => PayloadRecord::Proposal(proposal.0.clone()),
            Payload::Membership(membership) => PayloadRecord::Membership(encode_membership(membership)),
        };
        Self {
            position: entry.log_id.into(),
            payload,
        }
    }
}

fn open_entry(value: &[u8], index: u64, location: &str) -> io::Result<Entry> {
    let what = || format!("log entry {index}");
    let EntryRecord { position, payload } = record::open(value, location, &what())?;
    let damaged = |reason: &str| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} in {location} is damaged: {reason}", what()),
        )
    };
    if position.index != index {
        return Err(damaged(&format!("it is entry {}", position.index)));
    }
    let payload = match payload {
        PayloadRecord::Blank => Payload::Blank,
        PayloadRecord::Proposal(bytes) => Payload::Normal(Proposal(bytes)),
        PayloadRecord::Membership(bytes) => {
            Payload::Membership(decode_membership(&bytes).map_err(|error| damaged(&error.to_string()))?)
        }
    };
    Ok(Entry {
        log_id: position.into(),
        payload,
    })
}

/// The stored form of a vote.
#[derive(Serialize, Deserialize)]
struct VoteRecord {
    term: u64,
    voted_for: u64,
    committed: bool,
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            voted_for: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        let VoteRecord {
            term,
            voted_for,
            committed,
        } = record;
        Self {
            leader_id: LeaderId { term, voted_for },
            committed,
        }
    }
}

fn hole(engine: &dyn LogEngine, index: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("log entry {index} in {} is missing", engine.location()),
    )
}

/// The entries of the range, up to the first that is missing.
pub(super) fn read_entries(engine: &dyn LogEngine, range: Range<u64>) -> io::Result<Vec<Entry>> {
    let location = engine.location();
    let mut entries = Vec::new();
    let mut next = range.start;
    engine.scan(entry_key(range.start)..entry_key(range.end), &mut |key, value| {
        if key != entry_key(next) {
            return Ok(false);
        }
        entries.push(open_entry(value, next, &location)?);
        next += 1;
        Ok(true)
    })?;
    Ok(entries)
}

/// Reads what is stored, and checks every record and that no entry is missing.
pub(super) fn load(engine: &dyn LogEngine) -> io::Result<Memory> {
    let location = engine.location();
    let mut memory = Memory::default();
    if let Some(bytes) = engine.get(VOTE_KEY)? {
        memory.vote = Some(record::open::<VoteRecord>(&bytes, &location, "the vote record")?.into());
    }
    if let Some(bytes) = engine.get(COMMITTED_KEY)? {
        let committed: Option<LogPosition> = record::open(&bytes, &location, "the committed record")?;
        memory.committed = committed.map(LogId::from);
    }
    if let Some(bytes) = engine.get(PURGED_KEY)? {
        let purged: LogPosition = record::open(&bytes, &location, "the purged record")?;
        memory.purged = Some(purged.into());
    }
    let mut last: Option<LogId> = None;
    engine.scan(entry_key(0)..after_every_entry(), &mut |key, value| {
        let index = key
            .strip_prefix(ENTRY_PREFIX)
            .and_then(|index| index.try_into().ok())
            .map(u64::from_be_bytes)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{location} has a key that is no entry's"),
                )
            })?;
        if let Some(before) = last.or(memory.purged)
            && before.index.checked_add(1) != Some(index)
        {
            return Err(hole(engine, before.index.saturating_add(1)));
        }
        last = Some(open_entry(value, index, &location)?.log_id);
        let size = u32::try_from(value.len()).map_err(|_| hole(engine, index))?;
        memory.sizes.push_back(size);
        memory.sizes_bytes += u64::from(size);
        Ok(true)
    })?;
    memory.last = last.or(memory.purged);
    memory.durable_last = memory.last;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Membership;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn golden_records() {
        let sealed = |payload| {
            let entry = Entry {
                log_id: LogId::new_term_index(3, 300),
                payload,
            };
            record::seal(&EntryRecord::from(&entry))
        };
        let nodes = BTreeMap::from([(
            1,
            crate::identity::NodeRecord {
                name: "a".into(),
                address: "h:1".into(),
            },
        )]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        let blank = sealed(Payload::Blank);
        let proposal = sealed(Payload::Normal(Proposal(Bytes::from_static(b"xy"))));
        let membership = sealed(Payload::Membership(membership));
        let unchecked = |record: &[u8]| record[..record.len() - 4].to_vec();
        assert_eq!(unchecked(&blank), [1, 3, 251, 44, 1, 0]);
        assert_eq!(unchecked(&proposal), [1, 3, 251, 44, 1, 1, 2, b'x', b'y']);
        assert_eq!(
            unchecked(&membership),
            [
                1, 3, 251, 44, 1, 2, 12, 1, 1, 1, 1, 1, 1, 1, b'a', 3, b'h', b':', b'1'
            ]
        );
        let vote = Vote {
            leader_id: LeaderId {
                term: 5,
                voted_for: 2,
            },
            committed: true,
        };
        assert_eq!(unchecked(&record::seal(&VoteRecord::from(&vote))), [1, 5, 2, 1]);
        let position = LogPosition { term: 5, index: 9 };
        assert_eq!(unchecked(&record::seal(&position)), [1, 5, 9]);
        assert_eq!(unchecked(&record::seal(&Some(position))), [1, 1, 5, 9]);
    }

    #[test]
    fn nothing_follows_the_last_of_all_indexes() {
        let engine = crate::storage::simulated_engine::SimulatedEngine::default();
        let position = |index| LogPosition { term: 1, index };
        let first = EntryRecord {
            position: position(0),
            payload: PayloadRecord::Blank,
        };
        let mut batch = Batch::default();
        batch.put(entry_key(0), record::seal(&first));
        engine.write(batch, Durability::Synced).unwrap();
        assert!(load(&engine).is_ok());
        let mut batch = Batch::default();
        batch.put(PURGED_KEY, record::seal(&position(u64::MAX)));
        engine.write(batch, Durability::Synced).unwrap();
        assert!(load(&engine).is_err());
    }

    #[test]
    fn keys_sort_as_indexes_do_and_before_the_end() {
        assert_eq!(&entry_key(258)[..], b"entry/\0\0\0\0\0\0\x01\x02");
        assert!(entry_key(255) < entry_key(256));
        assert!(entry_key(u64::MAX) < after_every_entry());
    }
}
