//! The keyring as the cluster stores it: one secret at a fixed place, whose value is sealed under a
//! key of its own, which in turn the seal wraps.
//!
//! It is written only on the precondition that none exists, or that its sealed revision is the one
//! that was read; the resulting revision is bound into the ciphertext. So no node can replace
//! another's keyring, and an old one cannot be put back. It is protected against deletion; what
//! happens when it is gone all the same stands in [`super::keep`].

use super::{
    cipher::{self, Binding, KeyringId, Kind},
    key::Key,
    keyring::Keyring,
    provider::{ProviderError, SealProvider},
    reason::SealedReason,
};
use bytes::Bytes;
use conclave_cluster::{
    command::{
        Activation, Command, Create, Expected, NumberChoice, Operation, Precondition, Put, SameValue, Step,
    },
    model::{Place, Sealed, SecretId, SecretRecord, SecretSettings, Token, ValueDigest, ValueId, Version},
    state::StateView,
};
use conclave_raft::codec;
use serde::{Deserialize, Serialize};
use std::io;

/// The namespace of what is no secret of clients. Nothing but the edge itself writes there.
pub const SYSTEM_NAMESPACE: Token = Token::SYSTEM_NAMESPACE;

/// Where the keyring lies.
pub const KEYRING_PLACE: Place = Place {
    namespace: SYSTEM_NAMESPACE,
    store: Token(*b"seal............"),
    name: Token(*b"keyring........."),
};

/// What lies at the keyring's place.
pub struct KeyringPlace {
    /// The highest number that anything ever had there; `None`: nothing was ever there.
    pub last_number: Option<Version>,
    /// What is there now.
    pub found: Found,
}

/// What lies at the keyring's place now.
pub enum Found {
    /// Nothing.
    Nothing,
    /// Something that is no keyring: its value was destroyed, or others than the edge wrote it.
    NoKeyring(Occupant),
    /// A keyring, still sealed.
    Keyring(Box<StoredKeyring>),
}

/// The secret that lies at the keyring's place.
#[derive(Clone, Copy)]
pub struct Occupant {
    /// Its id.
    pub secret: SecretId,
    /// The revision of its sealed bytes.
    pub sealed_revision: u64,
}

/// A keyring read from the state, still sealed.
pub struct StoredKeyring {
    /// Its secret.
    pub occupant: Occupant,
    /// Its version: each write of the keyring has a number above all before.
    pub number: Version,
    value: Sealed,
    digest: ValueDigest,
    envelope: Envelope,
    /// Where a version's metadata lies: a keyed hash over all the rest, made with the keyring itself.
    /// Whoever holds the keys, at whatever generation, tells by it another holder's write, under
    /// whichever seal key, from bytes that somebody without keys wrote.
    proof: Option<Sealed>,
}

/// The stored value. What stands in clear is needed before anything can be opened.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope {
    keyring: KeyringId,
    /// The id of the seal key that wrapped `wrapped_key`.
    seal_key: String,
    /// The keyring's generation: tells a node whose key file is outdated whether its keys still are
    /// all there are.
    generation: u64,
    wrapped_key: Vec<u8>,
    ciphertext: Bytes,
}

impl KeyringPlace {
    /// Reads it from the local state. An error is local damage.
    pub fn read(view: &StateView) -> io::Result<Self> {
        let place = view.place(&KEYRING_PLACE)?.unwrap_or_default();
        let buried = place.tombstones.iter().filter_map(|buried| buried.used.highest());
        let Some(secret) = place.secret else {
            return Ok(Self {
                last_number: buried.max(),
                found: Found::Nothing,
            });
        };
        let record = view
            .secret(&secret)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the keyring's record is missing"))?;
        let occupant = Occupant {
            secret,
            sealed_revision: record.sealed_revision,
        };
        Ok(Self {
            last_number: buried.chain(record.used.highest()).max(),
            found: match StoredKeyring::read(view, occupant, &record)? {
                Some(keyring) => Found::Keyring(Box::new(keyring)),
                None => Found::NoKeyring(occupant),
            },
        })
    }

    /// The id of the secret that lies there.
    pub fn secret(&self) -> Option<SecretId> {
        match &self.found {
            Found::Nothing => None,
            Found::NoKeyring(occupant) => Some(occupant.secret),
            Found::Keyring(keyring) => Some(keyring.occupant.secret),
        }
    }
}

