//! What nodes say to one another: the heads of frames. Records of our own rather than openraft's,
//! so that its next version cannot change what travels between nodes of different versions.

use crate::{
    formation::messages::{FormationAnswer, FormationRequest},
    state_machine::LogPosition,
    types::{self, Entry, LogId, LogTypes, Payload, Proposal, Vote},
};
use bytes::Bytes;
use openraft::{
    EntryPayload,
    errors::RPCError,
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io};

/// A request on a multiplexed connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the asking side; the answer repeats it.
    pub id: u64,
    /// What is asked.
    pub question: Question,
}

/// An answer on a multiplexed connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The request's id.
    pub id: u64,
    /// What is answered.
    pub reply: Reply,
}

/// What one node asks of another. Numbers are part of the format: only append.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// Give a vote (Raft paper, section 5.2).
    Vote(Ballot),
    /// Would you give one (Raft dissertation, section 9.6)?
    PreVote(Ballot),
    /// An append without entries, for liveness and read indexes.
    Heartbeat(Append),
    /// Take over leadership (Raft dissertation, section 3.10).
    TransferLeader(Transfer),
    /// A request to the [`crate::node::PeerService`], in the body.
    Service,
    /// Forming and joining a cluster.
    Formation(FormationRequest),
}

/// The answer to a [`Question`]. Numbers are part of the format: only append.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// To a vote or pre-vote.
    Vote(BallotReply),
    /// To a heartbeat.
    Heartbeat {
        /// As for an append.
        outcome: AppendOutcome,
        /// Whether the answering node's disk is below its reserve.
        out_of_space: bool,
    },
    /// To a transfer: why it was rejected.
    TransferLeader(Result<(), TransferRejection>),
    /// The service's answer is in the body.
    Service,
    /// To a step of formation.
    Formation(FormationAnswer),
    /// The node cannot answer now.
    Refused(Refusal),
}

/// Why a node does not answer a question. Numbers are part of the format: only append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Its data directory has no Raft id yet.
    #[error("the node is not part of a cluster yet")]
    Unformed,
    /// The asking node's data directory has no Raft id.
    #[error("a node without a Raft id may only join")]
    NotMember,
    /// Its disk is below its reserve.
    #[error("the disk of the node is below its reserve")]
    NoSpace,
    /// It is stopping, or has halted.
    #[error("the node is stopping")]
    Stopping,
    /// Its clock does not let it lead.
    #[error("the node may not lead")]
    MayNotLead,
    /// The message does not belong here, or is malformed.
    #[error("the message is malformed")]
    Malformed,
    /// A received snapshot could not be stored or is damaged.
    #[error("the snapshot was not received: {0}")]
    Snapshot(String),
    /// The asking node was a member and is none any more.
    #[error("the asking node was removed from the cluster")]
    Removed,
    /// A snapshot was received whole, and is not the copy of a state that it claims to be.
    #[error("the snapshot is bad: {0}")]
    SnapshotDisproved(String),
}

/// A vote as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    /// The term.
    pub term: u64,
    /// The Raft id that it is for.
    pub node: u64,
    /// Whether a quorum granted it: it names an established leader.
    pub committed: bool,
}

/// A candidate's request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ballot {
    /// The candidate's vote.
    pub vote: VoteRecord,
    /// The last entry of its log.
    pub last_log: Option<LogPosition>,
    /// Whether the present leader asked for this election.
    pub leadership_transfer: bool,
}

/// The answer to a [`Ballot`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BallotReply {
    /// The answering node's vote after it.
    pub vote: VoteRecord,
    /// Whether it was granted.
    pub granted: bool,
    /// The last entry of the answering node's log.
    pub last_log: Option<LogPosition>,
}

/// A request to take over leadership.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transfer {
    /// The vote of the leader that gives it up.
    pub from: VoteRecord,
    /// Who is to lead.
    pub to: u64,
    /// What the new leader must have flushed.
    pub last_log: Option<LogPosition>,
}

/// Why a transfer was rejected.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum TransferRejection {
    /// The vote has changed meanwhile.
    VoteChanged {
        expected: VoteRecord,
        actual: VoteRecord,
    },
    /// The log is not flushed as far as it has to be.
    LogNotFlushed {
        expected: Option<LogPosition>,
        actual: Option<LogPosition>,
    },
}

/// An append. The bodies of its entries lie in the frame's body, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Append {
    /// The leader's vote.
    pub vote: VoteRecord,
    /// The entry before the first of these.
    pub previous: Option<LogPosition>,
    /// What the leader knows to be committed.
    pub committed: Option<LogPosition>,
    /// The entries.
    pub entries: Vec<EntryHead>,
    /// Whether the leader proposes nothing but what frees space: see [`crate::storage::space`].
    pub draining: bool,
}

