//! Commands: lists of steps, all or nothing, on preconditions.

use crate::model::{AuditStub, EndAction, Place, Sealed, SecretId, SecretSettings, ValueDigest, Version};
use serde::{Deserialize, Serialize};

/// A list of steps that is done wholly or not at all, after guards whose effect stays either way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Steps whose effect stays even if the rest is refused (a token's use is spent even if the
    /// read fails). The first that is refused ends the command.
    pub guards: Vec<Step>,
    /// Steps that are done all or none.
    pub steps: Vec<Step>,
}

/// One operation with its preconditions and its audit record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// All must hold, else the step is refused with the first that does not.
    pub preconditions: Vec<Precondition>,
    /// What to do.
    pub operation: Operation,
    /// The record to write, whatever the outcome. Without one (or with one whose sealed part is
    /// empty) go only the cluster's own upkeep, re-sealing, and what lies in
    /// [`crate::model::Token::SYSTEM_NAMESPACE`]; any other step is refused.
    pub audit: Option<AuditStub>,
}

impl Command {
    /// Whether it is one of the cluster's own upkeep: a single step, bare of everything else. Only a
    /// leader proposes such a command, for itself; from another node it is refused.
    pub(crate) fn is_the_clusters_own(&self) -> bool {
        let [step] = self.steps.as_slice() else {
            return false;
        };
        let own = matches!(
            step.operation,
            Operation::AllocateRaftId
                | Operation::RaiseRules { .. }
                | Operation::SetAuditRetention(_)
                | Operation::Tick
        );
        own && self.guards.is_empty() && step.preconditions.is_empty() && step.audit.is_none()
    }
}

/// Something that must hold before a step. It may name any record, also one that isn't written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Precondition {
    /// Nothing lies at the place.
    Absent { place: Place },
    /// A secret lies at the place, this one where an id is given.
    Present { place: Place, secret: Option<SecretId> },
    /// The secret's revision is exactly this.
    AtRevision { secret: SecretId, revision: u64 },
    /// The revision of the secret's sealed bytes is exactly this.
    AtSealedRevision { secret: SecretId, sealed_revision: u64 },
    /// The version is available: enabled, unexpired, with disclosures left.
    Available { secret: SecretId, version: Version },
}

/// A secret named by where it lies or by its id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expected {
    /// Whatever lies at the place.
    At(Place),
    /// The secret with this id, wherever it lies (also while it is deleted recoverably).
    Id(SecretId),
}

/// Which version is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Which {
    /// This one.
    Number(Version),
    /// The active one.
    Active,
    /// The highest number that is not destroyed.
    Latest,
    /// The highest number that is available.
    LatestEnabled,
}

/// Everything that the machine can do.
#[expect(
    clippy::large_enum_variant,
    reason = "a put is the largest and the most frequent, and lives briefly"
)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Makes a secret without a version. Refused when the place is taken.
    Create {
        place: Place,
        secret: SecretId,
        create: Create,
    },
    /// Adds a version.
    Put(Put),
    /// Makes an available version the active one.
    Activate { at: Expected, version: Version },
    /// Changes the state of versions. Idempotent unless `refuse_destroyed`.
    ChangeVersions {
        at: Expected,
        /// At most 4,096.
        versions: Vec<Version>,
        change: VersionChange,
        /// Refuse with [`super::Refusal::ActiveVersion`] if one of them is active.
        spare_active: bool,
        /// Refuse with [`super::Refusal::NotAvailable`] if one of them is destroyed already, also
        /// where that is what is asked for.
        refuse_destroyed: bool,
    },
    /// Deletes the whole secret. `recoverable_ms: None` destroys every version and leaves only the
    /// tombstone; else the secret leaves its place and can be restored for so long.
    Delete {
        at: Expected,
        recoverable_ms: Option<u64>,
    },
    /// Puts a recoverably deleted secret back at a place that nobody has.
    Restore { secret: SecretId, place: Place },
    /// Moves a secret to another place, under another sealed name.
    Move { at: Expected, to: Place, name: Sealed },
    /// Replaces what is given of a secret's metadata and settings.
    Configure {
        at: Expected,
        metadata: Option<Sealed>,
        settings: Option<SecretSettings>,
    },
    /// Replaces what is given of a version's metadata and limits. Outer `None`: leave as it is.
    ConfigureVersion {
        at: Expected,
        version: Version,
        metadata: Option<Sealed>,
        lifetime_ms: Option<Option<u64>>,
        disclosures_left: Option<Option<u32>>,
        on_end: Option<EndAction>,
    },
    /// Discloses a value: resolves which, records it, counts it, and answers with the ciphertext.
    Disclose {
        at: Expected,
        which: Which,
        /// Answer [`super::Done::NotModified`] instead, without a record, if this is the active
        /// version and available.
        unless_active_is: Option<Version>,
    },
    /// Records a look at metadata, and answers with it.
    Look(Look),
    /// Records a refusal by the edge. It changes nothing else.
    Refuse(Refusing),
    /// Replaces sealed bytes by the same plaintext sealed under another term.
    Reseal {
        secret: SecretId,
        part: SealedPart,
        replacement: Sealed,
    },
    /// Gives out the next Raft id to a node's data directory. Alone in its command.
    AllocateRaftId,
    /// Raises the version of apply's rules. Proposed by the leader once every member knows it. Alone
    /// in its command.
    RaiseRules { version: u32 },
    /// Sets how many bytes of audit records are kept, and what happens at that limit. Always
    /// recorded; without a stub only once, by the leader of a new cluster.
    SetAuditRetention(AuditRetention),
    /// Carries only time: ends the window of outcomes on an idle cluster.
    Tick,
}

