//! What is published of a node, built from openraft's metrics.

use super::{Member, RaftStatus, Role, core::Core, disproof};
use crate::{
    identity::{NodeRecord, RaftId},
    storage::{identity_store::Evidence, space::SpaceLevel},
    transport::{Transport, host::Host},
    types::{LogId, Metrics, Raft},
};
use openraft::{Instant as _, ServerState, async_runtime::WatchReceiver};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// So many election time-outs without a word from the leader, and none is known any more: by then
/// another would lead if a majority were there. openraft goes on naming the last one.
const SILENT_ELECTION_TIMEOUTS: u32 = 8;

/// Publishes the identity before Raft runs.
pub(super) fn publish_identity(core: &Core) {
    let incarnation = core.incarnation();
    core.status.send_modify(|status| {
        status.cluster_id = incarnation.map(|(cluster_id, _)| cluster_id);
        status.raft_id = incarnation.map(|(_, raft_id)| raft_id);
    });
}

/// The least time between two publications of a log that only grows. openraft tells of several changes
/// for each entry, and every publication wakes whoever watches.
const GROWTH_EVERY: Duration = Duration::from_millis(10);

/// Publishes changes until Raft stops: at once who leads, who is a member and what ends, and within
/// [`GROWTH_EVERY`] how far the log and each member are. If it stops unasked, so does the node: also when
/// it panics, which only shows in that nothing is published any more.
pub(super) async fn follow(core: Arc<Core>, transport: Arc<Transport>, raft: Raft) {
    let mut metrics = raft.metrics();
    let mut space = core.space.watch();
    let mut members = Vec::new();
    let silence = core.options.election_timeout * SILENT_ELECTION_TIMEOUTS;
    let mut look_for_silence = tokio::time::interval(silence / 4);
    look_for_silence.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Who was silent, in which term.
    let mut silent = None;
    let mut published = None;
    let mut growth_due = Instant::now();
    loop {
        let out_of_space = *space.borrow_and_update() < SpaceLevel::Enough;
        let (standing, due) = {
            let present = metrics.borrow_and_update();
            let applied = present.last_applied.map(|log_id| log_id.index);
            core.applied_index
                .send_if_modified(|before| std::mem::replace(before, applied) != applied);
            let standing = (Standing::of(&present), silent, out_of_space);
            let is_due = published.as_ref() != Some(&standing) || Instant::now() >= growth_due;
            (standing, is_due.then(|| present.clone()))
        };
        let has_grown = due.is_none();
        if let Some(present) = due {
            published = Some(standing);
            growth_due = Instant::now() + GROWTH_EVERY;
            let is_silent = silent.is_some() && silent == leadership(&present);
            let leader = present.current_leader.filter(|_| !is_silent);
            publish(&core, &present, leader.map(RaftId), out_of_space);
            close_departed(&transport, &present, &mut members);
            if let Err(ended) = &present.running_state {
                return halt(&core, &transport, ended.to_string());
            }
        }
        let more = tokio::select! {
            biased;
            _ = look_for_silence.tick() => {
                let present = metrics.borrow_and_update().clone();
                silent = silent_leader(&raft, &present, silence).await;
                true
            }
            more = space.changed() => more.is_ok(),
            more = metrics.changed() => more.is_ok(),
            () = sleep_until(growth_due), if has_grown => true,
        };
        if !more {
            return halt(&core, &transport, "Raft ended without a word: it panicked".into());
        }
    }
}

/// What is published at once when it changes.
#[derive(PartialEq)]
struct Standing {
    has_ended: bool,
    state: ServerState,
    term: u64,
    leader: Option<u64>,
    membership: Option<LogId>,
}

impl Standing {
    fn of(metrics: &Metrics) -> Self {
        Self {
            has_ended: metrics.running_state.is_err(),
            state: metrics.state,
            term: metrics.current_term,
            leader: metrics.current_leader,
            membership: *metrics.membership_config.log_id(),
        }
    }
}

