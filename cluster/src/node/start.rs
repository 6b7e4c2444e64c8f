//! Starts a node and stops it.

use super::{
    ClusterOptions, ClusterParts, ClusterStatus, Inner, Leadership, StartError,
    change_records::ChangeRecords, joins::Joins, leadership, peer_service::Service, status_publisher,
    tasks::Tasks, upkeep,
};
use crate::{
    agreement::{DigestExchange, Fault, SCRUB_PAUSE, Scrub},
    propose::{COMMAND_OVERHEAD_BYTES, EntryLane, ForwardLane, Proposer, relief},
    read::{Barriers, Confirmations},
    state::Store,
    time::{ClockReport, ClockWatcher, LeaderClock},
};
use conclave_raft::{
    formation::{acquit, set_aside_if_reverted},
    node::{RaftNode, RaftOptions},
    runtime::{AsyncRuntime, Runtime},
    storage::{
        engine::LogDisk, fatal::OnFatal, rocks_engine::RocksDisk, snapshot_policy::SnapshotPolicyOptions,
        space::Reserves,
    },
    transport::tls::TlsFiles,
};
use futures::FutureExt;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};

/// Within the data directory.
const STATE_DIRECTORY: &str = "state";

pub(super) async fn start(options: ClusterOptions, parts: ClusterParts) -> Result<Arc<Inner>, StartError> {
    let ClusterParts {
        raft: raft_parts,
        clocks,
        on_fatal,
    } = parts;
    let store = open_store(&options.data_dir, raft_parts.disk.clone()).await?;
    let service = Arc::new(Service::default());
    let space = raft_parts.space.clone();
    let raft = RaftNode::start(
        raft_options(&options, on_fatal),
        raft_parts,
        store.clone(),
        service.clone(),
    )
    .await?;

    let leadership = watch::Sender::new(Leadership::default());
    let clock = Arc::new(LeaderClock::new(clocks.clone()));
    let clock_report = watch::Sender::new(ClockReport::default());
    let entries = Arc::new(EntryLane::new(options.batch_bytes));
    let forwards = Arc::new(ForwardLane::new(options.batch_bytes));
    let barriers = Barriers::start(
        Confirmations {
            raft: raft.clone(),
            clock: clock.clone(),
            clocks: clocks.clone(),
            store: store.clone(),
            leadership: leadership.subscribe(),
        },
        options.staleness_bound,
    );
    let proposer = Proposer {
        entries: entries.clone(),
        forwards: forwards.clone(),
        leadership: leadership.subscribe(),
        status: raft.status(),
        admission: Arc::new(Semaphore::new(options.proposal_queue_bytes)),
        command_limit_bytes: options.batch_bytes.saturating_sub(COMMAND_OVERHEAD_BYTES),
    };

    let halting = raft.clone();
    let mut tasks = Tasks::new(move |reason| halting.halt(reason));
    tasks.spawn(
        "announces leadership",
        leadership::announce(raft.status(), leadership.clone()),
    );
    tasks.spawn(
        "enters proposals",
        entries.run(raft.clone(), clock.clone(), leadership.subscribe()),
    );
    tasks.spawn(
        "forwards proposals",
        forwards.run(raft.clone(), leadership.subscribe()),
    );
    let watcher = ClockWatcher {
        raft: raft.clone(),
        clocks: clocks.clone(),
        clock: clock.clone(),
        store: store.clone(),
        leadership: leadership.subscribe(),
        bound: options.clock_skew_bound,
        rules_known: crate::apply::NEWEST_RULES,
        report: clock_report.clone(),
    };
    tasks.spawn("watches the clocks", watcher.run());
    let exchange = DigestExchange {
        raft: raft.clone(),
        store: store.clone(),
    };
    tasks.spawn("exchanges digests", exchange.run());
    let halting = raft.clone();
    let scrub = Arc::new(Scrub::new(
        move |fault: Fault| {
            let raft = halting.clone();
            async move { fault.halt(&raft).await }.boxed()
        },
        store.clone(),
        options.scrub_bytes_per_s,
    ));
    tasks.spawn("scrubs the state", scrub.clone().run(SCRUB_PAUSE, raft.doubts()));

    let node = Arc::new(Inner {
        forwarded_admission: Arc::new(Semaphore::new(options.proposal_queue_bytes)),
        options,
        started: Instant::now(),
        raft,
        store,
        clocks,
        clock,
        clock_report,
        leadership,
        proposer,
        barriers,
        scrub,
        joins: Joins::default(),
        change_records: ChangeRecords::default(),
        space,
        status: watch::Sender::new(ClusterStatus::default()),
        tasks: Mutex::default(),
    });
    service.answer_for(&node);
    let present = node
        .present_status(node.raft.status().borrow().clone())
        .map_err(|error| StartError::Storage(error.to_string()))?;
    node.status.send_replace(present);
    tasks.spawn("publishes the status", status_publisher::run(node.clone()));
    tasks.spawn("announces a halt", status_publisher::announce_halt(node.clone()));
    tasks.spawn("keeps the cluster up", upkeep::run(node.clone()));
    let fresh = node.clone();
    let freshness = async move { fresh.barriers.keep_fresh().await };
    tasks.spawn("keeps reads fresh", freshness);
    *node.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks.into_running();
    Ok(node)
}

