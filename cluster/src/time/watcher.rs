//! Compares this node's wall clock with the voters', sets the leader's clock, and takes a node whose
//! clock is wrong out of office.

use super::{
    clocks::{Clocks, whole_ms},
    comparison::{Agreement, Distance, compare},
    leader::LeaderClock,
};
use crate::{
    metric_definitions,
    node::{
        Leadership,
        peer_message::{PeerAnswer, PeerRequest},
    },
    state::Store,
};
use bytes::Bytes;
use conclave_raft::{
    codec,
    identity::RaftId,
    node::{RaftNode, RaftStatus},
};
use futures::{StreamExt, stream::FuturesUnordered};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How often a leader, or a node that is kept from leading, compares; others half as often.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// How long a voter may take to tell its time. Enough for any network on which Raft works, and less
/// than a client notices when a leader has just taken office beside a dead voter.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a hand-over may take before it is tried again.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// What the last comparison said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClockReport {
    /// This node's distance from the voters' median in milliseconds (positive: this node's is
    /// ahead), once a majority agreed.
    pub(crate) skew_ms: Option<i64>,
    /// Whether the clock keeps this node from leading.
    pub(crate) refuses_lead: bool,
    /// The highest version of apply's rules that every member knows; `None` until all have said.
    pub(crate) rules_known_by_all: Option<u32>,
    /// A majority of the voters known here says that this node is no member.
    pub(crate) others_miss_us: bool,
}

/// The task that compares.
pub(crate) struct ClockWatcher {
    pub(crate) raft: RaftNode,
    pub(crate) clocks: Arc<dyn Clocks>,
    pub(crate) clock: Arc<LeaderClock>,
    pub(crate) store: Arc<Store>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) bound: Duration,
    pub(crate) rules_known: u32,
    pub(crate) report: watch::Sender<ClockReport>,
}

/// What one round of questions brought.
#[derive(Default)]
struct Readings {
    distances: Vec<Distance>,
    rules_known: BTreeMap<RaftId, u32>,
    /// How many voters do not have this node in their membership.
    missing_us: usize,
}

impl Readings {
    /// The highest version of the rules that all of them know; `None` while one has not said.
    fn rules_known_by_all<'m>(&self, mut members: impl Iterator<Item = &'m RaftId>) -> Option<u32> {
        members
            .all(|member| self.rules_known.contains_key(member))
            .then(|| self.rules_known.values().min().copied())
            .flatten()
    }
}

/// What one member said.
struct Reading {
    distance: Distance,
    rules_known: u32,
    member: bool,
}