impl StoredKeyring {
    fn read(view: &StateView, occupant: Occupant, record: &SecretRecord) -> io::Result<Option<Self>> {
        let Some(number) = record.active else {
            return Ok(None);
        };
        let value = view.sealed_value(&occupant.secret, number)?;
        let version = view.version(&occupant.secret, number)?;
        let (Some(value), Some(version)) = (value, version) else {
            return Ok(None);
        };
        let Some(digest) = version.digest else {
            return Ok(None);
        };
        let Ok(envelope) = codec::decode(&value.ciphertext) else {
            return Ok(None);
        };
        Ok(Some(Self {
            occupant,
            number,
            value,
            digest,
            envelope,
            proof: version.metadata,
        }))
    }

    /// The id of the seal key that opens it.
    pub fn seal_key_id(&self) -> &str {
        &self.envelope.seal_key
    }

    /// Whether it holds no more than the given keyring.
    pub fn holds_the_keys_of(&self, keyring: &Keyring) -> bool {
        self.envelope.keyring == *keyring.id() && self.envelope.generation == keyring.generation()
    }

    /// Whether it holds fewer keys than the given keyring. To be believed of what is proven only.
    pub fn is_older_than(&self, keyring: &Keyring) -> bool {
        self.envelope.keyring == *keyring.id() && self.envelope.generation < keyring.generation()
    }

    /// Whether somebody who holds the given keyring, at this or another generation, wrote it.
    pub fn is_proven_to(&self, keyring: &Keyring) -> bool {
        let message = proven(&self.occupant, &self.value, &self.digest);
        self.proof
            .as_ref()
            .is_some_and(|proof| keyring.is_proven(&message, proof.key_term, &proof.ciphertext))
    }

    /// Opens it.
    pub async fn open(&self, provider: &dyn SealProvider) -> Result<Keyring, SealedReason> {
        let damaged = |error: &dyn std::fmt::Display| SealedReason::Damaged(error.to_string());
        if provider.id() != self.seal_key_id() {
            return Err(SealedReason::WrongSealKey {
                needed: self.seal_key_id().to_owned(),
                configured: provider.id().to_owned(),
            });
        }
        let key = provider
            .unwrap(
                &self.envelope.wrapped_key,
                &wrapping_context(&self.envelope.keyring),
            )
            .await
            .map_err(|error| match error {
                ProviderError::CannotUnwrap { .. } => damaged(&error),
                ProviderError::Unavailable(reason) => SealedReason::SealKey(reason),
            })?;
        let sealed = Sealed {
            ciphertext: self.envelope.ciphertext.clone(),
            ..self.value.clone()
        };
        let binding = binding(self.occupant.secret, self.occupant.sealed_revision);
        let bytes =
            cipher::open(&self.envelope.keyring, &key, &binding, &sealed).map_err(|error| damaged(&error))?;
        let keyring = Keyring::decode(&bytes).map_err(|error| damaged(&error))?;
        keyring
            .check_digest(self.occupant.secret, &bytes, &self.digest)
            .map_err(|error| damaged(&error))?;
        if !self.holds_the_keys_of(&keyring) {
            return Err(damaged(&"it is not the keyring that its envelope names"));
        }
        Ok(keyring)
    }
}

/// The command that stores a keyring where none is. Refused when there is one.
pub async fn create_command(keyring: &Keyring, provider: &dyn SealProvider) -> Result<Command, SealedReason> {
    let secret = SecretId(super::random::random_bytes());
    let create = Create {
        // The place is a constant: there is no name to hide.
        name: Sealed {
            key_term: 0,
            value_id: ValueId([0; 16]),
            nonce: [0; 24],
            ciphertext: Bytes::new(),
        },
        metadata: None,
        settings: settings(),
    };
    let put = put(keyring, provider, secret, 1, Some(create)).await?;
    Ok(command(
        Precondition::Absent { place: KEYRING_PLACE },
        vec![Operation::Put(put)],
    ))
}

/// The command that replaces what is stored. Refused when it was replaced meanwhile.
pub async fn replace_command(
    occupant: &Occupant,
    keyring: &Keyring,
    provider: &dyn SealProvider,
) -> Result<Command, SealedReason> {
    let Occupant {
        secret,
        sealed_revision,
    } = *occupant;
    let put = put(keyring, provider, secret, sealed_revision + 1, None).await?;
    let unchanged = Precondition::AtSealedRevision {
        secret,
        sealed_revision,
    };
    // Whatever others set there is set back, protection above all.
    let configure = Operation::Configure {
        at: Expected::At(KEYRING_PLACE),
        metadata: None,
        settings: Some(settings()),
    };
    Ok(command(unchanged, vec![configure, Operation::Put(put)]))
}

fn settings() -> SecretSettings {
    SecretSettings {
        keep_versions: Some(1),
        protected: true,
        ..SecretSettings::default()
    }
}

