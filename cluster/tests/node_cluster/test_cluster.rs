//! A cluster for one test: certificates, directories, addresses and nodes, gone with it.

use crate::commands;
use conclave_cluster::{
    command::{AtAuditLimit, AuditRetention},
    model::AuditKey,
    node::{Cluster, ClusterOptions, ClusterParts, ClusterStatus, Rejoin},
    time::{Clocks, SystemClocks},
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// Far longer than anything here takes; reaching it fails the test.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// A wall clock that a test sets.
#[derive(Default)]
pub struct TestWall {
    offset_ms: AtomicI64,
    suspended_ms: AtomicU64,
}

impl TestWall {
    pub fn shift(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::SeqCst);
    }

    /// As if the machine had been suspended for so long, for the clock that counts suspension.
    pub fn suspend(&self, for_ms: u64) {
        self.suspended_ms.fetch_add(for_ms, Ordering::SeqCst);
    }
}

impl Clocks for TestWall {
    fn wall_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        now.saturating_add_signed(self.offset_ms.load(Ordering::SeqCst))
    }

    fn since_boot(&self) -> Duration {
        let suspended = Duration::from_millis(self.suspended_ms.load(Ordering::SeqCst));
        SystemClocks::default().since_boot() + suspended
    }
}

pub struct TestCluster {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    pub options: Vec<ClusterOptions>,
    pub walls: Vec<Arc<TestWall>>,
    nodes: Vec<Option<Cluster>>,
}

impl TestCluster {
    /// Starts so many nodes and waits until they serve.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    /// As [`Self::start`], with other options.
    pub async fn start_with(count: usize, change: impl Fn(&mut ClusterOptions)) -> Self {
        let mut cluster = Self::prepare(count, change);
        for number in 0..count {
            cluster.run(number).await;
        }
        cluster.leader().await;
        cluster
    }

