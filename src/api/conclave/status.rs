//! Everything about a node.

use super::{
    errors::Failure,
    messages::{NodeRole, Status, VerificationProgress},
    routes::Checked,
};
use crate::{operations::Recording, server::Edge};
use conclave_raft::node::Role;

pub(super) async fn show(call: &Checked<'_>) -> Result<Status, Failure> {
    // Wanted most when no majority answers, and then it cannot be recorded.
    call.operate("status", Recording::WhenPossible).await?;
    Ok(status(call.edge))
}

fn status(edge: &Edge) -> Status {
    let status = edge.cluster.status().borrow().clone();
    let sealed = edge
        .sealer
        .status()
        .borrow()
        .sealed
        .as_ref()
        .map(ToString::to_string);
    let grants = edge.grants.status();
    let raft = status.raft;
    Status {
        cluster_id: raft.cluster_id.map(|id| id.to_string()),
        cluster_name: edge.cluster_name.clone(),
        node_id: raft.raft_id.map(|id| id.0),
        node_name: edge.node_name.clone(),
        role: role(raft.role),
        removed: status.removed,
        leader_id: raft.leader.map(|id| id.0),
        term: raft.term,
        last_log_index: raft.last_log_index,
        committed_index: raft.committed_index,
        applied_index: raft.applied_index,
        snapshot_index: raft.snapshot_index,
        purged_index: raft.purged_index,
        sealed: sealed.is_some(),
        sealed_reason: sealed,
        state_digest: status.digest.map(|(_, digest)| hexadecimal(&digest)),
        state_digest_index: status.digest.map(|(index, _)| index),
        staleness_ms: status.staleness_ms,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rules_version: status.rules_version,
        dev: status.dev,
        state_time_ms: status.state_time_ms,
        clock_skew_ms: status.clock_skew_ms,
        clock_refuses_lead: status.clock_refuses_lead,
        verification: edge
            .cluster
            .verification_progress()
            .map(|progress| VerificationProgress {
                scanned_bytes: progress.scanned_bytes,
                total_bytes: progress.total_bytes,
            }),
        joint: raft.joint(),
        grants_digest: grants.digest,
        grants_error: grants.load_error,
        audit_bytes: status.audit_bytes,
        audit_limit_bytes: status.audit_limit_bytes,
        free_bytes: status.free_bytes,
        out_of_space: raft.out_of_space,
        halted: raft.halted,
    }
}

fn role(role: Role) -> NodeRole {
    match role {
        Role::Unformed => NodeRole::Unformed,
        Role::Learner => NodeRole::Learner,
        Role::Follower => NodeRole::Follower,
        Role::Candidate => NodeRole::Candidate,
        Role::Leader => NodeRole::Leader,
    }
}

/// Lower-case hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
