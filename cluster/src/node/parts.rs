//! What a node of the cluster stands on, as parameters, so that a test or a simulation can give
//! others than the operating system's. Tasks, threads and randomness come with the
//! [runtime](conclave_raft::runtime).

use super::{ClusterOptions, StartError, start::raft_options};
use crate::time::{Clocks, SystemClocks};
use conclave_raft::{node::NodeParts, storage::fatal::OnFatal};
use std::{net::TcpListener, sync::Arc};

/// A node's parts.
pub struct ClusterParts {
    /// Log, network and free space.
    pub raft: NodeParts,
    /// The wall clock, and the one that counts suspension.
    pub clocks: Arc<dyn Clocks>,
    /// What happens when the disk fails.
    pub on_fatal: OnFatal,
}

impl ClusterParts {
    /// What a node in production stands on. Binds the cluster's listener. To be called within the
    /// tokio runtime.
    ///
    /// # Errors
    /// An address or certificates that cannot be used.
    pub fn system(options: &ClusterOptions) -> Result<Self, StartError> {
        let listener = TcpListener::bind(options.listen).map_err(|error| {
            StartError::Configuration(format!(
                "the cluster's listener cannot bind {}: {error}",
                options.listen
            ))
        })?;
        let on_fatal = OnFatal::exit();
        Ok(Self {
            raft: NodeParts::system(&raft_options(options, on_fatal.clone()), listener)?,
            clocks: Arc::new(SystemClocks::from_environment()),
            on_fatal,
        })
    }
}
