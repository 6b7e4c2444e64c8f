//! The multiset hash over every stored pair: replicas that agree have the same figure.
//!
//! It is the sum, modulo 2^256, of BLAKE3 over each pair. A write adds the new pair and takes the
//! old one away, in constant time, and a full scan gives the same figure in any order. A plain sum
//! is enough against accidents (a bit that flipped, an apply that diverged); someone who may choose
//! pairs could build a collision. Against adversaries there is the audit tree (design, section 9).

use super::table::Table;
use serde::{Deserialize, Serialize};
use std::fmt;

/// At each index divisible by this the figure is kept, so that nodes can compare. Part of the rules.
pub const DIGEST_INTERVAL: u64 = 256;

/// How many kept figures there are at most.
pub const DIGESTS_KEPT: u64 = 64;

/// A multiset hash of stored pairs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Adds a stored pair.
    pub fn add(&mut self, table: Table, key: &[u8], value: &[u8]) {
        let mut carry = 0;
        for (limb, term) in self.0.iter_mut().zip(pair_hash(table, key, value)) {
            let sum = u128::from(*limb) + u128::from(term) + carry;
            *limb = sum as u64;
            carry = sum >> 64;
        }
    }

    /// Takes a stored pair away.
    pub fn remove(&mut self, table: Table, key: &[u8], value: &[u8]) {
        let mut borrow = false;
        for (limb, term) in self.0.iter_mut().zip(pair_hash(table, key, value)) {
            let (difference, under) = limb.overflowing_sub(term);
            let (difference, under_again) = difference.overflowing_sub(u64::from(borrow));
            *limb = difference;
            borrow = under || under_again;
        }
    }

    /// The figure as bytes, little-endian.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn pair_hash(table: Table, key: &[u8], value: &[u8]) -> [u64; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[table as u8]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let hash = hasher.finalize();
    let mut limbs = [0; 4];
    for (limb, chunk) in limbs.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
        *limb = u64::from_le_bytes(chunk.try_into().expect("chunks_exact(8) gives 8 bytes"));
    }
    limbs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        (
            prop::collection::vec(any::<u8>(), 0..8),
            prop::collection::vec(any::<u8>(), 0..8),
        )
    }

    proptest! {
        #[test]
        fn order_does_not_count_and_removal_undoes(pairs in prop::collection::vec(pair(), 0..40), extra in pair()) {
            let mut forwards = Digest::default();
            let mut backwards = Digest::default();
            pairs.iter().for_each(|(key, value)| forwards.add(Table::Value, key, value));
            pairs.iter().rev().for_each(|(key, value)| backwards.add(Table::Value, key, value));
            prop_assert_eq!(forwards, backwards);
            forwards.add(Table::Place, &extra.0, &extra.1);
            prop_assert_ne!(forwards, backwards);
            forwards.remove(Table::Place, &extra.0, &extra.1);
            prop_assert_eq!(forwards, backwards);
        }
    }

    #[test]
    fn key_and_value_cannot_be_confused() {
        let (mut a, mut b, mut c) = (Digest::default(), Digest::default(), Digest::default());
        a.add(Table::Value, b"ab", b"c");
        b.add(Table::Value, b"a", b"bc");
        c.add(Table::Version, b"ab", b"c");
        assert_ne!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn golden_digest() {
        let mut digest = Digest::default();
        digest.add(Table::Meta, b"key", b"value");
        assert_eq!(
            format!("{digest:?}"),
            blake3::hash(b"\x00\x03\x00\x00\x00\x00\x00\x00\x00keyvalue")
                .to_hex()
                .as_str()
        );
    }
}
