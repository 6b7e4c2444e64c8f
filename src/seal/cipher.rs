//! XChaCha20-Poly1305 with random nonces, and what each ciphertext is bound to.
//!
//! The associated data ties a ciphertext to one keyring, secret, value id, kind and key term, so that
//! none can stand in another's place; where a stored value decides rights, and for the keyring, also
//! to the revision that its write results in, so that an old one cannot be put back.

use super::{key::Key, random::random_bytes};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use conclave_cluster::model::{Sealed, SecretId, ValueId};
use zeroize::Zeroizing;

/// What a ciphertext is. Numbers are part of the format: never reorder, only append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The keyring.
    Keyring = 0,
    /// A secret's name.
    Name = 1,
    /// A version's value.
    Value = 2,
    /// A secret's metadata.
    Metadata = 3,
    /// A version's metadata.
    VersionMetadata = 4,
    /// The sealed part of an audit record.
    AuditRecord = 5,
}

/// What a ciphertext is bound to, beside its value id and key term, which lie beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The secret that it belongs to; zeroes for an audit record.
    pub secret: SecretId,
    /// What it is.
    pub kind: Kind,
    /// In stores that decide rights, and for the keyring: the secret's sealed revision once written.
    pub sealed_revision: Option<u64>,
}

/// It could not be opened: another key, other bytes, or another binding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the ciphertext does not open under its key and binding")]
pub struct CannotOpen;

/// A keyring's random id.
pub type KeyringId = [u8; 16];

/// Seals under a fresh nonce and value id.
pub fn seal(keyring: &KeyringId, key_term: u32, key: &Key, binding: &Binding, plaintext: &[u8]) -> Sealed {
    let (nonce, value_id) = (random_bytes::<24>(), ValueId(random_bytes()));
    let associated = associated_data(keyring, binding, &value_id, key_term);
    let ciphertext = XChaCha20Poly1305::new(key.as_bytes().into())
        .encrypt(
            XNonce::from_slice(&nonce),
            Payload {
                msg: plaintext,
                aad: &associated,
            },
        )
        .expect("XChaCha20-Poly1305 takes 256 GiB, and every plaintext here is bounded far below");
    Sealed {
        key_term,
        value_id,
        nonce,
        ciphertext: ciphertext.into(),
    }
}

/// Opens what [`seal`] made with the same key and binding.
pub fn open(
    keyring: &KeyringId,
    key: &Key,
    binding: &Binding,
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, CannotOpen> {
    let associated = associated_data(keyring, binding, &sealed.value_id, sealed.key_term);
    XChaCha20Poly1305::new(key.as_bytes().into())
        .decrypt(
            XNonce::from_slice(&sealed.nonce),
            Payload {
                msg: &sealed.ciphertext,
                aad: &associated,
            },
        )
        .map(Zeroizing::new)
        .map_err(|_| CannotOpen)
}

/// Every field has a fixed length, so that no two bindings have the same encoding.
fn associated_data(keyring: &KeyringId, binding: &Binding, value_id: &ValueId, key_term: u32) -> Vec<u8> {
    let mut data = Vec::with_capacity(80);
    data.extend_from_slice(b"conclave seal 1\0");
    data.extend_from_slice(keyring);
    data.extend_from_slice(&binding.secret.0);
    data.extend_from_slice(&value_id.0);
    data.push(binding.kind as u8);
    data.extend_from_slice(&key_term.to_be_bytes());
    data.push(u8::from(binding.sealed_revision.is_some()));
    data.extend_from_slice(&binding.sealed_revision.unwrap_or(0).to_be_bytes());
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BINDING: Binding = Binding {
        secret: SecretId([2; 16]),
        kind: Kind::Value,
        sealed_revision: Some(7),
    };

    #[test]
    fn opens_under_the_same_binding_only() {
        let key = Key::random();
        let sealed = seal(&[1; 16], 3, &key, &BINDING, b"value");
        assert_eq!(
            open(&[1; 16], &key, &BINDING, &sealed).unwrap().as_slice(),
            b"value"
        );

        assert_eq!(open(&[1; 16], &Key::random(), &BINDING, &sealed), Err(CannotOpen));
        assert_eq!(open(&[9; 16], &key, &BINDING, &sealed), Err(CannotOpen));
        for other in [
            Binding {
                secret: SecretId([3; 16]),
                ..BINDING
            },
            Binding {
                kind: Kind::Name,
                ..BINDING
            },
            // The replay of an old policy: the same bytes where a later revision is expected.
            Binding {
                sealed_revision: Some(8),
                ..BINDING
            },
            Binding {
                sealed_revision: None,
                ..BINDING
            },
        ] {
            assert_eq!(open(&[1; 16], &key, &other, &sealed), Err(CannotOpen));
        }
        assert_eq!(
            open(
                &[1; 16],
                &key,
                &BINDING,
                &Sealed {
                    key_term: 4,
                    ..sealed.clone()
                }
            ),
            Err(CannotOpen)
        );
        let moved = Sealed {
            value_id: ValueId([0; 16]),
            ..sealed.clone()
        };
        assert_eq!(open(&[1; 16], &key, &BINDING, &moved), Err(CannotOpen));
    }

    #[test]
    fn ciphertexts_are_bound_as_they_always_were() {
        use crate::seal::golden::{SECRET, golden};
        let binding = Binding {
            secret: SECRET,
            ..BINDING
        };
        let bound = associated_data(&[1; 16], &binding, &ValueId([0xbb; 16]), 2);
        assert_eq!(bound, golden("associated_data"));
    }

    #[test]
    fn equal_plaintexts_have_different_ciphertexts() {
        let key = Key::random();
        let (a, b) = (
            seal(&[1; 16], 3, &key, &BINDING, b"same"),
            seal(&[1; 16], 3, &key, &BINDING, b"same"),
        );
        assert!(a.nonce != b.nonce && a.value_id != b.value_id && a.ciphertext != b.ciphertext);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(plaintext: Vec<u8>, at: prop::sample::Index, bit in 0..8_u8) {
            let key = Key::random();
            let sealed = seal(&[1; 16], 3, &key, &BINDING, &plaintext);
            let mut bytes = sealed.ciphertext.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let flipped = Sealed { ciphertext: bytes.into(), ..sealed };
            prop_assert_eq!(open(&[1; 16], &key, &BINDING, &flipped), Err(CannotOpen));
        }
    }
}
