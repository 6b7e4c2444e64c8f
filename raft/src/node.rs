//! One node of the replicated log: the facade that `conclave-cluster` builds on.

mod config;
pub(crate) mod core;
mod disproof;
mod endpoint;
mod life;
#[cfg(test)]
pub(crate) mod lone;
mod membership;
mod options;
mod parts;
mod peer_space;
mod proposing;
mod status;

pub use crate::{storage::identity_store::Evidence, transport::snapshots_sent::SnapshotProgress};
pub use options::{RaftOptions, StartError};
pub use parts::NodeParts;

use self::core::Core;
use crate::{
    formation::messages::{JoinGrant, JoinRefusal},
    identity::{ClusterId, NodeRecord, RaftId},
    state_machine::{LogPosition, StateMachine},
    transport::{
        Target, Transport,
        greeting::Lane,
        messages::{Question, Reply},
        multiplexed::LinkFault,
    },
    types::Raft,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

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

    /// A configured node whose data directory is empty asks to be let in: allocates a Raft id that
    /// was never used, through the log, and makes it a learner under that id. Only the leader does, to
    /// which the node proves its name: no member's word stands for that.
    fn join(self: Arc<Self>, from: Peer) -> BoxFuture<'static, Result<JoinGrant, JoinRefusal>> {
        let reason = format!("node {} is not let in here", from.name);
        Box::pin(std::future::ready(Err(reason.into())))
    }
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
    /// A limit refused before anything was appended: this node's disk, or those of so many voters
    /// that no majority is left, are below their reserve.
    #[error("no space: the disk of this node, or those of a majority, are below their reserve")]
    NoSpace,
    /// A limit refused before anything was appended: the payload is too large for an entry.
    #[error("the proposal has {size_bytes} bytes, more than {limit_bytes}")]
    TooLarge { size_bytes: usize, limit_bytes: usize },
    /// A limit refused before anything was appended: too many proposals wait here.
    #[error("too many proposals are waiting")]
    Busy,
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

/// What the leader knows of a member's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberDisk {
    /// Whether it was last heard to be below its reserve, if it was heard at all.
    pub below_reserve: Option<bool>,
    /// Bytes of the leader's log that are not durable there, as far as is known. What was purged from the
    /// log, and would be sent as a snapshot, is not counted.
    pub behind_bytes: Option<u64>,
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
    /// The sets of voters, each of which decides by a majority of its own: one, or two while a change
    /// of the membership is between its two steps.
    pub voter_sets: Vec<BTreeSet<RaftId>>,
    /// Whether free space is below the reserve (proposals and appends with entries are refused).
    pub out_of_space: bool,
    /// Set once when the node has halted, with the reason. Nothing works after that.
    pub halted: Option<String>,
    /// Whether it halted because its disk is older than what it acknowledged. The directory is
    /// marked: started again, the node sets its data aside and joins as a new incarnation.
    pub reverted: bool,
}

impl RaftStatus {
    /// Whether a change of the membership is between its two steps: the old voters and the new ones
    /// both decide, each by a majority of their own.
    pub fn joint(&self) -> bool {
        self.voter_sets.len() > 1
    }
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
    /// The leader's disk is below its second reserve: nothing is appended, a membership neither.
    #[error("no space is left on the leader's disk, not even for a change of the membership")]
    NoSpace,
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

struct Inner {
    core: Arc<Core>,
    transport: Arc<Transport>,
    proposals: mpsc::Sender<proposing::Queued>,
}

impl RaftNode {
    /// How many [`Self::call`]s to one node may wait at once; more fail with [`CallError::Busy`].
    pub const CALLS_IN_FLIGHT: usize = 1024;

    /// Opens the data directory and takes part from then on, over the given parts. The cluster
    /// forms, or lets the node in, in the background; see [`Self::status`].
    ///
    /// [`crate::formation::set_aside_if_reverted`] is to be called before the state machine is opened.
    ///
    /// # Errors
    /// What cannot be used, by name: a file, a directory of another cluster or node, certificates.
    pub async fn start(
        options: RaftOptions,
        parts: NodeParts,
        state_machine: Arc<dyn StateMachine>,
        service: Arc<dyn PeerService>,
    ) -> Result<Self, StartError> {
        let (core, transport) = life::start(options, parts, state_machine, service).await?;
        let (proposals, queue) = mpsc::channel(proposing::QUEUE);
        let proposing = proposing::run(Arc::clone(&core), queue);
        transport.spawn(Arc::clone(&core).supervise("hands proposals to Raft", proposing));
        Ok(Self {
            inner: Arc::new(Inner {
                core,
                transport,
                proposals,
            }),
        })
    }

