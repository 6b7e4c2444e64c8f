//! One node of the cluster: the facade that the edge builds on. It proposes commands, confirms
//! reads, and shows the local state; where the leader is does not matter to its callers.

mod change_records;
#[cfg(test)]
mod fuzz;
mod joins;
mod leadership;
mod operations;
mod parts;
pub(crate) mod peer_message;
mod peer_service;
mod start;
mod status_publisher;
mod tasks;
mod upkeep;

pub(crate) use leadership::Leadership;
pub use parts::ClusterParts;

use crate::{
    agreement::Scrub,
    command::{AuditRetention, Command, Outcome},
    model::{AuditKey, SecretId},
    propose::Proposer,
    read::Barriers,
    state::{StateView, Store},
    time::{ClockReport, Clocks, LeaderClock},
};
use change_records::ChangeRecords;
use conclave_raft::{
    identity::{ClusterId, RaftId},
    node::{MemberDisk, RaftNode, RaftStatus, SnapshotProgress},
    storage::space::SpaceProbe,
};
use joins::Joins;
use peer_message::MemberOperation;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, broadcast, watch},
    task::JoinSet,
    time::Instant,
};

/// How a node takes part in its cluster. Every limit has a default in the edge's configuration.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The configured cluster name (the CLUSTER of certificates).
    pub cluster_name: String,
    /// This node's configured name.
    pub node_name: String,
    /// Where the cluster listener binds.
    pub listen: SocketAddr,
    /// `host:port` under which other nodes reach it.
    pub advertise: String,
    /// Every configured node (this one included) as (name, `host:port`), the first one first.
    pub nodes: Vec<(String, String)>,
    /// Where `log`, `state` and snapshots lie.
    pub data_dir: PathBuf,
    /// PEM files of the node certificate chain, its key, and the node CA.
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    pub authority: PathBuf,
    /// Marks a cluster that is formed now as one for development.
    pub dev: bool,
    /// Whether an empty directory joins by itself in its predecessor's place.
    pub rejoin: Rejoin,
    /// The bound on staleness of follower polling. Default 2 s.
    pub staleness_bound: Duration,
    /// The greatest distance of a leader's wall clock from the median of the voters'. Default 5 s.
    pub clock_skew_bound: Duration,
    /// Election time-out, lower end; the upper end is twice it. Heartbeats go out every third.
    pub election_timeout: Duration,
    /// Bytes of commands that may wait on this node before proposals are refused.
    pub proposal_queue_bytes: usize,
    /// Bytes of one entry's batch.
    pub batch_bytes: usize,
    /// Log bytes after which a snapshot is taken.
    pub snapshot_log_bytes: u64,
    /// The log kept at least behind a snapshot, in bytes; up to four times the sum of both for followers
    /// that are behind.
    pub snapshot_keep_log_bytes: u64,
    /// Free disk below which proposals and appends with entries are refused.
    pub reserve_bytes: u64,
    /// Free disk below which only nothing but votes is accepted; less than `reserve_bytes`.
    pub last_reserve_bytes: u64,
    /// Whether the log is synced. False only in a test that shows that it matters.
    pub sync: bool,
    /// Bytes of audit kept, and what happens at that limit, in a cluster that is formed now.
    pub audit_retention: AuditRetention,
    /// How fast the scrub rescans the state, in bytes per second.
    pub scrub_bytes_per_s: u64,
}

/// What an empty data directory does when the cluster already exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rejoin {
    /// Joins under a new id in its predecessor's place, at most once every ten minutes per name.
    #[default]
    Automatic,
    /// Joins as a learner and waits for `conclave cluster replace`.
    Manual,
}

/// A command's outcome and where it lies in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The entry's index. Reads of the local state see it once [`Cluster::wait_applied`] returned.
    pub index: u64,
    /// The command's position in the entry.
    pub position: u32,
    /// State time in milliseconds at which it was applied.
    pub time_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why a proposal has no outcome. Anything else is an [`Outcome`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// No majority answered in time; the command may or may not be applied.
    #[error("no majority of nodes answered in time; the outcome is unknown")]
    OutcomeUnknown,
    /// Nothing was proposed: no leader was found in time.
    #[error("no leader was found in time; nothing was done")]
    NoLeader,
    /// A limit refused before proposing: too much is waiting here.
    #[error("too many requests are waiting")]
    Overloaded,
    /// A limit refused before proposing: the leader's disk, or those of so many voters that no
    /// majority is left, are below their reserve.
    #[error("no space is left on the leader's disk, or on those of most voters")]
    NoSpace,
    /// The command is larger than an entry may be.
    #[error("the command has {size_bytes} bytes, more than {limit_bytes}")]
    TooLarge { size_bytes: usize, limit_bytes: usize },
    /// The node is shutting down or halted.
    #[error("this node is stopping")]
    Stopping,
}

/// A confirmed point in the log: the local state has applied it.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// Every entry that was committed when the barrier was asked for has an index up to this.
    pub index: u64,
    /// The leader's time in milliseconds when it confirmed.
    pub time_ms: u64,
    /// By this node's clock (which counts suspension), the age in milliseconds of the confirmation.
    pub age_ms: u64,
}

