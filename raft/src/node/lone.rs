//! A node by itself, for unit tests: a simulated disk, no network, and a state that takes everything.

use super::{NodeParts, Peer, PeerService, RaftOptions, core::Core, life, options::StartError};
use crate::{
    identity::{ClusterId, RaftId},
    state_machine::{AppliedState, Checkpoint, CommittedEntry, CommittedPayload, LogPosition, StateMachine},
    storage::{
        engine::LogDisk,
        fatal::OnFatal,
        identity_store::{Formation, Identity, IdentityStore},
        simulated_engine::SimulatedDisk,
        snapshot_policy::SnapshotPolicyOptions,
        space::{EntryClass, Reserves, SpaceProbe},
    },
    transport::{
        Transport,
        network::{Incoming, Listener, Network, NetworkFault, Proven},
        tls::TlsFiles,
    },
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// The only voter of its cluster.
pub(super) struct LoneNode {
    pub core: Arc<Core>,
    pub transport: Arc<Transport>,
    pub disk: Arc<SimulatedDisk>,
    pub state: Arc<State>,
    pub free_bytes: Arc<Free>,
    _directory: TempDir,
}

/// Its reserves: half of the disk, and a quarter.
pub(super) const RESERVES: Reserves = Reserves {
    ordinary_bytes: 1 << 39,
    relieving_bytes: 1 << 38,
};

impl LoneNode {
    /// Starts it as a member of a formed cluster that it was the only node of from the beginning.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(SimulatedDisk::default());
        let store = IdentityStore::new(disk.open().expect("a simulated disk"), OnFatal::new(|_| {}));
        store.save(&Identity::Member(formation())).expect("it is saved");
        let state = Arc::new(State::default());
        let free_bytes = Arc::new(Free(AtomicU64::new(1 << 40)));
        let parts = NodeParts {
            disk: Arc::clone(&disk) as _,
            network: Arc::new(NoNetwork),
            listener: Box::new(NoNetwork),
            space: Arc::clone(&free_bytes) as _,
        };
        let options = options(directory.path().to_owned());
        let started: Result<_, StartError> =
            life::start(options, parts, Arc::clone(&state) as _, Arc::new(NoService)).await;
        let (core, transport) = started.expect("it starts");
        Self {
            core,
            transport,
            disk,
            state,
            free_bytes,
            _directory: directory,
        }
    }

    /// What its disk says it is.
    pub fn stored_identity(&self) -> Identity {
        let engine = Arc::new(self.disk.engine());
        IdentityStore::new(engine, OnFatal::new(|_| {}))
            .load()
            .expect("the identity is read")
    }
}

/// Another node of the configuration, which nobody ever reaches.
pub(super) fn peer() -> Peer {
    Peer {
        name: "b".into(),
        raft_id: Some(RaftId(2)),
        address: "b.invalid:1".into(),
    }
}

fn formation() -> Formation {
    Formation {
        cluster_id: ClusterId([7; 16]),
        cluster_name: "c".into(),
        node_name: "a".into(),
        raft_id: RaftId(1),
        members: BTreeMap::from([("a".into(), (RaftId(1), "a.invalid:1".into()))]),
        dev: false,
        proposer: true,
        initialised: true,
    }
}

fn options(data_dir: PathBuf) -> RaftOptions {
    let nodes = ["a", "b"].map(|name| (name.to_owned(), format!("{name}.invalid:1")));
    RaftOptions {
        cluster_name: "c".into(),
        node_name: "a".into(),
        advertise: nodes[0].1.clone(),
        nodes: nodes.into(),
        data_dir,
        tls: TlsFiles {
            certificate: PathBuf::new(),
            private_key: PathBuf::new(),
            authority: PathBuf::new(),
        },
        dev: false,
        election_timeout: Duration::from_millis(100),
        snapshots: SnapshotPolicyOptions::default(),
        reserves: RESERVES,
        classify: Arc::new(|_| EntryClass::Ordinary),
        free_space_file: None,
        sync: true,
        on_fatal: OnFatal::new(|reason| panic!("the disk failed: {reason}")),
    }
}

/// How many bytes are free.
pub(super) struct Free(pub AtomicU64);

impl SpaceProbe for Free {
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

/// Remembers where it is, in memory.
#[derive(Default)]
pub(crate) struct State {
    applied: Mutex<AppliedState>,
    /// What applying fails with from now on.
    pub fails: Mutex<Option<io::ErrorKind>>,
    /// How many verifications began, run now, and ran at once at most. None ends by itself.
    pub verifications: AtomicU32,
    pub verifying: AtomicU32,
    pub most_verifying: AtomicU32,
}

impl State {
    /// Waits until so many verifications have begun.
    pub async fn until_verifications(&self, count: u32) {
        while self.verifications.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl StateMachine for State {
    fn applied(&self) -> io::Result<AppliedState> {
        Ok(self.applied.lock().expect("no holder panics").clone())
    }

    fn apply(&self, entries: Vec<CommittedEntry>) -> io::Result<Vec<Bytes>> {
        if let Some(kind) = *self.fails.lock().expect("no holder panics") {
            return Err(io::Error::new(kind, "a row is not what was written"));
        }
        let mut applied = self.applied.lock().expect("no holder panics");
        for entry in &entries {
            applied.position = Some(entry.position);
            if let CommittedPayload::Membership(bytes) = &entry.payload {
                applied.membership = Some((entry.position, bytes.clone()));
            }
        }
        Ok(entries.iter().map(|_| Bytes::new()).collect())
    }

    fn flush(&self) -> io::Result<Option<LogPosition>> {
        Ok(self.applied()?.position)
    }

    fn checkpoint(&self, _directory: PathBuf) -> io::Result<Checkpoint> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn verify(&self, _checkpoint: &Checkpoint, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let verifying = self.verifying.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_verifying.fetch_max(verifying, Ordering::SeqCst);
        self.verifications.fetch_add(1, Ordering::SeqCst);
        while go_on() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.verifying.fetch_sub(1, Ordering::SeqCst);
        Err(io::ErrorKind::Interrupted.into())
    }

    fn install(&self, _checkpoint: Checkpoint) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Leads nowhere, and nobody comes.
struct NoNetwork;

impl Network for NoNetwork {
    fn dial<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, Result<Proven, NetworkFault>> {
        async { Err(io::Error::from(io::ErrorKind::HostUnreachable).into()) }.boxed()
    }
}

impl Listener for NoNetwork {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        std::future::pending().boxed()
    }
}

struct NoService;

impl PeerService for NoService {
    fn handle(self: Arc<Self>, _from: Peer, request: Bytes) -> BoxFuture<'static, Bytes> {
        std::future::ready(request).boxed()
    }
}
