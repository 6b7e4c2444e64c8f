//! What nodes ask one another beyond Raft. Encoded by the one codec; new questions are appended at
//! the end, so that an older node refuses what it does not know and nothing else.
//!
//! On behalf of clients only proposals (whose commands are sealed by their edge) and read-index
//! questions travel here. On behalf of operators `Operate` and `Verify` do too: the asking edge has
//! checked the right and written the record. For `Operate` the leader looks that record up; for
//! `Verify`, which changes nothing, a node takes the word of the other (see docs/threat-model.md).

use super::{OperateError, ScannedDigest};
use crate::{
    model::{AuditKey, ProposalId},
    propose::Tried,
};
use bytes::Bytes;
use conclave_raft::identity::RaftId;
use serde::{Deserialize, Serialize};

/// A question to another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum PeerRequest {
    /// To the leader: enter these. Answered by [`PeerAnswer::Proposed`], one outcome each.
    Propose(Vec<ForwardedProposal>),
    /// To the leader: confirm with a quorum that you lead, and say what must be applied.
    ReadIndex,
    /// To any member: what time is it, and which rules do you know?
    Clock,
    /// To any member: your kept digests of indexes above this.
    Digests { above_index: u64 },
    /// To any member: rescan your state and say what you found, within so many milliseconds.
    Verify { timeout_ms: u64 },
    /// To the leader: change the membership, for the record of it that you find here, within so many
    /// milliseconds.
    Operate {
        operation: MemberOperation,
        record: AuditKey,
        timeout_ms: u64,
    },
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum PeerAnswer {
    /// The question cannot be answered by this node now (not the leader, stopping, or unknown to
    /// this version). Nothing was done.
    Unready,
    /// What became of each proposal.
    Proposed(Vec<Tried>),
    /// A confirmed read index, and the leader's time in milliseconds.
    ReadIndex { index: u64, time_ms: u64 },
    /// The wall clock in milliseconds; the highest version of apply's rules that is known; and
    /// whether the asker's Raft id is in the membership that is in effect here.
    Clock {
        wall_ms: u64,
        rules_known: u32,
        member: bool,
    },
    /// (index, digest), in order.
    Digests(Vec<(u64, [u8; 32])>),
    /// The scan's result, or why there is none.
    Verified(Result<ScannedDigest, String>),
    /// The member that was added or now leads (else the one that was named).
    Operated(Result<RaftId, OperateError>),
}

/// A proposal on its way to the leader. Which node it is from is not in it: the leader takes that
/// from the connection's certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ForwardedProposal {
    pub(crate) id: ProposalId,
    pub(crate) made_at_index: u64,
    pub(crate) command: Bytes,
}

/// A change of the membership, or of who leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum MemberOperation {
    Add { name: String },
    Promote { raft_id: RaftId },
    Remove { raft_id: RaftId },
    Replace { predecessor: RaftId },
    Transfer { to: Option<RaftId> },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::{Done, Outcome},
        node::Answer,
    };
    use conclave_raft::codec;
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use std::fmt::Debug;

    /// Every kind, byte for byte, in the order of their numbers: one that is missing here fails.
    fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(kinds: &[(T, &[u8])]) {
        for (number, (message, rest)) in kinds.iter().enumerate() {
            let bytes = [&[codec::FORMAT_BINCODE_2, number as u8], *rest].concat();
            assert_eq!(codec::encode(message), bytes, "{message:?}");
            assert_eq!(&codec::decode::<T>(&bytes).unwrap(), message);
        }
        let beyond = [codec::FORMAT_BINCODE_2, kinds.len() as u8];
        let refused = codec::decode::<T>(&beyond).unwrap_err().to_string();
        let expected = format!("variant index 0 <= i < {}", kinds.len());
        assert!(refused.contains(&expected), "not every kind is here: {refused}");
    }

    #[test]
    fn golden_requests() {
        let proposal = ForwardedProposal {
            id: ProposalId([9; 16]),
            made_at_index: 5,
            command: Bytes::from_static(&[1, 2]),
        };
        let proposed = [[1].as_slice(), &[9; 16], &[5, 2, 1, 2]].concat();
        golden(&[
            (PeerRequest::Propose(vec![proposal]), proposed.as_slice()),
            (PeerRequest::ReadIndex, &[]),
            (PeerRequest::Clock, &[]),
            (PeerRequest::Digests { above_index: 300 }, &[251, 44, 1]),
            (PeerRequest::Verify { timeout_ms: 7 }, &[7]),
            (
                PeerRequest::Operate {
                    operation: MemberOperation::Promote { raft_id: RaftId(4) },
                    record: AuditKey {
                        index: 6,
                        position: 5,
                        step: 0,
                    },
                    timeout_ms: 7,
                },
                &[1, 4, 6, 5, 0, 7],
            ),
        ]);
        golden(&[
            (MemberOperation::Add { name: "n4".into() }, &[2, b'n', b'4']),
            (MemberOperation::Promote { raft_id: RaftId(4) }, &[4]),
            (MemberOperation::Remove { raft_id: RaftId(4) }, &[4]),
            (
                MemberOperation::Replace {
                    predecessor: RaftId(4),
                },
                &[4],
            ),
            (MemberOperation::Transfer { to: Some(RaftId(4)) }, &[1, 4]),
        ]);
    }

    #[test]
    fn golden_answers() {
        let applied = Answer {
            index: 300,
            position: 1,
            time_ms: 2,
            outcome: Outcome::Done(vec![Done::Recorded]),
        };
        let done = codec::encode(&applied.outcome).split_off(1);
        let applied_bytes = [[251, 44, 1, 1, 2].as_slice(), &done].concat();
        golden(&[
            (Tried::Applied(applied), applied_bytes.as_slice()),
            (Tried::NotEntered, &[]),
            (Tried::NoSpace, &[]),
            (Tried::Overloaded, &[]),
            (Tried::Unknown, &[]),
        ]);
        let scanned = ScannedDigest {
            index: 7,
            scanned: [1; 32],
            running: [2; 32],
        };
        let verified = [[0, 7].as_slice(), &[1; 32], &[2; 32]].concat();
        let digests = [[1, 7].as_slice(), &[3; 32]].concat();
        golden(&[
            (PeerAnswer::Unready, [].as_slice()),
            (PeerAnswer::Proposed(vec![Tried::NoSpace]), &[1, 2]),
            (PeerAnswer::ReadIndex { index: 7, time_ms: 8 }, &[7, 8]),
            (
                PeerAnswer::Clock {
                    wall_ms: 300,
                    rules_known: 1,
                    member: true,
                },
                &[251, 44, 1, 1, 1],
            ),
            (PeerAnswer::Digests(vec![(7, [3; 32])]), &digests),
            (PeerAnswer::Verified(Ok(scanned)), &verified),
            (
                PeerAnswer::Operated(Err(OperateError::Refused("no".into()))),
                &[1, 1, 2, b'n', b'o'],
            ),
        ]);
        golden(&[
            (OperateError::NoLeader, [].as_slice()),
            (OperateError::Refused("no".into()), &[2, b'n', b'o']),
            (OperateError::Unfinished("no".into()), &[2, b'n', b'o']),
        ]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = codec::decode::<PeerRequest>(&bytes);
            let _ = codec::decode::<PeerAnswer>(&bytes);
        }
    }
}
