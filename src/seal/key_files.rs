//! Which files this node may find its seal key in: the configured one, and those that a `rekey` on
//! this node brought, until the configuration names them.

use super::{key_file::KeyFile, provider::SealProvider, reason::SealedReason};
use std::path::PathBuf;

/// The files, by path: each is read anew whenever a key is needed.
pub struct KeyFiles {
    configured: Option<PathBuf>,
    /// The latest last.
    brought: Vec<PathBuf>,
}

impl KeyFiles {
    /// Files of a `rekey` that are remembered. The one before the last is needed while the last is
    /// on its way, or when that fails.
    const BROUGHT: usize = 8;

    /// Only the configured one.
    pub fn new(configured: Option<PathBuf>) -> Self {
        Self {
            configured,
            brought: Vec::new(),
        }
    }

    /// The configuration names another now.
    pub fn configure(&mut self, path: Option<PathBuf>) {
        self.configured = path;
    }

    /// A `rekey` brings one.
    pub fn bring(&mut self, path: PathBuf) {
        self.brought.retain(|known| *known != path);
        self.brought.push(path);
        if self.brought.len() > Self::BROUGHT {
            self.brought.remove(0);
        }
    }

    /// The key in the configured file.
    pub fn configured(&self) -> Result<KeyFile, SealedReason> {
        let path = self.configured.as_ref().ok_or(SealedReason::NoKeyConfigured)?;
        KeyFile::load(path).map_err(|error| SealedReason::KeyFile(error.to_string()))
    }

    /// The key with this id, wherever it is; else why the configured file does not have it.
    pub fn with_id(&self, id: &str) -> Result<KeyFile, SealedReason> {
        let configured = self.configured();
        if configured.as_ref().is_ok_and(|key| key.id() == id) {
            return configured;
        }
        let mut brought = self
            .brought
            .iter()
            .rev()
            .filter_map(|path| KeyFile::load(path).ok());
        match brought.find(|key| key.id() == id) {
            Some(key) => Ok(key),
            None => Err(SealedReason::WrongSealKey {
                needed: id.to_owned(),
                configured: configured?.id().to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_was_brought_is_known_until_many_others_were() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: String| {
            let path = folder.path().join(name);
            let id = KeyFile::generate(&path).unwrap();
            (path, id)
        };
        let (path, configured) = make("configured".to_owned());
        let mut files = KeyFiles::new(Some(path));
        let brought: Vec<_> = (0..=KeyFiles::BROUGHT)
            .map(|number| make(number.to_string()))
            .collect();
        for (path, _) in &brought {
            files.bring(path.clone());
        }
        for (_, id) in &brought[1..] {
            assert_eq!(files.with_id(id).unwrap().id(), id);
        }
        assert_eq!(files.with_id(&configured).unwrap().id(), configured);
        let forgotten = brought[0].1.clone();
        let expected = SealedReason::WrongSealKey {
            needed: forgotten.clone(),
            configured,
        };
        assert_eq!(files.with_id(&forgotten).err(), Some(expected));
        files.configure(None);
        assert_eq!(
            files.with_id(&forgotten).err(),
            Some(SealedReason::NoKeyConfigured)
        );
    }
}
