//! Members and their changes, leadership, verification. Each needs `operate` and is recorded.

use super::{
    errors::Failure,
    messages::{
        AddMember, ClusterMembers, ErrorCode, MemberChanged, MemberEntry, MemberId, NodeVerification,
        TransferLeadership, Verification, Verify,
    },
    routes::Checked,
    status::hexadecimal,
};
use crate::operations::Recording;
use conclave_cluster::node;
use conclave_raft::identity::RaftId;
use std::time::Duration;

/// How long changes are waited for unless the request says.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a verification is waited for unless the request says.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60 * 60);

pub(super) async fn members(call: &Checked<'_>) -> Result<ClusterMembers, Failure> {
    call.operate("cluster list", Recording::WhenPossible).await?;
    let raft = call.edge.cluster.status().borrow().raft.clone();
    let snapshots = call.edge.cluster.snapshots_sent();
    let disks = call.edge.cluster.disks();
    let shown = |(id, member): (&RaftId, &conclave_raft::node::Member)| MemberEntry {
        snapshot_sent_bytes: snapshots.get(id).map(|progress| progress.sent_bytes),
        snapshot_total_bytes: snapshots.get(id).map(|progress| progress.total_bytes),
        id: id.0,
        name: member.record.name.clone(),
        address: member.record.address.clone(),
        voter: member.voter,
        matched_index: member.matched_index,
        last_acknowledged_ms: member.last_acknowledged_ms,
        behind_bytes: disks.get(id).and_then(|disk| disk.behind_bytes),
        disk_below_reserve: disks.get(id).and_then(|disk| disk.below_reserve),
    };
    Ok(ClusterMembers {
        cluster_id: raft.cluster_id.map(|id| id.to_string()),
        leader_id: raft.leader.map(|id| id.0),
        term: raft.term,
        joint: raft.joint(),
        members: raft.members.iter().map(shown).collect(),
    })
}

pub(super) async fn add(call: &Checked<'_>) -> Result<MemberChanged, Failure> {
    let AddMember { name, timeout_ms } = call.message()?;
    if !crate::config::is_name(&name) {
        return Err(Failure::new(
            ErrorCode::InvalidRequest,
            "invalid request: name: is not a node name",
        ));
    }
    let record = call.record_change(&format!("cluster add {name}")).await?;
    let deadline = call.operation_deadline(timeout_ms, CHANGE_TIMEOUT);
    Ok(MemberChanged {
        id: call.edge.cluster.add_member(&name, record, deadline).await?.0,
    })
}

pub(super) async fn promote(call: &Checked<'_>) -> Result<MemberChanged, Failure> {
    let MemberId { id, timeout_ms } = call.message()?;
    let record = call.record_change(&format!("cluster promote {id}")).await?;
    let deadline = call.operation_deadline(timeout_ms, CHANGE_TIMEOUT);
    call.edge
        .cluster
        .promote_member(RaftId(id), record, deadline)
        .await?;
    Ok(MemberChanged { id })
}

pub(super) async fn remove(call: &Checked<'_>) -> Result<MemberChanged, Failure> {
    let MemberId { id, timeout_ms } = call.message()?;
    let record = call.record_change(&format!("cluster remove {id}")).await?;
    let deadline = call.operation_deadline(timeout_ms, CHANGE_TIMEOUT);
    call.edge
        .cluster
        .remove_member(RaftId(id), record, deadline)
        .await?;
    Ok(MemberChanged { id })
}

pub(super) async fn replace(call: &Checked<'_>) -> Result<MemberChanged, Failure> {
    let MemberId { id, timeout_ms } = call.message()?;
    let record = call.record_change(&format!("cluster replace {id}")).await?;
    let deadline = call.operation_deadline(timeout_ms, CHANGE_TIMEOUT);
    Ok(MemberChanged {
        id: call
            .edge
            .cluster
            .replace_member(RaftId(id), record, deadline)
            .await?
            .0,
    })
}

pub(super) async fn transfer(call: &Checked<'_>) -> Result<MemberChanged, Failure> {
    let TransferLeadership { to, timeout_ms } = call.message()?;
    let record = call.record_change("cluster transfer").await?;
    let deadline = call.operation_deadline(timeout_ms, CHANGE_TIMEOUT);
    Ok(MemberChanged {
        id: call
            .edge
            .cluster
            .transfer_leadership(to.map(RaftId), record, deadline)
            .await?
            .0,
    })
}

pub(super) async fn verify(call: &Checked<'_>) -> Result<Verification, Failure> {
    let Verify { timeout_ms } = call.message()?;
    call.operate("cluster verify", Recording::Required).await?;
    let deadline = call.operation_deadline(timeout_ms, VERIFY_TIMEOUT);
    Ok(verdict(call.edge.cluster.verify(deadline).await?))
}

/// Nodes scan at indexes of their own, so that running digests cannot be compared across nodes
/// here; that the nodes' running digests agree at common indexes is compared all the time, and a
/// node that differs halts. What is proven here is that each node's disk holds what it applied.
fn verdict(verification: node::Verification) -> Verification {
    let nodes: Vec<NodeVerification> = verification
        .nodes
        .into_iter()
        .map(|node| {
            let (digest, error) = match node.result {
                Ok(digest) => (Some(digest), None),
                Err(error) => (None, Some(error)),
            };
            NodeVerification {
                id: node.raft_id.0,
                name: node.name,
                index: digest.map(|digest| digest.index),
                scanned: digest.map(|digest| hexadecimal(&digest.scanned)),
                running: digest.map(|digest| hexadecimal(&digest.running)),
                error,
            }
        })
        .collect();
    let is_whole = |node: &NodeVerification| node.error.is_none() && node.scanned == node.running;
    let agree_at_common_indexes = nodes.iter().all(|node| {
        nodes
            .iter()
            .all(|other| node.index != other.index || node.scanned == other.scanned)
    });
    Verification {
        agreed: nodes.iter().all(is_whole) && agree_at_common_indexes,
        nodes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_cluster::node::ScannedDigest;

    fn node(id: u64, result: Result<(u64, u8, u8), &str>) -> node::NodeVerification {
        node::NodeVerification {
            raft_id: RaftId(id),
            name: format!("node-{id}"),
            result: result
                .map(|(index, scanned, running)| ScannedDigest {
                    index,
                    scanned: [scanned; 32],
                    running: [running; 32],
                })
                .map_err(str::to_owned),
        }
    }

    #[test]
    fn nodes_agree_when_each_disk_holds_what_was_applied() {
        let agreed = |nodes: Vec<node::NodeVerification>| verdict(node::Verification { nodes }).agreed;
        assert!(agreed(vec![
            node(1, Ok((7, 1, 1))),
            node(2, Ok((7, 1, 1))),
            node(3, Ok((8, 2, 2)))
        ]));
        assert!(!agreed(vec![node(1, Ok((7, 1, 1))), node(2, Ok((7, 3, 1)))]));
        assert!(!agreed(vec![node(1, Ok((7, 1, 1))), node(2, Ok((7, 3, 3)))]));
        assert!(!agreed(vec![node(1, Ok((7, 1, 1))), node(2, Err("unreachable"))]));
    }
}
