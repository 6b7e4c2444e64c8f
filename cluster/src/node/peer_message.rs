//! What nodes ask one another beyond Raft. Encoded by the one codec; new questions are appended at
//! the end, so that an older node refuses what it does not know and nothing else.
//!
//! On behalf of clients only proposals (whose commands are sealed by their edge) and read-index
//! questions travel here.

use super::{OperateError, ScannedDigest};
use crate::{model::ProposalId, propose::Tried};
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
    /// To the leader: change the membership, within so many milliseconds.
    Operate {
        operation: MemberOperation,
        timeout_ms: u64,
    },
    /// To the leader: let in the node of this name, whose empty directory asked the asker, to which
    /// its certificate proved the name.
    Admit { name: String, address: String },
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
    /// The id under which it was let in, or why not.
    Admitted(Result<RaftId, String>),
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
    use conclave_raft::codec;
    use proptest::prelude::*;

    #[test]
    fn golden_messages() {
        let propose = PeerRequest::Propose(vec![ForwardedProposal {
            id: ProposalId([9; 16]),
            made_at_index: 5,
            command: Bytes::from_static(&[1, 2]),
        }]);
        let mut golden = vec![1, 0, 1];
        golden.extend([9; 16]);
        golden.extend([5, 2, 1, 2]);
        assert_eq!(codec::encode(&propose), golden);
        assert_eq!(codec::decode::<PeerRequest>(&golden).unwrap(), propose);
        assert_eq!(codec::encode(&PeerRequest::ReadIndex), [1, 1]);
        assert_eq!(codec::encode(&PeerRequest::Clock), [1, 2]);
        assert_eq!(codec::encode(&PeerAnswer::Unready), [1, 0]);
        assert_eq!(
            codec::encode(&PeerAnswer::ReadIndex { index: 7, time_ms: 8 }),
            [1, 2, 7, 8]
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = codec::decode::<PeerRequest>(&bytes);
            let _ = codec::decode::<PeerAnswer>(&bytes);
        }
    }
}