/// One entry of an [`Append`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EntryHead {
    /// Where it lies.
    pub position: LogPosition,
    /// What it carries.
    pub kind: EntryKind,
}

/// What an entry carries, with the length of its part of the body.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum EntryKind {
    /// Nothing.
    Blank,
    /// A proposal, as it was proposed.
    Proposal { bytes: u32 },
    /// A membership, as [`types::encode_membership`] encodes it.
    Membership { bytes: u32 },
}

/// What became of an append.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The log matches up to here, and is durable.
    Matched(Option<LogPosition>),
    /// The entry before the append's first is another one.
    Conflict(LogPosition),
    /// The node has seen a later leader or candidate.
    HigherVote(VoteRecord),
}

/// A frame on an append connection. A session is one stream of openraft's; sessions follow one
/// another, and what belongs to an earlier one is void.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppendFrame {
    /// Counts the sessions of the connection.
    pub session: u64,
    /// The append.
    pub append: Append,
}

/// The answer to one [`AppendFrame`], in order within its session.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppendAnswer {
    /// The session.
    pub session: u64,
    /// What became of it. Anything but a match ends the session.
    pub outcome: Result<AppendOutcome, Refusal>,
}

/// A frame on a snapshot connection, from the sender.
#[derive(Debug, Serialize, Deserialize)]
pub enum SnapshotFrame {
    /// Announces a snapshot.
    Begin {
        /// The leader's vote.
        vote: VoteRecord,
        /// The last entry that it contains.
        last_log: Option<LogPosition>,
        /// The last membership that it contains.
        membership: Option<(LogPosition, Vec<u8>)>,
        /// Its files by name, with their sizes in bytes, in the order in which they are sent.
        files: BTreeMap<String, u64>,
    },
    /// The next bytes of the present file, in the body.
    Chunk {
        /// CRC-32C of the body.
        checksum: u32,
    },
    /// Everything was sent.
    End {
        /// BLAKE3 over every file's name, size and bytes.
        digest: [u8; 32],
    },
}

/// The answer to each [`SnapshotFrame`].
#[derive(Debug, Serialize, Deserialize)]
pub enum SnapshotAnswer {
    /// Go on.
    Continue,
    /// Still at work; the deadline starts anew.
    Working,
    /// It was handed to Raft; this is the node's vote after it.
    Done(VoteRecord),
    /// It is given up.
    Refused(Refusal),
}

impl From<Vote> for VoteRecord {
    fn from(vote: Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        if record.committed {
            Self::new_committed(record.term, record.node)
        } else {
            Self::new(record.term, record.node)
        }
    }
}

