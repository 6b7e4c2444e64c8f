//! What the machine stores. Every type here is a record on disk: changing one changes the format.

mod audit_record;
mod identifiers;
mod number_ranges;
mod place_record;
mod sealed;
mod secret;
mod version;

pub use audit_record::{Action, AuditKey, AuditRecord, AuditStub, OutcomeKind};
pub use identifiers::{Place, ProposalId, SecretId, Token, ValueId, Version};
pub use number_ranges::NumberRanges;
pub use place_record::{PlaceRecord, Tombstone};
pub use sealed::{Sealed, ValueDigest};
pub use secret::{Deletion, SecretRecord, SecretSettings};
pub use version::{EndAction, VersionRecord, VersionState};