/// Something changed that an edge may have cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A secret was made, moved, deleted, or its name sealed anew, by the entry at this index; of the
    /// system namespace, where the keyring lies, also any other change.
    Secret { secret: SecretId, index: u64 },
    /// The whole state was replaced by a snapshot: rebuild what was cached.
    Replaced,
}

/// How this node stands, beyond Raft.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ClusterStatus {
    /// Raft's part.
    pub raft: RaftStatus,
    /// Whether the cluster was marked dev when it was made.
    pub dev: bool,
    /// Whether this directory was a member and is none any more; it takes part in nothing.
    pub removed: bool,
    /// The version of apply's rules that is in force.
    pub rules_version: u32,
    /// State time in milliseconds.
    pub state_time_ms: u64,
    /// The last index at which the state's digest was kept, with the digest.
    pub digest: Option<(u64, [u8; 32])>,
    /// Age in milliseconds of the last quorum confirmation by this node; `None`: never.
    pub staleness_ms: Option<u64>,
    /// No quorum has confirmed anything to this node for longer than one and a half staleness
    /// bounds, or since it started. A leader may still be known then: a vote for one that is gone
    /// stays, because elections begin with pre-votes.
    pub quorum_lost: bool,
    /// Distance in milliseconds of this node's wall clock from the voters' median, once compared.
    pub clock_skew_ms: Option<i64>,
    /// Whether the clock keeps this node from leading.
    pub clock_refuses_lead: bool,
    /// Bytes of audit records kept, and the limit.
    pub audit_bytes: u64,
    pub audit_limit_bytes: u64,
    /// Free bytes on the data directory's file system.
    pub free_bytes: u64,
}

/// A verification of all nodes' states.
#[derive(Clone, Debug)]
pub struct Verification {
    /// The index at which each node rescanned its stored state.
    pub nodes: Vec<NodeVerification>,
}

/// One node's part of a verification.
#[derive(Clone, Debug)]
pub struct NodeVerification {
    /// The node.
    pub raft_id: RaftId,
    /// Its name.
    pub name: String,
    /// The index of the state that was scanned, the digest by scan and the running digest; or why
    /// the node could not verify.
    pub result: Result<ScannedDigest, String>,
}

/// A digest computed by a scan beside the one that was kept while applying.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScannedDigest {
    /// The index of the state that was scanned.
    pub index: u64,
    /// By scanning every stored pair.
    pub scanned: [u8; 32],
    /// Updated with each write.
    pub running: [u8; 32],
}

/// How far a scan of one node's state is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanProgress {
    /// Bytes read so far.
    pub scanned_bytes: u64,
    /// About how many there are.
    pub total_bytes: u64,
}

/// The handle to a running node. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

impl Cluster {
    /// Opens the data directory, starts the node and returns at once; the cluster forms or is
    /// joined in the background (see [`Self::status`]).
    pub async fn start(options: ClusterOptions) -> Result<Self, StartError> {
        let parts = ClusterParts::system(&options)?;
        Self::start_with(options, parts).await
    }

    /// As [`Self::start`], over parts of the caller's: the seam for tests and simulation.
    pub async fn start_with(options: ClusterOptions, parts: ClusterParts) -> Result<Self, StartError> {
        Ok(Self {
            inner: start::start(options, parts).await?,
        })
    }

    /// Looks through the whole state of a node that does not run, and where all of it is what was
    /// written, lets the node start again that had halted for damage that only it saw.
    ///
    /// # Errors
    /// Damage, named; a directory that cannot be read.
    pub async fn rescan(data_dir: PathBuf) -> Result<(), StartError> {
        start::rescan(data_dir).await
    }

