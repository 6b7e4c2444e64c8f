//! Who a node is: its cluster, its configured name, and the Raft id of its data directory.
//!
//! A name and its certificate outlive disks. A Raft id does not: each data directory is an
//! incarnation with an id of its own, given out through the log and never used again
//! (design, section 4).

use serde::{Deserialize, Serialize};
use std::fmt;

/// A Raft id: one data directory's number within its cluster, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct RaftId(pub u64);

/// The random 128-bit id that a cluster gets when it is formed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

/// What the membership in the log says of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct NodeRecord {
    /// The configured name, which is also the last part of the node certificate's URI name.
    pub name: String,
    /// Where other nodes reach it: `host:port` of its cluster listener.
    pub address: String,
}

impl fmt::Display for NodeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RaftId({})", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}
