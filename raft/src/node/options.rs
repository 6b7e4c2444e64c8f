//! How a node takes part, and why it cannot.

use crate::{
    storage::{
        fatal::OnFatal,
        snapshot_policy::SnapshotPolicyOptions,
        space::{Classify, Reserves},
    },
    transport::tls::TlsFiles,
};
use std::{io, path::PathBuf, time::Duration};

/// How a node takes part.
#[derive(Clone)]
pub struct RaftOptions {
    /// The configured name of the cluster, the CLUSTER of certificates.
    pub cluster_name: String,
    /// This node's configured name.
    pub node_name: String,
    /// `host:port` under which other nodes reach this one.
    pub advertise: String,
    /// Every configured node (this one included) as (name, `host:port`), the first one first.
    pub nodes: Vec<(String, String)>,
    /// Where `log` and `snapshots` lie.
    pub data_dir: PathBuf,
    /// The node certificate, its key and the node CA.
    pub tls: TlsFiles,
    /// Marks a cluster that is formed now as one for development.
    pub dev: bool,
    /// Election time-out, lower end; the upper end and the leader's lease are twice it, and
    /// heartbeats go out every third. A dead leader is replaced after three to four of them.
    pub election_timeout: Duration,
    /// When snapshots are taken, and how much log is kept.
    pub snapshots: SnapshotPolicyOptions,
    /// Free disk below which entries are refused.
    pub reserves: Reserves,
    /// Tells which proposals only free space; they are admitted down to the second reserve.
    pub classify: Classify,
    /// A file that holds the figure of free bytes, for tests; else the file system is asked.
    pub free_space_file: Option<PathBuf>,
    /// Whether the log is synced. False only in a test that shows that it matters.
    pub sync: bool,
    /// What happens when the disk fails.
    pub on_fatal: OnFatal,
}

impl RaftOptions {
    /// Bytes of one proposal. More is refused before it is appended.
    pub const PROPOSAL_LIMIT_BYTES: usize = 24 * 1024 * 1024;
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or directory, named in the message, cannot be used.
    #[error("{0}")]
    Storage(#[from] io::Error),
    /// Certificates cannot be used.
    #[error("{0}")]
    Certificate(#[from] crate::transport::tls::CertificateFault),
    /// Options that contradict each other.
    #[error("{0}")]
    Options(String),
}
