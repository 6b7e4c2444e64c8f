//! Clusters of in-process nodes on loopback, with certificates of their own and a state machine that
//! remembers every proposal. Each node can be stopped as if killed, and started again on its disk.

mod certificates;
mod journal;

pub use certificates::{AnyServer, Authority};
pub use journal::Journal;

use bytes::Bytes;
use conclave_raft::{
    formation::{
        messages::{JoinGrant, JoinRefusal},
        set_aside_if_reverted,
    },
    identity::{NodeRecord, RaftId},
    node::{
        Applied, MembershipChange, NodeParts, Peer, PeerService, ProposeError, RaftNode, RaftOptions,
        RaftStatus, Role,
    },
    storage::{
        fatal::OnFatal,
        snapshot_policy::SnapshotPolicyOptions,
        space::{EntryClass, Reserves},
    },
    transport::tls::TlsFiles,
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// Longer than anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Configured nodes `n1`, `n2`, … of one cluster, some of which run.
pub struct TestCluster {
    pub directory: TempDir,
    pub authority: Authority,
    pub nodes: BTreeMap<String, TestNode>,
    addresses: Vec<(String, SocketAddr)>,
    service: Arc<Service>,
    pub snapshots: SnapshotPolicyOptions,
}

/// A running node.
pub struct TestNode {
    pub raft: RaftNode,
    pub journal: Arc<Journal>,
}

/// Lets nodes in: gives out ids in memory, which is enough for one process.
#[derive(Default)]
pub struct Service {
    nodes: Mutex<Vec<RaftNode>>,
    next_id: AtomicU64,
    admits: OnceLock<()>,
    /// A node that lets nobody in, and whether it names the leader.
    closed: Mutex<Option<(String, bool)>>,
}

/// One node's end of it.
struct Door {
    node_name: String,
    service: Arc<Service>,
}

impl PeerService for Door {
    fn handle(self: Arc<Self>, from: Peer, request: Bytes) -> BoxFuture<'static, Bytes> {
        let answer = [from.name.as_bytes(), b":", &request].concat();
        Box::pin(std::future::ready(answer.into()))
    }

    fn join(self: Arc<Self>, from: Peer) -> BoxFuture<'static, Result<JoinGrant, JoinRefusal>> {
        Box::pin(async move {
            let service = &self.service;
            if service.admits.get().is_none() {
                return Err("nobody is let in now".into());
            }
            let leader = service.leader().ok_or("there is no leader")?;
            let closed = service.closed.lock().unwrap().clone();
            if let Some((_, names_the_leader)) = closed.filter(|(name, _)| *name == self.node_name) {
                let status = leader.status().borrow().clone();
                let record = status.raft_id.and_then(|id| status.members.get(&id));
                let record = record.filter(|_| names_the_leader).ok_or("it is cut off")?;
                return Err(JoinRefusal::AskLeader(record.record.clone()));
            }
            let raft_id = RaftId(100 + service.next_id.fetch_add(1, Ordering::Relaxed));
            let record = NodeRecord {
                name: from.name,
                address: from.address,
            };
            let change = MembershipChange::AddLearner { raft_id, record };
            leader
                .change_membership(change, Instant::now() + PATIENCE)
                .await
                .map_err(|error| error.to_string())?;
            let status = leader.status().borrow().clone();
            Ok(JoinGrant {
                cluster_id: status.cluster_id.ok_or("no cluster")?,
                raft_id,
                members: status
                    .members
                    .into_iter()
                    .map(|(id, member)| (id, member.record))
                    .collect(),
                dev: true,
            })
        })
    }
}

impl Service {
    fn leader(&self) -> Option<RaftNode> {
        let nodes = self.nodes.lock().unwrap();
        nodes
            .iter()
            .find(|node| {
                let status = node.status();
                let status = status.borrow();
                status.role == Role::Leader && status.halted.is_none()
            })
            .cloned()
    }
}

