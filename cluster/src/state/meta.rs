//! What the state knows of itself: one small row, rewritten by every entry.

use crate::{
    command::{AtAuditLimit, AuditRetention},
    model::AuditKey,
};
use conclave_raft::state_machine::LogPosition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key of [`Meta`] in its table.
pub const META_KEY: &[u8] = b"meta";
/// The key of the membership (position and bytes, as Raft gave them).
pub const MEMBERSHIP_KEY: &[u8] = b"membership";
/// The key of [`Joined`].
pub const JOINED_KEY: &[u8] = b"joined";

/// When each member came: its Raft id, and the state time in milliseconds at which a membership first
/// named it (0 for those that formed the cluster).
pub type Joined = BTreeMap<u64, u64>;

/// The audit limit of a new cluster, until [`crate::command::Operation::SetAuditRetention`].
pub const DEFAULT_AUDIT_LIMIT_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The state's own figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    /// The last applied entry.
    pub applied: Option<LogPosition>,
    /// State time in milliseconds; never goes back.
    pub time_ms: u64,
    /// The version of apply's rules that is in force.
    pub rules_version: u32,
    /// The next Raft id to give out: above every one that a membership ever named.
    pub next_raft_id: u64,
    /// The window of outcomes.
    pub window: WindowMeta,
    /// The audit's figures.
    pub audit: AuditMeta,
    /// How much audit is kept.
    pub retention: AuditRetention,
}

/// Figures of the window of outcomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WindowMeta {
    /// Outcomes of entries up to this index have left the window; a proposal that was made before
    /// it is refused.
    pub floor_index: u64,
    /// How many outcomes the window holds.
    pub outcomes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many values linger.
    pub lingering: u64,
    /// No value lingers since an entry before this index.
    pub lingering_from: u64,
}

/// Figures of the audit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AuditMeta {
    /// Bytes of records and their keys.
    pub bytes: u64,
    /// How many records there are.
    pub records: u64,
    /// The last record that was pruned.
    pub pruned_through: Option<AuditKey>,
    /// Whether pruning goes on until the audit is well below its limit.
    pub pruning: bool,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            applied: None,
            time_ms: 0,
            rules_version: 1,
            next_raft_id: 1,
            window: WindowMeta::default(),
            audit: AuditMeta::default(),
            retention: AuditRetention {
                limit_bytes: DEFAULT_AUDIT_LIMIT_BYTES,
                at_limit: AtAuditLimit::PruneOldest,
            },
        }
    }
}
