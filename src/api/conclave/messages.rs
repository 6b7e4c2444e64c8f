//! The messages of Conclave's own API, shared by server and client. JSON; field names as here.
//!
//! | route | request | answer | right |
//! |---|---|---|---|
//! | `GET /conclave/v1/health` | – | [`Health`] | none |
//! | `GET /conclave/v1/status` | – | [`Status`] | `operate` |
//! | `POST /conclave/v1/audit/list` | [`AuditListRequest`] | [`AuditList`] | `audit` |
//! | `POST /conclave/v1/audit/limit` | [`AuditLimit`] | [`AuditLimit`] | `operate` |
//! | `GET /conclave/v1/cluster` | – | [`ClusterMembers`] | `operate` |
//! | `POST /conclave/v1/cluster/add` | [`AddMember`] | [`MemberChanged`] | `operate` |
//! | `POST /conclave/v1/cluster/promote` | [`MemberId`] | [`MemberChanged`] | `operate` |
//! | `POST /conclave/v1/cluster/remove` | [`MemberId`] | [`MemberChanged`] | `operate` |
//! | `POST /conclave/v1/cluster/replace` | [`MemberId`] (the predecessor) | [`MemberChanged`] | `operate` |
//! | `POST /conclave/v1/cluster/transfer` | [`TransferLeadership`] | [`MemberChanged`] (the new leader) | `operate` |
//! | `POST /conclave/v1/cluster/verify` | [`Verify`] | [`Verification`] | `operate` |
//! | `GET /conclave/v1/seal` | – | [`SealStatus`] | `operate` |
//! | `POST /conclave/v1/seal/retry` | – | [`SealStatus`], also of a node that stays sealed | `operate` |
//! | `POST /conclave/v1/seal/rotate` | – | [`SealStatus`] | `operate` |
//! | `POST /conclave/v1/seal/rekey` | [`Rekey`] | [`SealStatus`] | `operate` |
//!
//! Any other answer is an [`ErrorBody`]. Times are milliseconds since 1970-01-01T00:00:00Z; ids are
//! decimal (Raft ids) or lower-case hexadecimal (everything else).

use crate::config::AtAuditLimit;
use serde::{Deserialize, Serialize};

/// An answer that is no success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong, for people.
    pub message: String,
}

/// What went wrong, for programs. Each has one HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request is not one that can be understood.
    InvalidRequest,
    /// 403: the caller is unknown or has no right to this.
    Denied,
    /// 404: there is nothing there.
    NotFound,
    /// 405: the route takes another method.
    MethodNotAllowed,
    /// 408: the request body was sent too slowly.
    TooSlow,
    /// 409: the present state of the cluster refuses this; the message says what to do.
    Conflict,
    /// 413: too large.
    TooLarge,
    /// 421: this host is not served here.
    UnknownHost,
    /// 429: over a rate.
    RateLimited,
    /// 503: this node is sealed.
    Sealed,
    /// 503: no majority answered in time; the outcome is unknown.
    OutcomeUnknown,
    /// 503: no leader, too much waiting, or no space; nothing was done.
    Unavailable,
    /// 500: this node is damaged or has a defect.
    Internal,
}

/// How a node stands, for load balancers. The HTTP status tells the states apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// The state that the HTTP status stands for.
    pub state: HealthState,
}

/// A node's state, worst first where several hold: `halted`, `removed`, `sealed`, `no_quorum`,
/// `no_space`, `clock`, then its role. Every 2xx serves, so a load balancer that takes 200 to 299 as healthy
/// sends clients to all nodes that serve, and one that takes 200 alone to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// 200: leads and serves.
    Leader,
    /// 202: follows, and serves through the leader.
    Follower,
    /// 203: receives the log, does not vote yet, and serves through the leader.
    Learner,
    /// 203: serves, but may not lead because its clock is wrong.
    Clock,
    /// 410: was a member and is none any more; it takes part in nothing.
    Removed,
    /// 500: halted; the log says why.
    Halted,
    /// 503: has no seal key.
    Sealed,
    /// 504: knows of no leader that a majority follows.
    NoQuorum,
    /// 507: its disk is below its reserve.
    NoSpace,
}

