//! Changes of membership and of leadership, on the leader.
//!
//! Each change is decided on one effective membership and proposed only while that is still the one
//! and this node still leads in the same term. A change after which the voters that answer would be
//! no quorum, of the old set or of the new, is refused before it is proposed.
//!
//! A change of voters has two steps (Raft dissertation, section 4.3): a joint membership, in which the
//! old voters and the new ones both decide, and then the new one alone. Whoever proposed the first
//! step proposes the second; if its leadership ended in between, the next leader finishes what it
//! finds, before anything else is changed. Else a voter that is gone for good would go on counting.

use super::{Member, MembershipChange, MembershipError, RaftStatus, Role, core::Core};
use crate::{
    identity::RaftId,
    runtime::Runtime,
    storage::space::{EntryClass, SpaceLevel},
    types::{CommittedLeaderId, Metrics, Raft},
};
use openraft::{
    AsyncRuntime, ChangeMembers, Precondition,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, RaftError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// A learner that is so many entries behind, or fewer, has caught up.
const CAUGHT_UP_ENTRIES: u64 = 256;

type Changes = ChangeMembers<u64, crate::identity::NodeRecord>;

/// Applies one change and waits until it is committed. `core.changing` is to be held.
pub(super) async fn change(core: &Arc<Core>, change: MembershipChange) -> Result<(), MembershipError> {
    let raft = core
        .running()
        .ok_or(MembershipError::NotLeader { leader: None })?;
    let patience = Instant::now() + core.options.election_timeout * 4;
    let mut status = core.status.subscribe();
    loop {
        let metrics = raft.metrics().borrow_watched().clone();
        let view = View::of(core, &metrics)?;
        let tried = if view.is_joint() {
            finish(core, &raft, &metrics, &view).await.map(|()| None)
        } else {
            view.decide(change.clone()).map(Some)
        };
        match tried {
            Ok(Some(Some(changes))) => return propose(core, &raft, &metrics, changes).await,
            Ok(Some(None)) => return Ok(()),
            // An earlier change is finished; what is published may be a moment behind.
            Ok(None) => {
                let _ = timeout_at(patience, status.changed()).await;
            }
            // Whoever is late for a moment is not gone, and what was just proposed is not committed
            // yet: look again before refusing.
            Err(error)
                if Instant::now() >= patience || matches!(error, MembershipError::NotLeader { .. }) =>
            {
                return Err(error);
            }
            Err(
                MembershipError::WouldLoseQuorum(_)
                | MembershipError::NotCaughtUp { .. }
                | MembershipError::Unfinished(_),
            ) => {
                let _ = timeout_at(patience, status.changed()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Finishes, for as long as the node runs, each change that a former leader left between its steps.
pub(super) async fn finish_changes(core: Arc<Core>) {
    let mut status = core.status.subscribe();
    loop {
        let left = status.wait_for(|status| status.role == Role::Leader && status.joint());
        if left.await.is_err() {
            return;
        }
        // A change that is under way here is finished by whoever holds this.
        let changing = core.changing.lock().await;
        match finish_if_joint(&core).await {
            Ok(true) => tracing::info!("finished a change of the membership that was left between its steps"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "a change of the membership cannot be finished yet"),
        }
        drop(changing);
        sleep(core.options.election_timeout).await;
    }
}

async fn finish_if_joint(core: &Core) -> Result<bool, MembershipError> {
    let raft = core
        .running()
        .ok_or(MembershipError::NotLeader { leader: None })?;
    let metrics = raft.metrics().borrow_watched().clone();
    let view = View::of(core, &metrics)?;
    if view.is_joint() {
        finish(core, &raft, &metrics, &view).await?;
    }
    Ok(view.is_joint())
}

async fn finish(core: &Core, raft: &Raft, metrics: &Metrics, view: &View) -> Result<(), MembershipError> {
    for voters in &view.voter_sets {
        view.require_quorum(voters)?;
    }
    // No voter is added: what openraft still has to do is to leave the joint membership.
    propose(core, raft, metrics, ChangeMembers::AddVoterIds(BTreeSet::new())).await
}

/// Proposes what was decided on the membership that the metrics show, only while that is in effect.
async fn propose(
    core: &Core,
    raft: &Raft,
    metrics: &Metrics,
    changes: Changes,
) -> Result<(), MembershipError> {
    // openraft appends what it is given: whether there is space for it is asked before.
    if !core.space.admits(EntryClass::Relieving) {
        return Err(MembershipError::NoSpace);
    }
    let preconditions = [
        Precondition::CommittedLeaderId {
            committed_leader_id: CommittedLeaderId::new(metrics.current_term),
        },
        Precondition::LastMembershipLogId {
            last_membership_log_id: *metrics.membership_config.log_id(),
        },
    ];
    let raft = raft.clone();
    // Dropped by its caller, the change still goes on to its second step.
    let proposing =
        Runtime::spawn(async move { raft.change_membership_if(changes, false, preconditions).await });
    match proposing.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(MembershipError::NotLeader {
                leader: forward.leader_id.map(RaftId),
            })
        }
        Ok(Err(error)) => Err(MembershipError::Unfinished(error.to_string())),
        Err(error) => Err(MembershipError::Unfinished(error.to_string())),
    }
}

/// Who is to lead instead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Successor {
    This(RaftId),
    /// The voter whose log is longest.
    Any,
    /// As [`Self::Any`], of those that were just heard to have space.
    AnyWithSpace,
}

/// Hands leadership over and waits until another node leads.
pub(super) async fn transfer(
    core: &Arc<Core>,
    to: Successor,
    deadline: Instant,
) -> Result<RaftId, MembershipError> {
    let raft = core
        .running()
        .ok_or(MembershipError::NotLeader { leader: None })?;
    let mut status = core.status.subscribe();
    loop {
        let metrics = raft.metrics().borrow_watched().clone();
        let view = View::of(core, &metrics)?;
        let own = view.own;
        if to == Successor::This(own) {
            return Ok(own);
        }
        let chosen = match view.successor(core, to) {
            Ok(chosen) => chosen,
            // A leader that has only just been elected has not heard of its followers yet.
            Err(error @ (MembershipError::NotCaughtUp { .. } | MembershipError::Unfinished(_))) => {
                if timeout_at(deadline, status.changed()).await.is_err() {
                    return Err(error);
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        raft.trigger()
            .transfer_leader(chosen.0)
            .await
            .map_err(|error| MembershipError::Unfinished(error.to_string()))?;
        let other_leads = |status: &RaftStatus| status.leader.is_some_and(|leader| leader != own);
        let attempt = (Instant::now() + core.options.election_timeout * 4).min(deadline);
        match timeout_at(attempt, status.wait_for(other_leads)).await {
            Ok(Ok(status)) => return Ok(status.leader.unwrap_or(chosen)),
            Ok(Err(_)) => return Err(MembershipError::Unfinished("the node is stopping".into())),
            Err(_) if Instant::now() >= deadline => {
                return Err(MembershipError::Unfinished("no other node led in time".into()));
            }
            Err(_) => {}
        }
    }
}

/// Hands leadership over while this node's disk is below its reserve and another's is not.
pub(super) async fn leave_full_disks(core: Arc<Core>) {
    let mut space = core.space.watch();
    loop {
        if space.wait_for(|level| *level < SpaceLevel::Enough).await.is_err() {
            return;
        }
        let leads = core.status.borrow().role == Role::Leader;
        if leads {
            let deadline = Instant::now() + core.options.election_timeout * 8;
            match transfer(&core, Successor::AnyWithSpace, deadline).await {
                Ok(leader) => tracing::warn!(%leader, "handed over: this node's disk is below its reserve"),
                Err(error) => tracing::debug!(%error, "leadership cannot be handed over now"),
            }
        }
        // A change of the level is heard at once; else look again whether somebody has space.
        let _ = timeout(Duration::from_secs(1), space.changed()).await;
    }
}

/// The membership that a decision is made on.
struct View {
    own: RaftId,
    last_log_index: u64,
    members: BTreeMap<RaftId, Member>,
    /// One set of voters, or two while a change is between its steps.
    voter_sets: Vec<BTreeSet<RaftId>>,
    /// A voter that was heard within so many milliseconds answers.
    answering_ms: u64,
}

impl View {
    fn of(core: &Core, metrics: &Metrics) -> Result<Self, MembershipError> {
        if metrics.current_leader != Some(metrics.id) || metrics.replication.is_none() {
            return Err(MembershipError::NotLeader {
                leader: metrics.current_leader.map(RaftId),
            });
        }
        Ok(Self {
            own: RaftId(metrics.id),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            members: super::status::members(metrics),
            voter_sets: super::status::voter_sets(metrics),
            answering_ms: core.options.election_timeout.as_millis() as u64 * 4,
        })
    }

    fn is_joint(&self) -> bool {
        self.voter_sets.len() > 1
    }

    /// What is to be proposed; `None` when everything is as wanted.
    fn decide(&self, change: MembershipChange) -> Result<Option<Changes>, MembershipError> {
        Ok(match change {
            MembershipChange::AddLearner { raft_id, record } => (!self.members.contains_key(&raft_id))
                .then(|| ChangeMembers::AddNodes(BTreeMap::from([(raft_id.0, record)]))),
            MembershipChange::Promote { raft_id } => {
                if self.member(raft_id)?.voter {
                    return Ok(None);
                }
                self.require_caught_up(raft_id)?;
                self.require_quorums(self.voters().chain([raft_id]).collect())?;
                Some(ChangeMembers::AddVoterIds(BTreeSet::from([raft_id.0])))
            }
            MembershipChange::Remove { raft_id } => {
                if !self.member(raft_id)?.voter {
                    return Ok(Some(ChangeMembers::RemoveNodes(BTreeSet::from([raft_id.0]))));
                }
                self.require_quorums(self.voters().filter(|voter| *voter != raft_id).collect())?;
                Some(ChangeMembers::RemoveVoters(BTreeSet::from([raft_id.0])))
            }
            MembershipChange::Replace {
                predecessor,
                successor,
            } => self.replace(predecessor, successor)?,
        })
    }

    fn replace(&self, predecessor: RaftId, successor: RaftId) -> Result<Option<Changes>, MembershipError> {
        self.member(successor)?;
        if !self.members.contains_key(&predecessor) {
            // Its place was taken before, or it never had one.
            return match self.member(successor)?.voter {
                true => Ok(None),
                false => Err(MembershipError::UnknownMember(predecessor)),
            };
        }
        if !self.member(predecessor)?.voter {
            return Ok(Some(ChangeMembers::RemoveNodes(BTreeSet::from([predecessor.0]))));
        }
        self.require_caught_up(successor)?;
        let voters: BTreeSet<RaftId> = self
            .voters()
            .filter(|voter| *voter != predecessor)
            .chain([successor])
            .collect();
        self.require_quorums(voters.clone())?;
        // One change: at no time are there fewer voters, nor both incarnations in one quorum.
        let voters = voters.into_iter().map(|voter| voter.0).collect();
        Ok(Some(ChangeMembers::ReplaceAllVoters(voters)))
    }

    fn successor(&self, core: &Core, to: Successor) -> Result<RaftId, MembershipError> {
        if let Successor::This(to) = to {
            let wanted = self.member(to)?;
            if !wanted.voter {
                return Err(MembershipError::Unfinished(format!("member {to} does not vote")));
            }
            self.require_caught_up(to)?;
            return Ok(to);
        }
        self.voters()
            .filter(|voter| *voter != self.own && self.answers(*voter))
            .filter(|voter| match to {
                Successor::AnyWithSpace => {
                    core.peer_has_space(*voter, Duration::from_millis(self.answering_ms))
                }
                _ => core.peer_is_below_reserve(*voter) != Some(true),
            })
            .max_by_key(|voter| self.members[voter].matched_index)
            .ok_or_else(|| MembershipError::Unfinished("no other voter answers".into()))
    }

    fn member(&self, raft_id: RaftId) -> Result<&Member, MembershipError> {
        self.members
            .get(&raft_id)
            .ok_or(MembershipError::UnknownMember(raft_id))
    }

    fn voters(&self) -> impl Iterator<Item = RaftId> {
        self.members
            .iter()
            .filter(|(_, member)| member.voter)
            .map(|(raft_id, _)| *raft_id)
    }

    fn answers(&self, raft_id: RaftId) -> bool {
        raft_id == self.own
            || self
                .members
                .get(&raft_id)
                .and_then(|member| member.last_acknowledged_ms)
                .is_some_and(|ago_ms| ago_ms <= self.answering_ms)
    }

    fn require_caught_up(&self, raft_id: RaftId) -> Result<(), MembershipError> {
        let matched = self.member(raft_id)?.matched_index;
        let behind_entries = self.last_log_index - matched.unwrap_or(0).min(self.last_log_index);
        if matched.is_none() || behind_entries > CAUGHT_UP_ENTRIES || !self.answers(raft_id) {
            return Err(MembershipError::NotCaughtUp { behind_entries });
        }
        Ok(())
    }

    /// Between the two steps the voters of now and those that come decide, each set by itself.
    fn require_quorums(&self, next: BTreeSet<RaftId>) -> Result<(), MembershipError> {
        self.voter_sets
            .iter()
            .chain([&next])
            .try_for_each(|voters| self.require_quorum(voters))
    }

    fn require_quorum(&self, voters: &BTreeSet<RaftId>) -> Result<(), MembershipError> {
        let answering = voters.iter().filter(|voter| self.answers(**voter)).count();
        if answering * 2 <= voters.len() {
            return Err(MembershipError::WouldLoseQuorum(format!(
                "of the {} voters that would have to agree {answering} answer: they would be no quorum",
                voters.len()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeRecord;

    /// Members by id: whether each votes, and whether it answers. The first one leads.
    fn view(members: &[(u64, bool, bool)]) -> View {
        let member = |&(raft_id, voter, answers): &(u64, bool, bool)| {
            let record = NodeRecord {
                name: format!("n{raft_id}"),
                address: "127.0.0.1:1".into(),
            };
            let member = Member {
                record,
                voter,
                matched_index: answers.then_some(9),
                last_acknowledged_ms: Some(if answers { 10 } else { 10_000 }),
            };
            (RaftId(raft_id), member)
        };
        let voters = members.iter().filter(|(_, voter, _)| *voter);
        View {
            own: RaftId(members[0].0),
            last_log_index: 9,
            members: members.iter().map(member).collect(),
            voter_sets: vec![voters.map(|(raft_id, ..)| RaftId(*raft_id)).collect()],
            answering_ms: 1_000,
        }
    }

    fn remove(raft_id: u64) -> MembershipChange {
        MembershipChange::Remove {
            raft_id: RaftId(raft_id),
        }
    }

    #[test]
    fn a_removal_leaves_a_quorum_of_those_that_answer() {
        let members = [(1, true, true), (2, true, true), (3, true, false)];
        let refused = view(&members).decide(remove(2));
        assert!(
            matches!(refused, Err(MembershipError::WouldLoseQuorum(_))),
            "{refused:?}"
        );
        assert!(view(&members).decide(remove(3)).unwrap().is_some());
    }

    #[test]
    fn the_old_voters_have_to_agree_as_well() {
        // Of the new voters 1, 2 and 4 two answer, but of the old ones only the leader.
        let members = [
            (1, true, true),
            (2, true, false),
            (3, true, false),
            (4, false, true),
        ];
        let refused = view(&members).decide(MembershipChange::Replace {
            predecessor: RaftId(3),
            successor: RaftId(4),
        });
        assert!(
            matches!(refused, Err(MembershipError::WouldLoseQuorum(_))),
            "{refused:?}"
        );
    }
}
