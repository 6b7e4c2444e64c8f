//! What is known of a place, also after its secret left it.

use super::{NumberRanges, SecretId};
use serde::{Deserialize, Serialize};

/// Numbers that were used at a place by a secret that is no longer there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tombstone {
    /// Who used them; `None` when that secret can never come back, so that such ranges merge.
    pub secret: Option<SecretId>,
    /// The numbers.
    pub used: NumberRanges,
}

/// A place's index entry. At a place, version numbers are never used twice.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PlaceRecord {
    /// The secret that lies here.
    pub secret: Option<SecretId>,
    /// Numbers that earlier secrets used here.
    pub tombstones: Vec<Tombstone>,
    /// How many audit records are about this place.
    pub audit_count: u64,
    /// RFC 9162 leaf hash of the last of them; zeroes before the first.
    pub last_leaf: [u8; 32],
}
