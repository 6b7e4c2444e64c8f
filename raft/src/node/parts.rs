//! What a node stands on, as parameters: its disk, its network and its free space. Clock, tasks,
//! threads and randomness come with the [runtime](crate::runtime).
//!
//! Whoever gives other parts than the operating system's (a test, a simulation) gets a whole node
//! over them: nothing in this crate goes around them to a log, a socket or a thread.

use super::options::{RaftOptions, StartError};
use crate::{
    storage::{
        engine::LogDisk,
        rocks_engine::RocksDisk,
        space::{SpaceProbe, probe_for},
    },
    transport::{
        network::{Listener, Network},
        tls::{CertifiedName, NodeTls},
        tls_network,
    },
};
use std::{net::TcpListener, sync::Arc};

/// A node's parts.
pub struct NodeParts {
    /// Where the log lies.
    pub disk: Arc<dyn LogDisk>,
    /// The way to other nodes.
    pub network: Arc<dyn Network>,
    /// Their way to this one. Dropped when the node stops.
    pub listener: Box<dyn Listener>,
    /// How much space is free for the log and the state.
    pub space: Arc<dyn SpaceProbe>,
}

impl NodeParts {
    /// What a node in production stands on: RocksDB in its data directory, mutual TLS over TCP, and
    /// the file system. To be called within the tokio runtime.
    ///
    /// # Errors
    /// Certificates or a listener that cannot be used.
    pub fn system(options: &RaftOptions, listener: TcpListener) -> Result<Self, StartError> {
        let own = CertifiedName {
            cluster: options.cluster_name.clone(),
            node: options.node_name.clone(),
        };
        let tls = NodeTls::load(options.tls.clone(), own)?;
        let (network, listener) = tls_network::over_tcp(tls, listener)?;
        Ok(Self {
            disk: Arc::new(RocksDisk::within(&options.data_dir)),
            network: Arc::new(network),
            listener: Box::new(listener),
            space: probe_for(&options.data_dir, options.free_space_file.clone()),
        })
    }
}
