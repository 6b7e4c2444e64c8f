//! Operations on the cluster. They can be asked of any node, and are done by the leader.

use super::{
    Inner, NodeVerification, OperateError, ScannedDigest, Verification,
    peer_message::{MemberOperation, PeerAnswer, PeerRequest},
};
use crate::model::AuditKey;
use bytes::Bytes;
use conclave_raft::{
    codec,
    identity::RaftId,
    node::{CallError, Member, MembershipChange, MembershipError},
};
use futures::future::join_all;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The pause between two looks at a learner that is catching up, and between two tries.
const PAUSE: Duration = Duration::from_millis(50);

impl Inner {
    /// Has the leader do it, wherever it is, for the record that this node's edge wrote.
    pub(super) async fn operate(
        self: &Arc<Self>,
        operation: MemberOperation,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<RaftId, OperateError> {
        let mut leadership = self.leadership.subscribe();
        let mut asked_before = false;
        loop {
            let seen = leadership.borrow_and_update().clone();
            if seen.stopped {
                return Err(OperateError::Refused("this node is stopping".into()));
            }
            let done = match seen.leader {
                _ if Instant::now() >= deadline => return Err(OperateError::NoLeader),
                _ if seen.leads_here() => {
                    let own_id = self.raft.status().borrow().raft_id.unwrap_or_default();
                    self.operate_here(own_id, operation.clone(), record, deadline)
                        .await
                }
                Some(leader) => {
                    self.operate_there(leader, operation.clone(), record, deadline)
                        .await
                }
                None => Err(OperateError::NoLeader),
            };
            match (done, &operation) {
                (Err(OperateError::NoLeader), _) => {}
                // An earlier try did it, and its answer was lost.
                (Err(OperateError::Refused(_)), &MemberOperation::Remove { raft_id })
                    if asked_before && !self.members().contains_key(&raft_id) =>
                {
                    return Ok(raft_id);
                }
                (done, _) => return done,
            }
            asked_before = true;
            tokio::select! {
                biased;
                _ = leadership.changed() => leadership.mark_changed(),
                () = sleep_until(deadline.min(Instant::now() + PAUSE)) => {}
            }
        }
    }

    async fn operate_there(
        &self,
        leader: RaftId,
        operation: MemberOperation,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<RaftId, OperateError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let request = Bytes::from(codec::encode(&PeerRequest::Operate {
            operation,
            record,
            timeout_ms,
        }));
        match self.raft.call(leader, request, deadline).await {
            Ok(answer) => match codec::decode(&answer) {
                Ok(PeerAnswer::Operated(result)) => result,
                _ => Err(OperateError::NoLeader),
            },
            Err(CallError::TimedOut { .. }) => Err(OperateError::Unfinished(
                "the leader did not finish in time; `conclave cluster list` shows what was done".into(),
            )),
            Err(CallError::Unreachable { .. } | CallError::Busy { .. }) => Err(OperateError::NoLeader),
        }
    }

    /// Does it for the node that wrote the record of it, if this node leads; else `NoLeader`.
    pub(super) async fn operate_here(
        self: &Arc<Self>,
        asker: RaftId,
        operation: MemberOperation,
        record: AuditKey,
        deadline: Instant,
    ) -> Result<RaftId, OperateError> {
        if !self.leadership.borrow().leads_here() {
            return Err(OperateError::NoLeader);
        }
        self.require_record(asker, record, &operation, deadline).await?;
        match operation {
            MemberOperation::Add { name } => self.add(&name, deadline).await,
            MemberOperation::Promote { raft_id } => {
                let change = MembershipChange::Promote { raft_id };
                self.change_once_caught_up(change, deadline)
                    .await
                    .map(|()| raft_id)
            }
            MemberOperation::Remove { raft_id } => self.remove(raft_id, deadline).await,
            MemberOperation::Replace { predecessor } => self.replace(predecessor, deadline).await,
            MemberOperation::Transfer { to } => self
                .raft
                .transfer_leadership(to, deadline)
                .await
                .map_err(OperateError::from),
        }
    }

    async fn add(&self, name: &str, deadline: Instant) -> Result<RaftId, OperateError> {
        if let Some((raft_id, _)) = self
            .members()
            .iter()
            .find(|(_, member)| member.record.name == name)
        {
            return Err(OperateError::Refused(format!(
                "{name} is a member already, as {raft_id}; `conclave cluster replace {raft_id}` lets an empty directory take its place"
            )));
        }
        self.joins.approve(name, deadline);
        self.newcomer(name, None, deadline).await
    }

    async fn remove(&self, raft_id: RaftId, deadline: Instant) -> Result<RaftId, OperateError> {
        if self.raft.status().borrow().raft_id == Some(raft_id) {
            // A leader that removes itself leaves a gap; its successor removes it without one.
            self.raft.transfer_leadership(None, deadline).await?;
            return Err(OperateError::NoLeader);
        }
        self.raft
            .change_membership(MembershipChange::Remove { raft_id }, deadline)
            .await?;
        Ok(raft_id)
    }

    async fn replace(&self, predecessor: RaftId, deadline: Instant) -> Result<RaftId, OperateError> {
        let Some(name) = self
            .members()
            .get(&predecessor)
            .map(|member| member.record.name.clone())
        else {
            return Err(MembershipError::UnknownMember(predecessor).into());
        };
        self.joins.approve(&name, deadline);
        let successor = self.newcomer(&name, Some(predecessor), deadline).await?;
        let replaced = self
            .change_once_caught_up(
                MembershipChange::Replace {
                    predecessor,
                    successor,
                },
                deadline,
            )
            .await;
        match replaced {
            // It took its place by itself meanwhile.
            Err(OperateError::Refused(_)) if self.has_replaced(predecessor, successor) => Ok(successor),
            replaced => replaced.map(|()| successor),
        }
    }

    fn has_replaced(&self, predecessor: RaftId, successor: RaftId) -> bool {
        let members = self.members();
        !members.contains_key(&predecessor) && members.get(&successor).is_some_and(|member| member.voter)
    }

    /// Waits for the member of this name that came after `predecessor`.
    async fn newcomer(
        &self,
        name: &str,
        predecessor: Option<RaftId>,
        deadline: Instant,
    ) -> Result<RaftId, OperateError> {
        let mut status = self.raft.status();
        let newcomer = |members: &BTreeMap<RaftId, Member>| {
            members
                .iter()
                .rfind(|&(&raft_id, member)| member.record.name == name && Some(raft_id) > predecessor)
                .map(|(&raft_id, _)| raft_id)
        };
        match timeout_at(
            deadline,
            status.wait_for(|status| newcomer(&status.members).is_some()),
        )
        .await
        {
            Ok(Ok(status)) => newcomer(&status.members).ok_or(OperateError::NoLeader),
            Ok(Err(_)) => Err(OperateError::NoLeader),
            Err(_) => Err(OperateError::Unfinished(format!(
                "{name} did not ask to join: is it running, with an empty data directory?"
            ))),
        }
    }

    async fn change_once_caught_up(
        &self,
        change: MembershipChange,
        deadline: Instant,
    ) -> Result<(), OperateError> {
        loop {
            match self.raft.change_membership(change.clone(), deadline).await {
                Ok(()) => return Ok(()),
                Err(MembershipError::NotCaughtUp { behind_entries })
                    if Instant::now() + PAUSE >= deadline =>
                {
                    return Err(OperateError::Unfinished(format!(
                        "the learner is still {behind_entries} entries behind; it goes on catching up"
                    )));
                }
                Err(MembershipError::NotCaughtUp { .. }) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets every member rescan, and compares those that scanned at the same index.
    pub(super) async fn verify(self: &Arc<Self>, deadline: Instant) -> Result<Verification, OperateError> {
        let members = self.members();
        if members.is_empty() {
            return Err(OperateError::NoLeader);
        }
        let mut nodes = join_all(members.iter().map(|(&raft_id, member)| async move {
            let result = self.verify_member(raft_id, deadline).await;
            NodeVerification {
                raft_id,
                name: member.record.name.clone(),
                result,
            }
        }))
        .await;
        accuse_minority(&mut nodes);
        Ok(Verification { nodes })
    }

    async fn verify_member(&self, member: RaftId, deadline: Instant) -> Result<ScannedDigest, String> {
        if self.raft.status().borrow().raft_id == Some(member) {
            return match timeout_at(deadline, self.scrub.clone().verify()).await {
                Ok(result) => result,
                Err(_) => Err("the scan did not finish in time".into()),
            };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let request = Bytes::from(codec::encode(&PeerRequest::Verify { timeout_ms }));
        let answer = self
            .raft
            .call(member, request, deadline)
            .await
            .map_err(|error| error.to_string())?;
        match codec::decode(&answer) {
            Ok(PeerAnswer::Verified(result)) => result,
            _ => Err("the node cannot verify now".into()),
        }
    }

    fn members(&self) -> BTreeMap<RaftId, Member> {
        self.raft.status().borrow().members.clone()
    }
}

/// Among nodes that scanned at the same index, those that differ from more than half are named.
fn accuse_minority(nodes: &mut [NodeVerification]) {
    let scans: Vec<ScannedDigest> = nodes.iter().filter_map(|node| node.result.clone().ok()).collect();
    for node in nodes {
        let Ok(mine) = node.result else { continue };
        let there: Vec<_> = scans.iter().filter(|scan| scan.index == mine.index).collect();
        let alike = there.iter().filter(|scan| scan.running == mine.running).count();
        if alike * 2 < there.len() {
            node.result = Err(format!(
                "its state at index {} differs from that of most nodes",
                mine.index
            ));
        }
    }
}

impl From<MembershipError> for OperateError {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::NotLeader { .. } => Self::NoLeader,
            MembershipError::Unfinished(why) => Self::Unfinished(why),
            MembershipError::UnknownMember(_)
            | MembershipError::WouldLoseQuorum(_)
            | MembershipError::NoSpace
            | MembershipError::NotCaughtUp { .. } => Self::Refused(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_differs_from_most_at_the_same_index_is_named() {
        let node = |raft_id: u64, index, digest: u8| NodeVerification {
            raft_id: RaftId(raft_id),
            name: format!("n{raft_id}"),
            result: Ok(ScannedDigest {
                index,
                scanned: [digest; 32],
                running: [digest; 32],
            }),
        };
        let mut nodes = vec![node(1, 9, 1), node(2, 9, 1), node(3, 9, 2), node(4, 8, 7)];
        accuse_minority(&mut nodes);
        let found: Vec<bool> = nodes.iter().map(|node| node.result.is_err()).collect();
        assert_eq!(found, [false, false, true, false]);
    }
}