/// Closes connections to incarnations that are members no more, where `members` are not as they were.
fn close_departed(transport: &Transport, metrics: &Metrics, members: &mut Vec<(RaftId, NodeRecord)>) {
    let present: Vec<_> = metrics
        .membership_config
        .nodes()
        .map(|(raft_id, record)| (RaftId(*raft_id), record.clone()))
        .collect();
    if present == *members {
        return;
    }
    *members = present;
    transport.retain(|target| {
        members.iter().any(|(raft_id, record)| {
            Some(*raft_id) == target.raft_id && record.name == target.name && record.address == target.address
        })
    });
}

/// Raft has ended. Where the node withdrew, it is halted once its directory is marked.
fn halt(core: &Arc<Core>, transport: &Arc<Transport>, reason: String) {
    if core.is_withdrawn() {
        return;
    }
    match core.opened().ok().and_then(|opened| opened.machine.damage()) {
        Some(damage) => drop(disproof::halt_for_good(
            core,
            transport,
            damage,
            Evidence::OwnLook,
        )),
        None => core.halt(reason),
    }
}

/// Who leads in which term, where it is another node.
fn leadership(metrics: &Metrics) -> Option<(u64, u64)> {
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
    Some((metrics.current_term, leader))
}

/// The leader of a term, if it has not been heard of for this long, or not since this node started.
async fn silent_leader(raft: &Raft, metrics: &Metrics, silence: Duration) -> Option<(u64, u64)> {
    let leadership = leadership(metrics)?;
    let heard = raft
        .with_raft_state(|state| state.vote_last_modified())
        .await
        .ok()?;
    heard
        .is_none_or(|heard| heard.elapsed() > silence)
        .then_some(leadership)
}

fn publish(core: &Core, metrics: &Metrics, leader: Option<RaftId>, out_of_space: bool) {
    let members = members(metrics);
    let voter_sets = voter_sets(metrics);
    core.status.send_if_modified(|status| {
        let next = RaftStatus {
            cluster_id: status.cluster_id,
            raft_id: status.raft_id,
            role: role(metrics),
            term: metrics.current_term,
            leader,
            last_log_index: metrics.last_log_index,
            committed_index: metrics.local_committed.map(|log_id| log_id.index),
            applied_index: metrics.last_applied.map(|log_id| log_id.index),
            snapshot_index: metrics.snapshot.map(|log_id| log_id.index),
            purged_index: metrics.purged.map(|log_id| log_id.index),
            members,
            voter_sets,
            out_of_space,
            halted: status.halted.clone(),
            reverted: status.reverted,
        };
        let changed = *status != next;
        *status = next;
        changed
    });
}

fn role(metrics: &Metrics) -> Role {
    match metrics.state {
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        // Only an established leader leads: its vote was granted by a quorum.
        ServerState::Leader if metrics.current_leader == Some(metrics.id) => Role::Leader,
        ServerState::Leader => Role::Candidate,
    }
}

pub(super) fn voter_sets(metrics: &Metrics) -> Vec<BTreeSet<RaftId>> {
    let sets = metrics.membership_config.membership().get_joint_config();
    sets.iter()
        .map(|voters| voters.iter().copied().map(RaftId).collect())
        .collect()
}

pub(super) fn members(metrics: &Metrics) -> BTreeMap<RaftId, Member> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    membership
        .nodes()
        .map(|(raft_id, record)| {
            let own = *raft_id == metrics.id;
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|matched| matched.get(raft_id));
            let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(raft_id));
            let member = Member {
                record: record.clone(),
                voter: voters.contains(raft_id),
                matched_index: if own && metrics.replication.is_some() {
                    metrics.last_log_index
                } else {
                    matched.copied().flatten().map(|log_id| log_id.index)
                },
                last_acknowledged_ms: if own && metrics.heartbeat.is_some() {
                    Some(0)
                } else {
                    heard
                        .copied()
                        .flatten()
                        .map(|heard| heard.into_inner().elapsed().as_millis() as u64)
                },
            };
            (RaftId(*raft_id), member)
        })
        .collect()
}
