//! What the tests build entries from.

use crate::model::{NumberRanges, Sealed, SecretRecord, SecretSettings, ValueId, Version};
use bytes::Bytes;

/// A secret that used these numbers.
pub(crate) fn secret_using(numbers: &[u32]) -> SecretRecord {
    let mut used = NumberRanges::default();
    numbers
        .iter()
        .for_each(|&number| used.insert(Version::new(number).expect("not 0")));
    SecretRecord {
        place: None,
        name: sealed(0),
        metadata: None,
        settings: SecretSettings::default(),
        made_ms: 0,
        changed_ms: 0,
        active: None,
        used,
        revision: 0,
        sealed_revision: 0,
        deleted: None,
    }
}

/// Ciphertext that is told apart by one byte.
pub(crate) fn sealed(byte: u8) -> Sealed {
    Sealed {
        key_term: 1,
        value_id: ValueId([byte; 16]),
        nonce: [byte; 24],
        ciphertext: Bytes::from(vec![byte; 24]),
    }
}