    /// Proposes a command, through the leader wherever it is, and returns its outcome. Retries with
    /// the same proposal id until the deadline; the command is applied at most once.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Answer, ProposeError> {
        let answer = self.inner.proposer.propose(&command, deadline).await?;
        let mut steps = command.guards.iter().chain(&command.steps);
        if steps.any(|step| step.operation.changes_a_secret()) {
            self.inner.barriers.changed(answer.index);
        }
        Ok(answer)
    }

    /// As [`Self::propose`], in copies with the same id, for tests of duplicate delivery.
    #[doc(hidden)]
    pub async fn propose_copies(
        &self,
        command: Command,
        copies: usize,
        deadline: Instant,
    ) -> Vec<Result<Answer, ProposeError>> {
        self.inner
            .proposer
            .propose_copies(&command, copies, deadline)
            .await
    }

    /// Linearizable read: returns once everything committed before the call is applied here.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<Freshness, ProposeError> {
        self.inner.barriers.read(deadline).await
    }

    /// Bounded-staleness read: as [`Self::read_barrier`], but one confirmation serves every poll
    /// until it is older than the bound. No change is missed that this node answered before the call.
    pub async fn poll_barrier(&self, deadline: Instant) -> Result<Freshness, ProposeError> {
        self.inner.barriers.poll(deadline).await
    }

    /// Waits until this node applied `index`. False: the deadline passed first.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        self.inner.raft.wait_applied(index, deadline).await
    }

    /// The local state as it is now: consistent at one index, unaffected by later entries.
    pub fn view(&self) -> Arc<StateView> {
        self.inner.store.view()
    }

    /// Changes from now on. A receiver that lags must rebuild, as for [`Change::Replaced`].
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.store.changes()
    }

    /// How this node stands.
    pub fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.inner.status.subscribe()
    }

    /// The cluster's id, once formed.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.inner.raft.status().borrow().cluster_id
    }

    /// Where the record of a command with one step lies, once it is applied here. `None` where none lies
    /// at the answer's place: the outcome is one that was remembered, of an earlier try of the same
    /// proposal whose answer was lost, and the record lies where that was applied.
    pub fn record_of(&self, answer: &Answer) -> io::Result<Option<AuditKey>> {
        let key = AuditKey {
            index: answer.index,
            position: answer.position,
            step: 0,
        };
        let record = self.view().audit_record(key)?;
        Ok(record.map(|_| key))
    }

    /// Adds a configured node that waits with an empty directory as a learner. `record` is where this
    /// node's edge recorded who wants it: a fresh record of [`Action::Operate`], which serves this one
    /// change; so with the others below.
    ///
    /// [`Action::Operate`]: crate::model::Action::Operate
    pub async fn add_member(
        &self,
        name: &str,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<RaftId, OperateError> {
        let name = name.to_owned();
        self.inner
            .operate(MemberOperation::Add { name }, record, deadline)
            .await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn promote_member(
        &self,
        raft_id: RaftId,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<(), OperateError> {
        self.inner
            .operate(MemberOperation::Promote { raft_id }, record, deadline)
            .await
            .map(drop)
    }

    /// Removes a member. Refused when what remains would lose its quorum.
    pub async fn remove_member(
        &self,
        raft_id: RaftId,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<(), OperateError> {
        self.inner
            .operate(MemberOperation::Remove { raft_id }, record, deadline)
            .await
            .map(drop)
    }

    /// Lets the node of this name, which waits with an empty directory, take the place of its
    /// predecessor in one change.
    pub async fn replace_member(
        &self,
        predecessor: RaftId,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<RaftId, OperateError> {
        self.inner
            .operate(MemberOperation::Replace { predecessor }, record, deadline)
            .await
    }

    /// Hands leadership over, to `to` or to the voter that is furthest.
    pub async fn transfer_leadership(
        &self,
        to: Option<RaftId>,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<RaftId, OperateError> {
        self.inner
            .operate(MemberOperation::Transfer { to }, record, deadline)
            .await
    }

    /// Lets every node rescan its stored state and compares.
    pub async fn verify(&self, deadline: Instant) -> Result<Verification, OperateError> {
        self.inner.verify(deadline).await
    }

    /// How far this node is with a verification that somebody asked for; `None`: none runs.
    pub fn verification_progress(&self) -> Option<ScanProgress> {
        self.inner.scrub.progress()
    }

    /// How the members' disks stand. On the leader only; elsewhere it is empty.
    pub fn disks(&self) -> BTreeMap<RaftId, MemberDisk> {
        self.inner.raft.disks()
    }

    /// How far the snapshots are that this node sends now, by receiver.
    pub fn snapshots_sent(&self) -> BTreeMap<RaftId, SnapshotProgress> {
        self.inner.raft.snapshots_sent()
    }

    /// Reads certificates again. What cannot be read leaves the old ones in use.
    pub fn reload_certificates(&self) -> Result<(), String> {
        self.inner.raft.reload_certificates()
    }

    /// Stops as a crash would, for tests: hands nothing over and finishes nothing.
    #[doc(hidden)]
    pub async fn crash(&self) {
        self.inner.crash().await;
    }

    /// Finishes what was accepted, hands leadership over, and stops.
    pub async fn shutdown(&self, grace: Duration) {
        self.inner.shutdown(grace).await;
    }
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or directory, named in the message, cannot be used.
    #[error("{0}")]
    Storage(String),
    /// Certificates or addresses, named in the message, cannot be used.
    #[error("{0}")]
    Configuration(String),
}

/// Why an operation on the cluster was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum OperateError {
    /// No leader answered in time.
    #[error("no leader answered in time")]
    NoLeader,
    /// Refused; the message says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// Started, but not finished in time.
    #[error("{0}")]
    Unfinished(String),
}

/// What a running node is made of.
pub(crate) struct Inner {
    options: ClusterOptions,
    started: Instant,
    raft: RaftNode,
    store: Arc<Store>,
    clocks: Arc<dyn Clocks>,
    clock: Arc<LeaderClock>,
    clock_report: watch::Sender<ClockReport>,
    leadership: watch::Sender<Leadership>,
    proposer: Proposer,
    /// Bytes that may wait here on behalf of other nodes.
    forwarded_admission: Arc<Semaphore>,
    barriers: Barriers,
    scrub: Arc<Scrub>,
    joins: Joins,
    change_records: ChangeRecords,
    space: Arc<dyn SpaceProbe>,
    status: watch::Sender<ClusterStatus>,
    /// Ended when the node stops.
    tasks: Mutex<JoinSet<()>>,
}
