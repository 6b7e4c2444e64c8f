//! Every kind of message between nodes, byte for byte: a change here cuts nodes of two versions off
//! from one another, and needs a new [`PROTOCOL_VERSION`].
//!
//! `golden.txt` holds a line for each kind. With `CONCLAVE_WRITE_GOLDEN` set it is written anew.

use super::{
    acknowledged::{Acknowledged, Durable},
    greeting::{Greeting, Lane, PROTOCOL_VERSION, Rejection, Verdict},
    messages::{
        Answer, Append, AppendAnswer, AppendFrame, AppendOutcome, Ballot, BallotReply, EntryHead, EntryKind,
        Question, Refusal, Reply, Request, SnapshotAnswer, SnapshotFrame, Transfer, TransferRejection,
        VoteRecord,
    },
};
use crate::{
    codec,
    formation::messages::{FormationAnswer, FormationRequest, JoinGrant, Proposal, Standing},
    identity::{ClusterId, NodeRecord, RaftId},
    state_machine::LogPosition,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug, fs};

const CLUSTER: ClusterId = ClusterId([9; 16]);

#[test]
fn messages_are_what_they_always_were() {
    let mut golden = Golden::default();

    golden.record("greeting", &greeting());
    golden.kinds(
        "lane",
        &[Lane::Control, Lane::Service, Lane::Append, Lane::Snapshot],
    );
    golden.kinds(
        "verdict",
        &[Verdict::Accepted, Verdict::Refused(Rejection::NoLane)],
    );
    golden.kinds("rejection", &rejections());

    golden.record(
        "request",
        &Request {
            id: 300,
            question: Question::Service,
        },
    );
    golden.record(
        "answer",
        &Answer {
            id: 300,
            reply: Reply::Service,
        },
    );
    golden.kinds(
        "question",
        &[
            Question::Vote(ballot()),
            Question::PreVote(ballot()),
            Question::Heartbeat(append()),
            Question::TransferLeader(Transfer {
                from: vote(),
                to: 2,
                last_log: position(7),
            }),
            Question::Service,
            Question::Formation(FormationRequest::Inquire),
        ],
    );
    golden.kinds(
        "reply",
        &[
            Reply::Vote(BallotReply {
                vote: vote(),
                granted: true,
                last_log: position(6),
            }),
            Reply::Heartbeat {
                outcome: AppendOutcome::Matched(None),
                out_of_space: true,
            },
            Reply::TransferLeader(Ok(())),
            Reply::Service,
            Reply::Formation(FormationAnswer::Accepted),
            Reply::Refused(Refusal::Unformed),
        ],
    );
    golden.kinds("refusal", &refusals());
    golden.kinds(
        "transfer_rejection",
        &[
            TransferRejection::VoteChanged {
                expected: vote(),
                actual: vote(),
            },
            TransferRejection::LogNotFlushed {
                expected: position(7),
                actual: None,
            },
        ],
    );

    golden.record(
        "append_frame",
        &AppendFrame {
            session: 3,
            append: append(),
        },
    );
    golden.record(
        "append_answer",
        &AppendAnswer {
            session: 3,
            outcome: Err(Refusal::NoSpace),
        },
    );
    golden.kinds(
        "append_outcome",
        &[
            AppendOutcome::Matched(position(7)),
            AppendOutcome::Conflict(LogPosition { term: 1, index: 4 }),
            AppendOutcome::HigherVote(vote()),
        ],
    );
    golden.kinds(
        "entry_kind",
        &[
            EntryKind::Blank,
            EntryKind::Proposal { bytes: 300 },
            EntryKind::Membership { bytes: 9 },
        ],
    );

    golden.kinds(
        "snapshot_frame",
        &[
            SnapshotFrame::Begin {
                vote: vote(),
                last_log: position(7),
                membership: Some((LogPosition { term: 1, index: 2 }, vec![1, 2, 3])),
                files: BTreeMap::from([("a.sst".to_owned(), 70_000), ("b".to_owned(), 0)]),
            },
            SnapshotFrame::Chunk {
                checksum: 0x0102_0304,
            },
            SnapshotFrame::End { digest: [8; 32] },
        ],
    );
    golden.kinds(
        "snapshot_answer",
        &[
            SnapshotAnswer::Continue,
            SnapshotAnswer::Working,
            SnapshotAnswer::Done(vote()),
            SnapshotAnswer::Refused(Refusal::Snapshot("why".to_owned())),
        ],
    );

    golden.kinds(
        "formation_request",
        &[
            FormationRequest::Inquire,
            FormationRequest::Propose(Proposal {
                cluster_id: CLUSTER,
                cluster_name: "blue".to_owned(),
                members: members(),
                dev: true,
            }),
            FormationRequest::Join,
        ],
    );
    golden.kinds(
        "formation_answer",
        &[
            FormationAnswer::Standing(Standing::Empty),
            FormationAnswer::Accepted,
            FormationAnswer::Granted(JoinGrant {
                cluster_id: CLUSTER,
                raft_id: RaftId(4),
                members: members(),
                dev: false,
            }),
            FormationAnswer::Refused("why".to_owned()),
            FormationAnswer::AskLeader(NodeRecord {
                name: "n1".to_owned(),
                address: "a:1".to_owned(),
            }),
        ],
    );
    golden.kinds(
        "standing",
        &[
            Standing::Empty,
            Standing::Accepted(CLUSTER),
            Standing::Formed(CLUSTER),
            Standing::SetAside(CLUSTER),
        ],
    );
    golden.compare();
}