async fn put(
    keyring: &Keyring,
    provider: &dyn SealProvider,
    secret: SecretId,
    resulting_sealed_revision: u64,
    create: Option<Create>,
) -> Result<Put, SealedReason> {
    let key = Key::random();
    let wrapped_key = provider
        .wrap(&key, &wrapping_context(keyring.id()))
        .await
        .map_err(|error| SealedReason::SealKey(error.to_string()))?;
    let bytes = keyring.encode();
    let sealed = cipher::seal(
        keyring.id(),
        0,
        &key,
        &binding(secret, resulting_sealed_revision),
        &bytes,
    );
    let envelope = Envelope {
        keyring: *keyring.id(),
        seal_key: provider.id().to_owned(),
        generation: keyring.generation(),
        wrapped_key,
        ciphertext: sealed.ciphertext,
    };
    let value = Sealed {
        ciphertext: codec::encode(&envelope).into(),
        ..sealed
    };
    let digest = keyring.digest(secret, &bytes);
    let resulting = Occupant {
        secret,
        sealed_revision: resulting_sealed_revision,
    };
    let proof = keyring.prove(&proven(&resulting, &value, &digest));
    Ok(Put {
        place: KEYRING_PLACE,
        secret,
        create,
        number: NumberChoice::Next,
        activation: Activation::Always,
        same_value: SameValue::Store,
        check_and_set: None,
        value,
        digest,
        metadata: Some(Sealed {
            key_term: proof.key,
            value_id: ValueId([0; 16]),
            nonce: [0; 24],
            ciphertext: Bytes::copy_from_slice(&proof.mac),
        }),
        lifetime_ms: None,
        disclosures: None,
        on_end: None,
    })
}

/// All or nothing, on one precondition.
fn command(precondition: Precondition, operations: Vec<Operation>) -> Command {
    let mut preconditions = vec![precondition];
    let steps = operations.into_iter().map(|operation| Step {
        // The later steps follow the first within the command.
        preconditions: std::mem::take(&mut preconditions),
        operation,
        audit: None,
    });
    Command {
        guards: Vec::new(),
        steps: steps.collect(),
    }
}

fn binding(secret: SecretId, sealed_revision: u64) -> Binding {
    Binding {
        secret,
        kind: Kind::Keyring,
        sealed_revision: Some(sealed_revision),
    }
}

/// What a proof is made over: everything that is stored, and where. The last alone has no fixed length.
fn proven(occupant: &Occupant, value: &Sealed, digest: &ValueDigest) -> Vec<u8> {
    let mut message = Vec::with_capacity(128 + value.ciphertext.len());
    message.extend_from_slice(&occupant.secret.0);
    message.extend_from_slice(&occupant.sealed_revision.to_be_bytes());
    message.extend_from_slice(&value.key_term.to_be_bytes());
    message.extend_from_slice(&value.value_id.0);
    message.extend_from_slice(&value.nonce);
    message.extend_from_slice(&digest.key.to_be_bytes());
    message.extend_from_slice(&digest.mac);
    message.extend_from_slice(&value.ciphertext);
    message
}

