//! Rows that are not records of the model, and the keys of all rows.
//!
//! Keys are fixed-width and big-endian, so that they sort as they are meant to be read.

use crate::model::{Place, ProposalId, Sealed, SecretId, Token, Version};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A version's value as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredValue {
    /// The value.
    pub sealed: Sealed,
    /// The secret's sealed revision when it was sealed. Here as well as in the version, because the
    /// value may outlive that for a while.
    pub sealed_revision: u64,
}

/// Outcomes of one entry's proposals that are remembered: all of them, or as many as a row may have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WindowRow {
    /// State time in milliseconds of the entry.
    pub time_ms: u64,
    /// In the order in which they were applied.
    pub outcomes: Vec<WindowOutcome>,
}

/// The outcome of a proposal that is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WindowOutcome {
    /// Which proposal's.
    pub proposal: ProposalId,
    /// What became of it: an encoded [`crate::command::Outcome`], decoded only when a copy comes. It
    /// holds no value: a disclosure's ciphertext is empty here.
    pub outcome: Bytes,
}

/// Key of a version and of its value.
pub fn version_key(secret: SecretId, version: Version) -> Vec<u8> {
    [&secret.0[..], &version.get().to_be_bytes()].concat()
}

/// The number in a key of [`version_key`].
pub fn version_of_key(key: &[u8]) -> Option<Version> {
    let number: [u8; 4] = key.get(16..)?.try_into().ok()?;
    Version::new(u32::from_be_bytes(number))
}

/// Key of a value that lingers since the entry at `index`.
pub fn lingering_key(index: u64, secret: SecretId, version: Version) -> Vec<u8> {
    [&index.to_be_bytes()[..], &secret.0, &version.get().to_be_bytes()].concat()
}

/// Key of the outcomes of an entry from a position on.
pub fn window_key(index: u64, position: u32) -> Vec<u8> {
    [&index.to_be_bytes()[..], &position.to_be_bytes()].concat()
}

/// Keys in the audit's indexes begin with one of these. An entry's index follows, and by place also the
/// rest of the record's key.
pub fn audit_place_prefix(place: &Place) -> Vec<u8> {
    place.to_key().to_vec()
}

/// See [`audit_place_prefix`].
pub fn audit_principal_prefix(principal: Token) -> Vec<u8> {
    principal.0.to_vec()
}

/// See [`audit_place_prefix`].
pub fn audit_kind_prefix(action: crate::model::Action, outcome: crate::model::OutcomeKind) -> Vec<u8> {
    vec![action as u8, outcome as u8]
}

/// The index at the beginning of a key.
pub fn index_at_start(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(..8)?.try_into().ok()?))
}

/// The first key after every key that begins with `prefix`; `None` if there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_prefix() {
        assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[1, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(&[0xff, 0xff]), None);
    }

    #[test]
    fn version_keys_sort_by_number() {
        let key = |number| version_key(SecretId([7; 16]), Version::new(number).unwrap());
        assert!(key(255) < key(256));
        assert_eq!(version_of_key(&key(256)).map(Version::get), Some(256));
    }
}
