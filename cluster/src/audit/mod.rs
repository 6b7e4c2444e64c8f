//! Audit records in order, filtered and in pages.
//!
//! Records are stored by time (the key). Three indexes tell which records are about a place, and which
//! entries have records of a principal, of an action and outcome. A filter that names several of them is
//! answered by leaping from one to the next, and looking through the entries that all of them name, so that
//! a page costs about as much as its answer, not as the audit is long. State time never goes back, so that a
//! time is found by bisection.

mod query;

use crate::model::{Action, AuditKey, AuditRecord, OutcomeKind, Place, Token};

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

impl AuditFilter {
    /// Whether a record is wanted, whenever it was written.
    fn matches(&self, record: &AuditRecord) -> bool {
        self.place.is_none_or(|place| record.place == Some(place))
            && self
                .principal
                .is_none_or(|principal| record.principal == principal)
            && (self.actions.is_empty() || self.actions.contains(&record.action))
            && self.outcome.is_none_or(|outcome| record.outcome == outcome)
    }
}

/// One page of audit records.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// In the order asked for. May be fewer than asked for, also when there are more.
    pub records: Vec<(AuditKey, AuditRecord)>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<AuditKey>,
}
