//! What nodes say to one another before, and in order to, belong to one cluster.

use crate::identity::{ClusterId, NodeRecord, RaftId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A step of formation. Numbers are part of the format: only append.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FormationRequest {
    /// How do you stand?
    Inquire,
    /// Will you be part of this cluster?
    Propose(Proposal),
    /// A node with an empty directory asks to be let in.
    Join,
}

/// The answer to a [`FormationRequest`]. Numbers are part of the format: only append.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FormationAnswer {
    /// To an inquiry.
    Standing(Standing),
    /// The proposal is stored durably.
    Accepted,
    /// Let in.
    Granted(JoinGrant),
    /// Not now, or never; the reason is for people.
    Refused(String),
    /// Nobody is let in here: ask this node, which leads.
    AskLeader(NodeRecord),
}

/// Why a node that asks to join is not let in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinRefusal {
    /// This node leads, and lets in whoever proves a name to it.
    AskLeader(NodeRecord),
    /// Not now, or never; the reason is for people. The node asks again every few seconds.
    Because(String),
}

impl From<String> for JoinRefusal {
    fn from(reason: String) -> Self {
        Self::Because(reason)
    }
}

impl From<&str> for JoinRefusal {
    fn from(reason: &str) -> Self {
        Self::Because(reason.to_owned())
    }
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Its directory is empty.
    Empty,
    /// It accepted this cluster, which it does not know to be formed.
    Accepted(ClusterId),
    /// It belongs to this cluster, which is formed.
    Formed(ClusterId),
    /// Its data was set aside, because its disk was reverted; it waits to be let into this cluster
    /// again, and forms no other.
    SetAside(ClusterId),
}

/// What the first configured node proposes to all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The cluster's new, random id.
    pub cluster_id: ClusterId,
    /// The configured name of the cluster.
    pub cluster_name: String,
    /// Every member.
    pub members: BTreeMap<RaftId, NodeRecord>,
    /// Whether the cluster is one for development.
    pub dev: bool,
}

/// What a node that joins needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGrant {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The id that was given out for this directory, and never to another.
    pub raft_id: RaftId,
    /// The members that are known where it was granted.
    pub members: BTreeMap<RaftId, NodeRecord>,
    /// Whether the cluster is one for development.
    pub dev: bool,
}
