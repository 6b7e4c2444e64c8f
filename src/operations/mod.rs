//! The one small set of operations that every dialect maps to.
//!
//! The edge admits a caller within its limits ([`Operations::admit`]) before it reads what is asked.
//! Each operation then checks the caller's rights, turns the name into tokens, proposes one command
//! that carries the sealed record of who asks, and opens the answer. Nothing leaves in
//! plaintext before the cluster has recorded the disclosure. A refusal for want of rights is recorded
//! too; a malformed request is not.

mod answers;
mod call;
mod caller;
mod error;
mod limits;
mod operate;
mod read;
mod shared;
mod write;

pub use answers::{Polled, PutVersion, SecretInfo, SecretValue};
pub use caller::{Caller, Dialect};
pub use error::OperationError;
pub(crate) use limits::Admission;
pub use limits::{OperationLimits, Permit};
pub use operate::Recording;
pub use read::Listing;

use crate::{audit::SharedRecords, index::NameIndex, seal::Sealer};
use conclave_cluster::{model::Action, node::Cluster};
use shared::Shared;
use std::sync::Arc;
use tokio::{sync::Semaphore, time::Instant};

/// The operations of one node's edge. Shared by all its listeners.
pub struct Operations {
    cluster: Cluster,
    sealer: Arc<Sealer>,
    index: Arc<NameIndex>,
    node_name: String,
    limits: OperationLimits,
    admission: Arc<Admission>,
    shared: Shared,
    listings: Arc<Semaphore>,
    /// They use threads that the core uses as well.
    audit_readings: Arc<Semaphore>,
    background_records: Arc<Semaphore>,
}

impl Operations {
    /// Listings that are made, or written into answers, at once: each may hold every name.
    const LISTINGS: usize = 4;
    /// Queries of the audit log at once; more wait.
    const AUDIT_READINGS: usize = 4;
    /// Records of looks at the status that may wait in the background; more share one.
    const BACKGROUND_RECORDS: usize = 64;

    /// Starts the index of names and the writing of shared records, both until the last handle is
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
            shared: Shared::new(limits.refusal_records_per_ten_seconds),
            listings: Arc::new(Semaphore::new(Self::LISTINGS)),
            audit_readings: Arc::new(Semaphore::new(Self::AUDIT_READINGS)),
            background_records: Arc::new(Semaphore::new(Self::BACKGROUND_RECORDS)),
            cluster,
            sealer,
            node_name,
            limits,
        });
        tokio::spawn(shared::keep_writing(Arc::downgrade(&operations)));
        operations
    }

    /// Admits one request of a caller within its limits, until the permit is dropped: once the
    /// answer was sent, or nobody wants it any more. What is over the limits is counted, and shares a
    /// record by caller and action.
    pub fn admit(&self, caller: &Caller, action: Action) -> Result<Permit, OperationError> {
        let admitted = self.admission.admit(&caller.principal, Instant::now());
        admitted.inspect_err(|_| self.shared.share_over_rate(caller, action))
    }

    /// Writes what is still counted of refusals and looks, and says how much of it could not be
    /// written: that ends with the process. To be called once no more requests come.
    pub async fn shutdown(&self, deadline: Instant) {
        self.write_shared(deadline, SharedRecords::take_all).await;
        let dropped = self.shared.attempts();
        if dropped > 0 {
            tracing::error!(
                attempts = dropped,
                "this node stops before these refusals and looks at the status were recorded"
            );
        }
    }
}
