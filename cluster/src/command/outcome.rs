//! What the machine answers. Refusals are answers, not errors: they are part of the replicated
//! history, and every node comes to the same one.

use crate::model::{
    EndAction, NumberRanges, Place, Sealed, SecretId, SecretSettings, ValueDigest, Version, VersionState,
};
use serde::{Deserialize, Serialize};

/// The outcome of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Every guard and step was done; one answer each, guards first.
    Done(Vec<Done>),
    /// The step with this number (guards counted first) was refused. Guards before it stay done.
    Refused { step: u16, refusal: Refusal },
}

impl Outcome {
    /// Bytes of what can be large in it: ciphertexts, and what is said of versions.
    pub fn large_bytes(&self) -> usize {
        match self {
            Self::Done(answers) => answers.iter().map(Done::large_bytes).sum(),
            Self::Refused { .. } => 0,
        }
    }
}

impl Done {
    /// Bytes of what can be large in it: ciphertexts, and what is said of versions.
    pub fn large_bytes(&self) -> usize {
        match self {
            Self::Disclosed(disclosed) => {
                disclosed.value.ciphertext.len()
                    + disclosed.name.ciphertext.len()
                    + optional_bytes(disclosed.metadata.as_ref())
            }
            Self::Secret(view) => {
                view.name.ciphertext.len()
                    + optional_bytes(view.metadata.as_ref())
                    + view.used.ranges().len() * RANGE_BYTES
                    + view.versions.iter().map(VersionView::large_bytes).sum::<usize>()
            }
            Self::Done
            | Self::Recorded
            | Self::Version { .. }
            | Self::NotModified { .. }
            | Self::RaftId(_) => 0,
        }
    }
}

/// Two numbers of 32 bits, encoded, at most.
const RANGE_BYTES: usize = 10;
/// Everything of a [`VersionView`] but its metadata's ciphertext, encoded, at most.
const VERSION_VIEW_BYTES: usize = 128;

fn optional_bytes(sealed: Option<&Sealed>) -> usize {
    sealed.map_or(0, |sealed| sealed.ciphertext.len())
}

/// The answer of one step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Done {
    /// Done; there is nothing to say.
    Done,
    /// Only a record was written.
    Recorded,
    /// A version was made, or one with that value was already there (`stored: false`).
    Version {
        secret: SecretId,
        version: Version,
        stored: bool,
        active: bool,
    },
    /// A value was disclosed.
    Disclosed(Box<Disclosed>),
    /// The caller has the active version already.
    NotModified { version: Version },
    /// A secret's metadata.
    Secret(Box<SecretView>),
    /// A Raft id was given out.
    RaftId(u64),
}

/// A disclosed value, still sealed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Disclosed {
    /// The secret that it belongs to (part of the associated data).
    pub secret: SecretId,
    /// That secret's name, sealed. The edge opens it and compares it with the name that was asked
    /// for, so that nobody without keys can make a place serve another secret's value.
    pub name: Sealed,
    /// Its number.
    pub version: Version,
    /// Whether it is the active one.
    pub active: bool,
    /// State time in milliseconds when it was made.
    pub made_ms: u64,
    /// State time in milliseconds from which it is hidden.
    pub expires_ms: Option<u64>,
    /// Disclosures left after this one.
    pub disclosures_left: Option<u32>,
    /// The value.
    pub value: Sealed,
    /// Its digest, to be compared after opening.
    pub digest: ValueDigest,
    /// Its metadata.
    pub metadata: Option<Sealed>,
    /// The sealed revision when the value was sealed.
    pub sealed_revision: u64,
}

