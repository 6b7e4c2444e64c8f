//! A node's beginning and end: what is opened in which order, the tasks that run, and letting go.

use super::{
    Member, PeerService, Role,
    config::raft_config,
    core::{Core, Opened},
    membership,
    options::{RaftOptions, StartError},
    parts::NodeParts,
    status,
};
use crate::{
    formation::{self, directory::SNAPSHOT_DIRECTORY},
    identity::RaftId,
    state_machine::{LogPosition, StateMachine},
    storage::{
        engine::LogDisk,
        identity_store::{Formation, Identity, IdentityStore},
        log_store::{BeforePurge, LogStore, LogStoreOptions},
        snapshot_policy,
        snapshot_store::SnapshotStore,
        space::SpaceGate,
        state_machine_adapter::{StateMachineAdapter, StateMachineThread},
    },
    transport::{Transport, raft_network::NetworkFactory, sending_snapshot::off_thread, server},
    types::Raft,
};
use futures::FutureExt;
use openraft::{
    async_runtime::WatchReceiver,
    errors::{InitializeError, RaftError},
    storage::RaftLogStorage,
};
use std::{collections::BTreeMap, fs, io, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// How often free space is measured.
const MEASURE_SPACE_EVERY: Duration = Duration::from_millis(500);
/// For openraft's tasks to end after it has stopped.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// A voter that was silent for so many election time-outs does not answer.
const ANSWERING_ELECTION_TIMEOUTS: u64 = 4;
/// So many election time-outs for another node to lead. Without a hand-over it takes about four.
const HAND_OVER_ELECTION_TIMEOUTS: u32 = 8;

/// Opens everything and starts the tasks.
pub(super) async fn start(
    options: RaftOptions,
    parts: NodeParts,
    state_machine: Arc<dyn StateMachine>,
    service: Arc<dyn PeerService>,
) -> Result<(Arc<Core>, Arc<Transport>), StartError> {
    raft_config(&options)?;
    fs::create_dir_all(&options.data_dir)?;
    let set_aside_from = formation::set_aside_from(&options.data_dir)?;
    let NodeParts {
        disk,
        network,
        listener,
        space: probe,
    } = parts;
    let space = SpaceGate::new(Arc::clone(&probe), options.reserves)?;
    let opening = options.clone();
    let (identity, applied, opened) =
        off_thread(move || open(&opening, &*disk, state_machine, service)).await?;
    check(&identity, applied, opened.log.clone())
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", options.data_dir.display())))?;
    take_up_installed(applied, opened.log.clone()).await?;
    let core = Core::new(options, identity, opened, space.clone(), probe, set_aside_from);
    let transport = Transport::new(network, Arc::clone(&core) as _);
    status::publish_identity(&core);
    let spawn = |what, task| transport.spawn(Arc::clone(&core).supervise(what, task));
    let serving = server::serve(Arc::clone(&transport), listener);
    spawn("accepts nodes' connections", serving.boxed());
    spawn(
        "measures free space",
        space.keep_measuring(MEASURE_SPACE_EVERY).boxed(),
    );
    let living = live(Arc::clone(&core), Arc::clone(&transport));
    spawn("takes part in the cluster", living.boxed());
    Ok((core, transport))
}

/// Hands leadership over before the node stops, if it leads and there is a voter who may answer: one
/// try. Without one, or if it fails, the others elect a leader as after a crash.
pub(super) async fn hand_over(core: &Arc<Core>, grace: Duration) {
    let Some(raft) = core.running() else { return };
    let leads = {
        let status = core.status.borrow();
        status.role == Role::Leader && status.halted.is_none()
    };
    if grace.is_zero() || !leads {
        return;
    }
    let (own, members) = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        (RaftId(metrics.id), status::members(&metrics))
    };
    let answering_ms = core.options.election_timeout.as_millis() as u64 * ANSWERING_ELECTION_TIMEOUTS;
    let may_answer = |member: &Member| {
        // A leader that was only just elected has heard of nobody yet.
        member
            .last_acknowledged_ms
            .is_none_or(|ago_ms| ago_ms <= answering_ms)
    };
    let mut others = members
        .iter()
        .filter(|(raft_id, member)| **raft_id != own && member.voter);
    if !others.any(|(_, member)| may_answer(member)) {
        return;
    }
    let patience = grace.min(core.options.election_timeout * HAND_OVER_ELECTION_TIMEOUTS);
    match membership::transfer(core, membership::Successor::Any, Instant::now() + patience).await {
        Ok(leader) => tracing::info!(%leader, "handed leadership over before stopping"),
        Err(error) => tracing::warn!(%error, "leadership was not handed over before stopping"),
    }
}

