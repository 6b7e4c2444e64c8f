//! What travels between nodes, and over what.
//!
//! A pair of nodes keeps up to four connections in each direction, each mutual TLS 1.3 (or what
//! another [`network`] gives) and each opened by a greeting in which both sides prove which incarnation of which node they are:
//!
//! | lane       | carries                                                       |
//! |------------|---------------------------------------------------------------|
//! | `Control`  | votes, heartbeats, transfers, formation: small, never delayed |
//! | `Service`  | requests to the peer service                                  |
//! | `Append`   | entries, pipelined, in order                                  |
//! | `Snapshot` | one snapshot at a time, in chunks with checksums              |
//!
//! No message of Raft crosses a connection whose greeting did not succeed, and a peer speaks only
//! for the Raft id that it greeted with.

pub(crate) mod acknowledged;
pub(crate) mod appending;
pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod greeting;
pub(crate) mod host;
pub mod in_force;
pub(crate) mod messages;
pub(crate) mod multiplexed;
pub mod network;
pub(crate) mod raft_network;
pub(crate) mod receiving_snapshot;
pub(crate) mod reports;
pub(crate) mod sending_snapshot;
pub(crate) mod server;
pub(crate) mod snapshots_sent;
pub mod tls;
pub mod tls_network;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod golden;

use crate::{identity::RaftId, runtime::Runtime};
use acknowledged::Acknowledgements;
use greeting::Lane;
use host::Host;
use multiplexed::Link;
use network::Network;
use reports::Reports;
use snapshots_sent::SnapshotsSent;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Another node, as one wants to reach it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Target {
    /// Its configured name; its certificate must prove it.
    pub name: String,
    /// `host:port` of its cluster listener.
    pub address: String,
    /// The incarnation that is meant; `None` for whichever is there (formation).
    pub raft_id: Option<RaftId>,
}

/// This node's end of every connection.
pub(crate) struct Transport {
    /// Streams to other nodes.
    pub network: Arc<dyn Network>,
    /// The node that the transport serves.
    pub host: Arc<dyn Host>,
    /// What peers acknowledged.
    pub acknowledged: Acknowledgements,
    /// How far the snapshots are that are being sent.
    pub snapshots_sent: SnapshotsSent,
    /// What is wrong between this node and its peers.
    pub reports: Reports,
    links: Mutex<BTreeMap<(Target, Lane), Link>>,
    /// Who was connected to before, by which lane.
    connected: Mutex<BTreeSet<(String, Lane)>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Transport {
    pub fn new(network: Arc<dyn Network>, host: Arc<dyn Host>) -> Arc<Self> {
        Arc::new(Self {
            network,
            host,
            acknowledged: Acknowledgements::default(),
            snapshots_sent: SnapshotsSent::default(),
            reports: Reports::default(),
            links: Mutex::default(),
            connected: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    /// The multiplexed connection to a node; made when it is first used.
    pub fn link(self: &Arc<Self>, target: &Target, lane: Lane) -> Link {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links
            .entry((target.clone(), lane))
            .or_insert_with(|| Link::start(self, target.clone(), lane))
            .clone()
    }

    /// Takes note of a connection that was made. True when it replaces an earlier one; a snapshot has
    /// one of its own each time.
    fn was_connected(&self, target: &Target, lane: Lane) -> bool {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        lane != Lane::Snapshot && !connected.insert((target.name.clone(), lane))
    }

    /// Closes connections to incarnations that are no longer wanted.
    pub fn retain(&self, wanted: impl Fn(&Target) -> bool) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(target, _), _| wanted(target));
    }

    /// Runs a task until it ends or the transport stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(Runtime::inherited(async move {
            stopping.run_until_cancelled_owned(task).await;
        }));
    }

    /// Closes every connection and waits until nothing runs any more.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Closes every connection without waiting.
    pub fn cut(&self) {
        self.stopping.cancel();
    }
}
