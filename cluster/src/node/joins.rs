//! Lets empty directories in. A directory gets a Raft id of its own, given out through the log and
//! never used again; it joins as a learner, catches up, and takes its predecessor's place in one
//! change of membership (design, section 4).
//!
//! The invariant: whatever is asked, one name gets a new id at most once every ten minutes, unless
//! an operator approved it; a disk that fails again and again cannot fill the membership.

use super::{Inner, ProposeError};
use crate::{
    command::{Command, Done, Operation, Outcome, Step},
    metric_definitions,
    state::Joined,
};
use conclave_raft::{
    formation::messages::{JoinGrant, JoinRefusal},
    identity::{NodeRecord, RaftId},
    node::{Member, MembershipChange, MembershipError, Peer, RaftStatus},
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How often one name may join by itself.
const JOIN_EVERY: Duration = Duration::from_secs(600);

/// How soon again a name may join whose learner never acknowledged anything to the leader: its grant was
/// lost, as far as anybody knows. Whoever asks has an empty directory, so that nobody lives under the id
/// that was given out before; and what counts is the state's time, so that it does not matter how often
/// leadership moves meanwhile.
const LOST_GRANT_AFTER: Duration = Duration::from_secs(30);

/// How long the log may take for the id and for the membership.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What this node remembers of who may join. When each member came is in the state, where a restart of
/// all nodes does not forget it.
#[derive(Default)]
pub(super) struct Joins {
    memory: Mutex<Memory>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Memory {
    /// When an id was given out here; it may not have come into the membership.
    given_out: BTreeMap<String, Instant>,
    approved: BTreeMap<String, Instant>,
}

/// What a decision is made on.
struct Now<'n> {
    members: &'n BTreeMap<RaftId, Member>,
    /// When each came, in milliseconds of the state's time.
    joined: &'n Joined,
    /// The leader's time in milliseconds.
    time_ms: u64,
    instant: Instant,
}

impl Joins {
    /// Lets a name in until the deadline, however recently it joined.
    pub(super) fn approve(&self, name: &str, until: Instant) {
        let mut memory = self.memory();
        memory.approved.retain(|_, until| *until > Instant::now());
        memory.approved.insert(name.to_owned(), until);
    }

    fn may_join(&self, name: &str, now: &Now<'_>) -> Result<(), String> {
        let memory = self.memory();
        if memory
            .approved
            .get(name)
            .is_some_and(|&until| now.instant < until)
        {
            return Ok(());
        }
        let incarnations: Vec<_> = now
            .members
            .iter()
            .filter(|(_, member)| member.record.name == name)
            .collect();
        if incarnations.is_empty() {
            return Err(format!(
                "{name} is no member; `conclave cluster add {name}` lets it in"
            ));
        }
        // Voters' progress is left out: they do not stem from a grant that was lost. A leader that has only
        // just taken office has not heard of a learner that acknowledged something before it was wiped
        // again; that one comes in a little sooner, and never more often than a lost grant.
        let mut members = incarnations.iter().map(|(_, member)| member);
        let lost_grant = members.any(|member| !member.voter && member.matched_index.is_none());
        let pause = if lost_grant { LOST_GRANT_AFTER } else { JOIN_EVERY };
        let came = incarnations
            .iter()
            .filter_map(|(raft_id, _)| now.joined.get(&raft_id.0))
            .max();
        let ago = came.map(|came_ms| Duration::from_millis(now.time_ms.saturating_sub(*came_ms)));
        let given_out = memory.given_out.get(name);
        let given_out_ago = given_out.map(|at| now.instant.saturating_duration_since(*at));
        for (ago, pause) in [(ago, pause), (given_out_ago, LOST_GRANT_AFTER)] {
            if let Some(ago) = ago.filter(|ago| *ago < pause) {
                return Err(format!(
                    "{name} joined {} s ago and may do so again by itself after {} s; `conclave cluster replace` lets it in at once",
                    ago.as_secs(),
                    pause.as_secs(),
                ));
            }
        }
        Ok(())
    }

    fn gave_out(&self, name: &str) {
        let mut memory = self.memory();
        memory.approved.remove(name);
        memory.given_out.insert(name.to_owned(), Instant::now());
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Answers a node with an empty directory, whose certificate names it. Only the leader lets it in.
    pub(super) async fn join(&self, from: Peer) -> Result<JoinGrant, JoinRefusal> {
        let seen = self.leadership.borrow().clone();
        if !seen.leads_here() {
            let leader = seen.leader.ok_or("no node leads at the moment")?;
            let status = self.raft.status();
            let leader = status.borrow().members.get(&leader).cloned();
            let leader = leader.ok_or("leadership is changing")?;
            return Err(JoinRefusal::AskLeader(leader.record));
        }
        let raft_id = self.admit(&from.name, &from.address).await?;
        let status = self.raft.status().borrow().clone();
        Ok(JoinGrant {
            cluster_id: status.cluster_id.ok_or("this node is not part of a cluster")?,
            raft_id,
            members: status
                .members
                .into_iter()
                .map(|(raft_id, member)| (raft_id, member.record))
                .collect(),
            dev: self.raft.dev(),
        })
    }

    /// Lets in a node with an empty directory, if this node leads and the name may join now.
    async fn admit(&self, name: &str, address: &str) -> Result<RaftId, String> {
        let _one = self.joins.one_at_a_time.lock().await;
        let status = self.raft.status().borrow().clone();
        self.may_join_now(name, &status)?;
        let raft_id = self.let_in(name, address, &status).await?;
        tracing::info!(node = name, %raft_id, "an empty directory joined as a learner");
        metrics::counter!(metric_definitions::MEMBERS_JOINED).increment(1);
        Ok(raft_id)
    }

    fn may_join_now(&self, name: &str, status: &RaftStatus) -> Result<(), String> {
        let time_ms = self.leaders_time_ms().ok_or("leadership is changing")?;
        let joined = self.store.view().joined().map_err(|error| error.to_string())?;
        let now = Now {
            members: &status.members,
            joined: &joined,
            time_ms,
            instant: Instant::now(),
        };
        self.joins.may_join(name, &now)
    }

    async fn let_in(&self, name: &str, address: &str, status: &RaftStatus) -> Result<RaftId, String> {
        let deadline = Instant::now() + JOIN_TIMEOUT;
        // Learners of that name are incarnations whose directory is gone.
        for (&raft_id, _) in status
            .members
            .iter()
            .filter(|(_, member)| !member.voter && member.record.name == name)
        {
            self.change(MembershipChange::Remove { raft_id }, deadline)
                .await?;
        }
        let raft_id = self
            .allocate_raft_id(deadline)
            .await
            .map_err(|error| error.to_string())?;
        self.joins.gave_out(name);
        let record = NodeRecord {
            name: name.to_owned(),
            address: address.to_owned(),
        };
        self.change(MembershipChange::AddLearner { raft_id, record }, deadline)
            .await?;
        Ok(raft_id)
    }

    async fn change(&self, change: MembershipChange, deadline: Instant) -> Result<(), String> {
        self.raft
            .change_membership(change, deadline)
            .await
            .map_err(|error: MembershipError| error.to_string())
    }

    async fn allocate_raft_id(&self, deadline: Instant) -> Result<RaftId, ProposeError> {
        let answer = self
            .proposer
            .propose(&upkeep(Operation::AllocateRaftId), deadline)
            .await?;
        match answer.outcome {
            Outcome::Done(answers) => match answers.as_slice() {
                [Done::RaftId(raft_id)] => Ok(RaftId(*raft_id)),
                _ => Err(ProposeError::OutcomeUnknown),
            },
            Outcome::Refused { .. } => Err(ProposeError::OutcomeUnknown),
        }
    }
}

/// A command of the cluster's own upkeep: one step, of which no record is kept.
pub(super) fn upkeep(operation: Operation) -> Command {
    Command {
        guards: vec![],
        steps: vec![Step {
            preconditions: vec![],
            operation,
            audit: None,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Id, name, whether it votes, its progress, and when it came.
    type Came = (u64, &'static str, bool, Option<u64>, u64);

    struct Cluster {
        members: BTreeMap<RaftId, Member>,
        joined: Joined,
    }

    fn cluster(members: &[Came]) -> Cluster {
        let member = |&(raft_id, name, voter, matched_index, _): &Came| {
            let record = NodeRecord {
                name: name.into(),
                address: "127.0.0.1:1".into(),
            };
            let member = Member {
                record,
                voter,
                matched_index,
                last_acknowledged_ms: None,
            };
            (RaftId(raft_id), member)
        };
        Cluster {
            members: members.iter().map(member).collect(),
            joined: members
                .iter()
                .map(|&(raft_id, .., came_ms)| (raft_id, came_ms))
                .collect(),
        }
    }

    impl Cluster {
        fn may_join(&self, joins: &Joins, name: &str, time_ms: u64) -> Result<(), String> {
            let now = Now {
                members: &self.members,
                joined: &self.joined,
                time_ms,
                instant: Instant::now(),
            };
            joins.may_join(name, &now)
        }
    }

    const NOW_MS: u64 = 1_700_000_000_000;
    const JOIN_EVERY_MS: u64 = JOIN_EVERY.as_millis() as u64;
    const LOST_GRANT_AFTER_MS: u64 = LOST_GRANT_AFTER.as_millis() as u64;

    /// Also for a node that has only just started: what it knows is in the state.
    #[test]
    fn a_name_joins_by_itself_once_in_ten_minutes() {
        let joins = Joins::default();
        let founders = cluster(&[(1, "a", true, None, 0), (2, "b", true, None, 0)]);
        assert!(founders.may_join(&joins, "b", NOW_MS).is_ok());
        let replaced = cluster(&[(1, "a", true, None, 0), (3, "b", true, Some(9), NOW_MS)]);
        assert!(
            replaced
                .may_join(&joins, "b", NOW_MS + JOIN_EVERY_MS - 1)
                .is_err()
        );
        assert!(replaced.may_join(&joins, "b", NOW_MS + JOIN_EVERY_MS).is_ok());
        assert!(replaced.may_join(&joins, "a", NOW_MS).is_ok());
    }

    #[test]
    fn a_lost_grant_is_given_again_sooner() {
        let joins = Joins::default();
        let granted = cluster(&[(2, "b", true, Some(4), 0), (3, "b", false, None, NOW_MS)]);
        assert!(
            granted
                .may_join(&joins, "b", NOW_MS + LOST_GRANT_AFTER_MS - 1)
                .is_err()
        );
        assert!(
            granted
                .may_join(&joins, "b", NOW_MS + LOST_GRANT_AFTER_MS)
                .is_ok()
        );
    }

    /// Leadership moved since, and the next leader remembers nothing: what it goes by is in the state.
    #[test]
    fn a_lost_grant_is_given_again_by_whoever_leads_then() {
        let granted = cluster(&[(2, "b", true, None, 0), (3, "b", false, None, NOW_MS)]);
        let soon_ms = NOW_MS + LOST_GRANT_AFTER_MS;
        assert!(granted.may_join(&Joins::default(), "b", soon_ms - 1).is_err());
        assert!(granted.may_join(&Joins::default(), "b", soon_ms).is_ok());
        let catching_up = cluster(&[(2, "b", true, None, 0), (3, "b", false, Some(7), NOW_MS)]);
        assert!(catching_up.may_join(&Joins::default(), "b", soon_ms).is_err());
    }

    #[test]
    fn an_id_that_came_into_no_membership_counts() {
        let joins = Joins::default();
        let founders = cluster(&[(1, "a", true, None, 0), (2, "b", true, None, 0)]);
        joins.gave_out("b");
        assert!(founders.may_join(&joins, "b", NOW_MS).is_err());
        assert!(founders.may_join(&joins, "a", NOW_MS).is_ok());
    }

    #[test]
    fn strangers_wait_for_an_operator() {
        let joins = Joins::default();
        let members = cluster(&[(1, "a", true, None, 0)]);
        assert!(members.may_join(&joins, "d", NOW_MS).is_err());
        joins.approve("d", Instant::now() + Duration::from_secs(3600));
        assert!(members.may_join(&joins, "d", NOW_MS).is_ok());
        joins.approve("d", Instant::now());
        assert!(members.may_join(&joins, "d", NOW_MS).is_err());
    }
}
