//! Nobody changes the membership, or who leads, on a member's word alone: the asking edge has written
//! a record of who wants it through the log, and the leader looks that up in its own state before it
//! obeys.
//!
//! The invariant: at one leader a record serves one change (and being asked for that once more, as
//! happens when an answer is lost), only for the node that proposed it, and only while it is fresh.
//! What was used is not replicated: the next leader obeys a record again, within its two minutes.

use super::{Inner, OperateError, peer_message::MemberOperation};
use crate::{
    agreement::Fault,
    model::{Action, AuditKey, AuditRecord, OutcomeKind},
};
use conclave_raft::identity::RaftId;
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How old a record may be, in milliseconds of the leader's time: longer than a change is waited for
/// unless an operator says so.
const FRESH_MS: u64 = 120_000;

/// How many records are remembered. Each was committed within the last two minutes.
const USED_MAX: usize = 4096;

/// How long the leader waits until it has applied the record, which the asker saw committed.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// What this node, as the leader, did for which record.
#[derive(Default)]
pub(super) struct ChangeRecords {
    used: Mutex<BTreeMap<AuditKey, Used>>,
}

struct Used {
    operation: MemberOperation,
    time_ms: u64,
}

impl ChangeRecords {
    /// Marks the record as used for this operation, if it may be.
    fn claim(
        &self,
        key: AuditKey,
        record: &AuditRecord,
        asker: RaftId,
        operation: &MemberOperation,
        now_ms: u64,
    ) -> Result<(), &'static str> {
        if (record.action, record.outcome) != (Action::Operate, OutcomeKind::Done) {
            return Err("the record of this change is one of something else");
        }
        if record.node != asker {
            return Err("the record of this change was written by another node");
        }
        let is_fresh = |time_ms: u64| time_ms.saturating_add(FRESH_MS) > now_ms;
        if !is_fresh(record.time_ms) {
            return Err("the record of this change is too old for the node that leads now; ask again");
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, used| is_fresh(used.time_ms));
        match used.get(&key) {
            Some(used) if used.operation == *operation => Ok(()),
            Some(_) => Err("the record of this change served another one"),
            None if used.len() >= USED_MAX => Err("too many changes are asked for"),
            None => {
                let operation = operation.clone();
                let time_ms = record.time_ms;
                used.insert(key, Used { operation, time_ms });
                Ok(())
            }
        }
    }
}

impl Inner {
    /// Goes on only if the asker wrote the record of this operation. `NoLeader` where this node cannot
    /// tell: it does not lead, or is behind.
    pub(super) async fn require_record(
        &self,
        asker: RaftId,
        key: AuditKey,
        operation: &MemberOperation,
        deadline: Instant,
    ) -> Result<(), OperateError> {
        let applied_by = deadline.min(Instant::now() + APPLY_TIMEOUT);
        if !self.raft.wait_applied(key.index, applied_by).await {
            return Err(OperateError::NoLeader);
        }
        let now_ms = self.leaders_time_ms().ok_or(OperateError::NoLeader)?;
        let record = match self.store.view().audit_record(key) {
            Ok(record) => record,
            Err(error) => {
                Fault::of_reading("an audit record", &error)
                    .halt(&self.raft)
                    .await;
                return Err(OperateError::NoLeader);
            }
        };
        let claimed = match record {
            Some(record) => self.change_records.claim(key, &record, asker, operation, now_ms),
            None => Err("there is no record of this change"),
        };
        claimed.map_err(|reason| {
            tracing::warn!(%asker, reason, "a change of the membership or of who leads was refused");
            OperateError::Refused(reason.to_owned())
        })
    }

    /// The time in milliseconds, if this node leads and has a clock for it.
    pub(super) fn leaders_time_ms(&self) -> Option<u64> {
        let seen = self.leadership.borrow().clone();
        let stamp = self.clock.stamp(seen.term).filter(|_| seen.leads_here())?;
        Some(stamp.time_ms.max(self.store.view().time_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Sealed, Token, ValueId};

    const NODE: RaftId = RaftId(2);
    const TIME_MS: u64 = 1_700_000_000_000;

    fn key(index: u64) -> AuditKey {
        AuditKey {
            index,
            position: 0,
            step: 0,
        }
    }

    fn record() -> AuditRecord {
        AuditRecord {
            time_ms: TIME_MS,
            action: Action::Operate,
            outcome: OutcomeKind::Done,
            place: None,
            secret: None,
            version: None,
            node: NODE,
            principal: Token([1; 16]),
            attempts: 1,
            place_count: 0,
            previous_leaf: [0; 32],
            commitment: [0; 32],
            sealed: Sealed {
                key_term: 1,
                value_id: ValueId([1; 16]),
                nonce: [1; 24],
                ciphertext: vec![1].into(),
            },
        }
    }

    const PROMOTE: MemberOperation = MemberOperation::Promote { raft_id: RaftId(4) };
    const REMOVE: MemberOperation = MemberOperation::Remove { raft_id: RaftId(4) };

    #[test]
    fn a_record_serves_one_change_which_may_be_asked_again() {
        let records = ChangeRecords::default();
        let claim =
            |key, operation: &MemberOperation| records.claim(key, &record(), NODE, operation, TIME_MS + 1);
        assert!(claim(key(7), &PROMOTE).is_ok());
        assert!(claim(key(7), &PROMOTE).is_ok());
        assert!(claim(key(7), &REMOVE).is_err());
        assert!(claim(key(8), &REMOVE).is_ok());
    }

    #[test]
    fn a_record_is_its_proposers_of_an_operation_that_went_on_and_fresh() {
        let claim = |record: &AuditRecord, asker, now_ms| {
            ChangeRecords::default().claim(key(7), record, asker, &PROMOTE, now_ms)
        };
        assert!(claim(&record(), NODE, TIME_MS + FRESH_MS - 1).is_ok());
        assert!(claim(&record(), NODE, TIME_MS + FRESH_MS).is_err());
        assert!(claim(&record(), RaftId(3), TIME_MS).is_err());
        let of_a_look = AuditRecord {
            action: Action::Info,
            ..record()
        };
        assert!(claim(&of_a_look, NODE, TIME_MS).is_err());
        let of_a_refusal = AuditRecord {
            outcome: OutcomeKind::Denied,
            ..record()
        };
        assert!(claim(&of_a_refusal, NODE, TIME_MS).is_err());
    }
}
