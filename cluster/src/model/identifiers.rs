//! The names that the core knows things by. None of them can be turned back into a person's or a
//! secret's name without the edge's keys.

use serde::{Deserialize, Serialize};
use std::{fmt, num::NonZeroU32};

macro_rules! identifier_of_16_bytes {
    ($(#[$documentation:meta])* $name:ident) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

identifier_of_16_bytes!(
    /// A keyed digest of a name (of a namespace, store, secret or principal), made by the edge.
    Token
);
identifier_of_16_bytes!(
    /// A secret's id: random, made by the edge that creates the secret, and never changed.
    SecretId
);
identifier_of_16_bytes!(
    /// The random id of one sealed value; part of its associated data.
    ValueId
);
identifier_of_16_bytes!(
    /// A proposal's random id, kept over all its retries.
    ProposalId
);

impl Token {
    /// Stands where a place has no such part, as the name in a record about a whole store.
    pub const NONE: Self = Self([0; 16]);

    /// The namespace of what is no secret of clients, the keyring above all. In clear: before a
    /// keyring is read there is no key for tokens. Only there may a step go without an audit record.
    pub const SYSTEM_NAMESPACE: Self = Self(*b"conclave/system/");
}

/// Where a secret lies: the index entry (namespace, store, name) that points to its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Token of the namespace's path.
    pub namespace: Token,
    /// Token of the store's name within the namespace.
    pub store: Token,
    /// Token of the secret's name within the store.
    pub name: Token,
}

impl Place {
    /// The place as a key of 48 bytes.
    pub fn to_key(self) -> [u8; 48] {
        let mut key = [0; 48];
        key[..16].copy_from_slice(&self.namespace.0);
        key[16..32].copy_from_slice(&self.store.0);
        key[32..].copy_from_slice(&self.name.0);
        key
    }
}

/// A version's number: 1 to 2^32 − 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Version(NonZeroU32);

impl Version {
    /// The first number.
    pub const FIRST: Self = Self(NonZeroU32::MIN);
    /// The last number; a put beyond it is refused.
    pub const LAST: Self = Self(NonZeroU32::MAX);

    /// `None` for 0, which is no version.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The number after this one, unless this is the last.
    pub fn next(self) -> Option<Self> {
        self.get().checked_add(1).and_then(Self::new)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
