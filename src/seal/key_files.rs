//! Which files this node may find its seal key in: the configured one, and those that a `rekey` on
//! this node brought, until the configuration names them.

use super::{
    key_file::{KeyFile, KeyFileError},
    provider::{SealProvider, SealSource},
    reason::SealedReason,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// The files, by path: each is read anew whenever a key is needed.
pub struct KeyFiles(RwLock<Paths>);

struct Paths {
    /// `None`: the node stays sealed.
    configured: Option<PathBuf>,
    /// The latest last.
    brought: Vec<Brought>,
}

struct Brought {
    path: PathBuf,
    /// The id of the key that was in it.
    id: String,
}

impl KeyFiles {
    /// Files of a `rekey` that are remembered. The one before the last is needed while the last is
    /// on its way, or when that fails.
    const BROUGHT: usize = 8;

    /// Only the configured one.
    pub fn new(configured: Option<PathBuf>) -> Self {
        Self(RwLock::new(Paths {
            configured,
            brought: Vec::new(),
        }))
    }

    /// The configuration names another now.
    pub fn configure(&self, path: Option<PathBuf>) {
        self.write().configured = path;
    }

    /// A `rekey` brings one: the key in it, which can be found by its id from now on. However many are
    /// brought in vain, that of the key `in_use`, which the stored keyring needs, is not forgotten.
    pub fn bring(&self, path: PathBuf, in_use: Option<&str>) -> Result<Arc<dyn SealProvider>, KeyFileError> {
        let key = KeyFile::load(&path)?;
        let brought = &mut self.write().brought;
        brought.retain(|known| known.path != path);
        if brought.len() >= Self::BROUGHT {
            let is_needed = |known: &Brought| in_use == Some(known.id.as_str());
            let oldest = brought.iter().position(|known| !is_needed(known));
            brought.remove(oldest.unwrap_or(0));
        }
        brought.push(Brought {
            path,
            id: key.id().to_owned(),
        });
        Ok(Arc::new(key))
    }

    fn read(&self) -> RwLockReadGuard<'_, Paths> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Paths> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Paths {
    fn configured(&self) -> Result<KeyFile, SealedReason> {
        load(self.configured.as_ref().ok_or(SealedReason::NoKeyConfigured)?)
    }

    /// Where the key is nowhere: why the configured file does not have it.
    fn with_id(&self, id: &str) -> Result<KeyFile, SealedReason> {
        let configured = self.configured();
        if configured.as_ref().is_ok_and(|key| key.id() == id) {
            return configured;
        }
        if let Some(brought) = self.brought.iter().rev().find(|known| known.id == id) {
            let key = load(&brought.path)?;
            if key.id() == id {
                return Ok(key);
            }
        }
        Err(SealedReason::WrongSealKey {
            needed: id.to_owned(),
            configured: configured?.id().to_owned(),
        })
    }
}

fn load(path: &Path) -> Result<KeyFile, SealedReason> {
    KeyFile::load(path).map_err(|error| SealedReason::SealKey(error.to_string()))
}

impl SealSource for KeyFiles {
    fn configured(&self) -> Result<Arc<dyn SealProvider>, SealedReason> {
        Ok(Arc::new(self.read().configured()?))
    }

    fn with_id(&self, id: &str) -> Result<Arc<dyn SealProvider>, SealedReason> {
        Ok(Arc::new(self.read().with_id(id)?))
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
        let files = KeyFiles::new(Some(path));
        let brought: Vec<_> = (0..=KeyFiles::BROUGHT)
            .map(|number| make(number.to_string()))
            .collect();
        for (path, _) in &brought {
            files.bring(path.clone(), None).unwrap();
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

        // What fails again and again does not push out the one that is needed.
        let needed = &brought[1].1;
        for (path, _) in brought.iter().chain(&brought) {
            files.bring(path.clone(), Some(needed)).unwrap();
        }
        for number in 0..2 * KeyFiles::BROUGHT {
            let (path, _) = make(format!("failing-{number}"));
            files.bring(path, Some(needed)).unwrap();
            assert_eq!(files.with_id(needed).unwrap().id(), needed);
        }
    }
}
