//! Assembles a node from its configuration, runs it until it is told to stop, and stops it in order:
//! what was accepted is finished first, then leadership is handed over.

use super::{
    call::Edge,
    entrance::Entrance,
    listener::Listener,
    metrics_listener, open_files,
    routes::Routes,
    runtime_file::RuntimeFile,
    signals::{Signals, Wanted},
    slots::Slots,
    tls::Tls,
};
use crate::{
    config::{self, Config, Finding, Override, Severity},
    grants::{ConfiguredGrants, without_quoted},
    hardening,
    identity::{Development, Identifier, Tailscale},
    metric_definitions as metrics,
    operations::{OperationLimits, Operations},
    seal::{KeyFiles, SealOptions, Sealer},
    telemetry,
};
use conclave_cluster::{
    command::AuditRetention,
    node::{Cluster, ClusterOptions, Rejoin, StartError},
};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;

/// Where a node's configuration comes from. Read again on SIGHUP.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    /// The file.
    pub path: PathBuf,
    /// What environment and flags lay over it.
    pub overrides: Vec<Override>,
}

/// Why a node did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has errors, all of which are here.
    #[error("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Configuration { findings: Vec<Finding> },
    /// Something that it needs cannot be used.
    #[error("{0}")]
    Start(String),
    /// The core did not start.
    #[error("{0}")]
    Core(#[from] StartError),
    /// The node halted, because going on could have harmed the cluster.
    #[error("the node halted: {0}")]
    Halted(String),
    /// The node halted because its disk is older than what it acknowledged. Started again, it sets
    /// its data aside and joins as a new incarnation.
    #[error("the node halted: {0}")]
    Reverted(String),
}

/// How often metrics are brought up to date.
const METRICS_INTERVAL: Duration = Duration::from_secs(5);

/// Runs a node until SIGTERM or SIGINT; where it is to `rescan`, only on data that is as it was written.
pub async fn run(source: ConfigSource, rescan: bool) -> Result<(), RunError> {
    let (config, findings) = config::check(&source.path, &source.overrides);
    let (errors, warnings): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| finding.severity == Severity::Error);
    let config = match config {
        Some(config) if errors.is_empty() => config,
        _ => return Err(RunError::Configuration { findings: errors }),
    };
    telemetry::install(&config.log).map_err(RunError::Start)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    #[cfg(feature = "planted-faults")]
    tracing::error!(
        fault = std::env::var(conclave_raft::planted::VARIABLE).unwrap_or_default(),
        "THIS BUILD HAS PLANTED FAULTS and must never hold a secret"
    );
    for warning in hardening::harden() {
        tracing::warn!("{warning}");
    }
    open_files::provide(&config).map_err(RunError::Start)?;
    let mut signals = Signals::register().map_err(|error| RunError::Start(error.to_string()))?;
    if rescan {
        tracing::info!("looking through the stored data");
        Cluster::rescan(config.data_dir.clone()).await?;
    }
    let node = Node::start(source, config).await?;
    let result = node.run(&mut signals).await;
    node.stop().await;
    result
}

/// A running node.
struct Node {
    source: ConfigSource,
    config: Config,
    edge: Arc<Edge>,
    tls: Arc<Tls>,
    /// Ends the listeners.
    stop: CancellationToken,
    listeners: tokio_util::task::TaskTracker,
}

