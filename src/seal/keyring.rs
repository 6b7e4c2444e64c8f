//! The keyring: every key that outlives a process, and what they are used for.
//!
//! Data keys have terms; a rotation adds one, and everything is sealed under the newest. The token
//! key and the digest keys outlive terms and never change in place, since places and digests were
//! computed with them. What a leaked one reveals is in `docs/decisions`.

use super::{
    cipher::{self, Binding, CannotOpen, KeyringId, Kind},
    key::Key,
    random::random_bytes,
};
use crate::{
    grants::Principal,
    name::{FullName, NamespacePath, SecretName, StoreName, StorePath},
    plaintext::Plaintext,
};
use conclave_cluster::model::{Place, Sealed, SecretId, Token, ValueDigest};
use conclave_raft::codec;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// All keys of a cluster. Neither `Debug` nor printable.
pub struct Keyring(Contents);

/// Why something could not be opened. No case names a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// It was sealed under a term that this keyring does not have (yet).
    #[error("sealed under key term {0}, which this node does not have")]
    UnknownTerm(u32),
    /// Another key, other bytes, or another binding.
    #[error(transparent)]
    CannotOpen(#[from] CannotOpen),
    /// The value opened, but is not the one that its digest was made for.
    #[error("the value does not have its digest")]
    WrongDigest,
    /// It opened, but is not what it should be.
    #[error("the plaintext is malformed")]
    Malformed,
}

/// A keyring as it is written, before it is sealed.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Contents {
    id: KeyringId,
    /// Counts changes of the keys themselves; another wrapping leaves it.
    generation: u64,
    data_keys: Vec<NumberedKey>,
    #[serde(with = "written_key")]
    token_key: Key,
    digest_keys: Vec<NumberedKey>,
}

#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct NumberedKey {
    number: u32,
    #[serde(with = "written_key")]
    key: Key,
}

/// A key as the keyring writes it, into buffers that are wiped and sealed. Nothing else can.
mod written_key {
    use super::Key;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
        key.as_bytes().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        <[u8; 32]>::deserialize(deserializer).map(Key::from)
    }
}

/// A name as it is sealed.
#[derive(Serialize, Deserialize)]
struct WrittenName {
    namespace: String,
    store: String,
    name: String,
}

impl Keyring {
    /// A new keyring with a random id.
    pub fn generate() -> Self {
        Self(Contents {
            id: random_bytes(),
            generation: 1,
            data_keys: vec![NumberedKey {
                number: 1,
                key: Key::random(),
            }],
            token_key: Key::random(),
            digest_keys: vec![NumberedKey {
                number: 1,
                key: Key::random(),
            }],
        })
    }

    /// The same keyring with one more data key term.
    pub fn with_next_term(&self) -> Self {
        let mut contents = self.0.clone();
        contents.generation += 1;
        contents.data_keys.push(NumberedKey {
            number: self.key_term() + 1,
            key: Key::random(),
        });
        Self(contents)
    }

    /// The same keyring once more, to be wrapped anew.
    pub(super) fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Its random id.
    pub fn id(&self) -> &KeyringId {
        &self.0.id
    }

    /// Counts changes of the keys.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// The term that is sealed under.
    pub fn key_term(&self) -> u32 {
        newest(&self.0.data_keys).number
    }