impl From<VoteRequest<LogTypes>> for Ballot {
    fn from(request: VoteRequest<LogTypes>) -> Self {
        Self {
            vote: request.vote.into(),
            last_log: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<Ballot> for VoteRequest<LogTypes> {
    fn from(ballot: Ballot) -> Self {
        let mut request = Self::new(ballot.vote.into(), ballot.last_log.map(LogId::from));
        request.leadership_transfer = ballot.leadership_transfer;
        request
    }
}

impl From<VoteResponse<LogTypes>> for BallotReply {
    fn from(response: VoteResponse<LogTypes>) -> Self {
        Self {
            vote: response.vote.into(),
            granted: response.vote_granted,
            last_log: response.last_log_id.map(Into::into),
        }
    }
}

impl From<BallotReply> for VoteResponse<LogTypes> {
    fn from(reply: BallotReply) -> Self {
        Self::new(
            Vote::from(reply.vote),
            reply.last_log.map(LogId::from),
            reply.granted,
        )
    }
}

impl From<StreamAppendResult<LogTypes>> for AppendOutcome {
    fn from(result: StreamAppendResult<LogTypes>) -> Self {
        match result {
            Ok(matched) => Self::Matched(matched.map(Into::into)),
            Err(StreamAppendError::Conflict(log_id)) => Self::Conflict(log_id.into()),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendOutcome> for StreamAppendResult<LogTypes> {
    fn from(outcome: AppendOutcome) -> Self {
        match outcome {
            AppendOutcome::Matched(matched) => Ok(matched.map(LogId::from)),
            AppendOutcome::Conflict(position) => Err(StreamAppendError::Conflict(position.into())),
            AppendOutcome::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

impl Append {
    /// An append as it is sent, with its body. Payloads of proposals are shared, never copied.
    pub fn of(request: AppendEntriesRequest<LogTypes>) -> (Self, Vec<Bytes>) {
        let mut body = Vec::new();
        let entries = request.entries.into_iter().map(|entry| {
            let kind = match entry.payload {
                EntryPayload::Blank => EntryKind::Blank,
                EntryPayload::Normal(Proposal(bytes)) => {
                    let length = bytes.len() as u32;
                    body.push(bytes);
                    EntryKind::Proposal { bytes: length }
                }
                EntryPayload::Membership(membership) => {
                    let bytes = types::encode_membership(&membership);
                    let length = bytes.len() as u32;
                    body.push(bytes);
                    EntryKind::Membership { bytes: length }
                }
            };
            EntryHead {
                position: entry.log_id.into(),
                kind,
            }
        });
        let append = Self {
            vote: request.vote.into(),
            previous: request.prev_log_id.map(Into::into),
            committed: request.leader_commit.map(Into::into),
            entries: entries.collect(),
            draining: false,
        };
        (append, body)
    }

    /// The request that was sent. Payloads are slices of the body.
    ///
    /// # Errors
    /// `InvalidData` when the body does not fit the entries, or the entries do not follow each other.
    pub fn into_request(self, mut body: Bytes) -> io::Result<AppendEntriesRequest<LogTypes>> {
        let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        // None: after the last of all indexes there is none.
        let mut next = self
            .previous
            .map_or(Some(0), |previous| previous.index.checked_add(1));
        let mut entries = Vec::with_capacity(self.entries.len());
        for head in self.entries {
            if next != Some(head.position.index) {
                return Err(malformed("the entries of an append do not follow each other"));
            }
            next = head.position.index.checked_add(1);
            let mut take = |bytes: u32| {
                let bytes = bytes as usize;
                if bytes <= body.len() {
                    Ok(body.split_to(bytes))
                } else {
                    Err(malformed("an append's body is shorter than its entries"))
                }
            };
            let payload: Payload = match head.kind {
                EntryKind::Blank => EntryPayload::Blank,
                EntryKind::Proposal { bytes } => EntryPayload::Normal(Proposal(take(bytes)?)),
                EntryKind::Membership { bytes } => {
                    let membership = types::decode_membership(&take(bytes)?)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    EntryPayload::Membership(membership)
                }
            };
            entries.push(Entry {
                log_id: head.position.into(),
                payload,
            });
        }
        if !body.is_empty() {
            return Err(malformed("an append's body is longer than its entries"));
        }
        Ok(AppendEntriesRequest {
            vote: self.vote.into(),
            prev_log_id: self.previous.map(LogId::from),
            entries,
            leader_commit: self.committed.map(LogId::from),
        })
    }
}

/// Unreachable, in openraft's words: it backs off before it tries again.
pub fn unreachable(reason: impl ToString) -> RPCError<LogTypes> {
    RPCError::Unreachable(openraft::errors::Unreachable::from_string(reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    fn request() -> AppendEntriesRequest<LogTypes> {
        let entry = |index, payload| Entry {
            log_id: LogId::new_term_index(2, index),
            payload,
        };
        AppendEntriesRequest {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(LogId::new_term_index(1, 4)),
            entries: vec![
                entry(5, EntryPayload::Blank),
                entry(6, EntryPayload::Normal(Proposal(Bytes::from_static(b"abc")))),
                entry(7, EntryPayload::Normal(Proposal(Bytes::new()))),
            ],
            leader_commit: Some(LogId::new_term_index(1, 3)),
        }
    }

    fn joined(body: &[Bytes]) -> Bytes {
        body.concat().into()
    }

    #[test]
    fn appends_arrive_as_they_were_sent() {
        let (append, body) = Append::of(request());
        let append: Append = codec::decode(&codec::encode(&append)).unwrap();
        let received = append.into_request(joined(&body)).unwrap();
        assert_eq!(received.entries, request().entries);
        assert_eq!(received.vote, request().vote);
        assert_eq!(received.prev_log_id, request().prev_log_id);
        assert_eq!(received.leader_commit, request().leader_commit);
    }

    #[test]
    fn payloads_are_shared() {
        let (_, body) = Append::of(request());
        let EntryPayload::Normal(Proposal(sent)) = &request().entries[1].payload else {
            unreachable!("the second entry is a proposal");
        };
        assert_eq!(body[0].as_ptr(), sent.as_ptr());
    }

    #[test]
    fn bodies_that_do_not_fit_are_refused() {
        let (append, body) = Append::of(request());
        assert!(append.clone().into_request(joined(&body).slice(1..)).is_err());
        let longer = [joined(&body), Bytes::from_static(b"x")].concat();
        assert!(append.clone().into_request(longer.into()).is_err());
        let mut gap = append;
        gap.entries.remove(1);
        assert!(gap.into_request(Bytes::new()).is_err());
    }

    #[test]
    fn nothing_follows_the_last_of_all_indexes() {
        let (mut append, _) = Append::of(request());
        append.entries.truncate(1);
        for (previous, refused) in [(u64::MAX - 1, false), (u64::MAX, true)] {
            append.previous = Some(LogPosition {
                term: 1,
                index: previous,
            });
            append.entries[0].position.index = previous.wrapping_add(1);
            assert_eq!(append.clone().into_request(Bytes::new()).is_err(), refused);
        }
    }
}