/// Everything about a node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's id; `None` before it is formed or joined.
    pub cluster_id: Option<String>,
    /// The configured cluster name.
    pub cluster_name: String,
    /// The Raft id of this node's data directory; `None` while it is empty.
    pub node_id: Option<u64>,
    /// The configured node name.
    pub node_name: String,
    /// This node's part.
    pub role: NodeRole,
    /// Whether it was a member and is none any more; it takes part in nothing then.
    #[serde(default)]
    pub removed: bool,
    /// The Raft id of the leader, as far as this node knows.
    pub leader_id: Option<u64>,
    /// The present term.
    pub term: u64,
    /// Index of the last entry in the log.
    pub last_log_index: Option<u64>,
    /// Index of the last entry known to be committed.
    pub committed_index: Option<u64>,
    /// Index of the last applied entry.
    pub applied_index: Option<u64>,
    /// Index of the last entry in the latest snapshot.
    pub snapshot_index: Option<u64>,
    /// Index of the last entry purged from the log.
    pub purged_index: Option<u64>,
    /// Whether this node is sealed.
    pub sealed: bool,
    /// Why it is sealed.
    pub sealed_reason: Option<String>,
    /// The state's digest at `state_digest_index`.
    pub state_digest: Option<String>,
    /// The last index at which the digest was kept.
    pub state_digest_index: Option<u64>,
    /// Age of this node's last quorum confirmation; `None`: it had none yet.
    pub staleness_ms: Option<u64>,
    /// Conclave's version.
    pub version: String,
    /// The version of apply's rules in force.
    pub rules_version: u32,
    /// Whether the cluster was made for development.
    pub dev: bool,
    /// State time.
    pub state_time_ms: u64,
    /// Distance of this node's wall clock from the voters' median, once compared.
    pub clock_skew_ms: Option<i64>,
    /// Whether its clock keeps this node from leading.
    pub clock_refuses_lead: bool,
    /// How far this node is with a verification; `None`: none runs.
    #[serde(default)]
    pub verification: Option<VerificationProgress>,
    /// Whether a change of the membership is between its two steps: old and new voters both decide.
    #[serde(default)]
    pub joint: bool,
    /// Digest of the grants in force on this node.
    pub grants_digest: String,
    /// Why the grants could not be read the last time they should have been.
    pub grants_error: Option<String>,
    /// Bytes of audit records kept.
    pub audit_bytes: u64,
    /// The limit of those.
    pub audit_limit_bytes: u64,
    /// Free bytes on the data directory's file system.
    pub free_bytes: u64,
    /// Whether those are below the reserve.
    pub out_of_space: bool,
    /// Why the node halted.
    pub halted: Option<String>,
}

/// A node's part in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// The data directory is empty.
    Unformed,
    Learner,
    Follower,
    Candidate,
    Leader,
}

/// How much audit is kept. In a request, what is left out stays as it is; an answer holds both.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditLimit {
    /// Bytes of records and their keys, at least 16 KiB.
    pub limit_bytes: Option<u64>,
    /// What happens there.
    pub at_limit: Option<AtAuditLimit>,
}

/// Which audit records are wanted. What is left out is left open.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditListRequest {
    /// From this time on.
    pub since_ms: Option<u64>,
    /// Before this time.
    pub until_ms: Option<u64>,
    /// About the secret with this name.
    pub secret: Option<String>,
    /// By this principal, as `uri:…`, `email:…`, `dns:…`, `cn:…`, `tailscale:…` or `dev`.
    pub principal: Option<String>,
    /// Of this action, in the words of [`AuditEntry::action`].
    pub action: Option<String>,
    /// With this outcome, in the words of [`AuditEntry::outcome`].
    pub outcome: Option<String>,
    /// Records in one page: 1 to 1000, default 100.
    pub limit: Option<usize>,
    /// Where the page starts: [`AuditList::next`] of the one before.
    pub cursor: Option<String>,
    /// Newest first. Default false.
    pub newest_first: bool,
}

/// One page of audit records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditList {
    pub records: Vec<AuditEntry>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<String>,
}

/// One audit record. What is sealed is `None` where it does not apply, and where this node cannot
/// open it (then `error` says why).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    /// `index-position-step` of its command in the log; unique, and ordered as things happened.
    pub id: String,
    pub time_ms: u64,
    /// `get`, `info`, `list`, `put`, `create-version`, `activate`, `delete-version`, `delete`,
    /// `restore`, `move`, `configure`, `reseal`, `audit-read`, `operate`, `login` or `prune`.
    pub action: String,
    /// `done`, `not-found`, `denied`, `refused` or `abandoned`.
    pub outcome: String,
    /// The secret's name.
    pub secret: Option<String>,
    pub version: Option<u32>,
    pub principal: Option<String>,
    /// The tailnet node that the caller called from.
    pub device: Option<String>,
    /// The caller's address.
    pub remote: Option<String>,
    /// By which API.
    pub api: Option<String>,
    pub request_id: Option<String>,
    /// The name of the node that took the call.
    pub node: Option<String>,
    /// The Raft id of the node that took the call.
    pub node_id: u64,
    /// What was done, where the action alone does not say it.
    pub detail: Option<String>,
    /// For how many attempts it stands.
    pub attempts: u32,
    /// Why the sealed part could not be opened.
    pub error: Option<String>,
}

