//! What a leader does for its cluster without being asked: it ends the window of outcomes on an idle
//! cluster, raises the rules once every member knows them, sets a new cluster's retention, and lets
//! a learner that caught up take its predecessor's place.

use super::{Inner, Leadership, Rejoin, joins};
use crate::{
    agreement::{Fault, looking_twice},
    apply::AUDIT_LIMIT_BYTES_MIN,
    command::Operation,
    state::Meta,
};
use conclave_raft::{
    identity::RaftId,
    node::{MembershipChange, MembershipError, RaftStatus},
};
use std::{io, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often it is looked whether there is anything to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long one piece of work may take before it is looked at again.
const WORK_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster counts as newly formed up to this index.
const NEW_CLUSTER_INDEX: u64 = 1024;

/// Works for as long as the node runs.
pub(super) async fn run(node: Arc<Inner>) {
    let mut leadership = node.leadership.subscribe();
    loop {
        let seen = leadership.borrow_and_update().clone();
        let status = node.raft.status().borrow().clone();
        if seen.leads_here() {
            tokio::select! {
                biased;
                () = node.keep_up(&seen, &status) => {}
                _ = leadership.changed() => {
                    leadership.mark_changed();
                    continue;
                }
            }
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = leadership.changed() => leadership.mark_changed(),
        }
    }
}

impl Inner {
    async fn keep_up(&self, seen: &Leadership, status: &RaftStatus) {
        let due = match looking_twice(|| self.due(seen, status)) {
            Ok(due) => due,
            Err(error) => {
                return Fault::of_reading("the window of outcomes", &error)
                    .halt(&self.raft)
                    .await;
            }
        };
        for operation in due {
            let deadline = Instant::now() + WORK_TIMEOUT;
            if let Err(error) = self.proposer.propose(&joins::upkeep(operation), deadline).await {
                tracing::debug!(%error, "a command of the cluster's upkeep was not applied; trying again");
            }
        }
        if self.options.rejoin == Rejoin::Automatic {
            self.let_successors_take_over(status).await;
        }
    }

    fn due(&self, seen: &Leadership, status: &RaftStatus) -> io::Result<Vec<Operation>> {
        let view = self.store.view();
        let meta = view.meta();
        let mut due = Vec::new();
        let mut wanted = self.options.audit_retention;
        wanted.limit_bytes = wanted.limit_bytes.max(AUDIT_LIMIT_BYTES_MIN);
        let new_cluster = status
            .applied_index
            .is_some_and(|index| index < NEW_CLUSTER_INDEX);
        let unset = Meta::default().retention;
        if new_cluster && meta.retention == unset && wanted != unset {
            due.push(Operation::SetAuditRetention(wanted));
        }
        due.extend(rules_to_raise(
            self.clock_report.borrow().rules_known_by_all,
            meta.rules_version,
        ));
        let now_ms = self.clock.stamp(seen.term).map_or(0, |stamp| stamp.time_ms);
        if view.upkeep_due_ms()?.is_some_and(|due_ms| now_ms > due_ms) {
            due.push(Operation::Tick);
        }
        Ok(due)
    }

    async fn let_successors_take_over(&self, status: &RaftStatus) {
        for (predecessor, successor) in successions(status) {
            let change = MembershipChange::Replace {
                predecessor,
                successor,
            };
            match self
                .raft
                .change_membership(change, Instant::now() + WORK_TIMEOUT)
                .await
            {
                Ok(()) => tracing::info!(%predecessor, %successor, "a node took its predecessor's place"),
                Err(MembershipError::NotCaughtUp { behind_entries }) => {
                    tracing::debug!(%successor, behind_entries, "a learner is catching up");
                }
                Err(error) => tracing::warn!(%predecessor, %successor, %error, "a replacement has to wait"),
            }
        }
    }
}

/// One version at a time, and none before every member knows it.
fn rules_to_raise(known_by_all: Option<u32>, in_force: u32) -> Option<Operation> {
    let next = in_force.checked_add(1)?;
    (known_by_all? >= next).then_some(Operation::RaiseRules { version: next })
}

/// Voters with a learner of the same name and a later id.
fn successions(status: &RaftStatus) -> Vec<(RaftId, RaftId)> {
    let voters = status.members.iter().filter(|(_, member)| member.voter);
    voters
        .filter_map(|(&voter, predecessor)| {
            let successor = status.members.range(RaftId(voter.0 + 1)..).find(|(_, member)| {
                !member.voter
                    && member.record.name == predecessor.record.name
                    && member.matched_index.is_some()
            })?;
            Some((voter, *successor.0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_raft::{identity::NodeRecord, node::Member};

    #[test]
    fn rules_are_raised_by_one_once_every_member_knows_the_next() {
        assert_eq!(rules_to_raise(None, 1), None);
        assert_eq!(rules_to_raise(Some(1), 1), None);
        assert_eq!(
            rules_to_raise(Some(2), 1),
            Some(Operation::RaiseRules { version: 2 })
        );
        assert_eq!(
            rules_to_raise(Some(5), 1),
            Some(Operation::RaiseRules { version: 2 })
        );
        assert_eq!(rules_to_raise(Some(u32::MAX), u32::MAX), None);
    }

    #[test]
    fn only_a_learner_of_the_same_name_that_answers_succeeds() {
        let member = |name: &str, voter, matched_index| Member {
            record: NodeRecord {
                name: name.into(),
                address: "127.0.0.1:1".into(),
            },
            voter,
            matched_index,
            last_acknowledged_ms: None,
        };
        let members = [
            (RaftId(1), member("a", true, Some(5))),
            (RaftId(2), member("b", true, Some(5))),
            (RaftId(3), member("c", true, Some(5))),
            (RaftId(4), member("b", false, Some(1))),
            (RaftId(5), member("c", false, None)),
            (RaftId(6), member("d", false, Some(1))),
        ];
        let status = RaftStatus {
            members: members.into(),
            ..RaftStatus::default()
        };
        assert_eq!(successions(&status), [(RaftId(2), RaftId(4))]);
    }
}
