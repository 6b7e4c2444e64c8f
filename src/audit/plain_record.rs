//! What the edge says of a caller, how it is committed to and sealed, and how it is opened again.

use crate::{
    name::{FullName, StorePath},
    operations::Caller,
    seal::{Binding, Key, Keyring, Kind, OpenError, random_bytes},
};
use conclave_cluster::model::{Action, AuditStub, Sealed, SecretId};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Who asked, from where, by which API, about what. Written as canonical JSON (RFC 8785): its fields stand
/// here in the order of their names, and there is no other number than the format. Fields that do not
/// apply are absent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainRecord {
    /// By which API.
    pub api: String,
    /// What was done, where the action alone does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The tailnet node that it called from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Format of this record: 1.
    pub format: u32,
    /// The secret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The namespace of what it was about; empty for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the node that it called.
    pub node: String,
    /// The caller, as `type:name`.
    pub principal: String,
    /// The connection's other end, `address:port`.
    pub remote: String,
    /// The request's id.
    pub request_id: String,
    /// The store of what it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// One secret.
    Secret(&'a FullName),
    /// A whole store.
    Store(&'a StorePath),
    /// Something else, in words that name no secret.
    Other(&'a str),
    /// Several of these, which share one record.
    Several,
}

/// A [`Subject`] that outlives its request.
#[derive(Clone, PartialEq, Eq)]
pub enum KeptSubject {
    /// One secret.
    Secret(FullName),
    /// A whole store.
    Store(StorePath),
    /// Something else, in words that name no secret.
    Other(String),
    /// Several of these.
    Several,
}

/// Bytes of the salt, which stands before the record where both are sealed.
const SALT_BYTES: usize = 32;
/// Room for most records, so that the buffer seldom moves.
const JSON_BYTES: usize = 1024;

impl PlainRecord {
    /// The record of what `caller` asks of the node with this name.
    pub fn new(caller: &Caller, node: &str, subject: Subject<'_>) -> Self {
        let store = match subject {
            Subject::Secret(name) => Some(name.store_path()),
            Subject::Store(store) => Some(store.clone()),
            Subject::Other(_) | Subject::Several => None,
        };
        Self {
            api: caller.api.to_string(),
            detail: match subject {
                Subject::Other(detail) => Some(detail.to_owned()),
                Subject::Several => Some("several".to_owned()),
                Subject::Secret(_) | Subject::Store(_) => None,
            },
            device: caller.device.clone(),
            format: 1,
            name: match subject {
                Subject::Secret(name) => Some(name.name.as_str().to_owned()),
                Subject::Store(_) | Subject::Other(_) | Subject::Several => None,
            },
            namespace: store.as_ref().map(|store| store.namespace.as_str().to_owned()),
            node: node.to_owned(),
            principal: caller.principal.to_string(),
            remote: caller.remote.to_string(),
            request_id: caller.request_id.to_string(),
            store: store.as_ref().map(|store| store.store.as_str().to_owned()),
        }
    }

    /// Commits to it under a fresh salt and seals both.
    pub fn seal(&self, keyring: &Keyring, action: Action, caller: &Caller) -> AuditStub {
        let salt = random_bytes::<SALT_BYTES>();
        let mut plaintext = Zeroizing::new(Vec::with_capacity(SALT_BYTES + JSON_BYTES));
        plaintext.extend_from_slice(&salt);
        serde_json::to_writer(&mut *plaintext, self).expect("strings and a number always have a JSON form");
        AuditStub {
            action,
            principal: keyring.principal(&caller.principal),
            commitment: commitment(salt, &plaintext[SALT_BYTES..]),
            sealed: keyring.seal(&BINDING, &plaintext),
        }
    }

    /// Opens a record and checks it against its commitment.
    pub fn open(keyring: &Keyring, sealed: &Sealed, committed: &[u8; 32]) -> Result<Self, OpenError> {
        let plaintext = keyring.open(&BINDING, sealed)?;
        let (salt, json) = plaintext
            .split_first_chunk::<SALT_BYTES>()
            .ok_or(OpenError::Malformed)?;
        let equal: bool = commitment(*salt, json).ct_eq(committed).into();
        if !equal {
            return Err(OpenError::WrongDigest);
        }
        serde_json::from_slice(json).map_err(|_| OpenError::Malformed)
    }
}

impl KeptSubject {
    /// As a record takes it.
    pub fn subject(&self) -> Subject<'_> {
        match self {
            Self::Secret(name) => Subject::Secret(name),
            Self::Store(store) => Subject::Store(store),
            Self::Other(words) => Subject::Other(words),
            Self::Several => Subject::Several,
        }
    }
}

impl From<Subject<'_>> for KeptSubject {
    fn from(subject: Subject<'_>) -> Self {
        match subject {
            Subject::Secret(name) => Self::Secret(name.clone()),
            Subject::Store(store) => Self::Store(store.clone()),
            Subject::Other(words) => Self::Other(words.to_owned()),
            Subject::Several => Self::Several,
        }
    }
}