/// The members of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterMembers {
    pub cluster_id: Option<String>,
    pub leader_id: Option<u64>,
    pub term: u64,
    /// Whether a change of the membership is between its two steps: old and new voters both decide.
    #[serde(default)]
    pub joint: bool,
    pub members: Vec<MemberEntry>,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberEntry {
    /// The Raft id.
    pub id: u64,
    pub name: String,
    /// `host:port` of its cluster listener.
    pub address: String,
    pub voter: bool,
    /// Known on the leader only: the last index that is durable there.
    pub matched_index: Option<u64>,
    /// Known on the leader only: milliseconds since it last acknowledged anything.
    pub last_acknowledged_ms: Option<u64>,
    /// Known on the leader only: bytes of its log that are not durable there. What would be sent as a
    /// snapshot is not counted.
    #[serde(default)]
    pub behind_bytes: Option<u64>,
    /// Known on the leader only: whether its disk is below its reserve.
    #[serde(default)]
    pub disk_below_reserve: Option<bool>,
    /// While the node that is asked sends it a snapshot: bytes of it that arrived.
    #[serde(default)]
    pub snapshot_sent_bytes: Option<u64>,
    /// While the node that is asked sends it a snapshot: bytes that it has.
    #[serde(default)]
    pub snapshot_total_bytes: Option<u64>,
}

/// Adds a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMember {
    /// The configured name of a node that waits with an empty directory.
    pub name: String,
    /// How long to wait, in milliseconds. Default 60000, at most 3600000.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Names a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberId {
    /// Its Raft id.
    pub id: u64,
    /// How long to wait, in milliseconds. Default 60000, at most 3600000.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Hands leadership over.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferLeadership {
    /// To this member; default: to the voter that is furthest.
    pub to: Option<u64>,
    /// How long to wait, in milliseconds. Default 60000, at most 3600000.
    pub timeout_ms: Option<u64>,
}

/// A change of membership or leadership was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberChanged {
    /// The member that it was about; of a replacement the successor.
    pub id: u64,
}

/// Lets every node rescan its stored state.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// How long to wait, in milliseconds. Default and at most 3600000.
    pub timeout_ms: Option<u64>,
}

/// How far a node is with a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerificationProgress {
    /// Bytes of its state read so far.
    pub scanned_bytes: u64,
    /// About how many there are.
    pub total_bytes: u64,
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verification {
    /// Whether every node was scanned and all digests agree.
    pub agreed: bool,
    pub nodes: Vec<NodeVerification>,
}

/// One node's part of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeVerification {
    pub id: u64,
    pub name: String,
    /// The index of the state that was scanned.
    pub index: Option<u64>,
    /// The digest by scanning every stored pair.
    pub scanned: Option<String>,
    /// The digest updated with each write.
    pub running: Option<String>,
    /// Why the node could not verify.
    pub error: Option<String>,
}

/// How this node's seal stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealStatus {
    pub sealed: bool,
    /// Why it is sealed.
    pub reason: Option<String>,
    /// The configured seal key's id, once read.
    pub seal_key_id: Option<String>,
    /// The keyring's id.
    pub keyring_id: Option<String>,
    /// The newest data-key term.
    pub key_term: Option<u32>,
    /// Sealing again after a rotation, as this node knows it.
    pub reseal: Option<ResealProgress>,
    /// What will keep this node from unsealing at its next start, or that the stored keyring is gone.
    pub warning: Option<String>,
}

/// Progress of sealing again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResealProgress {
    /// The term that everything is sealed under afterwards.
    pub key_term: u32,
    /// Secrets looked at in this pass.
    pub secrets_seen: u64,
    /// Sealed parts replaced since this node began.
    pub parts_resealed: u64,
    /// Whether a pass found nothing under an older term.
    pub finished: bool,
}

/// Wraps the keyring under another key file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rekey {
    /// The new key file, by its path on the node that is asked.
    pub key_file: String,
}

impl ErrorCode {
    /// Its HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnknownHost => 421,
            Self::RateLimited => 429,
            Self::Sealed | Self::OutcomeUnknown | Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }
}

impl HealthState {
    /// Its HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Leader => 200,
            Self::Follower => 202,
            Self::Learner | Self::Clock => 203,
            Self::Sealed => 503,
            Self::NoQuorum => 504,
            Self::NoSpace => 507,
            Self::Removed => 410,
            Self::Halted => 500,
        }
    }
}