impl From<conclave_raft::node::StartError> for StartError {
    fn from(error: conclave_raft::node::StartError) -> Self {
        use conclave_raft::node::StartError as Raft;
        match error {
            Raft::Storage(error) => Self::Storage(error.to_string()),
            Raft::Certificate(error) => Self::Configuration(error.to_string()),
            Raft::Options(error) => Self::Configuration(error),
        }
    }
}

impl Inner {
    /// Finishes what was accepted, hands leadership over, and stops.
    pub(super) async fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        // What this node's edge was promised ends with an outcome.
        while self.proposer.admission.available_permits() < self.options.proposal_queue_bytes
            && Instant::now() < deadline - grace / 2
        {
            sleep(Duration::from_millis(5)).await;
        }
        // Until another leads, other nodes' proposals are entered here as ever.
        self.raft
            .shutdown(deadline.saturating_duration_since(Instant::now()))
            .await;
        self.end().await;
    }

    /// Stops as a crash would: hands nothing over and finishes nothing.
    pub(super) async fn crash(&self) {
        self.leadership.send_modify(|last| last.stopped = true);
        self.raft.shutdown(Duration::ZERO).await;
        self.end().await;
    }

    async fn end(&self) {
        self.leadership.send_modify(|last| last.stopped = true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        self.barriers.stop().await;
    }
}

pub(super) fn raft_options(options: &ClusterOptions, on_fatal: OnFatal) -> RaftOptions {
    let after_log_bytes = options.snapshot_log_bytes;
    let keep_log_bytes = options.snapshot_keep_log_bytes;
    RaftOptions {
        cluster_name: options.cluster_name.clone(),
        node_name: options.node_name.clone(),
        advertise: options.advertise.clone(),
        nodes: options.nodes.clone(),
        data_dir: options.data_dir.clone(),
        tls: TlsFiles {
            certificate: options.certificate.clone(),
            private_key: options.private_key.clone(),
            authority: options.authority.clone(),
        },
        dev: options.dev,
        election_timeout: options.election_timeout,
        snapshots: SnapshotPolicyOptions {
            after_log_bytes,
            keep_log_bytes,
            log_limit_bytes: after_log_bytes.saturating_add(keep_log_bytes).saturating_mul(4),
            ..SnapshotPolicyOptions::default()
        },
        reserves: Reserves {
            ordinary_bytes: options.reserve_bytes,
            relieving_bytes: options.last_reserve_bytes,
        },
        classify: Arc::new(relief::classify),
        free_space_file: None,
        sync: options.sync,
        on_fatal,
    }
}

/// See [`super::Cluster::rescan`].
pub(super) async fn rescan(data_dir: PathBuf) -> Result<(), StartError> {
    let rescanned = Runtime::spawn_blocking(move || {
        let directory = data_dir.join(STATE_DIRECTORY);
        if !directory.exists() {
            return Ok(());
        }
        Store::open(&directory)?.view().check_digest()?;
        if acquit(&RocksDisk::within(&data_dir))? {
            tracing::warn!("the state is what was written; this node takes part again");
        }
        Ok(())
    });
    match rescanned.await {
        Ok(rescanned) => rescanned.map_err(|error: io::Error| StartError::Storage(error.to_string())),
        Err(error) => Err(StartError::Storage(format!(
            "the scan of the state broke off: {error}"
        ))),
    }
}

async fn open_store(data_dir: &Path, disk: Arc<dyn LogDisk>) -> Result<Arc<Store>, StartError> {
    let data_dir = data_dir.to_owned();
    let opened = Runtime::spawn_blocking(move || {
        fs::create_dir_all(&data_dir)?;
        // Before anything in the directory is opened.
        set_aside_if_reverted(&data_dir, &*disk)?;
        let directory = data_dir.join(STATE_DIRECTORY);
        fs::create_dir_all(&directory)?;
        Store::open(&directory)
    });
    match opened.await {
        Ok(Ok(store)) => Ok(Arc::new(store)),
        Ok(Err(error)) => Err(StartError::Storage(error.to_string())),
        Err(error) => Err(StartError::Storage(format!(
            "opening the state broke off: {error}"
        ))),
    }
}
