//! An empty directory looks for its cluster: it forms one if it may, and else waits to be let in. Only
//! the leader lets it in, which any member names; members are asked in turn, because one may have been
//! removed, or be cut off from the leader, and not know it.

use super::{
    PAUSE, STEP_DEADLINE, ask, bootstrap,
    messages::{FormationAnswer, FormationRequest, JoinGrant, Standing},
    others,
};
use crate::{
    identity::{ClusterId, NodeRecord},
    node::core::Core,
    storage::identity_store::{Formation, Identity},
    transport::{Transport, multiplexed::jittered},
};
use futures::future::join_all;
use std::{io, sync::Arc, time::Duration};

/// For being let in: an id has to go through the log.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);
/// Between two refused attempts to join.
const JOIN_PAUSE: Duration = Duration::from_secs(2);

/// Returns once the directory is no longer empty.
pub(crate) async fn find_cluster(core: &Arc<Core>, transport: &Arc<Transport>) -> io::Result<()> {
    let mut identity = core.watch_identity();
    let mut said = String::new();
    let mut refusals: usize = 0;
    loop {
        let pause = match look_around(core, transport).await {
            Prospect::Formable => {
                let _one_step_at_a_time = core.forming.lock().await;
                if core.identity() == Identity::Empty {
                    bootstrap::propose(core).await?;
                }
                PAUSE
            }
            Prospect::Members(nodes) => {
                let node = &nodes[refusals % nodes.len()];
                match join(core, transport, node).await {
                    Ok(()) => PAUSE,
                    Err(reason) => {
                        refusals = refusals.wrapping_add(1);
                        say(
                            &mut said,
                            format!("node {} has not let this one in: {reason}", node.0),
                        );
                        JOIN_PAUSE
                    }
                }
            }
            Prospect::Wait(reason) => {
                say(&mut said, reason);
                PAUSE
            }
        };
        let changed = identity.wait_for(|identity| *identity != Identity::Empty);
        match tokio::time::timeout(jittered(pause), changed).await {
            Ok(_) => return Ok(()),
            Err(_) => continue,
        }
    }
}

enum Prospect {
    /// Every configured node is empty, and this is the first of them.
    Formable,
    /// These nodes, of which there is one at least, belong to a formed cluster.
    Members(Vec<(String, String)>),
    /// Nothing can be done now.
    Wait(String),
}

async fn look_around(core: &Arc<Core>, transport: &Arc<Transport>) -> Prospect {
    let asked = others(core).map(|node| async move {
        (
            node,
            ask(transport, node, FormationRequest::Inquire, STEP_DEADLINE).await,
        )
    });
    let mut unreachable = Vec::new();
    let mut accepted = Vec::new();
    let mut formed: Vec<(&(String, String), ClusterId)> = Vec::new();
    let mut set_aside: Vec<(&String, ClusterId)> = Vec::new();
    set_aside.extend(core.set_aside_from.map(|own| (&core.options.node_name, own)));
    for (node, answer) in join_all(asked).await {
        match answer {
            Ok(FormationAnswer::Standing(Standing::Empty)) => {}
            Ok(FormationAnswer::Standing(Standing::Accepted(cluster_id))) => accepted.push(cluster_id),
            Ok(FormationAnswer::Standing(Standing::Formed(cluster_id))) => formed.push((node, cluster_id)),
            Ok(FormationAnswer::Standing(Standing::SetAside(cluster_id))) => {
                set_aside.push((&node.0, cluster_id));
            }
            _ => unreachable.push(&node.0),
        }
    }
    if let Some((node, cluster_id)) = formed.first() {
        if let Some((other, other_id)) = formed.iter().find(|(_, id)| id != cluster_id) {
            return Prospect::Wait(format!(
                "the configured nodes belong to different clusters: {} to {cluster_id}, {} to {other_id}",
                node.0, other.0
            ));
        }
        if let Some(own) = core.set_aside_from
            && own != *cluster_id
        {
            return Prospect::Wait(format!(
                "the configured nodes belong to cluster {cluster_id}, and this node's data, which was set aside, to \
                 {own}; if that is meant, empty the data directory"
            ));
        }
        #[cfg(feature = "planted-faults")]
        if crate::planted::is_planted("votes-under-old-id") {
            return take_first_id_again(core, *cluster_id).await;
        }
        return Prospect::Members(formed.into_iter().map(|(node, _)| node.clone()).collect());
    }
    if let Some((name, cluster_id)) = set_aside.first() {
        return Prospect::Wait(format!(
            "waiting for a member of cluster {cluster_id}: node {name} set its data aside and waits to be let in \
             again; if no other node has that cluster's data any more, restore one from a backup, or empty every data directory"
        ));
    }
    let is_first = core
        .options
        .nodes
        .first()
        .is_some_and(|(name, _)| *name == core.options.node_name);
    if !unreachable.is_empty() {
        Prospect::Wait(format!("waiting for nodes {unreachable:?}"))
    } else if !is_first {
        Prospect::Wait("waiting for the first configured node to propose a cluster".into())
    } else if let Some(cluster_id) = accepted.first() {
        Prospect::Wait(format!(
            "other nodes have accepted cluster {cluster_id}, whose proposal was on this node's disk, which is \
             empty now; if that cluster never came to be, empty their data directories as well"
        ))
    } else {
        Prospect::Formable
    }
}

