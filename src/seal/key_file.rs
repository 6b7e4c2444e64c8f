//! The seal of a key file: 32 random bytes, mode 0600, refused when others can read them.

use super::{
    cipher::CannotOpen,
    key::Key,
    provider::{ProviderError, SealProvider},
    random::random_bytes,
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use futures::future::{BoxFuture, FutureExt};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use std::{
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// A key read from a file.
pub struct KeyFile {
    key: Key,
    id: String,
}

/// Why a key file cannot be used. Every message names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be opened, read or written.
    #[error("seal key {}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    /// Group or others have rights to it.
    #[error("seal key {}: mode {mode:04o} lets others read it; it must be 0600", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    /// It has not exactly 32 bytes.
    #[error("seal key {}: it must have exactly 32 bytes", path.display())]
    WrongLength { path: PathBuf },
}

impl KeyFile {
    /// Bytes of a key file.
    pub const BYTES: usize = 32;

    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let unusable = |error: std::io::Error| unusable(path, &error);
        // Opening a pipe would otherwise wait for its writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(unusable)?;
        let metadata = file.metadata().map_err(unusable)?;
        if !metadata.is_file() {
            return Err(KeyFileError::Unusable {
                path: path.to_owned(),
                reason: "not a regular file".to_owned(),
            });
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(KeyFileError::Exposed {
                path: path.to_owned(),
                mode: metadata.mode() & 0o7777,
            });
        }
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own && metadata.uid() != 0 {
            return Err(KeyFileError::Unusable {
                path: path.to_owned(),
                reason: format!(
                    "user {} owns it, neither this process's user {own} nor root",
                    metadata.uid()
                ),
            });
        }
        // One byte more than a key, read without reallocation, so that no copy stays behind.
        let mut bytes = Zeroizing::new([0_u8; Self::BYTES + 1]);
        let mut length = 0;
        let mut reader = file.take(bytes.len() as u64);
        loop {
            match reader.read(&mut bytes[length..]).map_err(unusable)? {
                0 => break,
                count => length += count,
            }
        }
        let key = Key::from_slice(&bytes[..length]).ok_or_else(|| KeyFileError::WrongLength {
            path: path.to_owned(),
        })?;
        Ok(Self::new(key))
    }

    /// Makes a new key file with mode 0600 and returns its key's id. Never replaces a file.
    pub fn generate(path: &Path) -> Result<String, KeyFileError> {
        let unusable = |error: std::io::Error| unusable(path, &error);
        let key = Key::random();
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(unusable)?;
        file.write_all(key.as_bytes()).map_err(unusable)?;
        file.sync_all().map_err(unusable)?;
        Ok(Self::new(key).id)
    }

    fn new(key: Key) -> Self {
        // 64 bits of a hash of 256 random bits: enough to tell keys apart, of no use to find one.
        let hash = Sha256::new_with_prefix(b"conclave seal key id 1\0")
            .chain_update(key.as_bytes())
            .finalize();
        let id = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { key, id }
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.key.as_bytes().into())
    }

    fn open(&self, wrapped: &[u8], context: &[u8]) -> Result<Key, CannotOpen> {
        let (nonce, ciphertext) = wrapped.split_at_checked(24).ok_or(CannotOpen)?;
        let key = self
            .cipher()
            .decrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: ciphertext,
                    aad: context,
                },
            )
            .map(Zeroizing::new)
            .map_err(|_| CannotOpen)?;
        Key::from_slice(&key).ok_or(CannotOpen)
    }
}

impl SealProvider for KeyFile {
    fn id(&self) -> &str {
        &self.id
    }

    fn wrap<'a>(&'a self, key: &'a Key, context: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, ProviderError>> {
        let nonce = random_bytes::<24>();
        let ciphertext = self
            .cipher()
            .encrypt(
                XNonce::from_slice(&nonce),
                Payload {
                    msg: key.as_bytes(),
                    aad: context,
                },
            )
            .expect("32 bytes are below the cipher's limit");
        std::future::ready(Ok([nonce.as_slice(), &ciphertext].concat())).boxed()
    }

    fn unwrap<'a>(
        &'a self,
        wrapped: &'a [u8],
        context: &'a [u8],
    ) -> BoxFuture<'a, Result<Key, ProviderError>> {
        let opened = self
            .open(wrapped, context)
            .map_err(|CannotOpen| ProviderError::CannotUnwrap { id: self.id.clone() });
        std::future::ready(opened).boxed()
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> KeyFileError {
    KeyFileError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn generated() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        KeyFile::generate(&path).unwrap();
        (folder, path)
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_generated_key_is_private_and_loads() {
        let (_folder, path) = generated();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o600, 32));
        assert_eq!(KeyFile::load(&path).unwrap().id().len(), 16);
        assert!(
            matches!(KeyFile::generate(&path), Err(KeyFileError::Unusable { .. })),
            "never replaced"
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_folder, path) = generated();
        for exposed in [0o640, 0o604, 0o610, 0o602] {
            mode(&path, exposed);
            assert!(
                matches!(KeyFile::load(&path), Err(KeyFileError::Exposed { mode, .. }) if mode == exposed)
            );
        }
        mode(&path, 0o400);
        assert!(KeyFile::load(&path).is_ok());
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let (_folder, path) = generated();
        for length in [0, 31, 33, 64] {
            fs::write(&path, vec![7; length]).unwrap();
            assert!(
                matches!(KeyFile::load(&path), Err(KeyFileError::WrongLength { .. })),
                "{length}"
            );
        }
        assert!(matches!(
            KeyFile::load(path.parent().unwrap()),
            Err(KeyFileError::Unusable { .. })
        ));
        assert!(matches!(
            KeyFile::load(&path.join("missing")),
            Err(KeyFileError::Unusable { .. })
        ));
    }

    #[tokio::test]
    async fn wrapping_is_bound_to_key_and_context() {
        let (a, b) = (KeyFile::new(Key::random()), KeyFile::new(Key::random()));
        let key = Key::random();
        let wrapped = a.wrap(&key, b"context").await.unwrap();
        assert!(a.unwrap(&wrapped, b"context").await.unwrap() == key);
        assert!(a.unwrap(&wrapped, b"other").await.is_err());
        assert!(b.unwrap(&wrapped, b"context").await.is_err());
        assert!(a.unwrap(&wrapped[..10], b"context").await.is_err());
        assert_ne!(a.id(), b.id());
    }
}
