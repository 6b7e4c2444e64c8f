//! What the storage tests share: a small state machine, and a log store over a given engine.

use bytes::Bytes;
use conclave_raft::{
    codec,
    state_machine::{AppliedState, Checkpoint, CommittedEntry, CommittedPayload, LogPosition, StateMachine},
    storage::{
        engine::LogEngine,
        fatal::OnFatal,
        log_store::{LogStore, LogStoreOptions},
    },
    types::{Entry, LogId, LogTypes, Payload, Proposal},
};
use openraft::{
    storage::{IOFlushed, RaftLogStorage},
    type_config::TypeConfigExt,
};
use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::sync::oneshot;

/// Remembers every proposal in order. "Durable" is what was there at the last flush.
#[derive(Default)]
pub struct Journal {
    state: Mutex<JournalState>,
    /// So many flushes fail, the first ones; those after them succeed.
    pub failing_flushes: AtomicU32,
    /// How often it was flushed.
    pub flushes: AtomicU32,
}

#[derive(Default, Clone)]
pub struct JournalState {
    pub position: Option<LogPosition>,
    pub membership: Option<(LogPosition, Bytes)>,
    pub proposals: Vec<Bytes>,
    pub batches: Vec<usize>,
}

type Stored = (Option<LogPosition>, Option<(LogPosition, Bytes)>, Vec<Bytes>);

impl Journal {
    pub fn read<T>(&self, read: impl FnOnce(&JournalState) -> T) -> T {
        read(&self.state.lock().unwrap())
    }
}

impl StateMachine for Journal {
    fn applied(&self) -> io::Result<AppliedState> {
        let state = self.state.lock().unwrap();
        Ok(AppliedState {
            position: state.position,
            membership: state.membership.clone(),
        })
    }

    fn apply(&self, entries: Vec<CommittedEntry>) -> io::Result<Vec<Bytes>> {
        let mut state = self.state.lock().unwrap();
        state.batches.push(entries.len());
        let mut responses = Vec::new();
        for entry in entries {
            state.position = Some(entry.position);
            responses.push(match entry.payload {
                CommittedPayload::Blank => Bytes::new(),
                CommittedPayload::Membership(membership) => {
                    state.membership = Some((entry.position, membership));
                    Bytes::new()
                }
                CommittedPayload::Proposal(bytes) => {
                    state.proposals.push(bytes.clone());
                    bytes
                }
            });
        }
        Ok(responses)
    }

    fn flush(&self) -> io::Result<Option<LogPosition>> {
        if self.flushes.fetch_add(1, Ordering::SeqCst) < self.failing_flushes.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk refuses"));
        }
        Ok(self.state.lock().unwrap().position)
    }

    fn checkpoint(&self, directory: PathBuf) -> io::Result<Checkpoint> {
        let state = self.state.lock().unwrap().clone();
        let stored: Stored = (state.position, state.membership.clone(), state.proposals);
        let bytes = codec::encode(&stored);
        fs::create_dir(&directory)?;
        fs::write(directory.join("journal"), &bytes)?;
        // openraft's suite purges logs that were never applied; a real machine would refuse that.
        let position = state.position.unwrap_or_default();
        Ok(Checkpoint {
            directory,
            position,
            membership: state.membership,
            size_bytes: bytes.len() as u64,
        })
    }

    fn verify(&self, checkpoint: &Checkpoint, _go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let (position, membership, _) = read(checkpoint)?;
        if position.unwrap_or_default() != checkpoint.position || membership != checkpoint.membership {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the checkpoint is not what it says",
            ));
        }
        Ok(())
    }

    fn install(&self, checkpoint: Checkpoint) -> io::Result<()> {
        let (position, membership, proposals) = read(&checkpoint)?;
        let batches = Vec::new();
        *self.state.lock().unwrap() = JournalState {
            position,
            membership,
            proposals,
            batches,
        };
        Ok(())
    }
}

fn read(checkpoint: &Checkpoint) -> io::Result<Stored> {
    let bytes = fs::read(checkpoint.directory.join("journal"))?;
    codec::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Options under which a failed disk panics the test unless it expects it.
pub fn options() -> LogStoreOptions {
    let on_fatal = OnFatal::new(|reason| eprintln!("fatal: {reason}"));
    LogStoreOptions {
        on_fatal,
        ..LogStoreOptions::default()
    }
}

pub fn open(engine: &(impl LogEngine + Clone)) -> LogStore {
    LogStore::open(Arc::new(engine.clone()), options()).unwrap()
}

pub fn proposal(term: u64, index: u64, content: impl Into<Bytes>) -> Entry {
    Entry {
        log_id: LogId::new_term_index(term, index),
        payload: Payload::Normal(Proposal(content.into())),
    }
}

/// Appends without waiting for the disk; the receiver tells when it is durable.
pub async fn append(store: &mut LogStore, entries: Vec<Entry>) -> oneshot::Receiver<io::Result<()>> {
    let (flushed, durable) = LogTypes::oneshot();
    store.append(entries, IOFlushed::signal(flushed)).await.unwrap();
    durable
}
