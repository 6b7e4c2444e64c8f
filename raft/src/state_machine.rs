//! The seam to the state machine: what the log needs of the thing that it feeds.
//!
//! Everything here is opaque bytes in an order. The implementation lives in `conclave-cluster`;
//! the rule that it must keep is that the state after an entry depends only on the state before it
//! and on the entry.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// One committed entry's place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Default)]
pub struct LogPosition {
    /// The term of the leader that appended the entry.
    pub term: u64,
    /// The entry's index. The first entry of a cluster has index 0 (the bootstrap membership).
    pub index: u64,
}

/// What a committed entry carries.
#[derive(Clone, Debug)]
pub enum CommittedPayload {
    /// A leader's first entry of its term.
    Blank,
    /// An opaque proposal.
    Proposal(Bytes),
    /// A membership, encoded by [`crate::codec`]; the state machine stores it as it is.
    Membership(Bytes),
}

/// A committed entry, in log order.
#[derive(Clone, Debug)]
pub struct CommittedEntry {
    /// Where it lies in the log.
    pub position: LogPosition,
    /// What it carries.
    pub payload: CommittedPayload,
    /// Whether somebody waits for the response. The state after the entry must not depend on it.
    pub answered: bool,
}

/// What the state machine durably knows of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AppliedState {
    /// The last applied entry, or `None` for an empty state.
    pub position: Option<LogPosition>,
    /// The last applied membership as given to [`StateMachine::apply`], with its position.
    pub membership: Option<(LogPosition, Bytes)>,
}

/// A complete copy of the state at exactly one applied position, as a directory of files that
/// nobody changes any more. The receiver verifies it before installing.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The directory that holds the files.
    pub directory: PathBuf,
    /// The last entry that the checkpoint contains.
    pub position: LogPosition,
    /// The last membership that the checkpoint contains.
    pub membership: Option<(LogPosition, Bytes)>,
    /// Sum of the files' sizes in bytes.
    pub size_bytes: u64,
}

/// A deterministic state machine fed by the log. Calls are serial, but for `prepare_checkpoint` and `verify`;
/// each may block (the caller runs them off the async threads).
///
/// Any `Err` halts the node: it stands for local damage, never for a refused command. One of the kind
/// `InvalidData` from `apply` or `checkpoint` says that what is stored is not what was written, also at
/// a second look: the node does not start on it again while others serve.
pub trait StateMachine: Send + Sync + 'static {
    /// What is durably applied. Called at start and after an installation.
    fn applied(&self) -> io::Result<AppliedState>;

    /// Applies entries in order, atomically with their positions, and returns one response per
    /// entry (empty where nobody waits for it, and for blank and membership entries). The responses
    /// of one call are bounded in bytes together. Not synced: the log is the durable copy.
    fn apply(&self, entries: Vec<CommittedEntry>) -> io::Result<Vec<Bytes>>;

    /// Makes everything applied so far durable; returns the position that is now on disk.
    fn flush(&self) -> io::Result<Option<LogPosition>>;

    /// Makes the next checkpoint short, for applies wait for that one: what it would have to write is
    /// written now, and applies go on. May run beside any other call. A machine whose checkpoints are
    /// short anyway has nothing to do.
    fn prepare_checkpoint(&self) -> io::Result<()> {
        Ok(())
    }

    /// Takes a checkpoint of the present state into `directory` (which does not exist yet).
    /// Cheap (hard links); called between two applies.
    fn checkpoint(&self, directory: PathBuf) -> io::Result<Checkpoint>;

    /// Verifies a received checkpoint: its position, its membership, and the digest over everything
    /// in it. Changes nothing, and may run beside any other call.
    ///
    /// # Errors
    /// Of the kind `InvalidData` when it is not the copy of a state that it claims to be; its sender
    /// is told. Any other error is this node's own, also that `go_on`, which is to be asked now and then,
    /// said no.
    fn verify(&self, checkpoint: &Checkpoint, go_on: &dyn Fn() -> bool) -> io::Result<()>;

    /// Replaces the state by a checkpoint that was verified, atomically: a crash leaves either the
    /// old state or the new one. The checkpoint's files stay as they are (link or copy them): they
    /// become this node's current snapshot.
    fn install(&self, checkpoint: Checkpoint) -> io::Result<()>;
}
