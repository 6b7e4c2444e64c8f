//! What the cluster keeps in the state for itself: Raft ids, when each member came, the rules' version,
//! the audit's limit.

use super::{
    machine::{Machine, Stop},
    recording::AUDIT_LIMIT_BYTES_MIN,
};
use crate::{
    command::{AuditRetention, Done, Refusal},
    state::{JOINED_KEY, Joined, Meta, Table, Transaction},
};
use conclave_raft::types::decode_membership;
use std::io;

/// The newest version of apply's rules that this build knows. A leader must not propose a higher
/// one: it could not apply what it proposed.
pub const NEWEST_RULES: u32 = DESTROYED_IS_NOT_FOUND;

/// From these rules on, what asks for a destroyed version is recorded as not found. Before, it was recorded
/// as refused.
pub(super) const DESTROYED_IS_NOT_FOUND: u32 = 2;

/// Raft ids that a membership names were given out, whoever did it; and each came when the first
/// membership that names it was applied.
pub(super) fn note_members(rows: &mut Transaction<'_>, meta: &mut Meta, membership: &[u8]) -> io::Result<()> {
    let Ok(membership) = decode_membership(membership) else {
        return Ok(());
    };
    let before: Joined = rows.get(Table::Meta, JOINED_KEY)?.unwrap_or_default();
    let came = |raft_id: u64| before.get(&raft_id).copied().unwrap_or(meta.time_ms);
    let joined: Joined = membership.nodes().map(|(id, _)| (*id, came(*id))).collect();
    rows.put(Table::Meta, JOINED_KEY, &joined);
    if let Some(highest) = membership.nodes().map(|(id, _)| *id).max() {
        meta.next_raft_id = meta.next_raft_id.max(highest.saturating_add(1));
    }
    Ok(())
}

/// Gives out a Raft id that was never used.
pub(super) fn allocate_raft_id(machine: &mut Machine<'_, '_>) -> Result<Done, Stop> {
    let raft_id = machine.meta.next_raft_id;
    machine.meta.next_raft_id = raft_id
        .checked_add(1)
        .ok_or_else(|| Refusal::Malformed("no Raft id is left".to_owned()))?;
    Ok(Done::RaftId(raft_id))
}

/// Raises the rules by one version. Whoever does not know the next one halts: it could only diverge.
pub(super) fn raise_rules(machine: &mut Machine<'_, '_>, version: u32) -> Result<Done, Stop> {
    let current = machine.meta.rules_version;
    if version == current {
        return Ok(Done::Done);
    }
    if Some(version) != current.checked_add(1) {
        return Err(Refusal::Malformed("rules are raised by one version at a time".to_owned()).into());
    }
    machine.meta.rules_version = version;
    Ok(Done::Done)
}

/// Sets how much audit is kept.
pub(super) fn set_audit_retention(
    machine: &mut Machine<'_, '_>,
    retention: AuditRetention,
) -> Result<Done, Stop> {
    if retention.limit_bytes < AUDIT_LIMIT_BYTES_MIN {
        return Err(Refusal::Malformed("the audit's limit is too low".to_owned()).into());
    }
    machine.meta.retention = retention;
    Ok(Done::Done)
}
