//! Static bootstrap: one proposal, accepted by all, initialised by one.

use super::{
    PAUSE, STEP_DEADLINE, ask,
    messages::{FormationAnswer, FormationRequest, Proposal},
    others,
};
use crate::{
    identity::{ClusterId, NodeRecord, RaftId},
    node::{Peer, core::Core},
    runtime::Runtime,
    storage::identity_store::{Formation, Identity},
    transport::{Transport, multiplexed::jittered},
};
use futures::future::join_all;
use std::{collections::BTreeMap, io, sync::Arc};

/// Makes the proposal of a new cluster and accepts it here, durably. Only the first configured node
/// does so, and only when all others said that they are empty.
pub(super) async fn propose(core: &Arc<Core>) -> io::Result<()> {
    let members = (1..).map(RaftId).zip(&core.options.nodes);
    let proposal = Proposal {
        cluster_id: ClusterId(Runtime::random_16_bytes()),
        cluster_name: core.options.cluster_name.clone(),
        members: members
            .map(|(raft_id, (name, address))| {
                let record = NodeRecord {
                    name: name.clone(),
                    address: address.clone(),
                };
                (raft_id, record)
            })
            .collect(),
        dev: core.options.dev,
    };
    let formation = formation_of(core, &proposal, true)
        .ok_or_else(|| io::Error::other("this node is not among the configured nodes"))?;
    tracing::info!(cluster_id = %proposal.cluster_id, "proposing a new cluster");
    core.become_identity(Identity::Accepted(formation)).await
}

/// Sends the proposal that this node has accepted until every other node has too.
pub(crate) async fn collect_acceptances(core: &Arc<Core>, transport: &Arc<Transport>, formation: &Formation) {
    let proposal = Proposal {
        cluster_id: formation.cluster_id,
        cluster_name: formation.cluster_name.clone(),
        members: records(formation),
        dev: formation.dev,
    };
    let asked = others(core).map(|node| {
        let proposal = &proposal;
        async move {
            let mut said = String::new();
            loop {
                let request = FormationRequest::Propose(proposal.clone());
                let reason = match ask(transport, node, request, STEP_DEADLINE).await {
                    Ok(FormationAnswer::Accepted) => return,
                    Ok(FormationAnswer::Refused(reason)) | Err(reason) => reason,
                    Ok(_) => "another answer than to a proposal".into(),
                };
                if reason != said {
                    tracing::warn!(node = %node.0, %reason, "a node has not accepted the cluster yet");
                    said = reason;
                }
                tokio::time::sleep(jittered(PAUSE)).await;
            }
        }
    });
    join_all(asked).await;
}

/// Considers another node's proposal; the acceptance is durable when this returns.
pub(crate) async fn consider(core: &Arc<Core>, from: &Peer, proposal: Proposal) -> Result<(), String> {
    let options = &core.options;
    let first = options.nodes.first().map(|(name, _)| name);
    if first != Some(&from.name) {
        return Err(format!(
            "node {:?} is not the first of the configured nodes here ({first:?})",
            from.name
        ));
    }
    if proposal.cluster_name != options.cluster_name {
        return Err(format!(
            "this node is configured for cluster {:?}, not for {:?}",
            options.cluster_name, proposal.cluster_name
        ));
    }
    let proposed: Vec<&String> = proposal.members.values().map(|record| &record.name).collect();
    let configured: Vec<&String> = options.nodes.iter().map(|(name, _)| name).collect();
    if proposed != configured {
        return Err(format!(
            "the proposed members are {proposed:?}, and the configured nodes here are {configured:?}"
        ));
    }
    let formation = formation_of(core, &proposal, false)
        .ok_or_else(|| "this node is not among the proposed members".to_owned())?;
    let _one_step_at_a_time = core.forming.lock().await;
    match core.identity() {
        Identity::Empty => {
            if let Some(cluster_id) = core.set_aside_from {
                return Err(format!(
                    "this node's data was set aside; it joins cluster {cluster_id} again and forms no other"
                ));
            }
            tracing::info!(cluster_id = %proposal.cluster_id, raft_id = %formation.raft_id, "accepting a new cluster");
            core.become_identity(Identity::Accepted(formation))
                .await
                .map_err(|error| error.to_string())
        }
        Identity::Accepted(known) | Identity::Member(known)
            if known.cluster_id == proposal.cluster_id && known.raft_id == formation.raft_id =>
        {
            Ok(())
        }
        Identity::Accepted(known) | Identity::Member(known) => Err(format!(
            "this node's disk belongs to cluster {} already",
            known.cluster_id
        )),
        Identity::Reverted { .. } => Err("this node's disk is reverted".into()),
        Identity::Disproved { .. } => Err("this node's data is disproved".into()),
    }
}

/// A formation's members, by Raft id.
pub(crate) fn records(formation: &Formation) -> BTreeMap<RaftId, NodeRecord> {
    formation
        .members
        .iter()
        .map(|(name, (raft_id, address))| {
            let record = NodeRecord {
                name: name.clone(),
                address: address.clone(),
            };
            (*raft_id, record)
        })
        .collect()
}

fn formation_of(core: &Core, proposal: &Proposal, proposer: bool) -> Option<Formation> {
    let own = &core.options.node_name;
    let (raft_id, _) = proposal.members.iter().find(|(_, record)| &record.name == own)?;
    Some(Formation {
        cluster_id: proposal.cluster_id,
        cluster_name: proposal.cluster_name.clone(),
        node_name: own.clone(),
        raft_id: *raft_id,
        members: proposal
            .members
            .iter()
            .map(|(raft_id, record)| (record.name.clone(), (*raft_id, record.address.clone())))
            .collect(),
        dev: proposal.dev,
        proposer,
        initialised: false,
    })
}
