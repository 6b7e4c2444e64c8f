//! The state as it is stored: one RocksDB database whose every pair counts in the digest.

use crate::{
    command::SecretView,
    model::{Action, AuditKey, AuditRecord, OutcomeKind, Place, PlaceRecord, Sealed, SecretId, SecretRecord, Token, Version, VersionRecord},
};
use std::io;

/// The state at one applied index. Cheap; holds a storage snapshot while it lives.
///
/// Every `Err` means local damage: the caller reports it and the node halts.
pub struct StateView {}

/// Which audit records are wanted; `None` leaves a field open. Tokens and kinds are in clear here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// State time in milliseconds, included.
    pub since_ms: Option<u64>,
    /// State time in milliseconds, excluded.
    pub until_ms: Option<u64>,
    /// Records about this place.
    pub place: Option<Place>,
    /// Records of this principal.
    pub principal: Option<Token>,
    /// Records of these actions (empty: all).
    pub actions: Vec<Action>,
    /// Records with this outcome.
    pub outcome: Option<OutcomeKind>,
}

/// One page of audit records.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// In the order asked for.
    pub records: Vec<(AuditKey, AuditRecord)>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<AuditKey>,
}

impl StateView {
    /// The index that was applied last; `None` for an empty state.
    pub fn applied_index(&self) -> Option<u64> {
        todo!()
    }

    /// State time in milliseconds.
    pub fn time_ms(&self) -> u64 {
        todo!()
    }

    /// What is known of a place.
    pub fn place(&self, _place: &Place) -> io::Result<Option<PlaceRecord>> {
        todo!()
    }

    /// A secret.
    pub fn secret(&self, _secret: &SecretId) -> io::Result<Option<SecretRecord>> {
        todo!()
    }

    /// A version.
    pub fn version(&self, _secret: &SecretId, _version: Version) -> io::Result<Option<VersionRecord>> {
        todo!()
    }

    /// A secret with its versions, as a look at it would answer at the state's time.
    pub fn secret_view(&self, _secret: &SecretId) -> io::Result<Option<SecretView>> {
        todo!()
    }

    /// A stored value. Only for openings without a disclosure (design, section 10): what is
    /// needed to re-seal or to decide rights.
    pub fn sealed_value(&self, _secret: &SecretId, _version: Version) -> io::Result<Option<Sealed>> {
        todo!()
    }

    /// The next secrets by id after `after`, at most `limit`.
    pub fn secrets(&self, _after: Option<SecretId>, _limit: usize) -> io::Result<Vec<(SecretId, SecretRecord)>> {
        todo!()
    }

    /// Audit records from `from` on (newest first when `descending`), at most `limit`.
    pub fn audit(&self, _filter: &AuditFilter, _from: Option<AuditKey>, _limit: usize, _descending: bool) -> io::Result<AuditPage> {
        todo!()
    }
}
