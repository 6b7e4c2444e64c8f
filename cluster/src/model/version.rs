//! One version of a secret.

use super::{Sealed, ValueDigest, Version};
use crate::command::VersionView;
use serde::{Deserialize, Serialize};

/// What a version is able to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VersionState {
    /// Its value can be disclosed.
    Enabled,
    /// Its value cannot be disclosed until it is enabled again.
    Disabled,
    /// Deleted, recoverable until the given state time in milliseconds (`None`: without limit).
    Deleted { until_ms: Option<u64> },
    /// Its value and its digest are gone.
    Destroyed,
}

/// What happens to a version when its lifetime ends or its last disclosure is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum EndAction {
    /// It becomes disabled.
    #[default]
    Disable,
    /// It becomes deleted, recoverable without limit.
    Delete,
    /// It is destroyed. Only the last disclosure destroys; expiry hides and never destroys
    /// irrecoverably by itself (design, section 3).
    Destroy,
}

/// Everything about a version but its value, which lies in a row of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionRecord {
    /// What it is able to do.
    pub state: VersionState,
    /// State time in milliseconds when it was made.
    pub made_ms: u64,
    /// State time in milliseconds of its last change.
    pub changed_ms: u64,
    /// State time in milliseconds from which it is hidden.
    pub expires_ms: Option<u64>,
    /// Disclosures left, when limited.
    pub disclosures_left: Option<u32>,
    /// What either's end does.
    pub on_end: EndAction,
    /// Sealed metadata.
    pub metadata: Option<Sealed>,
    /// Sealed bytes' revision of the secret when its value was last sealed (part of the associated
    /// data in stores that decide rights).
    pub sealed_revision: u64,
    /// The value's digest; `None` once destroyed.
    pub digest: Option<ValueDigest>,
}

impl VersionRecord {
    /// Whether its value may be disclosed at the given state time.
    pub fn is_available(&self, now_ms: u64) -> bool {
        self.state == VersionState::Enabled
            && self.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
            && self.disclosures_left != Some(0)
    }

    /// Whether it still has a value.
    pub fn has_value(&self) -> bool {
        self.state != VersionState::Destroyed
    }

    /// What it is able to do at the given state time: where its lifetime or its disclosures have
    /// ended, what that end did. An end by time hides and never destroys, so that one that would
    /// destroy shows as deleted.
    pub fn state_at(&self, now_ms: u64) -> VersionState {
        if self.state != VersionState::Enabled || self.is_available(now_ms) {
            return self.state;
        }
        match self.on_end {
            EndAction::Disable => VersionState::Disabled,
            EndAction::Delete | EndAction::Destroy => VersionState::Deleted { until_ms: None },
        }
    }

    /// Its metadata, as a look at the given state time answers.
    pub fn view(self, version: Version, now_ms: u64) -> VersionView {
        VersionView {
            version,
            state: self.state_at(now_ms),
            made_ms: self.made_ms,
            changed_ms: self.changed_ms,
            expires_ms: self.expires_ms,
            disclosures_left: self.disclosures_left,
            on_end: self.on_end,
            metadata: self.metadata,
        }
    }
}