/// Takes the Raft id that this node's first directory had, as though its disk were not empty.
#[cfg(feature = "planted-faults")]
async fn take_first_id_again(core: &Arc<Core>, cluster_id: ClusterId) -> Prospect {
    let members: std::collections::BTreeMap<_, _> = (1..)
        .map(crate::identity::RaftId)
        .zip(&core.options.nodes)
        .map(|(raft_id, (name, address))| (name.clone(), (raft_id, address.clone())))
        .collect();
    let Some((raft_id, _)) = members.get(&core.options.node_name) else {
        return Prospect::Wait("this node is not among the configured nodes".into());
    };
    let formation = Formation {
        cluster_id,
        cluster_name: core.options.cluster_name.clone(),
        node_name: core.options.node_name.clone(),
        raft_id: *raft_id,
        members,
        dev: core.options.dev,
        proposer: false,
        initialised: true,
    };
    match core.become_identity(Identity::Member(formation)).await {
        Ok(()) => Prospect::Wait("it took its first id again".into()),
        Err(error) => Prospect::Wait(error.to_string()),
    }
}

async fn join(core: &Arc<Core>, transport: &Arc<Transport>, node: &(String, String)) -> Result<(), String> {
    let mut answer = ask(transport, node, FormationRequest::Join, JOIN_DEADLINE).await?;
    if let FormationAnswer::AskLeader(NodeRecord { name, address }) = answer {
        let leader = (name, address);
        answer = ask(transport, &leader, FormationRequest::Join, JOIN_DEADLINE)
            .await
            .map_err(|reason| format!("it names {} as the leader: {reason}", leader.0))?;
    }
    match answer {
        FormationAnswer::Granted(grant) => {
            let _one_step_at_a_time = core.forming.lock().await;
            if core.identity() != Identity::Empty {
                return Ok(());
            }
            if core.set_aside_from.is_some_and(|own| own != grant.cluster_id) {
                return Err(format!(
                    "it lets nodes into another cluster, {}",
                    grant.cluster_id
                ));
            }
            tracing::info!(cluster_id = %grant.cluster_id, raft_id = %grant.raft_id, "joining a cluster");
            core.become_identity(Identity::Member(formation_of(core, grant)))
                .await
                .map_err(|error| error.to_string())
        }
        FormationAnswer::Refused(reason) => Err(reason),
        FormationAnswer::AskLeader(_) => Err("leadership is changing".into()),
        _ => Err("another answer than to joining".into()),
    }
}

fn formation_of(core: &Core, grant: JoinGrant) -> Formation {
    Formation {
        cluster_id: grant.cluster_id,
        cluster_name: core.options.cluster_name.clone(),
        node_name: core.options.node_name.clone(),
        raft_id: grant.raft_id,
        // A predecessor of the same name may still be a member: the newest incarnation counts.
        members: grant
            .members
            .into_iter()
            .map(|(raft_id, record)| (record.name, (raft_id, record.address)))
            .collect(),
        dev: grant.dev,
        proposer: false,
        initialised: true,
    }
}

fn say(said: &mut String, reason: String) {
    if *said != reason {
        tracing::warn!(%reason, "this node's data directory is empty and not part of a cluster yet");
        *said = reason;
    }
}
