//! What operations answer. Values are [`Plaintext`], everything else is metadata.

use crate::{name::FullName, plaintext::Plaintext};
use conclave_cluster::{
    command::{SecretView, VersionView},
    model::{Version, VersionState},
};

/// A disclosed value.
pub struct SecretValue {
    /// Its number.
    pub version: Version,
    /// Whether it is the active one.
    pub active: bool,
    /// State time in milliseconds when it was made.
    pub made_ms: u64,
    /// State time in milliseconds from which it is hidden.
    pub expires_ms: Option<u64>,
    /// The value.
    pub value: Plaintext,
}

/// The answer to a poll.
pub enum Polled {
    /// The caller has the active version already. Nothing was disclosed or recorded.
    NotModified,
    /// Another version is active, or the caller's is no longer available.
    Changed(SecretValue),
}

/// A secret's metadata.
pub struct SecretInfo {
    /// Its name.
    pub name: FullName,
    /// The active version.
    pub active: Option<Version>,
    /// State time in milliseconds when it was made.
    pub made_ms: u64,
    /// State time in milliseconds of its last change.
    pub changed_ms: u64,
    /// Its versions that have a row, in order. Destroyed ones may be missing.
    pub versions: Vec<VersionView>,
}

/// What a put did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PutVersion {
    /// The version that has the value now.
    pub version: Version,
    /// Whether it was stored; false when the value was already there.
    pub stored: bool,
    /// Whether it is the active one.
    pub active: bool,
}

impl SecretInfo {
    /// From what the cluster shows of a secret.
    pub fn new(name: FullName, view: SecretView) -> Self {
        Self {
            name,
            active: view.active,
            made_ms: view.made_ms,
            changed_ms: view.changed_ms,
            versions: view.versions,
        }
    }

    /// The numbers that still have a value: neither deleted nor destroyed, in order. This is what
    /// setec calls the available versions.
    pub fn held_versions(&self) -> impl Iterator<Item = Version> + '_ {
        self.versions
            .iter()
            .filter(|version| matches!(version.state, VersionState::Enabled | VersionState::Disabled))
            .map(|version| version.version)
    }
}
