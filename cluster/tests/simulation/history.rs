//! What happened, as far as a property may depend on it: plain data, so that a test can make a history
//! up. The trace is a hash over the same.

use conclave_cluster::model::{Action, AuditKey};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A data directory: the machine's number, and how often its disk was wiped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Directory {
    pub node: usize,
    pub wiped: u32,
}

/// A command that a client made, each one with a number of its own. It is in the command's audit record,
/// and for a put it is the value.
pub type Operation = u64;

/// A moment of simulated time in microseconds since the simulation began.
pub type Moment = u64;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A machine started a node, for the given time.
    Started { node: usize, boot: u32 },
    /// Bytes were given to the network.
    Sent { from: usize, to: usize, bytes: usize },
    /// Bytes were taken from it.
    Received { by: usize, from: usize, bytes: usize },
    /// A data directory has a Raft id.
    Identified { directory: Directory, raft_id: u64 },
    /// A vote was written: for whom, and whether that one then led.
    Voted {
        directory: Directory,
        term: u64,
        voted_for: u64,
        leads: bool,
    },
    /// A node took office, with this log: (index, term), without holes.
    TookOffice {
        raft_id: u64,
        term: u64,
        log: Vec<(u64, u64)>,
    },
    /// An entry was written to a log. The content is a hash; the term is that of the entry before, where
    /// the log has one.
    Appended {
        directory: Directory,
        index: u64,
        term: u64,
        previous_term: Option<u64>,
        content: u64,
        weight: Weight,
    },
    /// So much is free on a machine's disk from now on.
    Space { node: usize, free_bytes: u64 },
    /// A node did not start on a damaged log, or halted for it.
    MetDamage { node: usize },
    /// A node halted because its disk is older than what another one knows it acknowledged.
    FoundReverted { node: usize },
    /// A node's process ended because its disk was full.
    EndedFull { node: usize },
    /// A node applied an entry, while it knew of no later term than `in_term`.
    Applied {
        node: usize,
        index: u64,
        term: u64,
        in_term: u64,
    },
    /// The digest of a node's state right after it applied an index.
    Digest { node: usize, index: u64, digest: u64 },
    /// An audit record was seen in the state for the first time.
    Recorded {
        key: AuditKey,
        operation: Operation,
        action: Action,
        place: Option<u32>,
        version: Option<u32>,
        done: bool,
    },
    /// A client was answered.
    Answered { operation: Operation, answer: Answer },
    /// A poll was answered from a state that had applied so much.
    Polled { node: usize, applied: u64 },
    /// A linearizable read that was asked for at a moment was answered from such a state.
    Read {
        node: usize,
        asked: Moment,
        applied: u64,
    },
}

/// What an entry does to the space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Weight {
    /// Nothing that anybody proposed: blank, or a membership.
    Nothing,
    /// It may free some, or is the cluster's own.
    Small,
    /// It takes some: a value is put or disclosed.
    Ordinary,
}

/// What a client was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A version was stored by the entry at this index.
    Stored { index: u64, place: u32, version: u32 },
    /// A value was disclosed: the number of the operation that put it.
    Disclosed {
        index: u64,
        place: u32,
        version: u32,
        value: Operation,
    },
    /// Anything else was done.
    Done { index: u64 },
    /// It was refused by the state machine.
    Refused { index: u64 },
    /// Nobody knows, or nothing was done.
    Failed,
}

impl Answer {
    /// The index of the entry that did it, whatever became of it.
    pub fn index(&self) -> Option<u64> {
        match self {
            Self::Stored { index, .. }
            | Self::Disclosed { index, .. }
            | Self::Done { index }
            | Self::Refused { index } => Some(*index),
            Self::Failed => None,
        }
    }

    /// Whether what was asked for was done.
    pub fn is_done(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Failed)
    }
}

/// What happened since it was last looked at. Clones share it.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Recent>>);

#[derive(Default)]
struct Recent {
    events: Vec<(Moment, Event)>,
    next_operation: Operation,
}

impl History {
    /// Notes what happened now, on the machine whose turn it is.
    pub fn note(&self, event: Event) {
        self.note_at(now(), event);
    }

    /// Notes what happened at a moment.
    pub fn note_at(&self, at: Moment, event: Event) {
        self.lock().events.push((at, event));
    }

    /// A number for a command.
    pub fn next_operation(&self) -> Operation {
        let mut recent = self.lock();
        recent.next_operation += 1;
        recent.next_operation
    }

    /// What happened since the last call.
    pub fn take(&self) -> Vec<(Moment, Event)> {
        std::mem::take(&mut self.lock().events)
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The moment on the machine whose turn it is.
pub fn now() -> Moment {
    let elapsed = turmoil::sim_elapsed().expect("a node runs on a simulated machine");
    u64::try_from(elapsed.as_micros()).expect("a simulation lasts minutes")
}
