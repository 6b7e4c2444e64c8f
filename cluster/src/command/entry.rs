//! What a log entry holds: a stamp and a batch of independent proposals.

use super::Outcome;
use crate::model::ProposalId;
use bytes::Bytes;
use conclave_raft::identity::RaftId;
use serde::{Deserialize, Serialize};

/// A log entry's payload. Each proposal has its own outcome at (index, position).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The leader's time.
    pub stamp: Stamp,
    /// Independent proposals, in order.
    pub proposals: Vec<Proposal>,
}

/// The leader's time, bound to the term in which it took office. In an entry of another term it is
/// ignored. Apply takes the greater of the stamp and the state's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// The term of the leader that stamped it.
    pub term: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z by the leader's monotonic clock, anchored when it
    /// took office.
    pub time_ms: u64,
}

/// A command on its way through the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// Kept over all retries.
    pub id: ProposalId,
    /// The index that the proposing node had applied when the proposal was made; kept over all
    /// retries.
    pub made_at_index: u64,
    /// The proposing node. The leader writes it, from that peer's certificate.
    pub node: RaftId,
    /// The encoded [`super::Command`]. Bytes, so that one that cannot be decoded is refused alone.
    pub command: Bytes,
}

/// What the machine answers to an entry, encoded by [`conclave_raft::codec`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryResponse {
    /// State time in milliseconds after the entry.
    pub time_ms: u64,
    /// One outcome for each proposal, in their order; a single refusal where the entry itself could
    /// not be decoded. `None` where answers took too many bytes together: the proposal was applied,
    /// and whoever proposes it again, under the same id, is answered.
    pub outcomes: Vec<Option<Outcome>>,
}