/// Stops the tasks and lets go of the disk.
pub(super) async fn stop(core: &Arc<Core>, transport: &Arc<Transport>) {
    core.begin_to_stop();
    if let Some(raft) = core.running()
        && let Err(error) = raft.shutdown().await
    {
        tracing::warn!(%error, "Raft ended badly");
    }
    transport.stop().await;
    let Some(engine) = core.close() else { return };
    engine.stop_reclaiming();
    // openraft's own tasks end by themselves, a moment after it said that it has. The last handle is
    // dropped here, so that the disk is closed when this returns.
    let closed = async {
        while Arc::strong_count(&engine) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if timeout(CLOSE_DEADLINE, closed).await.is_err() {
        tracing::warn!("the log is still in use after the node has stopped");
    }
}

fn open(
    options: &RaftOptions,
    disk: &dyn LogDisk,
    state_machine: Arc<dyn StateMachine>,
    service: Arc<dyn PeerService>,
) -> io::Result<(Identity, Option<LogPosition>, Opened)> {
    let engine = disk.open()?;
    let identity_store = IdentityStore::new(engine.clone(), options.on_fatal.clone());
    let identity = identity_store.load_for(&options.cluster_name, &options.node_name)?;
    let applied = state_machine.applied()?.position;
    let machine = StateMachineThread::start(state_machine, options.on_fatal.clone())?;
    let flushed = machine.clone();
    let before_purge: BeforePurge = Arc::new(move |position| {
        let machine = flushed.clone();
        Box::pin(async move { machine.flush_to(position).await })
    });
    let log = LogStore::open(
        engine.clone(),
        LogStoreOptions {
            sync: options.sync,
            on_fatal: options.on_fatal.clone(),
            before_purge,
            ..LogStoreOptions::default()
        },
    )?;
    let snapshots = SnapshotStore::open(&options.data_dir.join(SNAPSHOT_DIRECTORY))?;
    let opened = Opened {
        engine,
        identity_store,
        log,
        snapshots,
        machine,
        service,
    };
    Ok((identity, applied, opened))
}

/// Refuses a directory whose parts do not belong together.
async fn check(identity: &Identity, applied: Option<LogPosition>, mut log: LogStore) -> io::Result<()> {
    let refuse = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    let log = log.get_log_state().await?;
    match identity {
        Identity::Reverted { reason, .. } => {
            return refuse(format!(
                "this data directory is reverted and was not set aside: {reason}"
            ));
        }
        Identity::Disproved { was, reason, by } => return Err(formation::disproved(was, reason, *by)),
        Identity::Empty if applied.is_some() || log.last_log_id.is_some() => {
            return refuse(
                "the data directory has no identity, but a state or a log: a part of it was lost or \
                 another's; empty it, and the node joins again"
                    .into(),
            );
        }
        _ => {}
    }
    let purged = log.last_purged_log_id.map(|log_id| log_id.index);
    if purged > applied.map(|position| position.index) {
        return refuse(format!(
            "the state ends at {applied:?}, but the log was purged up to {purged:?}: a part of the data directory was \
             lost; empty it, and the node joins again"
        ));
    }
    Ok(())
}

/// A crash between installing a snapshot and purging the log leaves a log that ends before the state.
/// openraft would purge it later; by then other nodes would have been told of the earlier end, which
/// is less than what this node acknowledged.
async fn take_up_installed(applied: Option<LogPosition>, mut log: LogStore) -> io::Result<()> {
    let end = log.last_log_id().map(|last| last.index);
    match applied {
        Some(applied) if Some(applied.index) > end => log.purge(applied.into()).await,
        _ => Ok(()),
    }
}

/// From an empty directory to a running Raft.
async fn live(core: Arc<Core>, transport: Arc<Transport>) {
    if let Err(error) = form_and_run(&core, &transport).await
        && !core.is_withdrawn()
    {
        core.halt(format!("the node cannot take part: {error}"));
    }
}

async fn form_and_run(core: &Arc<Core>, transport: &Arc<Transport>) -> io::Result<()> {
    if core.identity() == Identity::Empty {
        formation::find_cluster(core, transport).await?;
    }
    if let Identity::Accepted(accepted) = core.identity()
        && accepted.proposer
    {
        formation::collect_acceptances(core, transport, &accepted).await;
        // From here on a node that lost its disk joins as a new incarnation: nothing is proposed again.
        let formed = Formation {
            initialised: true,
            ..accepted
        };
        core.become_identity(Identity::Member(formed)).await?;
    }
    let Some(formation) = core.identity().formation().cloned() else {
        return Err(io::Error::other("the directory has no identity"));
    };
    status::publish_identity(core);
    let raft = run(core, transport, &formation).await?;
    if formation.proposer || matches!(core.identity(), Identity::Member(_)) {
        initialise(&raft, &formation).await?;
    }
    let spawn = |what, task| transport.spawn(Arc::clone(core).supervise(what, task));
    let following = status::follow(Arc::clone(core), Arc::clone(transport), raft.clone());
    spawn("publishes the status", following.boxed());
    let finishing = membership::finish_changes(Arc::clone(core));
    spawn("finishes changes of membership", finishing.boxed());
    let leaving = membership::leave_full_disks(Arc::clone(core));
    spawn("hands over when the disk is full", leaving.boxed());
    let opened = core.opened()?;
    let policy = snapshot_policy::run(
        raft,
        opened.log,
        opened.snapshots,
        opened.machine,
        core.options.snapshots,
    );
    spawn("takes snapshots", policy.boxed());
    if let Identity::Accepted(accepted) = core.identity() {
        // The cluster is formed once its membership arrives.
        let mut status = core.status.subscribe();
        let formed = status.wait_for(|status| !status.members.is_empty()).await.is_ok();
        if formed {
            core.become_identity(Identity::Member(accepted)).await?;
        }
    }
    Ok(())
}

async fn run(core: &Arc<Core>, transport: &Arc<Transport>, formation: &Formation) -> io::Result<Raft> {
    let opened = core.opened()?;
    let config = raft_config(&core.options).map_err(io::Error::other)?;
    let network = NetworkFactory {
        transport: Arc::clone(transport),
    };
    let machine = StateMachineAdapter::new(opened.machine, opened.snapshots);
    let raft = Raft::new(formation.raft_id.0, config, network, opened.log, machine)
        .await
        .map_err(io::Error::other)?;
    raft.runtime_config()
        .elect(core.may_lead.load(std::sync::atomic::Ordering::Relaxed));
    if let Err(error) = core.set_running(&raft) {
        // How it ends is no news any more.
        let _ = raft.shutdown().await;
        return Err(error);
    }
    Ok(raft)
}

/// Initialises Raft on the node that proposed the cluster; once, and again after a crash in between.
async fn initialise(raft: &Raft, formation: &Formation) -> io::Result<()> {
    if !(formation.proposer && formation.initialised) {
        return Ok(());
    }
    let members: BTreeMap<u64, _> = formation::records(formation)
        .into_iter()
        .map(|(raft_id, record)| (raft_id.0, record))
        .collect();
    match raft.initialize(members).await {
        Ok(()) => {
            tracing::info!(cluster_id = %formation.cluster_id, "the cluster is formed");
            Ok(())
        }
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}