    /// Everything but the nodes.
    pub fn prepare(count: usize, change: impl Fn(&mut ClusterOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        fs::write(
            directory.path().join("ca.pem"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        let mut cluster = Self {
            directory,
            issuer: Issuer::new(params, key),
            options: Vec::new(),
            walls: Vec::new(),
            nodes: Vec::new(),
        };
        let addresses = free_addresses(count);
        let nodes: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(i, address)| (name(i), address.clone()))
            .collect();
        for (number, address) in addresses.into_iter().enumerate() {
            let mut options = cluster.options_of(number, address, nodes.clone());
            change(&mut options);
            cluster.push(options);
        }
        cluster
    }

    /// One more configured node, that does not run yet.
    pub fn add(&mut self) -> usize {
        let number = self.options.len();
        let address = free_addresses(1).remove(0);
        let mut nodes = self.options[0].nodes.clone();
        nodes.push((name(number), address.clone()));
        let options = self.options_of(number, address, nodes);
        self.push(options);
        number
    }

    /// Starts a node that does not run.
    pub async fn run(&mut self, number: usize) {
        assert!(self.nodes[number].is_none(), "node {number} runs already");
        let (options, parts) = self.parts(number).await;
        let node = Cluster::start_with(options, parts).await.unwrap();
        self.nodes[number] = Some(node);
    }

    /// A node that just ended may hold its port for a moment.
    async fn parts(&self, number: usize) -> (ClusterOptions, ClusterParts) {
        let options = self.options[number].clone();
        let deadline = soon();
        let system = loop {
            match ClusterParts::system(&options) {
                Ok(parts) => break parts,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let parts = ClusterParts {
            clocks: self.walls[number].clone(),
            ..system
        };
        (options, parts)
    }

    /// Why a node that does not run cannot be started.
    pub async fn refusal(&self, number: usize) -> String {
        let deadline = soon();
        loop {
            let (options, parts) = self.parts(number).await;
            let refusal = match Cluster::start_with(options, parts).await {
                Ok(_) => panic!("node {number} starts"),
                Err(error) => error.to_string(),
            };
            // And its files.
            if !refusal.contains("/LOCK") || Instant::now() > deadline {
                return refusal;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Looks through the data of a node that does not run.
    pub async fn rescan(&self, number: usize) -> Result<(), String> {
        let deadline = soon();
        loop {
            let data_dir = self.options[number].data_dir.clone();
            match Cluster::rescan(data_dir).await.map_err(|error| error.to_string()) {
                // Its files are still held, as above.
                Err(held) if held.contains("/LOCK") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                rescanned => return rescanned,
            }
        }
    }

    /// Stops a node as a crash would: it hands nothing over and says no good-bye.
    pub async fn kill(&mut self, number: usize) {
        let node = self.nodes[number].take().expect("the node runs");
        node.crash().await;
    }

    /// Stops a node as SIGTERM would.
    pub async fn stop(&mut self, number: usize) {
        let node = self.nodes[number].take().expect("the node runs");
        node.shutdown(Duration::from_secs(5)).await;
    }

    /// Empties the directory of a node that does not run.
    pub fn wipe(&self, number: usize) {
        assert!(self.nodes[number].is_none(), "node {number} runs");
        fs::remove_dir_all(&self.options[number].data_dir).unwrap();
        fs::create_dir(&self.options[number].data_dir).unwrap();
    }

    pub fn node(&self, number: usize) -> &Cluster {
        self.nodes[number].as_ref().expect("the node runs")
    }

    pub fn running(&self) -> impl Iterator<Item = (usize, &Cluster)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(number, node)| Some((number, node.as_ref()?)))
    }

    /// Waits until every running node sees the same leader, which runs; returns its number.
    pub async fn leader(&self) -> usize {
        let deadline = soon();
        loop {
            let seen: Vec<_> = self
                .running()
                .map(|(number, node)| (number, node.status().borrow().raft.clone()))
                .collect();
            let leader = seen[0].1.leader;
            let agreed = leader.is_some() && seen.iter().all(|(_, raft)| raft.leader == leader);
            if let (true, Some((number, _))) = (agreed, seen.iter().find(|(_, raft)| raft.raft_id == leader))
            {
                return *number;
            }
            assert!(Instant::now() < deadline, "no leader: {seen:#?}");
            // Any node's status may be the one that changes.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A running node that does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running()
            .map(|(number, _)| number)
            .find(|&number| number != leader)
            .unwrap()
    }

    /// Waits until a node's status is as wanted.
    pub async fn status(&self, number: usize, wanted: impl Fn(&ClusterStatus) -> bool) -> ClusterStatus {
        let mut status = self.node(number).status();
        match timeout(PATIENCE, status.wait_for(|status| wanted(status))).await {
            Ok(status) => status.expect("the node runs").clone(),
            Err(_) => panic!(
                "node {number} never came to that: {:#?}",
                self.node(number).status().borrow().clone()
            ),
        }
    }

    /// Records, as a node's edge does, that somebody wants to change the membership or who leads.
    pub async fn record(&self, number: usize) -> AuditKey {
        let node = self.node(number);
        loop {
            let answer = node.propose(commands::operate(), soon()).await.unwrap();
            assert!(node.wait_applied(answer.index, soon()).await);
            if let Some(record) = node.record_of(&answer).unwrap() {
                return record;
            }
        }
    }

    fn push(&mut self, options: ClusterOptions) {
        fs::create_dir_all(&options.data_dir).unwrap();
        self.options.push(options);
        self.walls.push(Arc::default());
        self.nodes.push(None);
    }

    fn options_of(&self, number: usize, address: String, nodes: Vec<(String, String)>) -> ClusterOptions {
        let (certificate, private_key) = self.certify(&name(number));
        ClusterOptions {
            cluster_name: "test".into(),
            node_name: name(number),
            listen: address.parse().unwrap(),
            advertise: address,
            nodes,
            data_dir: self.directory.path().join(format!("data-{number}")),
            certificate,
            private_key,
            authority: self.directory.path().join("ca.pem"),
            dev: true,
            rejoin: Rejoin::Automatic,
            staleness_bound: Duration::from_secs(2),
            clock_skew_bound: Duration::from_secs(5),
            election_timeout: Duration::from_millis(200),
            proposal_queue_bytes: 64 * 1024 * 1024,
            batch_bytes: 4 * 1024 * 1024,
            snapshot_log_bytes: 256 * 1024 * 1024,
            snapshot_keep_log_bytes: 64 * 1024 * 1024,
            reserve_bytes: 0,
            last_reserve_bytes: 0,
            sync: true,
            audit_retention: AuditRetention {
                limit_bytes: 1 << 30,
                at_limit: AtAuditLimit::PruneOldest,
            },
            scrub_bytes_per_s: 1 << 30,
        }
    }

    fn certify(&self, node: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(
            format!("conclave://test/{node}").try_into().unwrap(),
        )];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |file: PathBuf, pem: String| {
            fs::write(&file, pem).unwrap();
            file
        };
        let path = |ending: &str| Path::join(self.directory.path(), format!("{node}.{ending}"));
        (
            write(path("pem"), certificate.pem()),
            write(path("key"), key.serialize_pem()),
        )
    }
}

fn name(number: usize) -> String {
    format!("node-{number}")
}

/// Loopback addresses that nobody listens on. They are held until all are found, so that they
/// differ.
fn free_addresses(count: usize) -> Vec<String> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect()
}
