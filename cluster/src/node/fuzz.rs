//! Any bytes in place of what other nodes ask and answer.

use super::peer_message::{PeerAnswer, PeerRequest};
use crate::{apply::tests::fixtures::read, command::EntryResponse};
use conclave_fuzz::explore;
use conclave_raft::codec;

#[test]
fn peer_messages() {
    let seeds = [
        codec::encode(&PeerRequest::ReadIndex),
        codec::encode(&PeerRequest::Digests { above_index: 300 }),
        codec::encode(&PeerRequest::Propose(Vec::new())),
        codec::encode(&PeerAnswer::Unready),
        codec::encode(&PeerAnswer::Proposed(vec![crate::propose::Tried::NoSpace])),
        codec::encode(&PeerAnswer::Digests(vec![(256, [7; 32])])),
        codec::encode(&PeerAnswer::Verified(Err("why".to_owned()))),
    ];
    explore!("peer_messages", seeds, |input: &[u8]| {
        read::<PeerRequest>(input);
        read::<PeerAnswer>(input);
        read::<EntryResponse>(input);
    });
}
