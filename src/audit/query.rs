//! Reading the audit log.

use super::PlainRecord;
use crate::{grants::Principal, name::FullName, seal::Keyring};
use conclave_cluster::{
    model::{Action, AuditKey, AuditRecord, OutcomeKind, Version},
    state::{AuditFilter, StateView},
};
use std::io;

/// Which records are wanted; what is left open matches all.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// State time in milliseconds, included.
    pub since_ms: Option<u64>,
    /// State time in milliseconds, excluded.
    pub until_ms: Option<u64>,
    /// Records about this secret's place.
    pub name: Option<FullName>,
    /// Records of this caller.
    pub principal: Option<Principal>,
    /// Records of these actions; empty: all.
    pub actions: Vec<Action>,
    /// Records with this outcome.
    pub outcome: Option<OutcomeKind>,
    /// At most so many; 1 to [`Self::LIMIT`].
    pub limit: usize,
    /// Where the page starts: an [`AuditPage::next`].
    pub cursor: Option<AuditKey>,
    /// Newest first; otherwise oldest first.
    pub newest_first: bool,
}

impl AuditQuery {
    /// The most records of a page.
    pub const LIMIT: usize = 1000;

    /// Runs it on the local state and opens what it finds.
    pub fn run(&self, view: &StateView, keyring: &Keyring) -> io::Result<AuditPage> {
        let filter = AuditFilter {
            since_ms: self.since_ms,
            until_ms: self.until_ms,
            place: self.name.as_ref().map(|name| keyring.place(name)),
            principal: self
                .principal
                .as_ref()
                .map(|principal| keyring.principal(principal)),
            actions: self.actions.clone(),
            outcome: self.outcome,
        };
        let page = view.audit(
            &filter,
            self.cursor,
            self.limit.clamp(1, Self::LIMIT),
            self.newest_first,
        )?;
        let entries = page
            .records
            .into_iter()
            .map(|(key, record)| AuditEntry::open(keyring, key, &record));
        Ok(AuditPage {
            entries: entries.collect(),
            next: page.next,
        })
    }
}

/// One page.
pub struct AuditPage {
    /// In the order asked for.
    pub entries: Vec<AuditEntry>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<AuditKey>,
}

/// One record, opened. It holds names and actors in clear: for callers with `audit` only.
pub struct AuditEntry {
    /// Where its command lies in the log.
    pub key: AuditKey,
    /// State time in milliseconds.
    pub time_ms: u64,
    /// What was asked for.
    pub action: Action,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// The version, where one was meant or found.
    pub version: Option<Version>,
    /// The Raft id of the node whose edge proposed it.
    pub node_id: u64,
    /// How many attempts it stands for.
    pub attempts: u32,
    /// The sealed part, opened and checked against its commitment; or why that failed. `None` in
    /// records that the cluster itself wrote (of a gap where the oldest were pruned).
    pub plain: Result<Option<PlainRecord>, String>,
}

impl AuditEntry {
    fn open(keyring: &Keyring, key: AuditKey, record: &AuditRecord) -> Self {
        Self {
            key,
            time_ms: record.time_ms,
            action: record.action,
            outcome: record.outcome,
            version: record.version,
            node_id: record.node.0,
            attempts: record.attempts,
            plain: if record.sealed.ciphertext.is_empty() {
                Ok(None)
            } else {
                PlainRecord::open(keyring, &record.sealed, &record.commitment)
                    .map(Some)
                    .map_err(|error| error.to_string())
            },
        }
    }
}
