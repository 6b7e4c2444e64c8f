//! Publishes how this node stands, beyond Raft.

use super::{ClusterStatus, Inner};
use crate::{
    agreement::{Fault, looking_twice},
    metric_definitions,
};
use conclave_raft::node::RaftStatus;
use std::{sync::Arc, time::Duration};

/// How often figures are read that change by themselves.
const REFRESH_EVERY: Duration = Duration::from_millis(250);

/// The least time between two publications: a busy log changes Raft's status with every entry.
const PAUSE: Duration = Duration::from_millis(20);

/// Publishes for as long as the node runs.
pub(super) async fn run(node: Arc<Inner>) {
    let mut raft_status = node.raft.status();
    let mut clock_report = node.clock_report.subscribe();
    loop {
        raft_status.mark_unchanged();
        clock_report.mark_unchanged();
        let present = looking_twice(|| {
            let raft = raft_status.borrow().clone();
            node.present_status(raft)
        });
        match present {
            Ok(present) => {
                node.status.send_if_modified(|before| {
                    let changed = *before != present;
                    *before = present;
                    changed
                });
            }
            Err(error) => {
                let fault = Fault::of_reading("the state's own figures", &error);
                fault.halt(&node.raft).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            biased;
            changed = raft_status.changed() => if changed.is_err() { return },
            _ = clock_report.changed() => {}
            () = tokio::time::sleep(REFRESH_EVERY) => {}
        }
    }
}

/// Publishes a halt at once, whatever became of the task above: the process waits for this to end.
pub(super) async fn announce_halt(node: Arc<Inner>) {
    let mut raft_status = node.raft.status();
    let halted = raft_status.wait_for(|raft| raft.halted.is_some()).await;
    if let Ok(raft) = halted.map(|raft| raft.clone()) {
        node.status.send_modify(|status| status.raft = raft);
    }
    std::future::pending().await
}

impl Inner {
    /// How this node stands now.
    pub(super) fn present_status(&self, raft: RaftStatus) -> std::io::Result<ClusterStatus> {
        let view = self.store.view();
        let meta = view.meta();
        let report = *self.clock_report.borrow();
        let removed = report.others_miss_us
            || raft
                .raft_id
                .is_some_and(|me| !raft.members.is_empty() && !raft.members.contains_key(&me));
        let staleness = self.barriers.staleness();
        let status = ClusterStatus {
            dev: self.raft.dev(),
            removed,
            rules_version: meta.rules_version,
            state_time_ms: meta.time_ms,
            digest: view.kept_digests()?.pop(),
            staleness_ms: staleness.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            quorum_lost: staleness.unwrap_or_else(|| self.started.elapsed())
                > self.options.staleness_bound * 3 / 2,
            clock_skew_ms: report.skew_ms,
            clock_refuses_lead: report.refuses_lead,
            audit_bytes: meta.audit.bytes,
            audit_limit_bytes: meta.retention.limit_bytes,
            free_bytes: self.space.free_bytes().unwrap_or(0),
            raft,
        };
        let lag = status
            .raft
            .committed_index
            .unwrap_or(0)
            .saturating_sub(status.raft.applied_index.unwrap_or(0));
        metrics::gauge!(metric_definitions::APPLY_LAG).set(lag as f64);
        metrics::gauge!(metric_definitions::AUDIT_BYTES).set(status.audit_bytes as f64);
        if let Some(staleness) = staleness {
            metrics::gauge!(metric_definitions::STALENESS_SECONDS).set(staleness.as_secs_f64());
        }
        Ok(status)
    }
}