/// A secret's metadata.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecretView {
    /// Its id.
    pub secret: SecretId,
    /// Where it lies; `None` while it is deleted recoverably, and where the answer to a look was lost and
    /// the secret had left its place when it was asked for again: then no version is shown either.
    pub place: Option<Place>,
    /// Its name, sealed.
    pub name: Sealed,
    /// Its metadata, sealed.
    pub metadata: Option<Sealed>,
    /// Rules for its versions.
    pub settings: SecretSettings,
    /// State time in milliseconds when it was made.
    pub made_ms: u64,
    /// State time in milliseconds of its last change.
    pub changed_ms: u64,
    /// The active version.
    pub active: Option<Version>,
    /// Counts every change.
    pub revision: u64,
    /// Counts writes that replace sealed bytes.
    pub sealed_revision: u64,
    /// Set while deleted recoverably: state time in milliseconds until which it can be restored.
    pub restorable_until_ms: Option<u64>,
    /// Every number that it ever used.
    pub used: NumberRanges,
    /// Its versions that have a row, in order. Destroyed ones may be missing.
    pub versions: Vec<VersionView>,
}

/// A version's metadata.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionView {
    /// Its number.
    pub version: Version,
    /// What it is able to do at the time of the answer; an expired one shows what its end did.
    pub state: VersionState,
    /// State time in milliseconds when it was made.
    pub made_ms: u64,
    /// State time in milliseconds of its last change.
    pub changed_ms: u64,
    /// State time in milliseconds from which it is hidden.
    pub expires_ms: Option<u64>,
    /// Disclosures left.
    pub disclosures_left: Option<u32>,
    /// What either's end does.
    pub on_end: EndAction,
    /// Sealed metadata.
    pub metadata: Option<Sealed>,
}

impl VersionView {
    /// Its bytes, encoded, at most.
    pub(crate) fn large_bytes(&self) -> usize {
        VERSION_VIEW_BYTES + optional_bytes(self.metadata.as_ref())
    }
}

/// Why the machine refused a step. Every node refuses alike.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No secret lies there.
    #[error("no such secret")]
    NotFound,
    /// The secret has no such version, or none that is wanted.
    #[error("no such version")]
    VersionNotFound,
    /// The version is there, but disabled, deleted, expired or used up.
    #[error("the version is not available")]
    NotAvailable { version: Version, state: VersionState },
    /// The place is taken.
    #[error("a secret is already there")]
    AlreadyExists,
    /// Another secret than the expected one lies there; seal again for this one.
    #[error("another secret lies there")]
    OtherSecret { secret: SecretId },
    /// The number was used before at this place.
    #[error("version {version} was already used")]
    NumberUsed { version: Version },
    /// No number is left.
    #[error("no version number is left")]
    NumbersExhausted,
    /// The active version alone cannot be deleted.
    #[error("version {version} is active")]
    ActiveVersion { version: Version },
    /// The put did not name the latest version.
    #[error("check-and-set: the latest version is {latest}")]
    CheckAndSet { latest: u32 },
    /// The secret wants check-and-set and the put did not use it.
    #[error("check-and-set is required")]
    CheckAndSetRequired,
    /// A precondition does not hold.
    #[error("precondition {number} does not hold")]
    Precondition { number: u16 },
    /// The secret is protected.
    #[error("the secret is protected")]
    Protected,
    /// A move would make one number stand for two values.
    #[error("version numbers of the two places overlap")]
    NumbersOverlap,
    /// The deletion can no longer be undone.
    #[error("the secret can no longer be restored")]
    NotRestorable,
    /// Disclosures are refused while the audit is at its limit.
    #[error("the audit log is full")]
    AuditFull,
    /// The command is not one that this state machine understands, or breaks one of its limits.
    #[error("malformed command: {0}")]
    Malformed(String),
    /// The proposal is older than the window of outcomes; it was perhaps applied before.
    #[error("the proposal came too late")]
    TooLate,
    /// The secret has as many versions as one may have, and none of them is destroyed.
    #[error("the secret has {limit} versions, and may have no more; destroy some, or set how many are kept")]
    TooManyVersions { limit: u32 },
    /// The answer would have more bytes than the answer to one command may have.
    #[error("the answer would be too large; ask for less at once")]
    AnswerTooLarge,
}
