//! The types that openraft is configured with, and their stored forms.
//!
//! An entry carries opaque bytes. What openraft itself has to store (positions, votes, memberships)
//! is written as records of our own, so that a new openraft cannot change what lies on our disks.

use crate::{
    codec::{self, CodecError},
    identity::NodeRecord,
    runtime::Runtime,
    state_machine::LogPosition,
    storage::state_machine_adapter::StateMachineAdapter,
};
use bytes::Bytes;
use openraft::{impls::leader_id_std, type_config::alias};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

openraft::declare_raft_types!(
    /// The type configuration of Conclave's log.
    pub LogTypes:
        D = Proposal,
        R = Response,
        NodeId = u64,
        Node = NodeRecord,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// A leader's term and id; at most one leader a term.
pub type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// What remains of a leader's id in a log id: its term.
pub type CommittedLeaderId = alias::CommittedLeaderIdOf<LogTypes>;
/// An entry's term and index.
pub type LogId = alias::LogIdOf<LogTypes>;
/// A vote given, or a leadership accepted.
pub type Vote = alias::VoteOf<LogTypes>;
/// A log entry.
pub type Entry = alias::EntryOf<LogTypes>;
/// A log entry's content.
pub type Payload = alias::PayloadOf<LogTypes>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, NodeRecord>;
/// A membership with the position of the entry that set it.
pub type StoredMembership = alias::StoredMembershipOf<LogTypes>;
/// What a snapshot contains.
pub type SnapshotMeta = alias::SnapshotMetaOf<LogTypes>;
/// A running openraft node over our state machine.
pub type Raft = openraft::Raft<LogTypes, StateMachineAdapter>;
/// What openraft publishes of itself.
pub type Metrics = openraft::RaftMetrics<LogTypes>;

/// What an entry carries on behalf of the state machine: opaque bytes, shared by the log, the
/// network and apply without being copied.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

/// What the state machine answered to an entry: opaque bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response(pub Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Shows the length only: contents never reach a log.
impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

/// Shows the length only: contents never reach a log.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({} bytes)", self.0.len())
    }
}

impl From<LogPosition> for LogId {
    fn from(position: LogPosition) -> Self {
        Self::new_term_index(position.term, position.index)
    }
}

impl From<LogId> for LogPosition {
    fn from(log_id: LogId) -> Self {
        Self {
            term: log_id.leader_id.term,
            index: log_id.index,
        }
    }
}

/// The stored form of a membership.
#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    /// The sets of voters: one, or two while a change is under way.
    voters: Vec<BTreeSet<u64>>,
    /// Every voter and learner.
    nodes: BTreeMap<u64, NodeRecord>,
}

/// Encodes a membership for the log and for the state machine.
pub fn encode_membership(membership: &Membership) -> Bytes {
    let record = MembershipRecord {
        voters: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
    };
    codec::encode(&record).into()
}

/// Decodes what [`encode_membership`] wrote.
///
/// # Errors
/// Refuses malformed records, and memberships with a voter that is no node.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, CodecError> {
    let record: MembershipRecord = codec::decode(bytes)?;
    Membership::new(record.voters, record.nodes).map_err(|error| CodecError::Malformed(error.to_string()))
}

/// The membership that a state machine or a checkpoint knows, as openraft wants it.
///
/// # Errors
/// See [`decode_membership`].
pub fn stored_membership(known: Option<&(LogPosition, Bytes)>) -> Result<StoredMembership, CodecError> {
    Ok(match known {
        None => StoredMembership::default(),
        Some((position, bytes)) => StoredMembership::new(Some((*position).into()), decode_membership(bytes)?),
    })
}

/// What [`stored_membership`] made, in our own form again.
pub fn known_membership(stored: &StoredMembership) -> Option<(LogPosition, Bytes)> {
    let log_id = stored.log_id().as_ref()?;
    Some(((*log_id).into(), encode_membership(stored.membership())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let record = |name: &str| NodeRecord {
            name: name.into(),
            address: "h:1".into(),
        };
        Membership::new(
            vec![BTreeSet::from([1, 2])],
            BTreeMap::from([(1, record("a")), (2, record("b")), (3, record("c"))]),
        )
        .unwrap()
    }

    #[test]
    fn golden_membership() {
        let bytes = encode_membership(&membership());
        let golden = [
            1, 1, 2, 1, 2, 3, 1, 1, b'a', 3, b'h', b':', b'1', 2, 1, b'b', 3, b'h', b':', b'1', 3, 1, b'c',
            3, b'h', b':', b'1',
        ];
        assert_eq!(bytes[..], golden);
        assert_eq!(decode_membership(&bytes).unwrap(), membership());
    }

    #[test]
    fn a_voter_must_be_a_node() {
        let record = MembershipRecord {
            voters: vec![BTreeSet::from([1])],
            nodes: BTreeMap::new(),
        };
        assert!(decode_membership(&codec::encode(&record)).is_err());
    }

    #[test]
    fn known_memberships_survive_the_way_through_openraft() {
        let known = Some((
            LogPosition { term: 3, index: 9 },
            encode_membership(&membership()),
        ));
        assert_eq!(
            known_membership(&stored_membership(known.as_ref()).unwrap()),
            known
        );
        assert_eq!(known_membership(&stored_membership(None).unwrap()), None);
    }

    #[test]
    fn contents_are_never_shown() {
        let proposal = Proposal(Bytes::from_static(b"hidden"));
        assert_eq!(format!("{proposal} {proposal:?}"), "6 bytes Proposal(6 bytes)");
        assert_eq!(format!("{:?}", Response(proposal.0)), "Response(6 bytes)");
    }
}
