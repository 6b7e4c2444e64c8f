//! The sections of the file and their keys. A default stands beside each key.

use super::{AtAuditLimit, LimitsSection};
use crate::grants::GrantsTable;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The whole file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This node's name, one of `cluster.nodes`; also the last part of its certificate's URI name.
    /// Required. 1 to 63 characters of `a-z`, `0-9` and `-`.
    pub node_name: String,
    /// The cluster's name (the CLUSTER of `conclave://CLUSTER/NODE`). Default `conclave`. The same
    /// alphabet as `node_name`.
    pub cluster_name: String,
    /// The folder that holds log, state and snapshots. Required.
    pub data_dir: PathBuf,
    /// Marks a cluster that is formed now as one for development: callers without a certificate are
    /// `dev` with all rights, while every listener is on loopback. Default false. It has no effect
    /// on a cluster that was formed without it.
    pub dev: bool,
    /// The listener for clients.
    pub api: ApiSection,
    /// The listener for nodes, and how this node takes part.
    pub cluster: ClusterSection,
    /// The listener for Prometheus.
    pub metrics: MetricsSection,
    /// Certificates and keys.
    pub tls: TlsSection,
    /// What unseals this node.
    pub seal: SealSection,
    /// Who may do what, for callers with certificates.
    pub grants: GrantsSection,
    /// Identity by tailnet address.
    pub tailscale: TailscaleSection,
    /// What the API listener accepts.
    pub limits: LimitsSection,
    /// How many audit records are kept.
    pub audit: AuditSection,
    /// Logging.
    pub log: LogSection,
}

/// `[api]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSection {
    /// Where the API listens, by TLS. Default `0.0.0.0:8200`. Port 0 takes a free port; the actual
    /// one is logged and stands in `runtime.json` in the data directory.
    pub listen: SocketAddr,
    /// Host names (without port) under which clients reach this node, besides the addresses that it
    /// listens on. A request for any other host is refused before its caller is identified. The
    /// DNS names of the API certificate are always allowed. Default none.
    pub allowed_hosts: Vec<String>,
    /// Values of the `Origin` header that may call from a browser, as `https://host:port`. Default
    /// none.
    pub allowed_origins: Vec<String>,
}

/// `[cluster]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    /// Where other nodes connect, by mutual TLS. Default `0.0.0.0:8201`. Port 0 is refused, for
    /// other nodes have to know it.
    pub listen: SocketAddr,
    /// `host:port` under which other nodes reach this one. Default: this node's address in `nodes`.
    pub advertise: Option<String>,
    /// Every node that may form the cluster, this one included; the first one forms it.
    pub nodes: Vec<NodeAddress>,
    /// What this node does with an empty directory when its cluster already exists: `automatic`
    /// (default: it takes its predecessor's place) or `manual` (it waits for `conclave cluster
    /// replace`).
    pub rejoin: RejoinMode,
    /// Bound on the staleness of follower polling, in milliseconds. Default 2000.
    pub staleness_bound_ms: u64,
    /// Greatest distance of a leader's wall clock from the median of the voters', in milliseconds.
    /// Default 5000.
    pub clock_skew_bound_ms: u64,
    /// Lower end of the election time-out in milliseconds; the upper end is twice it. A leader
    /// that died is replaced after three to four times as long. Default 150.
    pub election_timeout_ms: u64,
    /// Bytes of commands that may wait on this node before requests are refused. Default 64 MiB.
    pub proposal_queue_bytes: usize,
    /// Bytes of one entry's batch. Default 4 MiB.
    pub batch_bytes: usize,
    /// Bytes of log after which a snapshot is taken. Default 64 MiB.
    pub snapshot_log_bytes: u64,
    /// Bytes of log kept at least behind a snapshot, for nodes that are behind when another node comes to lead. For
    /// those that its own followers lack, or that a node lacks which is receiving a snapshot, the leader keeps up
    /// to four times the sum of both; whoever is farther behind is sent a snapshot. Default 256 MiB.
    pub snapshot_keep_log_bytes: u64,
    /// Free bytes on the data directory's file system below which this node accepts only what
    /// empties the cluster (deletions, pruning, membership). Default 512 MiB.
    pub reserve_bytes: u64,
    /// Free bytes below which it accepts nothing but votes; less than `reserve_bytes`. Default
    /// 128 MiB.
    pub last_reserve_bytes: u64,
    /// How fast stored state is rescanned in the background, in bytes per second. Default 4 MiB.
    pub scrub_bytes_per_s: u64,
    /// Whether the log is synced to disk. Default true. False loses acknowledged writes at a power
    /// cut, and is accepted only with `dev = true`, for tests which show exactly that.
    pub sync: bool,
}

/// One of `cluster.nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeAddress {
    /// The node's name.
    pub name: String,
    /// `host:port` of its cluster listener.
    pub address: String,
}

/// `cluster.rejoin`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejoinMode {
    /// Takes the predecessor's place by itself, limited in rate.
    #[default]
    Automatic,
    /// Waits for `conclave cluster replace`.
    Manual,
}

/// `[metrics]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Where `GET /metrics` is answered, in plain HTTP. Default `127.0.0.1:8202`. Port 0 takes a
    /// free port.
    pub listen: SocketAddr,
}

/// `[tls]`: PEM files. All but `client_authority` are required.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// Certificate chain that the API shows to clients.
    pub api_certificate: PathBuf,
    /// Its private key (mode 0600).
    pub api_private_key: PathBuf,
    /// The client CA, or a bundle. Without it no client certificate is accepted.
    pub client_authority: Option<PathBuf>,
    /// This node's certificate chain, which names it `conclave://CLUSTER/NODE`.
    pub node_certificate: PathBuf,
    /// Its private key (mode 0600).
    pub node_private_key: PathBuf,
    /// The node CA, or a bundle; it has no public key in common with the client CA, or the node does
    /// not start and takes up no certificates on a reload.
    pub node_authority: PathBuf,
}