    /// Whether it is the same keyring at the same generation.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.0.id == other.0.id && self.0.generation == other.0.generation
    }

    /// Where a secret lies, in tokens.
    pub fn place(&self, name: &FullName) -> Place {
        let store = name.store_path();
        Place {
            name: self.name_token(name),
            ..self.store_place(&store)
        }
    }

    /// A whole store, in tokens: the name is [`Token::NONE`].
    pub fn store_place(&self, store: &StorePath) -> Place {
        Place {
            namespace: self.token(TokenKind::Namespace, &[store.namespace.as_str()]),
            store: self.token(
                TokenKind::Store,
                &[store.namespace.as_str(), store.store.as_str()],
            ),
            name: Token::NONE,
        }
    }

    /// A principal's token.
    pub fn principal(&self, principal: &Principal) -> Token {
        self.token(TokenKind::Principal, &[&principal.to_string()])
    }

    /// Seals under the newest term.
    pub fn seal(&self, binding: &Binding, plaintext: &[u8]) -> Sealed {
        let newest = newest(&self.0.data_keys);
        cipher::seal(&self.0.id, newest.number, &newest.key, binding, plaintext)
    }

    /// Opens what was sealed under any term.
    pub fn open(&self, binding: &Binding, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let key =
            numbered(&self.0.data_keys, sealed.key_term).ok_or(OpenError::UnknownTerm(sealed.key_term))?;
        Ok(cipher::open(&self.0.id, key, binding, sealed)?)
    }

    /// Seals a value of a store that decides no rights, with its digest.
    pub fn seal_value(&self, secret: SecretId, value: &Plaintext) -> (Sealed, ValueDigest) {
        let binding = Binding {
            secret,
            kind: Kind::Value,
            sealed_revision: None,
        };
        (
            self.seal(&binding, value.as_bytes()),
            self.digest(secret, value.as_bytes()),
        )
    }

    /// Opens such a value and checks its digest.
    pub fn open_value(
        &self,
        secret: SecretId,
        sealed: &Sealed,
        digest: &ValueDigest,
    ) -> Result<Plaintext, OpenError> {
        let binding = Binding {
            secret,
            kind: Kind::Value,
            sealed_revision: None,
        };
        let value = self.open(&binding, sealed)?;
        self.check_digest(secret, &value, digest)?;
        Ok(value.into())
    }

    /// Seals a secret's name.
    pub fn seal_name(&self, secret: SecretId, name: &FullName) -> Sealed {
        let written = WrittenName {
            namespace: name.namespace.as_str().to_owned(),
            store: name.store.as_str().to_owned(),
            name: name.name.as_str().to_owned(),
        };
        let bytes = Zeroizing::new(codec::encode(&written));
        self.seal(
            &Binding {
                secret,
                kind: Kind::Name,
                sealed_revision: None,
            },
            &bytes,
        )
    }

    /// Opens a secret's name.
    pub fn open_name(&self, secret: SecretId, sealed: &Sealed) -> Result<FullName, OpenError> {
        let bytes = self.open(
            &Binding {
                secret,
                kind: Kind::Name,
                sealed_revision: None,
            },
            sealed,
        )?;
        let written: WrittenName = codec::decode(&bytes).map_err(|_| OpenError::Malformed)?;
        let parse = || {
            Ok(FullName {
                namespace: NamespacePath::new(written.namespace)?,
                store: StoreName::new(written.store)?,
                name: SecretName::new(written.name)?,
            })
        };
        parse().map_err(|_: crate::name::NameError| OpenError::Malformed)
    }

    /// A keyed digest of a value, bound to its secret.
    pub fn digest(&self, secret: SecretId, value: &[u8]) -> ValueDigest {
        let newest = newest(&self.0.digest_keys);
        ValueDigest {
            key: newest.number,
            mac: digest_mac(&newest.key, secret, value),
        }
    }

    /// Recomputes a digest and compares in constant time.
    pub fn check_digest(
        &self,
        secret: SecretId,
        value: &[u8],
        digest: &ValueDigest,
    ) -> Result<(), OpenError> {
        let key = numbered(&self.0.digest_keys, digest.key).ok_or(OpenError::WrongDigest)?;
        let equal: bool = digest_mac(key, secret, value).ct_eq(&digest.mac).into();
        if equal {
            Ok(())
        } else {
            Err(OpenError::WrongDigest)
        }
    }

    /// Shows whoever holds this keyring, at this generation or another, that a holder of it wrote the
    /// message. Made with a digest key, which every generation has.
    pub(super) fn prove(&self, message: &[u8]) -> ValueDigest {
        let newest = newest(&self.0.digest_keys);
        ValueDigest {
            key: newest.number,
            mac: proof_mac(&newest.key, message),
        }
    }

    /// Recomputes a proof and compares in constant time.
    pub(super) fn is_proven(&self, message: &[u8], key: u32, mac: &[u8]) -> bool {
        numbered(&self.0.digest_keys, key).is_some_and(|key| proof_mac(key, message).ct_eq(mac).into())
    }

    /// Its encoding, to be sealed.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it, so that growing leaves no copy behind that nobody wipes.
        let numbered = self.0.data_keys.len() + self.0.digest_keys.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(256 + 64 * numbered));
        codec::encode_into(&self.0, &mut bytes);
        bytes
    }

    /// The inverse of [`Self::encode`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let contents: Contents = codec::decode(bytes).map_err(|_| OpenError::Malformed)?;
        if contents.data_keys.is_empty() || contents.digest_keys.is_empty() {
            return Err(OpenError::Malformed);
        }
        Ok(Self(contents))
    }

    fn name_token(&self, name: &FullName) -> Token {
        self.token(
            TokenKind::Name,
            &[name.namespace.as_str(), name.store.as_str(), name.name.as_str()],
        )
    }

    /// HMAC-SHA-256 truncated to 16 bytes. Kinds are kept apart, and lengths before the parts keep
    /// two lists of parts apart. A name's token covers where it lies, so that equal names in two
    /// stores do not show as equal.
    fn token(&self, kind: TokenKind, parts: &[&str]) -> Token {
        let mut message = vec![kind as u8];
        for part in parts {
            message.extend_from_slice(&(part.len() as u64).to_be_bytes());
            message.extend_from_slice(part.as_bytes());
        }
        let mac = self.0.token_key.mac(&[b"conclave token 1\0", &message]);
        message.zeroize();
        let mut token = [0; 16];
        token.copy_from_slice(&mac[..16]);
        Token(token)
    }
}

