//! Lets empty directories in. A directory gets a Raft id of its own, given out through the log and
//! never used again; it joins as a learner, catches up, and takes its predecessor's place in one
//! change of membership (design, section 4).
//!
//! The invariant: whatever is asked, one name gets a new id at most once every ten minutes, unless
//! an operator approved it; a disk that fails again and again cannot fill the membership.

use super::{
    Inner, ProposeError,
    peer_message::{PeerAnswer, PeerRequest},
};
use crate::{
    command::{Command, Done, Operation, Outcome, Step},
    metric_definitions,
};
use bytes::Bytes;
use conclave_raft::{
    codec,
    formation::messages::JoinGrant,
    identity::{NodeRecord, RaftId},
    node::{MembershipChange, MembershipError, Peer, RaftStatus},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How often one name may join by itself.
const JOIN_EVERY: Duration = Duration::from_secs(600);

/// How soon again a name may join whose learner never acknowledged anything: its grant was lost.
const LOST_GRANT_AFTER: Duration = Duration::from_secs(30);

/// How long the log may take for the id and for the membership.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What this node remembers of who joined. Every node watches the membership, so that a new leader
/// remembers as well as the old one did.
#[derive(Default)]
pub(super) struct Joins {
    memory: Mutex<Memory>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Memory {
    known: BTreeSet<RaftId>,
    joined: BTreeMap<String, Instant>,
    approved: BTreeMap<String, Instant>,
}

impl Joins {
    /// Notes who is new in the membership.
    pub(super) fn observe(&self, status: &RaftStatus, now: Instant) {
        let mut memory = self.memory();
        let first = memory.known.is_empty();
        for (&raft_id, member) in &status.members {
            if memory.known.insert(raft_id) && !first {
                memory.joined.insert(member.record.name.clone(), now);
            }
        }
    }

    /// Lets a name in until the deadline, however recently it joined.
    pub(super) fn approve(&self, name: &str, until: Instant) {
        let mut memory = self.memory();
        memory.approved.retain(|_, until| *until > Instant::now());
        memory.approved.insert(name.to_owned(), until);
    }

    fn may_join(&self, name: &str, status: &RaftStatus, now: Instant) -> Result<(), String> {
        let memory = self.memory();
        if memory.approved.get(name).is_some_and(|&until| now < until) {
            return Ok(());
        }
        let mut incarnations = status
            .members
            .values()
            .filter(|member| member.record.name == name)
            .peekable();
        if incarnations.peek().is_none() {
            return Err(format!(
                "{name} is no member; `conclave cluster add {name}` lets it in"
            ));
        }
        // Voters' progress is left out: they do not stem from a grant that was lost.
        let lost_grant = incarnations.any(|member| !member.voter && member.matched_index.is_none());
        let pause = if lost_grant { LOST_GRANT_AFTER } else { JOIN_EVERY };
        match memory.joined.get(name) {
            Some(&joined) if now < joined + pause => Err(format!(
                "{name} joined {} s ago and may do so again by itself after {} s; `conclave cluster replace` lets it in at once",
                (now - joined).as_secs(),
                pause.as_secs(),
            )),
            _ => Ok(()),
        }
    }

    fn joined(&self, name: &str, raft_id: RaftId) {
        let mut memory = self.memory();
        memory.known.insert(raft_id);
        memory.approved.remove(name);
        memory.joined.insert(name.to_owned(), Instant::now());
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Answers a node with an empty directory, whose certificate names it, by way of the leader.
    pub(super) async fn join(&self, from: Peer) -> Result<JoinGrant, String> {
        let seen = self.leadership.borrow().clone();
        let raft_id = match seen.leader {
            _ if seen.leads_here() => self.admit(&from.name, &from.address).await?,
            Some(leader) => self.admit_through(leader, from).await?,
            None => return Err("no node leads at the moment".into()),
        };
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

    async fn admit_through(&self, leader: RaftId, from: Peer) -> Result<RaftId, String> {
        let request = PeerRequest::Admit {
            name: from.name,
            address: from.address,
        };
        let deadline = Instant::now() + JOIN_TIMEOUT * 2;
        let answer = self
            .raft
            .call(leader, Bytes::from(codec::encode(&request)), deadline)
            .await;
        match codec::decode(&answer.map_err(|error| error.to_string())?) {
            Ok(PeerAnswer::Admitted(result)) => result,
            _ => Err("leadership is changing".into()),
        }
    }

    /// Lets in a node with an empty directory, if this node leads and the name may join now.
    pub(super) async fn admit(&self, name: &str, address: &str) -> Result<RaftId, String> {
        if !self.leadership.borrow().leads_here() {
            return Err("leadership is changing".into());
        }
        let _one = self.joins.one_at_a_time.lock().await;
        let status = self.raft.status().borrow().clone();
        self.joins.may_join(name, &status, Instant::now())?;
        let raft_id = self.let_in(name, address, &status).await?;
        tracing::info!(node = name, %raft_id, "an empty directory joined as a learner");
        metrics::counter!(metric_definitions::MEMBERS_JOINED).increment(1);
        Ok(raft_id)
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
        self.joins.joined(name, raft_id);
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
    use conclave_raft::node::Member;

    fn status(members: &[(u64, &str, bool, Option<u64>)]) -> RaftStatus {
        let members = members.iter().map(|&(raft_id, name, voter, matched_index)| {
            let record = NodeRecord {
                name: name.into(),
                address: "127.0.0.1:1".into(),
            };
            (
                RaftId(raft_id),
                Member {
                    record,
                    voter,
                    matched_index,
                    last_acknowledged_ms: None,
                },
            )
        });
        RaftStatus {
            members: members.collect(),
            ..RaftStatus::default()
        }
    }

    #[test]
    fn a_name_joins_by_itself_once_in_ten_minutes() {
        let (joins, now) = (Joins::default(), Instant::now());
        let before = status(&[(1, "a", true, None), (2, "b", true, None)]);
        joins.observe(&before, now);
        assert!(joins.may_join("b", &before, now).is_ok());
        let after = status(&[
            (1, "a", true, None),
            (2, "b", true, None),
            (3, "b", false, Some(9)),
        ]);
        joins.observe(&after, now);
        assert!(joins.may_join("b", &after, now).is_err());
        assert!(joins.may_join("b", &after, now + JOIN_EVERY).is_ok());
    }

    #[test]
    fn a_lost_grant_is_given_again_sooner() {
        let (joins, now) = (Joins::default(), Instant::now());
        joins.observe(&status(&[(2, "b", true, None)]), now);
        let after = status(&[(2, "b", true, Some(4)), (3, "b", false, None)]);
        joins.observe(&after, now);
        assert!(joins.may_join("b", &after, now).is_err());
        assert!(joins.may_join("b", &after, now + LOST_GRANT_AFTER).is_ok());
    }

    #[test]
    fn strangers_wait_for_an_operator() {
        let (joins, now) = (Joins::default(), Instant::now());
        let members = status(&[(1, "a", true, None)]);
        joins.observe(&members, now);
        assert!(joins.may_join("d", &members, now).is_err());
        joins.approve("d", now + Duration::from_secs(5));
        assert!(joins.may_join("d", &members, now).is_ok());
        assert!(
            joins
                .may_join("d", &members, now + Duration::from_secs(6))
                .is_err()
        );
    }
}
