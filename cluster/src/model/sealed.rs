//! Ciphertext as the core sees it: opaque, with what is needed to find the key and to tell two
//! sealings apart.

use super::ValueId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Something that the edge sealed. The core never looks into `ciphertext`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sealed {
    /// The term of the data key that sealed it. In clear, so that what is left to re-seal after a
    /// rotation can be found without a key.
    pub key_term: u32,
    /// Random, and bound into the associated data.
    pub value_id: ValueId,
    /// The nonce of XChaCha20-Poly1305.
    pub nonce: [u8; 24],
    /// Ciphertext and authentication tag.
    pub ciphertext: Bytes,
}

/// A keyed digest of a value, bound to its secret's id: equal values of one secret have equal
/// digests under one key, and nothing else can be learned from it without the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ValueDigest {
    /// Names the digest key; digests under different keys are never compared.
    pub key: u32,
    /// HMAC-SHA-256 over the secret's id and the value.
    pub mac: [u8; 32],
}