    /// Proposes `payload` as one entry, if this node leads in exactly `term`. Resolves when the
    /// entry was applied here. Entries are appended in the order of the calls, however their futures
    /// are polled.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] means that the entry may still be applied.
    pub fn propose(
        &self,
        term: u64,
        payload: Bytes,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + 'static {
        let queued = self.queue(term, payload);
        async move {
            let outcome = queued?.await;
            outcome.unwrap_or_else(|_| Err(ProposeError::Unknown("the node stopped".into())))
        }
    }

    /// Whether more is proposed than what only frees space: this node's disk has space, and while it
    /// leads those of a majority of the voters have.
    pub fn takes_ordinary_entries(&self) -> bool {
        self.inner.core.takes_ordinary_entries()
    }

    /// On the leader: confirms with a quorum, by messages sent after this call, that it still
    /// leads, and returns the index that every read that starts now must have applied. No lease.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] when it does not lead, or no quorum confirms it in time.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ProposeError> {
        let raft = self.raft()?;
        let confirming = raft.get_read_linearizer(ReadPolicy::ReadIndex);
        let not_confirmed = ProposeError::NotLeader { leader: None };
        match timeout_at(deadline, confirming).await {
            Ok(Ok(confirmed)) => Ok(confirmed.read_log_id().log_id().index),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ProposeError::NotLeader {
                    leader: forward.leader_id.map(RaftId),
                })
            }
            Ok(Err(_)) | Err(_) => Err(not_confirmed),
        }
    }

    /// Waits until `index` is applied on this node. Returns false when the deadline passed first.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        let applied = &self.inner.core.applied_index;
        if *applied.borrow() >= Some(index) {
            return true;
        }
        let mut applied = applied.subscribe();
        let applied = applied.wait_for(|applied| *applied >= Some(index));
        matches!(timeout_at(deadline, applied).await, Ok(Ok(_)))
    }

    /// Asks another node's [`PeerService`]. At most [`Self::CALLS_IN_FLIGHT`] wait per node.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, to: RaftId, request: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let record = self.inner.core.member(to);
        let Some(record) = record else {
            return Err(CallError::Unreachable {
                to: to.to_string(),
                reason: "no member has this id".into(),
            });
        };
        let target = Target {
            name: record.name.clone(),
            address: record.address,
            raft_id: Some(to),
        };
        let to = record.name;
        let link = self.inner.transport.link(&target, Lane::Service);
        match link.ask(Question::Service, request, deadline).await {
            Ok((Reply::Service, answer)) => Ok(answer),
            Ok((Reply::Refused(refusal), _)) => Err(CallError::Unreachable {
                to,
                reason: refusal.to_string(),
            }),
            Ok(_) => Err(CallError::Unreachable {
                to,
                reason: "another reply than to a call".into(),
            }),
            Err(LinkFault::TimedOut) => Err(CallError::TimedOut { to }),
            Err(LinkFault::Busy) => Err(CallError::Busy { to }),
            Err(LinkFault::Unreachable(reason)) => Err(CallError::Unreachable { to, reason }),
        }
    }

    /// The present state, and a notice of each change.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.inner.core.status.subscribe()
    }

    /// How the members' disks stand. On the leader only; elsewhere it is empty.
    pub fn disks(&self) -> BTreeMap<RaftId, MemberDisk> {
        let core = &self.inner.core;
        let status = core.status.borrow();
        let Ok(opened) = core.opened() else {
            return BTreeMap::new();
        };
        if status.role != Role::Leader {
            return BTreeMap::new();
        }
        let disk = |raft_id: RaftId, member: &Member| {
            if status.raft_id == Some(raft_id) {
                return MemberDisk {
                    below_reserve: Some(status.out_of_space),
                    behind_bytes: Some(0),
                };
            }
            MemberDisk {
                below_reserve: core.peer_is_below_reserve(raft_id),
                behind_bytes: member
                    .matched_index
                    .map(|index| opened.log.bytes_after(Some(index))),
            }
        };
        let members = status.members.iter();
        members
            .map(|(raft_id, member)| (*raft_id, disk(*raft_id, member)))
            .collect()
    }

    /// Counts how often a member found a snapshot of this node's state to be bad: the state behind it
    /// may be damaged, and should be looked through.
    pub fn doubts(&self) -> watch::Receiver<u64> {
        self.inner.core.doubts.subscribe()
    }

    /// Whether the cluster was marked as one for development when it was made.
    pub fn dev(&self) -> bool {
        self.inner.core.dev()
    }

    /// Applies one change of membership and waits until it is committed. On the leader only.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn change_membership(
        &self,
        change: MembershipChange,
        deadline: Instant,
    ) -> Result<(), MembershipError> {
        let changing = async {
            let _one_at_a_time = self.inner.core.changing.lock().await;
            membership::change(&self.inner.core, change).await
        };
        timeout_at(deadline, changing).await.unwrap_or_else(|_| {
            Err(MembershipError::Unfinished(
                "the change did not finish in time".into(),
            ))
        })
    }

    /// Hands leadership to `to`, or to the voter with the longest flushed log. Returns when another
    /// node leads.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn transfer_leadership(
        &self,
        to: Option<RaftId>,
        deadline: Instant,
    ) -> Result<RaftId, MembershipError> {
        let to = to.map_or(membership::Successor::Any, membership::Successor::This);
        membership::transfer(&self.inner.core, to, deadline).await
    }

    /// Whether this node may stand for election (a node whose clock is wrong may not).
    pub fn set_may_lead(&self, may_lead: bool) {
        let core = &self.inner.core;
        core.may_lead.store(may_lead, Ordering::Relaxed);
        if let Some(raft) = core.running() {
            raft.runtime_config().elect(may_lead);
        }
    }

    /// How far the snapshots are that this node sends now, by receiver.
    pub fn snapshots_sent(&self) -> BTreeMap<RaftId, SnapshotProgress> {
        self.inner.transport.snapshots_sent.running()
    }

    /// Reads the certificates again. Connections that were opened with the old ones end between two
    /// frames, and are opened anew.
    ///
    /// # Errors
    /// What cannot be used, by name; the old certificates stay in force.
    pub fn reload_certificates(&self) -> Result<(), String> {
        self.inner.transport.network.reload()
    }

    /// Stops the node for good, because going on could make replicas diverge. The reason appears
    /// in the status and the log; the process is expected to exit.
    pub fn halt(&self, reason: String) {
        self.inner.core.halt(reason);
        self.inner.transport.cut();
    }

    /// As [`Self::halt`], for a node whose state was found to be another than it must be: the data
    /// directory is marked first, and no later start takes part with it. It is not marked for what only
    /// this node saw while the other voters that answer are no majority. Goes on when it is dropped.
    pub async fn halt_for_good(&self, reason: String, evidence: Evidence) {
        disproof::halt_for_good(&self.inner.core, &self.inner.transport, reason, evidence).await;
    }

    /// Stops: hands leadership over first when this node leads and another voter answers, then stops
    /// taking part. With no grace nothing is handed over. Afterwards the data directory may be opened
    /// again.
    pub async fn shutdown(&self, grace: Duration) {
        life::hand_over(&self.inner.core, grace).await;
        life::stop(&self.inner.core, &self.inner.transport).await;
    }

    fn queue(
        &self,
        term: u64,
        payload: Bytes,
    ) -> Result<oneshot::Receiver<Result<Applied, ProposeError>>, ProposeError> {
        let core = &self.inner.core;
        if payload.len() > RaftOptions::PROPOSAL_LIMIT_BYTES {
            return Err(ProposeError::TooLarge {
                size_bytes: payload.len(),
                limit_bytes: RaftOptions::PROPOSAL_LIMIT_BYTES,
            });
        }
        if !core.admits_proposal(&payload) {
            return Err(ProposeError::NoSpace);
        }
        let (outcome, decided) = oneshot::channel();
        let queued = proposing::Queued {
            term,
            payload,
            outcome,
        };
        self.inner
            .proposals
            .try_send(queued)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
                mpsc::error::TrySendError::Closed(_) => ProposeError::NotLeader { leader: None },
            })?;
        Ok(decided)
    }

    fn raft(&self) -> Result<Raft, ProposeError> {
        let not_leader = ProposeError::NotLeader { leader: None };
        self.inner.core.running().ok_or(not_leader)
    }
}