/// A record belongs to no secret: it may be about none, and stays when its secret goes.
const BINDING: Binding = Binding {
    secret: SecretId([0; 16]),
    kind: Kind::AuditRecord,
    sealed_revision: None,
};

/// HMAC-SHA-256 with the salt as its key: it binds, and without the salt reveals nothing.
fn commitment(salt: [u8; SALT_BYTES], json: &[u8]) -> [u8; 32] {
    Key::from(salt).mac(&[json])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::Dialect;
    use proptest::prelude::*;

    fn caller() -> Caller {
        Caller {
            principal: "email:alice@example.org".parse().unwrap(),
            device: None,
            grants: Default::default(),
            remote: "192.0.2.7:4711".parse().unwrap(),
            api: Dialect::Setec,
            request_id: "r-1".into(),
        }
    }

    #[test]
    fn the_canonical_form_is_fixed() {
        let name = FullName::setec("prod/db").unwrap();
        let record = PlainRecord::new(&caller(), "n1", Subject::Secret(&name));
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"api":"setec","format":1,"name":"prod/db","namespace":"","node":"n1","principal":"email:alice@example.org","remote":"192.0.2.7:4711","request_id":"r-1","store":"secret"}"#
        );
    }

    proptest! {
        #[test]
        fn it_is_written_in_canonical_form(text: String, other: Option<String>) {
            let record = PlainRecord {
                api: text.clone(),
                detail: other.clone(),
                device: Some(text.clone()),
                format: 1,
                name: other.clone(),
                namespace: Some(text.clone()),
                node: text.clone(),
                principal: text.clone(),
                remote: text.clone(),
                request_id: text,
                store: other,
            };
            let canonical = serde_json_canonicalizer::to_vec(&record).unwrap();
            prop_assert_eq!(serde_json::to_vec(&record).unwrap(), canonical);
        }
    }

    #[test]
    fn opens_only_with_its_own_commitment() {
        let keyring = Keyring::generate();
        let record = PlainRecord::new(&caller(), "n1", Subject::Other("status"));
        let stub = record.seal(&keyring, Action::Operate, &caller());
        let again = record.seal(&keyring, Action::Operate, &caller());
        assert_ne!(stub.commitment, again.commitment, "each has a salt of its own");
        assert!(PlainRecord::open(&keyring, &stub.sealed, &stub.commitment).unwrap() == record);
        let other = PlainRecord::open(&keyring, &stub.sealed, &again.commitment);
        assert_eq!(other.err(), Some(OpenError::WrongDigest));
        assert!(PlainRecord::open(&Keyring::generate(), &stub.sealed, &stub.commitment).is_err());
    }

    /// As another program computes it: HMAC-SHA-256 with the salt as key over the canonical record.
    #[test]
    fn the_commitment_is_fixed() {
        let made = commitment([7; SALT_BYTES], br#"{"format":1}"#);
        let written: String = made.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            written,
            "70725e33cf3bcad3e9cb6cb311df79e1930b4944cf4912633f69e1ffd698ebeb"
        );
    }

    #[test]
    fn the_sealed_bytes_show_nothing_in_clear() {
        let keyring = Keyring::generate();
        let stub = PlainRecord::new(&caller(), "n1", Subject::Several).seal(&keyring, Action::Get, &caller());
        let bytes = conclave_raft::codec::encode(&stub);
        for marker in ["alice", "192.0.2.7", "setec", "several"] {
            assert!(
                !bytes
                    .windows(marker.len())
                    .any(|window| window == marker.as_bytes())
            );
        }
    }
}
