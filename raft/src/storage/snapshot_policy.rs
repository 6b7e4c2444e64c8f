//! When a snapshot is taken, and how much of the log is kept.
//!
//! Both follow bytes and time, never a count of entries; openraft's own policies are off
//! (`SnapshotPolicy::Never`, and nothing is purged unless we ask).
//!
//! Invariants: only what the current snapshot contains is purged. The log is kept until a
//! follower, and whoever is receiving a snapshot, can go on from it, unless the log would exceed
//! its limit.

use super::{log_store::LogStore, snapshot_store::SnapshotStore, state_machine_adapter::StateMachineThread};
use crate::types::Raft;
use openraft::async_runtime::WatchReceiver;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// The least time between two snapshots that replace damaged ones: a disk that spoils one spoils the
/// next as well.
const REPLACE_EVERY: Duration = Duration::from_secs(30);

/// A snapshot that was asked for is asked for again only after this time: it is being built.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The limits of the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPolicyOptions {
    /// A snapshot is taken when the log grew by so many bytes since the last one.
    pub after_log_bytes: u64,
    /// A snapshot is taken when so much time passed since the last one and the log grew at all.
    pub after: Duration,
    /// How many bytes of log are kept at least, for followers that fall a little behind.
    pub keep_log_bytes: u64,
    /// How many bytes of log are kept at most for the sake of followers. More than
    /// `after_log_bytes` and `keep_log_bytes` together.
    pub log_limit_bytes: u64,
    /// How often the log is looked at.
    pub check_every: Duration,
}

impl Default for SnapshotPolicyOptions {
    fn default() -> Self {
        Self {
            after_log_bytes: 64 * 1024 * 1024,
            after: Duration::from_secs(60 * 60),
            keep_log_bytes: 32 * 1024 * 1024,
            log_limit_bytes: 512 * 1024 * 1024,
            check_every: Duration::from_millis(500),
        }
    }
}

