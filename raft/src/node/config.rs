//! openraft's configuration: every option is set on purpose.

use super::options::{RaftOptions, StartError};
use openraft::{Config, SnapshotPolicy, StepDownPolicy};
use std::sync::Arc;

/// The options that openraft runs with.
///
/// A follower stands for election when it has heard nothing for the lease (twice the election
/// time-out) and its own random time-out (one to two times) after that: three to four times the
/// configured time-out. With 150 ms a killed leader is replaced after 450 to 600 ms.
pub(super) fn raft_config(options: &RaftOptions) -> Result<Arc<Config>, StartError> {
    let election_ms = options.election_timeout.as_millis() as u64;
    #[expect(
        deprecated,
        reason = "every option is set, also one that is only kept for old callers"
    )]
    let config = Config {
        cluster_name: options.cluster_name.clone(),
        election_timeout_min: election_ms,
        election_timeout_max: election_ms * 2,
        // Six in a lease: one lost or late heartbeat deposes nobody.
        heartbeat_interval: (election_ms / 3).max(1),
        // None is left out: reads rely on them, and they are cheap beside an append.
        heartbeat_min_interval: Some(0),
        // For one step of a snapshot (a chunk, or a sign that installing goes on), not for the whole.
        install_snapshot_timeout: 60_000,
        // Without meaning in this version: `install_snapshot_timeout` counts.
        send_snapshot_timeout: 0,
        // Bytes bound an append (the log's reader); this only bounds its head.
        max_payload_entries: 4096,
        // As above, for one write of the follower's log.
        max_append_entries: Some(4096),
        // A follower is sent a snapshot only when what it needs was purged. Purging is ours, by
        // bytes, and looks at who is being caught up.
        replication_lag_threshold: u64::MAX,
        // Snapshots are triggered by bytes of log and time (`storage::snapshot_policy`).
        snapshot_policy: SnapshotPolicy::Never,
        // A recommendation to the network, which has its own.
        snapshot_max_chunk_size: crate::transport::sending_snapshot::CHUNK_BYTES as u64,
        // Never purge by count: `storage::snapshot_policy` purges by bytes.
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        // Proposals are bounded in bytes before they come here; these only bound their number.
        api_channel_size: Some(4096),
        api_batch_capacity: 1024,
        // Whatever waits is taken at once; nobody waits for company.
        api_batch_linger_ms: 0,
        notification_channel_size: Some(65_536),
        state_machine_channel_size: Some(1024),
        // Only used with a feature that is off.
        log_stage_capacity: None,
        // Followers write while the leader syncs: that is what makes a commit one round.
        broadcast_submitted_on_append: Some(true),
        enable_tick: true,
        enable_heartbeat: true,
        enable_elect: true,
        // A leader that removed itself hands over as soon as its followers could hear of it.
        removed_leader_step_down: StepDownPolicy::After(election_ms),
        // A leader without a quorum falls silent for so long, so that followers that it still
        // reaches elect another; the smallest value that is allowed.
        quorum_loss_probe_interval: Some(election_ms * 4),
        // A node that cannot win does not disturb.
        enable_pre_vote: Some(true),
        // The network gives its own, jittered.
        backoff: "20ms 40ms ...1s".to_owned(),
        // A target of a transfer is contacted at once.
        reset_backoff_on_transfer_leader: Some(true),
        // A log that lost what it acknowledged is never filled up again under the same id.
        allow_log_reversion: Some(false),
        // A restarted leader is elected again or is none.
        enable_leader_restore: Some(false),
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|error| StartError::Options(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        storage::{
            fatal::OnFatal,
            snapshot_policy::SnapshotPolicyOptions,
            space::{EntryClass, Reserves},
        },
        transport::tls::TlsFiles,
    };
    use std::{path::PathBuf, time::Duration};

    /// Where openraft's own default would be another, or means "off".
    #[test]
    fn what_safety_rests_on_is_set() {
        let options = RaftOptions {
            cluster_name: "c".into(),
            node_name: "n1".into(),
            advertise: "127.0.0.1:1".into(),
            nodes: vec![],
            data_dir: PathBuf::new(),
            tls: TlsFiles {
                certificate: PathBuf::new(),
                private_key: PathBuf::new(),
                authority: PathBuf::new(),
            },
            dev: false,
            election_timeout: Duration::from_millis(150),
            snapshots: SnapshotPolicyOptions::default(),
            reserves: Reserves {
                ordinary_bytes: 2,
                relieving_bytes: 1,
            },
            classify: Arc::new(|_| EntryClass::Ordinary),
            free_space_file: None,
            sync: true,
            on_fatal: OnFatal::exit(),
        };
        let config = raft_config(&options).unwrap();
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.allow_log_reversion, Some(false));
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.quorum_loss_probe_interval, Some(600));
        assert!(matches!(config.snapshot_policy, SnapshotPolicy::Never));
    }
}