impl Node {
    async fn start(source: ConfigSource, config: Config) -> Result<Self, RunError> {
        let start = |what: String| move |error: io::Error| RunError::Start(format!("{what}: {error}"));
        make_data_dir(&config).map_err(start(config.data_dir.display().to_string()))?;
        let prometheus = metrics::install().map_err(|error| RunError::Start(error.to_string()))?;
        let tls = Arc::new(Tls::load(&config.tls).map_err(RunError::Start)?);
        let listen = config.api.listen;
        let listener = Listener::bind(listen, tls.clone(), (&config.limits).into())
            .await
            .map_err(start(format!("api.listen {listen}")))?;
        let api = listener
            .local_addr()
            .map_err(start(format!("api.listen {listen}")))?;
        let listen = config.metrics.listen;
        let metrics_socket = TcpListener::bind(listen)
            .await
            .map_err(start(format!("metrics.listen {listen}")))?;
        let metrics_address = metrics_socket
            .local_addr()
            .map_err(start(format!("metrics.listen {listen}")))?;

        let cluster = Cluster::start(cluster_options(&config)).await?;
        let key_files = Arc::new(KeyFiles::new(config.seal.key_file.clone()));
        let options = SealOptions {
            source: key_files.clone(),
            reseal_bytes_per_s: config.seal.reseal_bytes_per_s,
        };
        let sealer = Sealer::start(cluster.clone(), options);
        let operations = Operations::start(
            cluster.clone(),
            sealer.clone(),
            config.node_name.clone(),
            operation_limits(&config),
        );
        let grants = Arc::new(ConfiguredGrants::new(config.grants.read_table()));
        let development = Development::from_config(&config);
        if development.is_allowed() {
            tokio::spawn(watch_development_mark(cluster.clone(), development.mark()));
        }
        let tailscale = config
            .tailscale
            .enabled
            .then(|| Tailscale::new(config.tailscale.socket.clone()));
        let edge = Arc::new(Edge {
            operations,
            cluster,
            sealer,
            key_files,
            grants: grants.clone(),
            identifier: Identifier::new(grants, tailscale, development),
            slots: Slots::new(&config.limits),
            limits: config.limits.clone(),
            node_name: config.node_name.clone(),
            cluster_name: config.cluster_name.clone(),
        });
        show_grants(&edge);

        let stop = CancellationToken::new();
        let listeners = tokio_util::task::TaskTracker::new();
        let routes = Routes::new(edge.clone(), tls.clone(), entrance(&config));
        listeners.spawn(listener.serve(routes, stop.clone()));
        listeners.spawn(metrics_listener::serve(
            metrics_socket,
            prometheus.clone(),
            entrance(&config),
            stop.clone(),
        ));
        listeners.spawn(keep_metrics(edge.clone(), prometheus, stop.clone()));
        listeners.close();
        tokio::spawn(metrics::follow_elections(edge.cluster.clone()));

        let runtime = RuntimeFile {
            node_name: config.node_name.clone(),
            pid: std::process::id(),
            api,
            cluster: config.cluster.listen,
            metrics: metrics_address,
        };
        runtime
            .write(&config.data_dir)
            .map_err(start(RuntimeFile::NAME.to_owned()))?;
        tracing::info!(node = config.node_name, %api, cluster = %config.cluster.listen, metrics = %metrics_address, "listening");
        Ok(Self {
            source,
            config,
            edge,
            tls,
            stop,
            listeners,
        })
    }

    async fn run(&self, signals: &mut Signals) -> Result<(), RunError> {
        let mut status = self.edge.cluster.status();
        loop {
            let halted = async {
                match status.wait_for(|status| status.raft.halted.is_some()).await {
                    Ok(status) => {
                        let reason = status.raft.halted.clone().unwrap_or_default();
                        if status.raft.reverted {
                            RunError::Reverted(reason)
                        } else {
                            RunError::Halted(reason)
                        }
                    }
                    Err(_) => RunError::Halted("the core ended".to_owned()),
                }
            };
            tokio::select! {
                error = halted => return Err(error),
                wanted = signals.next() => match wanted {
                    Wanted::Reload => self.reload(),
                    Wanted::Stop => return Ok(()),
                },
            }
        }
    }

    /// Reads certificates, grants and where the seal key lies again, and tries to unseal. What cannot
    /// be read leaves the old in force, and says so.
    fn reload(&self) {
        tracing::info!("reloading certificates and grants");
        let config = config::load(&self.source.path, &self.source.overrides);
        let grants = match &config {
            Ok(config) => config.grants.read_table(),
            // Inline grants stand there too, and this is logged.
            Err(error) => Err(without_quoted(&error.to_string())),
        };
        let separate = config::check_authorities(&self.config.tls);
        let results = [
            (
                "grants",
                self.edge.grants.reload(grants).load_error.map_or(Ok(()), Err),
            ),
            (
                "the API's certificates",
                separate.clone().and_then(|()| self.tls.reload()),
            ),
            (
                "the node's certificates",
                separate.and_then(|()| self.edge.cluster.reload_certificates()),
            ),
        ];
        for (what, result) in &results {
            if let Err(error) = result {
                tracing::error!(error, "{what} could not be read again; the old stay in force");
            }
        }
        metrics::count_reload(results.iter().all(|(_, result)| result.is_ok()));
        show_grants(&self.edge);
        if let Ok(config) = config {
            self.edge.key_files.configure(config.seal.key_file);
        }
        self.edge.sealer.retry();
    }