impl Operation {
    /// Whether it changes what a secret's poll is answered. That a disclosure may be a version's last is
    /// left to the staleness bound, so that polls never wait for gets.
    pub(crate) fn changes_a_secret(&self) -> bool {
        match self {
            Self::Create { .. }
            | Self::Put(_)
            | Self::Activate { .. }
            | Self::ChangeVersions { .. }
            | Self::Delete { .. }
            | Self::Restore { .. }
            | Self::Move { .. }
            | Self::Configure { .. }
            | Self::ConfigureVersion { .. } => true,
            Self::Disclose { .. }
            | Self::Look(_)
            | Self::Refuse(_)
            | Self::Reseal { .. }
            | Self::AllocateRaftId
            | Self::RaiseRules { .. }
            | Self::SetAuditRetention(_)
            | Self::Tick => false,
        }
    }
}

/// A new secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Create {
    /// Its name, sealed.
    pub name: Sealed,
    /// Its metadata, sealed.
    pub metadata: Option<Sealed>,
    /// Rules for its versions.
    pub settings: SecretSettings,
}

/// A new version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Put {
    /// Where.
    pub place: Place,
    /// The secret that value and digest were sealed for. If another lies there, the put is refused
    /// with [`super::Refusal::OtherSecret`], and the edge seals again for that one: this refusal is
    /// nobody's, and leaves no record.
    pub secret: SecretId,
    /// Makes the secret if nothing lies there; `None`: the edge saw one, so refuse with not found,
    /// likewise without a record, that it be made. (Where a caller wants the secret to be there, a
    /// precondition says so.)
    pub create: Option<Create>,
    /// Its number.
    pub number: NumberChoice,
    /// Whether it becomes active. The first version of a secret without an active one always is
    /// under `WhenNoneActive`.
    pub activation: Activation,
    /// What to do when the value is already there.
    pub same_value: SameValue,
    /// Refuse unless this is the number of the latest version (0: there is none).
    pub check_and_set: Option<u32>,
    /// The value, sealed.
    pub value: Sealed,
    /// The value's digest.
    pub digest: ValueDigest,
    /// Its metadata, sealed.
    pub metadata: Option<Sealed>,
    /// Lifetime in milliseconds from the entry's time; `None`: the secret's default.
    pub lifetime_ms: Option<u64>,
    /// Limit of disclosures; `None`: the secret's default.
    pub disclosures: Option<u32>,
    /// What either's end does; `None`: the secret's default.
    pub on_end: Option<EndAction>,
}

/// A version's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NumberChoice {
    /// One above the highest ever used at the place.
    Next,
    /// Exactly this; refused with [`super::Refusal::NumberUsed`] if it was ever used at the place.
    Exactly(Version),
}

/// Whether a put activates its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Activation {
    /// It does.
    Always,
    /// Only if the secret has no active version.
    WhenNoneActive,
    /// It does not.
    Never,
}

/// What a put does when its value is already stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SameValue {
    /// Stores a new version all the same.
    Store,
    /// Answers with the active version if that has the value, else with the latest if that has it,
    /// and stores nothing.
    KeepActiveOrLatest,
}

/// A change of versions' states.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VersionChange {
    /// To enabled, from disabled or deleted.
    Enable,
    /// To disabled, from enabled.
    Disable,
    /// To deleted; recoverable for so long from the entry's time (`None`: without limit).
    Delete { recoverable_ms: Option<u64> },
    /// From deleted back to enabled.
    Undelete,
    /// To destroyed, from anything.
    Destroy,
}

/// A look at metadata: one record, and what was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Look {
    /// At one secret. Answers [`super::Done::Secret`].
    Secret(Expected),
    /// At a whole store: the edge lists what the caller may see once it applied this entry.
    /// The name of the place is [`crate::model::Token::NONE`]. Answers [`super::Done::Recorded`].
    Store(Place),
    /// At anything else that is recorded (audit, status, operation of the cluster).
    Other,
    /// So many looks of the kind of [`Self::Other`] that share one record (at least 1).
    Several { looks: u32 },
}

/// A refusal by the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusing {
    /// What was asked about, where that is known.
    pub place: Option<Place>,
    /// The version that was asked for, where one was.
    pub version: Option<Version>,
    /// For how many attempts this record stands (at least 1).
    pub attempts: u32,
}

/// Which sealed bytes of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SealedPart {
    /// Its name.
    Name,
    /// Its metadata.
    Metadata,
    /// A version's value.
    Value(Version),
    /// A version's metadata.
    VersionMetadata(Version),
}

/// How much audit is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditRetention {
    /// Bytes of audit records, keys included.
    pub limit_bytes: u64,
    /// What happens there.
    pub at_limit: AtAuditLimit,
}

/// What happens at the audit's limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum AtAuditLimit {
    /// The oldest records are pruned, with a record of the gap.
    #[default]
    PruneOldest,
    /// Disclosures are refused until the limit is raised.
    RefuseDisclosures,
}
