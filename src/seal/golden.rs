//! What is stored under fixed keys, byte for byte: whoever changes a key's place in the keyring, a
//! token's message or what a ciphertext is bound to locks every cluster out of its secrets.
//!
//! `golden.txt` was made from the description of the format by another implementation of its
//! algorithms, so it also shows that they are the published ones. It is never written by a test.

use super::{Binding, Keyring, Kind};
use crate::{
    grants::{Principal, PrincipalKind},
    name::{FullName, NamespacePath, SecretName, StoreName},
};
use conclave_cluster::model::{Place, Sealed, SecretId, Token, ValueId};

/// The secret that every golden ciphertext belongs to.
pub(super) const SECRET: SecretId = SecretId([0xaa; 16]);

/// The bytes of one line.
pub(super) fn golden(name: &str) -> Vec<u8> {
    let mut lines = include_str!("golden.txt").lines();
    let hex = lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .expect("the line is there");
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// A golden ciphertext with what lies beside it.
pub(super) fn golden_sealed(name: &str, key_term: u32) -> Sealed {
    Sealed {
        key_term,
        value_id: ValueId([0xbb; 16]),
        nonce: [0xcc; 24],
        ciphertext: golden(name).into(),
    }
}

fn keyring() -> Keyring {
    Keyring::decode(&golden("keyring")).unwrap()
}

fn name(namespace: &str) -> FullName {
    FullName {
        namespace: NamespacePath::new(namespace).unwrap(),
        store: StoreName::new("secret").unwrap(),
        name: SecretName::new("prod/db").unwrap(),
    }
}

fn bytes_of(place: &Place) -> Vec<u8> {
    [place.namespace.0, place.store.0, place.name.0].concat()
}

#[test]
fn a_keyring_is_written_as_it_always_was() {
    let keyring = keyring();
    assert_eq!(*keyring.encode(), golden("keyring"));
    assert_eq!((keyring.id(), keyring.generation()), (&[1; 16], 2));
    assert_eq!(keyring.key_term(), 2);
}

#[test]
fn places_and_principals_have_the_tokens_that_they_always_had() {
    let keyring = keyring();
    assert_eq!(bytes_of(&keyring.place(&name("team"))), golden("place"));
    assert_eq!(
        bytes_of(&keyring.store_place(&name("team").store_path())),
        golden("store_place")
    );
    let setec = FullName::setec("prod/db").unwrap();
    assert_eq!(bytes_of(&keyring.place(&setec)), golden("setec_place"));
    let principal = Principal::new(PrincipalKind::Email, "a@b.example").unwrap();
    let Token(token) = keyring.principal(&principal);
    assert_eq!(token.as_slice(), golden("principal"));
}

#[test]
fn values_have_the_digests_that_they_always_had() {
    let digest = keyring().digest(SECRET, b"v");
    assert_eq!((digest.key, digest.mac.as_slice()), (1, &*golden("digest")));
}

#[test]
fn what_was_sealed_still_opens() {
    let keyring = keyring();
    for (line, kind, sealed_revision, key_term) in [
        ("sealed_value", Kind::Value, None, 2),
        ("sealed_value_that_decides_rights", Kind::Value, Some(7), 2),
        ("sealed_value_of_an_old_term", Kind::Value, None, 1),
        ("sealed_metadata", Kind::Metadata, None, 2),
        ("sealed_version_metadata", Kind::VersionMetadata, None, 2),
        ("sealed_audit_record", Kind::AuditRecord, None, 2),
    ] {
        let binding = Binding {
            secret: SECRET,
            kind,
            sealed_revision,
        };
        let opened = keyring.open(&binding, &golden_sealed(line, key_term));
        assert_eq!(opened.unwrap().as_slice(), b"v", "{line}");
    }
    let named = keyring.open_name(SECRET, &golden_sealed("sealed_name", 2));
    assert!(named.unwrap() == name("team"));
}