    /// Drains the listeners, writes what is still owed, then hands leadership over and ends: what other
    /// nodes' clients ask goes on here until another leads.
    async fn stop(self) {
        let grace = Duration::from_millis(self.config.limits.shutdown_grace_ms);
        tracing::info!("stopping");
        self.stop.cancel();
        self.listeners.wait().await;
        self.edge.operations.shutdown(Instant::now() + grace / 4).await;
        self.edge.cluster.shutdown(grace / 2).await;
        RuntimeFile::remove(&self.config.data_dir);
        tracing::info!("stopped");
    }
}

fn show_grants(edge: &Edge) {
    let status = edge.grants.status();
    if let Some(error) = &status.load_error {
        tracing::error!(error, "grants could not be read");
    }
    metrics::show_grants(&status);
}

/// Says loudly at every start that everybody is `dev`, once the cluster is known to bear the mark.
async fn watch_development_mark(cluster: Cluster, mark: Arc<AtomicBool>) {
    let mut status = cluster.status();
    let marked = status
        .wait_for(|status| status.raft.cluster_id.is_some() && status.dev)
        .await;
    if marked.is_ok() {
        mark.store(true, Ordering::Release);
        tracing::warn!(
            "THIS IS A DEVELOPMENT CLUSTER: whoever reaches its loopback ports without a certificate is \
             `dev` and may do everything. Never keep real secrets in it."
        );
    }
}

async fn keep_metrics(
    edge: Arc<Edge>,
    prometheus: metrics_exporter_prometheus::PrometheusHandle,
    stop: CancellationToken,
) {
    let mut ticks = interval(METRICS_INTERVAL);
    let (mut status, mut seal) = (edge.cluster.status(), edge.sealer.status());
    loop {
        metrics::show_node(&status.borrow_and_update().raft);
        metrics::show_seal(&seal.borrow_and_update());
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => prometheus.run_upkeep(),
            changed = seal.changed() => if changed.is_err() { return },
        }
    }
}

/// The folder is only its owner's.
fn make_data_dir(config: &Config) -> io::Result<()> {
    let data_dir = &config.data_dir;
    if !data_dir.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)?;
    }
    let mode = fs::metadata(data_dir)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            mode = format!("{mode:o}"),
            "the data directory can be entered by others"
        );
    }
    Ok(())
}

fn entrance(config: &Config) -> Entrance {
    let mut hosts: Vec<String> = config
        .api
        .allowed_hosts
        .iter()
        .map(|host| host.to_ascii_lowercase())
        .collect();
    if config.dev {
        hosts.push("localhost".to_owned());
    }
    Entrance {
        hosts,
        origins: config.api.allowed_origins.clone(),
    }
}

fn cluster_options(config: &Config) -> ClusterOptions {
    let cluster = &config.cluster;
    ClusterOptions {
        cluster_name: config.cluster_name.clone(),
        node_name: config.node_name.clone(),
        listen: cluster.listen,
        advertise: config.advertised_address().unwrap_or_default().to_owned(),
        nodes: cluster
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.address.clone()))
            .collect(),
        data_dir: config.data_dir.clone(),
        certificate: config.tls.node_certificate.clone(),
        private_key: config.tls.node_private_key.clone(),
        authority: config.tls.node_authority.clone(),
        dev: config.dev,
        rejoin: match cluster.rejoin {
            config::RejoinMode::Automatic => Rejoin::Automatic,
            config::RejoinMode::Manual => Rejoin::Manual,
        },
        staleness_bound: Duration::from_millis(cluster.staleness_bound_ms),
        clock_skew_bound: Duration::from_millis(cluster.clock_skew_bound_ms),
        election_timeout: Duration::from_millis(cluster.election_timeout_ms),
        proposal_queue_bytes: cluster.proposal_queue_bytes,
        batch_bytes: cluster.batch_bytes,
        snapshot_log_bytes: cluster.snapshot_log_bytes,
        snapshot_keep_log_bytes: cluster.snapshot_keep_log_bytes,
        reserve_bytes: cluster.reserve_bytes,
        last_reserve_bytes: cluster.last_reserve_bytes,
        sync: cluster.sync,
        audit_retention: AuditRetention {
            limit_bytes: config.audit.limit_bytes,
            at_limit: config.audit.at_limit.into(),
        },
        scrub_bytes_per_s: cluster.scrub_bytes_per_s,
    }
}

fn operation_limits(config: &Config) -> OperationLimits {
    let limits = &config.limits;
    OperationLimits {
        value_bytes: limits.value_bytes,
        in_flight_per_principal: limits.requests_in_flight_per_principal,
        requests_per_second_per_principal: limits.requests_per_s_per_principal,
        refusal_records_per_ten_seconds: limits.refusal_records_per_10_s,
    }
}
