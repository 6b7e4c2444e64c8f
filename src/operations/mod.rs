//! The one small set of operations that every dialect maps to.
//!
//! Each operation checks the caller's limits, then its rights, turns the name into tokens, proposes
//! one command that carries the sealed record of who asks, and opens the answer. Nothing leaves in
//! plaintext before the cluster has recorded the disclosure. A refusal for want of rights is recorded
//! too; a malformed request is not.

mod answers;
mod call;
mod caller;
mod error;
mod limits;
mod operate;
mod read;
mod write;

pub use answers::{Polled, PutVersion, SecretInfo, SecretValue};
pub use caller::{Caller, Dialect};
pub use error::OperationError;
pub use limits::OperationLimits;
pub use operate::Recording;

use crate::{audit::Refusals, index::NameIndex, seal::Sealer};
use conclave_cluster::node::Cluster;
use limits::Admission;
use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// The operations of one node's edge. Shared by all its listeners.
pub struct Operations {
    cluster: Cluster,
    sealer: Arc<Sealer>,
    index: Arc<NameIndex>,
    node_name: String,
    limits: OperationLimits,
    admission: Arc<Admission>,
    refusals: Mutex<Refusals>,
    listings: Arc<Semaphore>,
    /// They use threads that the core uses as well.
    audit_readings: Arc<Semaphore>,
    background_records: Arc<Semaphore>,
}

impl Operations {
    /// Listings that are made at once: each may hold every name.
    const LISTINGS: usize = 4;
    /// Queries of the audit log at once; more wait.
    const AUDIT_READINGS: usize = 4;
    /// Records of looks at the status that may wait in the background.
    const BACKGROUND_RECORDS: usize = 64;
    /// How often refusals that share a record are looked through, and how long writing them may take.
    const REFUSALS_PAUSE: Duration = Duration::from_secs(1);
    const REFUSALS_PATIENCE: Duration = Duration::from_secs(10);

    /// Starts the index of names and the writing of shared refusals, both until the last handle is
    /// dropped.
    pub fn start(
        cluster: Cluster,
        sealer: Arc<Sealer>,
        node_name: String,
        limits: OperationLimits,
    ) -> Arc<Self> {
        let operations = Arc::new(Self {
            index: NameIndex::start(cluster.clone(), sealer.clone()),
            admission: Admission::new(&limits),
            refusals: Mutex::new(Refusals::new(limits.refusal_records_per_ten_seconds)),
            listings: Arc::new(Semaphore::new(Self::LISTINGS)),
            audit_readings: Arc::new(Semaphore::new(Self::AUDIT_READINGS)),
            background_records: Arc::new(Semaphore::new(Self::BACKGROUND_RECORDS)),
            cluster,
            sealer,
            node_name,
            limits,
        });
        tokio::spawn(write_shared_refusals(Arc::downgrade(&operations)));
        operations
    }

    /// Writes what is still counted of refusals. To be called once no more requests come.
    pub async fn shutdown(&self, deadline: Instant) {
        let rest = self.refusals().take_all();
        self.write_refusals(rest, deadline).await;
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn write_shared_refusals(operations: Weak<Operations>) {
    loop {
        tokio::time::sleep(Operations::REFUSALS_PAUSE).await;
        let Some(operations) = operations.upgrade() else {
            return;
        };
        let ended = operations.refusals().take_ended(Instant::now());
        operations
            .write_refusals(ended, Instant::now() + Operations::REFUSALS_PATIENCE)
            .await;
    }
}
