//! A value in clear. It is wiped from memory when dropped, compares in constant time, and has
//! neither `Debug` nor `Serialize` nor `Clone`, so that it cannot reach a log or a record by accident.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret's value in clear.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// Takes the bytes over. Copies that the caller made before are the caller's to wipe.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Plaintext {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for Plaintext {}

impl From<Zeroizing<Vec<u8>>> for Plaintext {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_by_content() {
        assert!(Plaintext::new(vec![1, 2]) == Plaintext::new(vec![1, 2]));
        assert!(Plaintext::new(vec![1, 2]) != Plaintext::new(vec![1, 3]));
        assert!(Plaintext::new(vec![1, 2]) != Plaintext::new(vec![1]));
    }
}
