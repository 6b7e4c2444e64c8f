//! What becomes of a node whose state is not what it must be. It withdraws at once and halts, and its
//! directory is marked, so that no later start serves or votes with it.
//!
//! Invariant: marks alone never cost the cluster its quorum. A majority that has another state is one
//! without this node. What a node found by itself it marks only while enough other voters take part;
//! of nodes that ask one another at the same moment each has withdrawn before, and is not counted.

use super::{RaftStatus, core::Core};
use crate::{
    formation::{
        self,
        messages::{FormationAnswer, FormationRequest, Standing},
    },
    identity::RaftId,
    runtime::Runtime,
    storage::identity_store::{Evidence, Identity},
    transport::{Target, Transport},
};
use futures::future::join_all;
use openraft::AsyncRuntime;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// For another voter to say how it stands.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Halts a node whose state was disproved. Goes on by itself; what is returned only tells of its end.
pub(super) fn halt_for_good(
    core: &Arc<Core>,
    transport: &Arc<Transport>,
    reason: String,
    evidence: Evidence,
) -> impl Future<Output = ()> + Send + use<> {
    let halting = core.withdraw().then(|| {
        let (core, transport) = (Arc::clone(core), Arc::clone(transport));
        Runtime::spawn(async move {
            let missed = match evidence {
                Evidence::Majority => None,
                Evidence::OwnLook => missed(&core, &transport).await,
            };
            transport.cut();
            core.halt(match missed {
                None => {
                    mark(&core, reason.clone(), evidence).await;
                    reason
                }
                Some(missed) => format!("{reason}; {missed}"),
            });
        })
    });
    async move {
        if let Some(halting) = halting
            && halting.await.is_err()
        {
            tracing::error!("halting for a disproved state broke off");
        }
    }
}

async fn mark(core: &Core, reason: String, by: Evidence) {
    let _one_step_at_a_time = core.forming.lock().await;
    if let Identity::Accepted(was) | Identity::Member(was) = core.identity() {
        let marked = Identity::Disproved { was, reason, by };
        if let Err(error) = core.become_identity(marked).await {
            tracing::error!(%error, "the disproved data could not be marked");
        }
    }
}

/// Why the cluster cannot do without this node, and what is to be done then; `None` if it can.
async fn missed(core: &Arc<Core>, transport: &Arc<Transport>) -> Option<&'static str> {
    let status = core.status.borrow().clone();
    let own = status.raft_id?;
    let voters: BTreeSet<RaftId> = status.voter_sets.iter().flatten().copied().collect();
    if voters.iter().all(|voter| *voter == own) {
        return Some(
            "this is the only voter, and so its directory is not marked: started again, the node serves until it \
             meets the damage again. Look for the cause (memory, disk, this program); `conclave server --rescan` \
             tells whether all is as it was written; if it is not, put a copy of the whole data directory in its place",
        );
    }
    let asked = voters.iter().filter(|voter| **voter != own);
    let answers = join_all(asked.map(|voter| takes_part(core, transport, &status, *voter))).await;
    let others: BTreeSet<RaftId> = answers.into_iter().flatten().collect();
    (!suffice(&status.voter_sets, &others)).then_some(
        "too few other voters answer to do without this one, and so its directory is not marked: started again, the \
         node serves until it meets the damage again. Look for the cause (memory, disk, this program), and bring the \
         other voters back; `conclave server --rescan` tells whether all is as it was written; if it is not, empty \
         this data directory once a majority of the others runs",
    )
}

/// Whether these voters are a majority of each set.
fn suffice(voter_sets: &[BTreeSet<RaftId>], others: &BTreeSet<RaftId>) -> bool {
    let mut sets = voter_sets.iter();
    sets.all(|voters| voters.intersection(others).count() > voters.len() / 2)
}

/// The voter, if it takes part.
async fn takes_part(
    core: &Core,
    transport: &Arc<Transport>,
    status: &RaftStatus,
    voter: RaftId,
) -> Option<RaftId> {
    let record = status.members.get(&voter)?.record.clone();
    let target = Target {
        name: record.name,
        address: record.address,
        raft_id: Some(voter),
    };
    let inquiry = FormationRequest::Inquire;
    let answer = formation::ask_node(transport, &target, inquiry, ANSWER_DEADLINE).await;
    let cluster_id = core.identity().formation()?.cluster_id;
    let formed = Standing::Formed(cluster_id);
    matches!(answer, Ok(FormationAnswer::Standing(standing)) if standing == formed).then_some(voter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Role, lone::LoneNode};
    use std::io;

    fn ids(ids: &[u64]) -> BTreeSet<RaftId> {
        ids.iter().copied().map(RaftId).collect()
    }

    #[test]
    fn others_suffice_only_as_a_majority_of_all_voters() {
        let three = [ids(&[1, 2, 3])];
        assert!(suffice(&three, &ids(&[2, 3])));
        assert!(!suffice(&three, &ids(&[2])), "the third is silent or marked");
        assert!(!suffice(&[ids(&[1, 2])], &ids(&[2])));
        let joint = [ids(&[1, 2, 3]), ids(&[1, 4])];
        assert!(!suffice(&joint, &ids(&[2, 3, 4])), "the new voters need it");
    }

    #[tokio::test]
    async fn the_only_voter_is_not_marked_for_what_it_found_by_itself() {
        let node = LoneNode::start().await;
        leads(&node).await;
        let reason = "a row is not what was written".to_owned();
        halt_for_good(&node.core, &node.transport, reason, Evidence::OwnLook).await;
        let halted = node.core.status.borrow().halted.clone().expect("it halts");
        assert!(halted.contains("not what was written"), "{halted}");
        assert!(halted.contains("the only voter"), "{halted}");
        assert!(matches!(node.stored_identity(), Identity::Member(_)));
    }

    #[tokio::test]
    async fn damage_that_apply_meets_is_treated_like_any_other() {
        for (kind, told) in [(io::ErrorKind::InvalidData, true), (io::ErrorKind::Other, false)] {
            let node = LoneNode::start().await;
            leads(&node).await;
            *node.state.fails.lock().unwrap() = Some(kind);
            let raft = node.core.running().expect("it runs");
            let proposal = crate::types::Proposal("a".into());
            let proposed = raft.client_write(proposal).await;
            assert!(proposed.is_err(), "it is applied");
            let mut status = node.core.status.subscribe();
            let halted = status.wait_for(|status| status.halted.is_some()).await;
            let halted = halted.expect("it halts").halted.clone().unwrap_or_default();
            assert_eq!(halted.contains("the only voter"), told, "{halted}");
        }
    }

    async fn leads(node: &LoneNode) {
        let mut status = node.core.status.subscribe();
        let leads = status.wait_for(|status| status.role == Role::Leader);
        leads.await.expect("it leads");
    }
}
