//! Three nodes as in production: callers without a certificate are nobody. All limits and intervals are the
//! defaults but those on requests of one principal, for here one principal is all the load.

use super::{Cluster, NODES, PATIENCE, eventually, run_number, site::Site};
use crate::Failure;
use conclave::{
    bench::{Caller, Kind, Secrets, Target},
    client::Client,
    dev::{NodeProcess, wait_until_serving},
};
use rustix::process::Signal;
use std::path::{Path, PathBuf};

/// A running cluster.
pub struct Conclave {
    program: PathBuf,
    processes: Vec<Option<NodeProcess>>,
    targets: Vec<Target>,
    client: Client,
    site: Site,
}

const SETTINGS: [(&str, &str); 2] = [
    ("limits.requests_per_s_per_principal", "10000000"),
    ("limits.requests_in_flight_per_principal", "1024"),
];

impl Conclave {
    /// Starts three nodes without any data, and waits until they serve.
    ///
    /// # Errors
    /// When they do not.
    pub async fn start(program: &Path, folder: &Path) -> Result<Self, Failure> {
        let site = Site::make(folder, NODES, &SETTINGS)?;
        let mut cluster = Self {
            program: program.to_owned(),
            processes: (0..NODES).map(|_| None).collect(),
            targets: site.targets(Target::HTTP_1)?,
            client: Client::new(&site.settings())?,
            site,
        };
        for node in 0..NODES {
            cluster.start_node(node)?;
        }
        cluster.wait_until_serving().await?;
        Ok(cluster)
    }

    /// A client with all rights, as users have it: it knows all nodes, and asks another when one is away.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A node's name, as the membership shows it.
    pub fn node_name(&self, node: usize) -> &str {
        &self.site.node(node).name
    }

    /// SIGTERM, and waits until the process is gone.
    ///
    /// # Errors
    /// When it does not end by itself, or not well.
    pub async fn stop(&mut self, node: usize) -> Result<(), Failure> {
        let mut process = self.processes[node].take().ok_or("the node is down")?;
        let stopped = process.stop(PATIENCE).await;
        if stopped.0.success() {
            Ok(())
        } else {
            Err(format!("{} {stopped}", process.name()).into())
        }
    }

    /// Waits until a node answers reads, as well as all others do.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub async fn wait_until_node_serves(&self, node: usize, name: &str) -> Result<(), Failure> {
        let client = self.client.at(node).with_timeout(ASK_TIMEOUT);
        eventually("a node that was started again", async || {
            let status = client.status().await?;
            if status.sealed || status.leader_id.is_none() {
                return Err("it is sealed, or knows no leader".into());
            }
            client.get(name, None).await?;
            Ok(())
        })
        .await
    }
}

const ASK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

impl Cluster for Conclave {
    type Caller = Caller;

    fn name(&self) -> &'static str {
        "conclave"
    }

    fn pid(&self, node: usize) -> u32 {
        self.processes[node].as_ref().map_or(0, NodeProcess::pid)
    }

    fn data_dir(&self, node: usize) -> &Path {
        &self.site.node(node).data_dir
    }

    async fn leader(&self) -> Result<usize, Failure> {
        let readiness = wait_until_serving(&self.site.layout, PATIENCE).await?;
        let leader = readiness
            .node_ids
            .iter()
            .position(|id| *id == readiness.leader_id);
        leader.ok_or_else(|| "the leader is none of the nodes".into())
    }

    fn filling(&self, node: usize, secrets: &Secrets) -> Caller {
        Caller::filling(self.targets[node].clone(), secrets.clone())
    }

    fn working(&self, node: usize, secrets: &Secrets, kind: Kind) -> Caller {
        Caller::working(self.targets[node].clone(), secrets.clone(), kind, run_number())
    }

    async fn kill(&mut self, node: usize) {
        if let Some(mut process) = self.processes[node].take() {
            process.signal(Signal::KILL);
            process.wait().await;
        }
    }

    fn start_node(&mut self, node: usize) -> Result<(), Failure> {
        let process = NodeProcess::start(&self.program, self.site.node(node), [])?;
        self.processes[node] = Some(process);
        Ok(())
    }

    async fn wait_until_serving(&self) -> Result<(), Failure> {
        wait_until_serving(&self.site.layout, PATIENCE).await?;
        Ok(())
    }
}
