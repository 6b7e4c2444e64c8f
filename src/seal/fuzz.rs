//! Any bytes in place of a stored keyring's envelope, which is read before anything is opened, and of
//! what was in it.

use super::{golden::golden, keyring::Keyring, stored_keyring::Envelope};
use conclave_fuzz::{explore, in_bounded_memory, read_alike};
use conclave_raft::codec;

#[test]
fn envelopes() {
    let seed = [&[1][..], &[9; 16], &[3], b"key", &[2, 2, 7, 7, 2, 8, 8]].concat();
    explore!("envelopes", [seed], |input: &[u8]| {
        read_alike(input, codec::decode::<Envelope>, codec::encode::<Envelope>);
    });
}

#[test]
fn keyrings() {
    explore!("keyrings", [golden("keyring")], |input: &[u8]| {
        if let Ok(keyring) = in_bounded_memory(input.len(), || Keyring::decode(input)) {
            let written = keyring.encode();
            let again = Keyring::decode(&written).ok().map(|again| again.encode());
            assert!(again.is_some_and(|again| *again == *written));
        }
    });
}