fn wrapping_context(keyring: &KeyringId) -> Vec<u8> {
    [b"conclave keyring key 1\0".as_slice(), keyring].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::key_file::KeyFile;

    fn key_file() -> KeyFile {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        KeyFile::generate(&path).unwrap();
        KeyFile::load(&path).unwrap()
    }

    fn stored(command: Command, sealed_revision: u64) -> StoredKeyring {
        let put = command.steps.into_iter().find_map(|step| match step.operation {
            Operation::Put(put) => Some(put),
            _ => None,
        });
        let put = put.expect("a keyring is put");
        let envelope = codec::decode(&put.value.ciphertext).unwrap();
        StoredKeyring {
            occupant: Occupant {
                secret: put.secret,
                sealed_revision,
            },
            number: Version::FIRST,
            value: put.value,
            digest: put.digest,
            envelope,
            proof: put.metadata,
        }
    }

    #[tokio::test]
    async fn opens_with_the_seal_key_that_it_names() {
        let (key, keyring) = (key_file(), Keyring::generate());
        let stored = stored(create_command(&keyring, &key).await.unwrap(), 1);
        assert!(stored.open(&key).await.unwrap().is_same_as(&keyring));

        let other = key_file();
        let expected = SealedReason::WrongSealKey {
            needed: key.id().to_owned(),
            configured: other.id().to_owned(),
        };
        assert!(expected.to_string().contains(key.id()) && expected.to_string().contains(other.id()));
        assert_eq!(stored.open(&other).await.err(), Some(expected));
    }

    /// What an earlier build stored opens, and is written as it always was.
    #[tokio::test]
    async fn golden_envelope() {
        use crate::seal::golden::{SECRET, golden, golden_sealed};
        use std::{fs, os::unix::fs::PermissionsExt};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        fs::write(&path, golden("seal_key")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let envelope: Envelope = codec::decode(&golden("envelope")).unwrap();
        assert_eq!(codec::encode(&envelope), golden("envelope"));
        let stored = StoredKeyring {
            occupant: Occupant {
                secret: SECRET,
                sealed_revision: 3,
            },
            number: Version::FIRST,
            value: golden_sealed("envelope", 0),
            digest: ValueDigest {
                key: 1,
                mac: golden("keyring_digest").try_into().unwrap(),
            },
            envelope,
            proof: Some(Sealed {
                key_term: 1,
                value_id: ValueId([0; 16]),
                nonce: [0; 24],
                ciphertext: golden("keyring_proof").into(),
            }),
        };
        let keyring = stored.open(&KeyFile::load(&path).unwrap()).await.unwrap();
        assert_eq!(*keyring.encode(), golden("keyring"));
        assert!(stored.is_proven_to(&keyring));
    }

    #[tokio::test]
    async fn an_old_keyring_cannot_be_put_back() {
        let (key, keyring) = (key_file(), Keyring::generate());
        let first = stored(create_command(&keyring, &key).await.unwrap(), 1);
        let second = stored(
            replace_command(&first.occupant, &keyring.with_next_term(), &key)
                .await
                .unwrap(),
            2,
        );
        assert_eq!(second.open(&key).await.unwrap().key_term(), 2);
        let replayed = StoredKeyring {
            occupant: second.occupant,
            ..first
        };
        assert!(matches!(replayed.open(&key).await, Err(SealedReason::Damaged(_))));
    }

    #[tokio::test]
    async fn holders_know_each_others_writes_whatever_they_are_wrapped_under() {
        let (key, keyring) = (key_file(), Keyring::generate());
        let first = stored(create_command(&keyring, &key).await.unwrap(), 1);
        let rotated = keyring.with_next_term();
        let other_key = key_file();
        let replace = replace_command(&first.occupant, &rotated, &other_key);
        let second = replace.await.unwrap();
        let second = || stored(second.clone(), 2);
        for holder in [&keyring, &rotated] {
            assert!(first.is_proven_to(holder) && second().is_proven_to(holder));
            assert!(!second().is_older_than(holder));
        }
        assert!(first.is_older_than(&rotated));
        assert!(!second().is_proven_to(&Keyring::generate()));

        // Bytes of somebody without keys: other ones, or right ones where they were not written.
        let changed: [fn(&mut StoredKeyring); 5] = [
            |stored| stored.value.ciphertext = [&stored.value.ciphertext[..], b"."].concat().into(),
            |stored| stored.value.nonce[0] ^= 1,
            |stored| stored.digest.mac[0] ^= 1,
            |stored| stored.occupant.sealed_revision = 3,
            |stored| stored.proof = None,
        ];
        for change in changed {
            let mut stored = second();
            change(&mut stored);
            assert!(!stored.is_proven_to(&keyring));
        }
    }

    #[tokio::test]
    async fn every_write_protects_it_and_names_what_it_replaces() {
        let (key, keyring) = (key_file(), Keyring::generate());
        let create = create_command(&keyring, &key).await.unwrap();
        let occupant = stored(create.clone(), 1).occupant;
        let replace = replace_command(&occupant, &keyring, &key).await.unwrap();
        for command in [create, replace] {
            assert_eq!(command.steps[0].preconditions.len(), 1);
            let protects = command.steps.iter().any(|step| match &step.operation {
                Operation::Put(put) => put
                    .create
                    .as_ref()
                    .is_some_and(|create| create.settings.protected),
                Operation::Configure { settings, .. } => {
                    settings.as_ref().is_some_and(|settings| settings.protected)
                }
                _ => false,
            });
            assert!(protects);
        }
    }

    #[tokio::test]
    async fn another_wrapping_leaves_the_keys() {
        let (old_key, new_key, keyring) = (key_file(), key_file(), Keyring::generate());
        let first = stored(create_command(&keyring, &old_key).await.unwrap(), 1);
        let second = stored(
            replace_command(&first.occupant, &keyring, &new_key)
                .await
                .unwrap(),
            2,
        );
        assert!(second.holds_the_keys_of(&keyring));
        assert!(second.open(&new_key).await.unwrap().is_same_as(&keyring));
        assert!(matches!(
            second.open(&old_key).await,
            Err(SealedReason::WrongSealKey { .. })
        ));
    }
}
