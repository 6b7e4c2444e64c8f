//! Whole nodes over given parts: on one thread, with a network and logs in memory.

use super::{
    commands::{place, put},
    memory_network::MemoryNetwork,
    test_cluster::{TestCluster, soon},
};
use conclave_cluster::{
    command::Outcome,
    node::{Cluster, ClusterOptions, ClusterParts},
    time::Clocks,
};
use conclave_raft::{
    node::NodeParts,
    runtime::Runtime,
    storage::{fatal::OnFatal, simulated_engine::SimulatedDisk, space::SpaceProbe},
};
use futures::future::join_all;
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::{runtime::Builder, time::Instant};

/// Clocks of a machine that was started a moment ago, in 2027.
struct SimulatedClocks {
    started: Instant,
}

impl Clocks for SimulatedClocks {
    fn wall_ms(&self) -> u64 {
        1_800_000_000_000 + self.since_boot().as_millis() as u64
    }

    fn since_boot(&self) -> Duration {
        self.started.elapsed()
    }
}

struct MuchSpace;

impl SpaceProbe for MuchSpace {
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

#[test]
fn a_cluster_over_given_parts_forms_and_replicates() {
    // Without a driver for sockets: whoever opens one panics.
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(Runtime::seeded(7, form_and_replicate()));
}

async fn form_and_replicate() {
    // All three share a thread that may be slow.
    let election_timeout = Duration::from_millis(500);
    let mut prepared = TestCluster::prepare(3, |options| options.election_timeout = election_timeout);
    name_addresses(&mut prepared.options);
    let network = MemoryNetwork::default();
    let clocks = Arc::new(SimulatedClocks {
        started: Instant::now(),
    });
    let disks: Vec<_> = (0..3).map(|_| Arc::new(SimulatedDisk::default())).collect();
    let mut nodes = Vec::new();
    for (options, disk) in prepared.options.iter().zip(&disks) {
        let (network, listener) = network.port(&options.node_name, &options.advertise);
        let parts = ClusterParts {
            raft: NodeParts {
                disk: disk.clone(),
                network,
                listener,
                space: Arc::new(MuchSpace),
            },
            clocks: clocks.clone(),
            on_fatal: OnFatal::new(|reason| panic!("the disk failed: {reason}")),
        };
        nodes.push(Cluster::start_with(options.clone(), parts).await.unwrap());
    }

    let answer = nodes[2].propose(put(place(1), b"value"), soon()).await.unwrap();
    assert!(matches!(answer.outcome, Outcome::Done(_)), "{answer:?}");
    let applied = nodes.iter().map(|node| node.wait_applied(answer.index, soon()));
    assert!(join_all(applied).await.into_iter().all(|applied| applied));
    for (options, disk) in prepared.options.iter().zip(&disks) {
        assert!(disk.engine().syncs() > 0);
        assert!(!Path::new(&options.data_dir).join("log").exists());
    }
    join_all(nodes.iter().map(Cluster::crash)).await;
}

/// Addresses that lead nowhere else than into the given network.
fn name_addresses(options: &mut [ClusterOptions]) {
    let nodes: Vec<_> = (0..options.len())
        .map(|number| (format!("node-{number}"), format!("node-{number}.invalid:1")))
        .collect();
    for (options, (_, address)) in options.iter_mut().zip(&nodes) {
        options.advertise.clone_from(address);
        options.nodes.clone_from(&nodes);
    }
}