impl ClockWatcher {
    /// Compares for as long as the node runs.
    pub(crate) async fn run(self) {
        let mut leadership = self.leadership.clone();
        loop {
            let seen = leadership.borrow_and_update().clone();
            if self.clock.agreed(seen.term).is_none() || !seen.leads_here() {
                // Another term's anchor is worth nothing, and a follower's clock stamps nothing.
                self.clock.unset();
            }
            let compared_in_time = tokio::select! {
                biased;
                () = self.compare_once(&seen) => true,
                // Whoever takes office is not kept waiting for a comparison begun before.
                _ = leadership.changed() => false,
            };
            if !compared_in_time {
                leadership.mark_changed();
                continue;
            }
            let urgent = seen.leads_here() || self.report.borrow().refuses_lead;
            let pause = if urgent { COMPARE_EVERY } else { COMPARE_EVERY * 2 };
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                _ = leadership.changed() => leadership.mark_changed(),
            }
        }
    }

    async fn compare_once(&self, seen: &Leadership) {
        let status = self.raft.status().borrow().clone();
        let Some(me) = status.raft_id else { return };
        let voters = status.members.values().filter(|member| member.voter).count();
        let (readings, agreement) = self.ask_voters(me, &status, voters, seen).await;
        let rules_known_by_all = readings.rules_known_by_all(status.members.keys());
        let (skew_ms, refuses_lead) = match agreement {
            Agreement::Agreed {
                median_ms,
                within_bound,
            } => (Some(-median_ms), !within_bound),
            // Nobody knows the time better than this node does.
            Agreement::NoMajority => (self.report.borrow().skew_ms, false),
        };
        let others_miss_us = readings.missing_us > voters / 2;
        self.publish(ClockReport {
            skew_ms,
            refuses_lead,
            rules_known_by_all,
            others_miss_us,
        });
        if seen.leads_here() {
            self.set_or_hand_over(seen.term, agreement).await;
        }
    }

    /// Asks every member; stops early once a majority of the voters agrees, while entries wait for a
    /// first stamp.
    async fn ask_voters(
        &self,
        me: RaftId,
        status: &RaftStatus,
        voters: usize,
        seen: &Leadership,
    ) -> (Readings, Agreement) {
        let bound_ms = i64::try_from(whole_ms(self.bound)).unwrap_or(i64::MAX);
        let mut readings = Readings::default();
        readings.rules_known.insert(me, self.rules_known);
        if status.members.get(&me).is_some_and(|member| member.voter) {
            readings.distances.push(0);
        }
        let mut asked: FuturesUnordered<_> = status
            .members
            .iter()
            .filter(|&(&member, _)| member != me)
            .map(|(&member, record)| async move { (member, record.voter, self.ask(member).await) })
            .collect();
        let mut agreement = compare(&readings.distances, voters, bound_ms);
        let waited_for = seen.leads_here() && self.clock.agreed(seen.term).is_none();
        while !(waited_for
            && matches!(
                agreement,
                Agreement::Agreed {
                    within_bound: true,
                    ..
                }
            ))
        {
            let Some((member, voter, answer)) = asked.next().await else {
                break;
            };
            let Some(reading) = answer else { continue };
            readings.rules_known.insert(member, reading.rules_known);
            if voter {
                readings.missing_us += usize::from(!reading.member);
                readings.distances.push(reading.distance);
                agreement = compare(&readings.distances, voters, bound_ms);
            }
        }
        (readings, agreement)
    }

    async fn ask(&self, member: RaftId) -> Option<Reading> {
        let asked = Instant::now();
        let request = Bytes::from(codec::encode(&PeerRequest::Clock));
        let answer = self
            .raft
            .call(member, request, asked + ANSWER_TIMEOUT)
            .await
            .ok()?;
        let PeerAnswer::Clock {
            wall_ms,
            rules_known,
            member,
        } = codec::decode(&answer).ok()?
        else {
            return None;
        };
        // The voter read its clock somewhere between; half the round trip is the best guess.
        let theirs_ms = wall_ms.saturating_add(whole_ms(asked.elapsed() / 2));
        let distance = i128::from(theirs_ms) - i128::from(self.clocks.wall_ms());
        let distance = i64::try_from(distance).unwrap_or(if distance > 0 { i64::MAX } else { i64::MIN });
        Some(Reading {
            distance,
            rules_known,
            member,
        })
    }

    async fn set_or_hand_over(&self, term: u64, agreement: Agreement) {
        let state_time_ms = self.store.view().time_ms();
        match agreement {
            Agreement::Agreed {
                median_ms,
                within_bound: true,
            } => {
                if self.clock.agreed(term) != Some(true) {
                    let agreed_ms = self.clocks.wall_ms().saturating_add_signed(median_ms);
                    self.clock.set(term, agreed_ms.max(state_time_ms), true);
                }
            }
            Agreement::Agreed {
                median_ms,
                within_bound: false,
            } => {
                self.clock.unset();
                tracing::warn!(
                    skew_ms = -median_ms,
                    bound_ms = whole_ms(self.bound),
                    "this node's wall clock contradicts a majority of the voters; handing leadership over",
                );
                let deadline = Instant::now() + HAND_OVER_TIMEOUT;
                if let Err(error) = self.raft.transfer_leadership(None, deadline).await {
                    tracing::warn!(%error, "leadership could not be handed over; trying again");
                }
            }
            Agreement::NoMajority => {
                if self.clock.agreed(term).is_none() {
                    tracing::warn!(
                        "no majority of the voters agrees on the time; going on from the state's time"
                    );
                    self.clock.set(term, state_time_ms, false);
                }
            }
        }
    }

    fn publish(&self, report: ClockReport) {
        self.raft.set_may_lead(!report.refuses_lead);
        if let Some(skew_ms) = report.skew_ms {
            metrics::gauge!(metric_definitions::CLOCK_SKEW_SECONDS).set(skew_ms as f64 / 1000.0);
        }
        let before = self.report.send_replace(report);
        if before.refuses_lead != report.refuses_lead {
            let skew_ms = report.skew_ms.unwrap_or_default();
            if report.refuses_lead {
                tracing::warn!(
                    skew_ms,
                    "the wall clock is too far from the voters' median; this node does not lead"
                );
            } else {
                tracing::info!(
                    skew_ms,
                    "the wall clock agrees with the voters again; this node may lead"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_known_by_all_once_the_last_member_said_so() {
        let members = [RaftId(1), RaftId(2), RaftId(3)];
        let mut readings = Readings::default();
        readings.rules_known.extend([(RaftId(1), 3), (RaftId(2), 2)]);
        assert_eq!(readings.rules_known_by_all(members.iter()), None);
        readings.rules_known.insert(RaftId(3), 4);
        assert_eq!(readings.rules_known_by_all(members.iter()), Some(2));
    }
}
