//! Rescans every stored pair and compares with the digest that was kept while writing: slowly, all
//! the time, and when `conclave cluster verify` asks. Bytes that changed by themselves in a row that
//! nobody reads are found so.

use crate::{metric_definitions, node::ScannedDigest, state::Store};
use conclave_raft::{
    node::RaftNode,
    runtime::{AsyncRuntime, Runtime},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// The pause between two scrubs.
const PAUSE: Duration = Duration::from_secs(600);

/// Rescans on behalf of one node, one scan at a time.
pub(crate) struct Scrub {
    raft: RaftNode,
    store: Arc<Store>,
    bytes_per_s: u64,
    one_at_a_time: Mutex<()>,
}

impl Scrub {
    /// A scrub that reads at most so many bytes per second.
    pub(crate) fn new(raft: RaftNode, store: Arc<Store>, bytes_per_s: u64) -> Self {
        Self {
            raft,
            store,
            bytes_per_s,
            one_at_a_time: Mutex::new(()),
        }
    }

    /// Scrubs for as long as the node runs.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PAUSE).await;
            if let Err(reason) = self.scan().await.and_then(|scanned| scanned.check()) {
                return self.halt(reason);
            }
        }
    }

    /// Scans once. A state that cannot be read, or is not what was written, halts the node after
    /// the answer was given.
    pub(crate) async fn verify(self: Arc<Self>) -> Result<ScannedDigest, String> {
        let scanned = self.scan().await;
        if let Err(reason) = scanned.clone().and_then(|scanned| scanned.check()) {
            Runtime::spawn(async move {
                // The answer says which node it is; it should get out first.
                tokio::time::sleep(Duration::from_millis(500)).await;
                self.halt(reason);
            });
        }
        scanned
    }

    async fn scan(&self) -> Result<ScannedDigest, String> {
        let _one = self.one_at_a_time.lock().await;
        let (view, bytes_per_s) = (self.store.view(), self.bytes_per_s);
        // The thread ends soon after nobody waits for it any more.
        let waiting = Arc::new(());
        let waited_for = Arc::downgrade(&waiting);
        let scanned = Runtime::spawn_blocking(move || {
            view.scan_digest(Some(bytes_per_s), || waited_for.strong_count() > 0)
        })
        .await
        .map_err(|error| format!("the scan of the state broke off: {error}"))?
        .map_err(|error| format!("the state cannot be read: {error}"))?
        .ok_or("the scan of the state was given up")?;
        drop(waiting);
        metrics::counter!(metric_definitions::SCRUBS).increment(1);
        Ok(scanned)
    }

    fn halt(&self, reason: String) {
        tracing::error!(reason, "this node halts");
        self.raft.halt(reason);
    }
}

impl ScannedDigest {
    fn check(self) -> Result<(), String> {
        if self.scanned == self.running {
            return Ok(());
        }
        metrics::counter!(metric_definitions::DIGESTS_DIFFERING).increment(1);
        Err(format!(
            "the stored state at index {} is not what was written: a rescan gives another digest",
            self.index
        ))
    }
}