impl TestCluster {
    /// Certificates and addresses for so many nodes; none runs yet.
    pub fn configure(count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let addresses = (1..=count)
            .map(|number| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                (format!("n{number}"), listener.local_addr().unwrap())
            })
            .collect();
        Self {
            directory,
            authority,
            nodes: BTreeMap::new(),
            addresses,
            service: Arc::default(),
            snapshots: SnapshotPolicyOptions::default(),
        }
    }

    /// Configures one more node, which is not part of the cluster.
    pub fn configure_another(&mut self, name: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.addresses
            .push((name.to_owned(), listener.local_addr().unwrap()));
    }

    /// A formed cluster with a leader.
    pub async fn formed(count: usize) -> Self {
        let mut cluster = Self::configure(count);
        for number in 1..=count {
            cluster.start(&format!("n{number}")).await;
        }
        cluster.leader().await;
        cluster
    }

    /// Starts a node on its directory.
    pub async fn start(&mut self, name: &str) {
        let node = self.try_start(name).await.unwrap();
        self.nodes.insert(name.to_owned(), node);
    }

    /// Starts a node with the usual options.
    pub async fn try_start(&self, name: &str) -> Result<TestNode, String> {
        self.try_start_with(self.options(name)).await
    }

    /// Starts a node with options of its own. One that was killed a moment ago in this same process may
    /// still have a task that holds its log, and its port may be another test's for a while; both are waited
    /// for.
    pub async fn try_start_with(&self, options: RaftOptions) -> Result<TestNode, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.start_once(options.clone()).await {
                Err(held)
                    if ["lock hold by current process", "Address already in use"]
                        .iter()
                        .any(|held_by| held.contains(held_by))
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                started => return started,
            }
        }
    }

    async fn start_once(&self, options: RaftOptions) -> Result<TestNode, String> {
        let address = self.address(&options.node_name);
        let listener = TcpListener::bind(address).map_err(|error| error.to_string())?;
        let parts = NodeParts::system(&options, listener).map_err(|error| error.to_string())?;
        set_aside_if_reverted(&options.data_dir, &*parts.disk).map_err(|error| error.to_string())?;
        let journal = Arc::new(Journal::open(&options.data_dir.join("state")).unwrap());
        let door = Arc::new(Door {
            node_name: options.node_name.clone(),
            service: self.service.clone(),
        });
        let raft = RaftNode::start(options, parts, journal.clone(), door)
            .await
            .map_err(|error| error.to_string())?;
        self.service.nodes.lock().unwrap().push(raft.clone());
        Ok(TestNode { raft, journal })
    }

    /// The usual options.
    pub fn options(&self, name: &str) -> RaftOptions {
        let data_dir = self.data_dir(name);
        fs::create_dir_all(&data_dir).unwrap();
        RaftOptions {
            cluster_name: "test".into(),
            node_name: name.into(),
            advertise: self.address(name).to_string(),
            nodes: self
                .addresses
                .iter()
                .map(|(name, address)| (name.clone(), address.to_string()))
                .collect(),
            data_dir,
            tls: self.tls(name),
            dev: true,
            election_timeout: Duration::from_millis(250),
            snapshots: self.snapshots,
            reserves: Reserves {
                ordinary_bytes: 2000,
                relieving_bytes: 1000,
            },
            classify: Arc::new(|payload| {
                if payload.starts_with(b"free") {
                    EntryClass::Relieving
                } else {
                    EntryClass::Ordinary
                }
            }),
            free_space_file: Some(self.free_space(name, 1_000_000_000)),
            sync: true,
            on_fatal: OnFatal::new(|reason| panic!("the disk failed: {reason}")),
        }
    }

    /// Sets the figure that a node believes its free space to be.
    pub fn free_space(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.directory.path().join(format!("{name}.free"));
        let next = self.directory.path().join(format!("{name}.free.next"));
        fs::write(&next, bytes.to_string()).unwrap();
        fs::rename(next, &path).unwrap();
        path
    }

    /// Issues a node's certificate.
    pub fn tls(&self, name: &str) -> TlsFiles {
        self.authority.issue(
            &self.directory.path().join("pki").join(name),
            &[&format!("conclave://test/{name}")],
        )
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.addresses.iter().find(|(known, _)| known == name).unwrap().1
    }

    /// Stops a node without handing anything over.
    pub async fn kill(&mut self, name: &str) {
        let node = self.nodes.remove(name).unwrap();
        node.raft.shutdown(Duration::ZERO).await;
    }

    /// Stops a node and deletes its disk.
    pub async fn wipe(&mut self, name: &str) {
        self.kill(name).await;
        fs::remove_dir_all(self.data_dir(name)).unwrap();
    }

    /// From now on empty nodes are let in.
    pub fn admit(&self) {
        self.service.admits.get_or_init(|| ());
    }

    /// But not by this one, which names the leader or does not know it.
    pub fn close(&self, name: &str, names_the_leader: bool) {
        *self.service.closed.lock().unwrap() = Some((name.to_owned(), names_the_leader));
    }

    pub fn node(&self, name: &str) -> &TestNode {
        &self.nodes[name]
    }

    pub fn status(&self, name: &str) -> RaftStatus {
        self.node(name).raft.status().borrow().clone()
    }

    /// Waits until a node's status is as wanted.
    pub async fn wait(&self, name: &str, what: &str, wanted: impl Fn(&RaftStatus) -> bool) -> RaftStatus {
        let mut status = self.node(name).raft.status();
        match timeout(PATIENCE, status.wait_for(|status| wanted(status))).await {
            Ok(reached) => reached.unwrap().clone(),
            Err(_) => panic!("{name}: {what} was not reached: {:?}", self.status(name)),
        }
    }

    /// Waits until one running node leads and the others know it; returns its name.
    pub async fn leader(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (name, node) in &self.nodes {
                let status = node.raft.status().borrow().clone();
                if status.role == Role::Leader {
                    let agreed = self.nodes.values().all(|other| {
                        let other = other.raft.status();
                        let other = other.borrow();
                        other.leader == status.raft_id && other.term == status.term
                    });
                    if agreed {
                        return name.clone();
                    }
                }
            }
            assert!(Instant::now() < deadline, "no leader: {:?}", self.statuses());
            let changes = self.nodes.values().map(|node| {
                let mut status = node.raft.status();
                status.mark_unchanged();
                Box::pin(async move { status.changed().await })
            });
            // Bounded, because a change may have come between looking and listening.
            let _ = timeout(Duration::from_millis(20), futures::future::select_all(changes)).await;
        }
    }

    fn statuses(&self) -> Vec<(String, RaftStatus)> {
        let status = |node: &TestNode| node.raft.status().borrow().clone();
        self.nodes
            .iter()
            .map(|(name, node)| (name.clone(), status(node)))
            .collect()
    }

    /// Proposes at whoever leads, until it is applied there.
    pub async fn propose(&self, payload: &str) -> Applied {
        timeout(PATIENCE, async {
            loop {
                let leader = self.leader().await;
                let node = &self.node(&leader).raft;
                let term = self.status(&leader).term;
                match node.propose(term, Bytes::from(payload.to_owned())).await {
                    Ok(applied) => return applied,
                    Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .expect("a proposal is applied in time")
    }

    /// Waits until a node has applied an index.
    pub async fn applied(&self, name: &str, index: u64) {
        let deadline = Instant::now() + PATIENCE;
        let reached = self.node(name).raft.wait_applied(index, deadline).await;
        assert!(reached, "{name} did not apply {index}: {:?}", self.status(name));
    }

    /// Waits until every running node has applied an index.
    pub async fn applied_everywhere(&self, index: u64) {
        for name in self.nodes.keys() {
            self.applied(name, index).await;
        }
    }

    pub fn raft_id(&self, name: &str) -> RaftId {
        self.status(name).raft_id.unwrap()
    }

    pub async fn stop(mut self) {
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.kill(&name).await;
        }
    }
}

/// A deadline that is not the subject of a test.
pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Copies a directory with everything in it.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