fn greeting() -> Greeting {
    Greeting {
        protocol: PROTOCOL_VERSION,
        lane: Some(Lane::Append),
        name: "n1".to_owned(),
        address: "n1.example:8201".to_owned(),
        incarnation: Some((CLUSTER, RaftId(1))),
        wanted: Some(RaftId(2)),
        durable: Durable {
            log: position(7),
            term: 2,
        },
    }
}

fn rejections() -> Vec<Rejection> {
    vec![
        Rejection::Protocol { theirs: 2, mine: 1 },
        Rejection::Name {
            said: "n1".to_owned(),
            certified: "n2".to_owned(),
        },
        Rejection::OtherCluster {
            theirs: CLUSTER,
            mine: ClusterId([7; 16]),
        },
        Rejection::ForeignId {
            raft_id: RaftId(1),
            member: "n1".to_owned(),
            said: "n2".to_owned(),
        },
        Rejection::OtherIncarnation {
            wanted: RaftId(1),
            found: None,
        },
        Rejection::Reverted(Acknowledged {
            committed: position(5),
            log: position(7).map(|position| (position, 2)),
            term: 2,
        }),
        Rejection::NoLane,
    ]
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Unformed,
        Refusal::NotMember,
        Refusal::NoSpace,
        Refusal::Stopping,
        Refusal::MayNotLead,
        Refusal::Malformed,
        Refusal::Snapshot("why".to_owned()),
        Refusal::Removed,
        Refusal::SnapshotDisproved("why".to_owned()),
    ]
}

fn vote() -> VoteRecord {
    VoteRecord {
        term: 2,
        node: 1,
        committed: true,
    }
}

fn position(index: u64) -> Option<LogPosition> {
    Some(LogPosition { term: 2, index })
}

fn ballot() -> Ballot {
    Ballot {
        vote: vote(),
        last_log: position(7),
        leadership_transfer: false,
    }
}

fn append() -> Append {
    Append {
        vote: vote(),
        previous: position(4),
        committed: position(3),
        entries: vec![EntryHead {
            position: LogPosition { term: 2, index: 5 },
            kind: EntryKind::Blank,
        }],
        draining: true,
    }
}

fn members() -> BTreeMap<RaftId, NodeRecord> {
    let record = NodeRecord {
        name: "n1".to_owned(),
        address: "n1.example:8201".to_owned(),
    };
    BTreeMap::from([(RaftId(1), record)])
}

/// Messages by name, one a line in hexadecimal.
#[derive(Default)]
struct Golden(String);

impl Golden {
    fn record<T: Serialize + DeserializeOwned>(&mut self, name: &str, record: &T) {
        let bytes = codec::encode(record);
        let decoded: T = codec::decode(&bytes).unwrap();
        assert_eq!(codec::encode(&decoded), bytes, "{name}");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push_str(&format!("{name} {hex}\n"));
    }

    /// Every kind of an enumeration, in the order of their numbers: one that is missing here fails.
    fn kinds<T: Serialize + DeserializeOwned + Debug>(&mut self, name: &str, kinds: &[T]) {
        for (number, kind) in kinds.iter().enumerate() {
            assert_eq!(usize::from(codec::encode(kind)[1]), number, "{kind:?}");
            self.record(&format!("{name}.{number}"), kind);
        }
        let beyond = [codec::encode(&())[0], kinds.len() as u8];
        let refused = codec::decode::<T>(&beyond).unwrap_err().to_string();
        let expected = format!("variant index 0 <= i < {}", kinds.len());
        assert!(
            refused.contains(&expected),
            "not every kind of {name} is here: {refused}"
        );
    }

    fn compare(&self) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/transport/golden.txt");
        if std::env::var_os("CONCLAVE_WRITE_GOLDEN").is_some() {
            fs::write(path, &self.0).unwrap();
        }
        let golden = fs::read_to_string(path).unwrap();
        for (mine, stored) in self.0.lines().zip(golden.lines()) {
            assert_eq!(mine, stored);
        }
        assert_eq!(self.0, golden);
    }
}