/// Numbers are part of the format: never reorder, only append.
#[derive(Clone, Copy)]
#[repr(u8)]
enum TokenKind {
    Namespace = 1,
    Store = 2,
    Name = 3,
    Principal = 4,
}

fn digest_mac(key: &Key, secret: SecretId, value: &[u8]) -> [u8; 32] {
    key.mac(&[b"conclave digest 1\0", &secret.0, value])
}

fn proof_mac(key: &Key, message: &[u8]) -> [u8; 32] {
    key.mac(&[b"conclave keyring proof 1\0", message])
}

fn newest(keys: &[NumberedKey]) -> &NumberedKey {
    keys.last()
        .expect("a keyring has at least one key of each kind: `generate` and `decode` see to it")
}

fn numbered(keys: &[NumberedKey], number: u32) -> Option<&Key> {
    keys.iter()
        .find(|candidate| candidate.number == number)
        .map(|found| &found.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        operations::{Polled, SecretValue},
        seal::KeyFile,
    };

    const A: SecretId = SecretId([1; 16]);
    const B: SecretId = SecretId([2; 16]);

    fn value(bytes: &[u8]) -> Plaintext {
        Plaintext::new(bytes.to_vec())
    }

    fn name(text: &str) -> FullName {
        FullName::setec(text).unwrap()
    }

    /// Compiles only while none of these can be printed or written: else `Marker` is ambiguous.
    #[test]
    fn keys_and_plaintexts_have_no_debug_and_no_serialize() {
        trait Marker<Which> {
            fn is_neither() {}
        }
        impl<T: ?Sized> Marker<()> for T {}
        impl<T: ?Sized + std::fmt::Debug> Marker<u8> for T {}
        impl<T: ?Sized + Serialize> Marker<u16> for T {}
        <Key as Marker<_>>::is_neither();
        <Keyring as Marker<_>>::is_neither();
        <KeyFile as Marker<_>>::is_neither();
        <Plaintext as Marker<_>>::is_neither();
        <SecretValue as Marker<_>>::is_neither();
        <Polled as Marker<_>>::is_neither();
    }

    /// Likewise, while what was opened has one owner, who wipes it.
    #[test]
    fn keyrings_and_plaintexts_are_not_copied() {
        trait Marker<Which> {
            fn is_not_copied() {}
        }
        impl<T: ?Sized> Marker<()> for T {}
        impl<T: Clone> Marker<u8> for T {}
        <Keyring as Marker<_>>::is_not_copied();
        <KeyFile as Marker<_>>::is_not_copied();
        <Plaintext as Marker<_>>::is_not_copied();
        <SecretValue as Marker<_>>::is_not_copied();
        <Polled as Marker<_>>::is_not_copied();
    }

    #[test]
    fn values_open_for_their_secret_only() {
        let keyring = Keyring::generate();
        let (sealed, digest) = keyring.seal_value(A, &value(b"v"));
        assert!(keyring.open_value(A, &sealed, &digest).unwrap() == value(b"v"));
        assert_eq!(
            keyring.open_value(B, &sealed, &digest).err(),
            Some(CannotOpen.into())
        );
        assert_eq!(
            Keyring::generate().open_value(A, &sealed, &digest).err(),
            Some(CannotOpen.into())
        );
    }

    #[test]
    fn swapped_ciphertexts_of_one_secret_do_not_have_their_digests() {
        let keyring = Keyring::generate();
        let (one, one_digest) = keyring.seal_value(A, &value(b"one"));
        let (two, two_digest) = keyring.seal_value(A, &value(b"two"));
        assert_eq!(
            keyring.open_value(A, &two, &one_digest).err(),
            Some(OpenError::WrongDigest)
        );
        assert_eq!(
            keyring.open_value(A, &one, &two_digest).err(),
            Some(OpenError::WrongDigest)
        );
    }

    #[test]
    fn digests_tell_equal_values_of_one_secret_and_nothing_across_secrets() {
        let keyring = Keyring::generate();
        assert_eq!(keyring.digest(A, b"v"), keyring.digest(A, b"v"));
        assert_ne!(keyring.digest(A, b"v"), keyring.digest(A, b"w"));
        assert_ne!(keyring.digest(A, b"v"), keyring.digest(B, b"v"));
    }

    #[test]
    fn a_rotation_keeps_everything_readable_and_every_place_and_digest() {
        let old = Keyring::generate();
        let (sealed, digest) = old.seal_value(A, &value(b"v"));
        let new = old.with_next_term();
        assert_eq!((old.key_term(), new.key_term()), (1, 2));
        assert!(new.open_value(A, &sealed, &digest).unwrap() == value(b"v"));
        assert_eq!(new.digest(A, b"v"), digest);
        assert_eq!(new.place(&name("a")), old.place(&name("a")));
        let (resealed, _) = new.seal_value(A, &value(b"v"));
        assert_eq!(
            old.open_value(A, &resealed, &digest).err(),
            Some(OpenError::UnknownTerm(2))
        );
        assert!(!new.is_same_as(&old));
    }

    #[test]
    fn names_round_trip_and_are_bound_to_their_secret() {
        let keyring = Keyring::generate();
        let sealed = keyring.seal_name(A, &name("prod/db"));
        assert!(keyring.open_name(A, &sealed).unwrap() == name("prod/db"));
        assert!(keyring.open_name(B, &sealed).is_err());
    }

    #[test]
    fn tokens_are_keyed_and_kept_apart() {
        let keyring = Keyring::generate();
        let place = keyring.place(&name("secret"));
        assert_eq!(place, keyring.place(&name("secret")));
        assert_ne!(place, Keyring::generate().place(&name("secret")));
        let elsewhere = FullName {
            namespace: NamespacePath::new("team").unwrap(),
            ..name("secret")
        };
        let other = keyring.place(&elsewhere);
        assert!(place.namespace != other.namespace && place.store != other.store && place.name != other.name);
        let parts = [
            keyring.token(TokenKind::Name, &["a", "b", "c"]),
            keyring.token(TokenKind::Name, &["ab", "", "c"]),
            keyring.token(TokenKind::Name, &["a", "bc", ""]),
            keyring.token(TokenKind::Principal, &["a", "b", "c"]),
        ];
        for (number, token) in parts.iter().enumerate() {
            assert!(!parts[..number].contains(token));
        }
        assert_eq!(keyring.store_place(&StorePath::setec()).name, Token::NONE);
    }

    #[test]
    fn the_encoding_round_trips_and_garbage_is_refused() {
        let keyring = Keyring::generate().with_next_term();
        let again = Keyring::decode(&keyring.encode()).unwrap();
        assert!(again.is_same_as(&keyring) && again.key_term() == 2);
        assert_eq!(again.digest(A, b"v"), keyring.digest(A, b"v"));
        let bytes = keyring.encode();
        assert!(Keyring::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Keyring::decode(&[]).is_err());
    }
}
