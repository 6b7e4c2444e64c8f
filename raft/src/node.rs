//! One node of the replicated log: the facade that `conclave-cluster` builds on.

use crate::{
    identity::{ClusterId, NodeRecord, RaftId},
    state_machine::LogPosition,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Another node, as its certificate and the greeting that it sent name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The configured name, proven by the node certificate.
    pub name: String,
    /// The Raft id of its data directory; `None` while the directory is empty.
    pub raft_id: Option<RaftId>,
    /// Where it says that other nodes reach its cluster listener (`host:port`).
    pub address: String,
}

/// Answers what other nodes ask of this one beyond Raft itself (proposals, read indexes, clocks,
/// digests, joins). Requests and answers are opaque here.
pub trait PeerService: Send + Sync + 'static {
    /// Handles one request. Must be cheap to refuse; the transport bounds how many run at once.
    fn handle(self: Arc<Self>, from: Peer, request: Bytes) -> BoxFuture<'static, Bytes>;
}

/// What a proposal became.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The index of the entry that carried it.
    pub position: LogPosition,
    /// The state machine's response.
    pub response: Bytes,
}

/// Why a proposal was not applied, or why that is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead (in the given term). Nothing was appended.
    #[error("this node does not lead; the leader is {leader:?}")]
    NotLeader { leader: Option<RaftId> },
    /// A limit refused before anything was appended: the disk is below its reserve.
    #[error("no space: the disk is below its reserve")]
    NoSpace,
    /// The entry was appended, but leadership was lost or the node stopped before it was known to
    /// be committed. It may or may not be applied later.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Why a call to another node failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The node could not be reached, or the connection broke. The request may have been handled.
    #[error("node {to} is unreachable: {reason}")]
    Unreachable { to: String, reason: String },
    /// No answer in time. The request may have been handled.
    #[error("node {to} did not answer in time")]
    TimedOut { to: String },
    /// Too many calls to that node are waiting. The request was not sent.
    #[error("too many calls to node {to} are waiting")]
    Busy { to: String },
}

/// This node's part in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// The data directory is empty: no Raft id yet, no vote.
    #[default]
    Unformed,
    /// Receives the log, does not vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// A member as the effective membership has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name and address.
    pub record: NodeRecord,
    /// Whether it votes; otherwise it is a learner.
    pub voter: bool,
    /// On the leader: the last index known to be durable there.
    pub matched_index: Option<u64>,
    /// On the leader: milliseconds since it last acknowledged anything.
    pub last_acknowledged_ms: Option<u64>,
}

/// A snapshot of what this node knows of the log. Published on every change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RaftStatus {
    /// The cluster, once formed or joined.
    pub cluster_id: Option<ClusterId>,
    /// This data directory's Raft id, once it has one.
    pub raft_id: Option<RaftId>,
    /// This node's part.
    pub role: Role,
    /// The present term.
    pub term: u64,
    /// Who leads, as far as this node knows.
    pub leader: Option<RaftId>,
    /// Index of the last entry in the log.
    pub last_log_index: Option<u64>,
    /// Index of the last entry known to be committed.
    pub committed_index: Option<u64>,
    /// Index of the last entry applied to the state.
    pub applied_index: Option<u64>,
    /// Index of the last entry contained in the latest snapshot.
    pub snapshot_index: Option<u64>,
    /// Index of the last entry that was purged from the log.
    pub purged_index: Option<u64>,
    /// Every member of the effective membership.
    pub members: BTreeMap<RaftId, Member>,
    /// Whether free space is below the reserve (proposals and appends with entries are refused).
    pub out_of_space: bool,
    /// Set once when the node has halted, with the reason. Nothing works after that.
    pub halted: Option<String>,
}

/// Why a change of membership was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes the membership.
    #[error("this node does not lead; the leader is {leader:?}")]
    NotLeader { leader: Option<RaftId> },
    /// The id is not a member.
    #[error("no member has the id {0}")]
    UnknownMember(RaftId),
    /// What remains could not form a quorum of nodes that answer.
    #[error("refused: {0}")]
    WouldLoseQuorum(String),
    /// The learner is too far behind to vote.
    #[error("the learner has not caught up: {behind_entries} entries behind")]
    NotCaughtUp { behind_entries: u64 },
    /// Another change is under way, or the change did not finish in time.
    #[error("{0}")]
    Unfinished(String),
}

/// A step of a change of membership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MembershipChange {
    /// Adds a learner; returns when the membership entry is committed, not when it caught up.
    AddLearner { raft_id: RaftId, record: NodeRecord },
    /// Makes a learner that has caught up a voter.
    Promote { raft_id: RaftId },
    /// Removes a voter or learner entirely.
    Remove { raft_id: RaftId },
    /// Gives `predecessor`'s place to the learner `successor`, in one change of membership.
    Replace { predecessor: RaftId, successor: RaftId },
}

/// The handle to a running node. Cheap to clone.
///
/// Every future may be dropped at any time; what it started goes on.
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
}

impl RaftNode {
    /// Proposes `payload` as one entry, if this node leads in exactly `term`. Resolves when the
    /// entry was applied here. Entries of one caller are appended in the order of the calls.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] means that the entry may still be applied.
    pub async fn propose(&self, _term: u64, _payload: Bytes) -> Result<Applied, ProposeError> {
        todo!()
    }

    /// On the leader: confirms with a quorum, by messages sent after this call, that it still
    /// leads, and returns the index that every read that starts now must have applied. No lease.
    pub async fn read_index(&self, _deadline: Instant) -> Result<u64, ProposeError> {
        todo!()
    }

    /// Waits until `index` is applied on this node. Returns false when the deadline passed first.
    pub async fn wait_applied(&self, _index: u64, _deadline: Instant) -> bool {
        todo!()
    }

    /// Asks another node's [`PeerService`]. At most [`Self::CALLS_IN_FLIGHT`] wait per node.
    pub async fn call(&self, _to: RaftId, _request: Bytes, _deadline: Instant) -> Result<Bytes, CallError> {
        todo!()
    }

    /// The present state, and a notice of each change.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        todo!()
    }

    /// Applies one change of membership and waits until it is committed. On the leader only.
    pub async fn change_membership(
        &self,
        _change: MembershipChange,
        _deadline: Instant,
    ) -> Result<(), MembershipError> {
        todo!()
    }

    /// Hands leadership to `to`, or to the voter with the longest flushed log. Returns when another
    /// node leads.
    pub async fn transfer_leadership(&self, _to: Option<RaftId>, _deadline: Instant) -> Result<RaftId, MembershipError> {
        todo!()
    }

    /// Whether this node may stand for election (a node whose clock is wrong may not).
    pub fn set_may_lead(&self, _may_lead: bool) {
        todo!()
    }

    /// Stops the node for good, because going on could make replicas diverge. The reason appears
    /// in the status and the log; the process is expected to exit.
    pub fn halt(&self, _reason: String) {
        todo!()
    }

    /// Stops: hands leadership over first when this node leads, then stops taking part.
    pub async fn shutdown(&self, _grace: Duration) {
        todo!()
    }

    /// How many [`Self::call`]s to one node may wait at once; more fail with [`CallError::Busy`].
    pub const CALLS_IN_FLIGHT: usize = 1024;
}

struct Inner {}