/// `[seal]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SealSection {
    /// A file of 32 bytes with mode 0600, made by `conclave seal generate-key`. It should lie on
    /// another file system than the data. Without it (or while it is missing) the node is sealed.
    pub key_file: Option<PathBuf>,
    /// How fast a rotation seals stored data again, in bytes per second. Default 4 MiB.
    pub reseal_bytes_per_s: u64,
}

/// `[grants]`: principals with their grants, here or in a file of their own, never in both.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrantsSection {
    /// A file (TOML, or JSON where its name ends in `.json`) that maps principals to grants. Read
    /// again on SIGHUP; a broken file keeps the old grants.
    pub file: Option<PathBuf>,
    /// The same inline: `"uri:spiffe://prod/app" = [{ action = ["get"], secret = ["app/*"] }]`.
    pub principals: GrantsTable,
}

/// `[tailscale]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TailscaleSection {
    /// Whether callers on the tailnet are identified by the local daemon. Default false.
    pub enabled: bool,
    /// The daemon's socket. Default `/var/run/tailscale/tailscaled.sock`.
    pub socket: PathBuf,
}

/// `[audit]`: used by the node that forms the cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSection {
    /// Bytes of audit records kept, keys included. Default 4 GiB.
    pub limit_bytes: u64,
    /// What happens there: `prune-oldest` (default; a record of the gap stays) or
    /// `refuse-disclosures`.
    pub at_limit: AtAuditLimit,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// What is logged, in `tracing`'s filter syntax. Default `info`; openraft's own lines only from
    /// `error` on, unless they are named.
    pub level: String,
    /// `auto` (default: `human` on a terminal, else `json`), `human` or `json`.
    pub format: LogFormat,
}

/// `log.format`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Auto,
    Human,
    Json,
}

impl Config {
    /// This node's entry in `cluster.nodes`.
    pub fn own_node(&self) -> Option<&NodeAddress> {
        self.cluster.nodes.iter().find(|node| node.name == self.node_name)
    }

    /// `host:port` under which other nodes reach this one.
    pub fn advertised_address(&self) -> Option<&str> {
        let listed = || self.own_node().map(|node| node.address.as_str());
        self.cluster.advertise.as_deref().or_else(listed)
    }

    /// Makes every relative path relative to `folder`.
    pub(super) fn resolve_paths(&mut self, folder: &Path) {
        let paths = [
            Some(&mut self.data_dir),
            Some(&mut self.tls.api_certificate),
            Some(&mut self.tls.api_private_key),
            self.tls.client_authority.as_mut(),
            Some(&mut self.tls.node_certificate),
            Some(&mut self.tls.node_private_key),
            Some(&mut self.tls.node_authority),
            self.seal.key_file.as_mut(),
            self.grants.file.as_mut(),
            Some(&mut self.tailscale.socket),
        ];
        for path in paths.into_iter().flatten() {
            // An empty path stands for a missing key, which `check` reports.
            if !path.as_os_str().is_empty() {
                *path = folder.join(&path);
            }
        }
    }
}

impl GrantsSection {
    /// The table that this section names. The error names file and line.
    pub fn read_table(&self) -> Result<GrantsTable, String> {
        let Some(path) = &self.file else {
            return Ok(self.principals.clone());
        };
        let described = |reason: String| format!("{}: {reason}", path.display());
        let size_bytes = fs::metadata(path)
            .map_err(|error| described(error.to_string()))?
            .len();
        if size_bytes > GrantsTable::FILE_LIMIT_BYTES as u64 {
            return Err(described(format!(
                "has more than {} bytes",
                GrantsTable::FILE_LIMIT_BYTES
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| described(error.to_string()))?;
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let table = if is_json {
            GrantsTable::from_json(&text)
        } else {
            GrantsTable::from_toml(&text)
        };
        table.map_err(described)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            cluster_name: "conclave".to_owned(),
            data_dir: PathBuf::new(),
            dev: false,
            api: ApiSection::default(),
            cluster: ClusterSection::default(),
            metrics: MetricsSection::default(),
            tls: TlsSection::default(),
            seal: SealSection::default(),
            grants: GrantsSection::default(),
            tailscale: TailscaleSection::default(),
            limits: LimitsSection::default(),
            audit: AuditSection::default(),
            log: LogSection::default(),
        }
    }
}

impl Default for ApiSection {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8200).into(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8201).into(),
            advertise: None,
            nodes: Vec::new(),
            rejoin: RejoinMode::Automatic,
            staleness_bound_ms: 2_000,
            clock_skew_bound_ms: 5_000,
            election_timeout_ms: 150,
            proposal_queue_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            snapshot_log_bytes: 64 << 20,
            snapshot_keep_log_bytes: 256 << 20,
            reserve_bytes: 512 << 20,
            last_reserve_bytes: 128 << 20,
            scrub_bytes_per_s: 4 << 20,
            sync: true,
        }
    }
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8202).into(),
        }
    }
}

impl Default for SealSection {
    fn default() -> Self {
        Self {
            key_file: None,
            reseal_bytes_per_s: 4 << 20,
        }
    }
}

impl Default for TailscaleSection {
    fn default() -> Self {
        Self {
            enabled: false,
            socket: "/var/run/tailscale/tailscaled.sock".into(),
        }
    }
}

impl Default for AuditSection {
    fn default() -> Self {
        Self {
            limit_bytes: 4 << 30,
            at_limit: AtAuditLimit::PruneOldest,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}
