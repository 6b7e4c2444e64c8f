//! Any bytes in place of what a peer says.

use super::{
    frame::{FrameReader, FrameWriter},
    greeting::{Greeting, Verdict},
    messages::{
        Answer, AppendAnswer, AppendFrame, EntryHead, EntryKind, Request, SnapshotAnswer, SnapshotFrame,
    },
};
use crate::{
    codec,
    state_machine::LogPosition,
    types::{LogTypes, Membership, encode_membership},
};
use bytes::Bytes;
use conclave_fuzz::{explore, golden, in_bounded_memory, read_alike};
use openraft::{EntryPayload, raft::AppendEntriesRequest};
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime;

#[test]
fn messages() {
    explore!(
        "messages",
        golden(include_str!("golden.txt")),
        |input: &[u8]| {
            fn read<T: Serialize + DeserializeOwned>(input: &[u8]) {
                read_alike(input, codec::decode::<T>, codec::encode::<T>);
            }
            read::<Greeting>(input);
            read::<Verdict>(input);
            read::<Request>(input);
            read::<Answer>(input);
            read::<AppendFrame>(input);
            read::<AppendAnswer>(input);
            read::<SnapshotFrame>(input);
            read::<SnapshotAnswer>(input);
        }
    );
}

/// A whole stream of appends, as the accepting side reads it.
#[test]
fn append_streams() {
    explore!("append_streams", append_stream_seeds(), |input: &[u8]| {
        in_bounded_memory(input.len(), || {
            waiting().block_on(async {
                let mut reader = FrameReader::new(input);
                while let Ok((frame, body)) = reader.read::<AppendFrame>().await {
                    let body_bytes = body.len();
                    if let Ok(request) = frame.append.into_request(body) {
                        check_request(&request, body_bytes);
                    }
                }
            });
        });
    });
}

/// The entries follow one another, and share out the body, memberships included.
fn check_request(request: &AppendEntriesRequest<LogTypes>, body_bytes: usize) {
    let mut taken = 0;
    for pair in request.entries.windows(2) {
        assert_eq!(pair[0].log_id.index.checked_add(1), Some(pair[1].log_id.index));
    }
    for entry in &request.entries {
        if let EntryPayload::Normal(proposal) = &entry.payload {
            taken += proposal.0.len();
        }
    }
    assert!(taken <= body_bytes);
}

fn waiting() -> runtime::Runtime {
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads can be made")
}

/// The golden append, which has one entry, a blank one.
fn golden_append() -> AppendFrame {
    let golden = include_str!("golden.txt");
    let line = golden.lines().find(|line| line.starts_with("append_frame "));
    let record = conclave_fuzz::golden(line.expect("there is a golden append")).remove(0);
    codec::decode(&record).expect("golden records are read")
}

fn append_stream_seeds() -> [Vec<u8>; 4] {
    let blank = golden_append();
    let mut beyond = golden_append();
    beyond.append.previous = Some(LogPosition {
        term: 2,
        index: u64::MAX,
    });
    beyond.append.entries[0].position.index = 0;
    let mut full = golden_append();
    let position = |index| LogPosition { term: 2, index };
    let membership = encode_membership(&Membership::default());
    let membership_bytes = u32::try_from(membership.len()).expect("a seed is short");
    full.append.entries.extend([
        EntryHead {
            position: position(6),
            kind: EntryKind::Proposal { bytes: 3 },
        },
        EntryHead {
            position: position(7),
            kind: EntryKind::Membership {
                bytes: membership_bytes,
            },
        },
    ]);
    let full = stream_of(&full, &[Bytes::from_static(b"put"), membership]);
    let blank = stream_of(&blank, &[]);
    let both = [&blank[..], &full].concat();
    [blank, full, both, stream_of(&beyond, &[])]
}

fn stream_of(frame: &AppendFrame, body: &[Bytes]) -> Vec<u8> {
    waiting().block_on(async {
        let mut stream = Vec::new();
        let mut writer = FrameWriter::new(&mut stream);
        writer.write(frame, body).await.expect("memory can be written");
        writer.flush().await.expect("memory can be written");
        drop(writer);
        stream
    })
}
