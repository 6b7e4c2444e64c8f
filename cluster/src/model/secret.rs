//! A secret: an id that never changes, what is said of it, and which of its versions is active.

use super::{EndAction, NumberRanges, Place, Sealed, SecretId, Version};
use crate::command::{SecretView, VersionView};
use serde::{Deserialize, Serialize};

/// Rules that a secret sets for its versions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SecretSettings {
    /// The most versions kept with a value; older ones are destroyed by a put. `None`: no limit.
    pub keep_versions: Option<u32>,
    /// Whether a put must name the version that it follows.
    pub check_and_set_required: bool,
    /// Lifetime in milliseconds of versions that set none.
    pub default_lifetime_ms: Option<u64>,
    /// Number of disclosures of versions that set none.
    pub default_disclosures: Option<u32>,
    /// What the end of either does.
    pub default_on_end: EndAction,
    /// A protected secret cannot be deleted.
    pub protected: bool,
}

/// A deletion of the whole secret that can be undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deletion {
    /// The place that it left.
    pub place: Place,
    /// State time in milliseconds of the deletion.
    pub deleted_ms: u64,
    /// State time in milliseconds until which it can be restored.
    pub until_ms: u64,
}

/// Everything about a secret but its versions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecretRecord {
    /// Where it lies; `None` while it is deleted recoverably.
    pub place: Option<Place>,
    /// Its name (namespace, store and name), sealed, for the edges' indexes.
    pub name: Sealed,
    /// Sealed metadata.
    pub metadata: Option<Sealed>,
    /// Rules for its versions.
    pub settings: SecretSettings,
    /// State time in milliseconds when it was made.
    pub made_ms: u64,
    /// State time in milliseconds of its last change.
    pub changed_ms: u64,
    /// The active version.
    pub active: Option<Version>,
    /// Every number that it ever used.
    pub used: NumberRanges,
    /// Counts every change.
    pub revision: u64,
    /// Counts only the steps that write sealed bytes (design, section 11): 1 after the step that
    /// makes the secret, whether `Create` or `Put`, and one more after each later such step.
    pub sealed_revision: u64,
    /// Set while it is deleted recoverably.
    pub deleted: Option<Deletion>,
}

impl SecretRecord {
    /// Its metadata and that of its versions.
    pub fn view(self, secret: SecretId, versions: Vec<VersionView>) -> SecretView {
        SecretView {
            secret,
            place: self.place,
            name: self.name,
            metadata: self.metadata,
            settings: self.settings,
            made_ms: self.made_ms,
            changed_ms: self.changed_ms,
            active: self.active,
            revision: self.revision,
            sealed_revision: self.sealed_revision,
            restorable_until_ms: self.deleted.map(|deletion| deletion.until_ms),
            used: self.used,
            versions,
        }
    }
}