/// Takes snapshots and purges the log of one node. Runs until openraft stops or it is dropped.
pub async fn run(
    raft: Raft,
    log: LogStore,
    snapshots: SnapshotStore,
    machine: StateMachineThread,
    options: SnapshotPolicyOptions,
) {
    let mut ticks = tokio::time::interval(options.check_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_snapshot = None;
    let mut last_change = Instant::now();
    let mut asked: Option<(Option<u64>, Instant)> = None;
    let mut reclaimed = None;
    let mut replaced: Option<Instant> = None;
    loop {
        ticks.tick().await;
        let observed = {
            let metrics = raft.metrics().borrow_watched().clone();
            let snapshot = metrics.snapshot.map(|log_id| log_id.index);
            if last_snapshot != snapshot {
                (last_snapshot, last_change) = (snapshot, Instant::now());
            }
            let followers = metrics.replication.unwrap_or_default();
            Observed {
                applied: metrics.last_applied.map(|log_id| log_id.index),
                snapshot,
                purged: metrics.purged.map(|log_id| log_id.index),
                grown_bytes: log.bytes_after(snapshot),
                since_snapshot: last_change.elapsed(),
                purgeable: log.purgeable_keeping(options.keep_log_bytes),
                beyond_limit: log.purgeable_keeping(options.log_limit_bytes),
                needed_from: followers
                    .iter()
                    .filter(|(id, _)| **id != metrics.id)
                    .filter_map(|(_, matched)| matched.map(|log_id| log_id.index))
                    .chain(
                        snapshots
                            .superseded_in_use()
                            .iter()
                            .map(|position| position.index),
                    )
                    .collect(),
            }
        };
        let is_being_built = asked
            .is_some_and(|(before, when)| before == observed.snapshot && when.elapsed() < ASK_AGAIN_AFTER);
        let triggered = if observed.wants_snapshot(&options) && !is_being_built {
            asked = Some((observed.snapshot, Instant::now()));
            if let Err(error) = machine.prepare_checkpoint().await {
                // What is wrong the checkpoint will meet again, and decide.
                tracing::warn!(%error, "the state could not be written out before a snapshot");
            }
            raft.trigger().snapshot().await
        } else if snapshots.is_current_damaged()
            && replaced.is_none_or(|replaced| replaced.elapsed() >= REPLACE_EVERY)
        {
            replaced = Some(Instant::now());
            raft.trigger().snapshot().await
        } else {
            Ok(())
        };
        let purged = match observed.purge_up_to() {
            Some(index) => {
                // Done here, so that openraft's own loop does not wait for the disk when it purges.
                match machine.flush().await {
                    Ok(durable) if durable.is_some_and(|durable| durable.index >= index) => {
                        raft.trigger().purge_log(index).await
                    }
                    Ok(_) => Ok(()),
                    Err(error) => {
                        // Fatal, and never tried again. Without the flush nothing may be purged.
                        tracing::error!(%error, "the state could not be made durable; the log is kept");
                        return;
                    }
                }
            }
            None => Ok(()),
        };
        if triggered.and(purged).is_err() {
            return; // openraft has stopped
        }
        if observed.purged != reclaimed {
            reclaimed = observed.purged;
            if log.reclaim().await.is_err() {
                return; // the runtime is shutting down
            }
        }
    }
}

/// What the policy decides by. Indexes and bytes.
#[derive(Clone, Debug, Default)]
struct Observed {
    applied: Option<u64>,
    snapshot: Option<u64>,
    purged: Option<u64>,
    grown_bytes: u64,
    since_snapshot: Duration,
    /// What may go so that the least is kept.
    purgeable: Option<u64>,
    /// What must go so that the limit is kept.
    beyond_limit: Option<u64>,
    /// Where followers and receivers of snapshots go on from: they need every later entry.
    needed_from: Vec<u64>,
}

impl Observed {
    fn wants_snapshot(&self, options: &SnapshotPolicyOptions) -> bool {
        self.applied > self.snapshot
            && (self.grown_bytes >= options.after_log_bytes
                || (self.since_snapshot >= options.after && self.grown_bytes > 0))
    }

    fn purge_up_to(&self) -> Option<u64> {
        let snapshot = self.snapshot?;
        // Whoever is behind the purged log needs a snapshot anyway.
        let needed = self
            .needed_from
            .iter()
            .filter(|from| self.purged.is_none_or(|purged| **from >= purged))
            .min();
        let wanted = self
            .purgeable
            .map(|index| needed.map_or(index, |needed| index.min(*needed)));
        let index = wanted.max(self.beyond_limit)?.min(snapshot);
        (Some(index) > self.purged).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: SnapshotPolicyOptions = SnapshotPolicyOptions {
        after_log_bytes: 100,
        after: Duration::from_secs(10),
        keep_log_bytes: 10,
        log_limit_bytes: 1000,
        check_every: Duration::from_secs(1),
    };

    #[test]
    fn snapshots_follow_bytes_and_time() {
        let observed = Observed {
            applied: Some(9),
            snapshot: Some(5),
            grown_bytes: 99,
            ..Observed::default()
        };
        assert!(!observed.wants_snapshot(&OPTIONS));
        assert!(
            Observed {
                grown_bytes: 100,
                ..observed.clone()
            }
            .wants_snapshot(&OPTIONS)
        );
        assert!(
            Observed {
                since_snapshot: OPTIONS.after,
                ..observed.clone()
            }
            .wants_snapshot(&OPTIONS)
        );
        let idle = Observed {
            grown_bytes: 0,
            since_snapshot: OPTIONS.after,
            ..observed.clone()
        };
        assert!(!idle.wants_snapshot(&OPTIONS));
        assert!(
            !Observed {
                snapshot: Some(9),
                grown_bytes: 100,
                ..observed
            }
            .wants_snapshot(&OPTIONS)
        );
    }

    #[test]
    fn only_what_the_snapshot_contains_is_purged() {
        let observed = Observed {
            purgeable: Some(50),
            ..Observed::default()
        };
        assert_eq!(observed.purge_up_to(), None);
        assert_eq!(
            Observed {
                snapshot: Some(40),
                ..observed.clone()
            }
            .purge_up_to(),
            Some(40)
        );
        assert_eq!(
            Observed {
                snapshot: Some(60),
                ..observed.clone()
            }
            .purge_up_to(),
            Some(50)
        );
        assert_eq!(
            Observed {
                snapshot: Some(60),
                purged: Some(50),
                ..observed
            }
            .purge_up_to(),
            None
        );
    }

    #[test]
    fn the_log_is_kept_for_followers_within_its_limit() {
        let observed = Observed {
            snapshot: Some(60),
            purged: Some(10),
            purgeable: Some(50),
            needed_from: vec![55, 20],
            ..Observed::default()
        };
        assert_eq!(observed.purge_up_to(), Some(20));
        assert_eq!(
            Observed {
                beyond_limit: Some(30),
                ..observed.clone()
            }
            .purge_up_to(),
            Some(30)
        );
        let hopeless = Observed {
            needed_from: vec![55, 5],
            ..observed
        };
        assert_eq!(hopeless.purge_up_to(), Some(50));
    }
}
