//! Holds this node's keys, or says why it has none.

use super::SealedReason;
use conclave_cluster::node::Cluster;
use std::{path::PathBuf, sync::Arc};
use tokio::{sync::watch, time::Instant};

/// How a node gets its keys.
#[derive(Clone, Debug)]
pub struct SealOptions {
    /// The seal key's file; `None`: the node stays sealed.
    pub key_file: Option<PathBuf>,
    /// How fast a rotation re-seals, in bytes per second. Default 4 MiB.
    pub reseal_bytes_per_s: u64,
}

/// How this node's seal stands. Holds no key material.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealStatus {
    /// Why the node is sealed; `None`: it is not.
    pub sealed: Option<SealedReason>,
    /// The configured seal key's id, once read.
    pub seal_key_id: Option<String>,
    /// The keyring's id, in hex.
    pub keyring_id: Option<String>,
    /// The data keys' present term.
    pub key_term: Option<u32>,
    /// Re-sealing after a rotation, as this node knows it.
    pub reseal: Option<ResealProgress>,
    /// Something that will keep this node from unsealing at its next start.
    pub warning: Option<String>,
}

/// How far re-sealing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResealProgress {
    /// The term that everything is sealed under afterwards.
    pub key_term: u32,
    /// Secrets looked at in this pass.
    pub secrets_seen: u64,
    /// Sealed parts replaced since this node began.
    pub parts_resealed: u64,
    /// Whether nothing is left under an older term.
    pub finished: bool,
}

/// Why an operation on the seal failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SealError {
    /// The node is sealed.
    #[error("the node is sealed: {0}")]
    Sealed(#[from] SealedReason),
    /// The new key file cannot be used.
    #[error("{0}")]
    KeyFile(String),
    /// Another node changed the keyring meanwhile, too often.
    #[error("the keyring was changed by another node at the same time; try again")]
    Contended,
    /// No majority answered, or a limit refused.
    #[error("{0}")]
    Propose(#[from] conclave_cluster::node::ProposeError),
    /// Local damage.
    #[error("{0}")]
    Damaged(String),
}

/// Holds this node's keys.
pub struct Sealer {}

impl Sealer {
    /// Starts sealed and unseals in the background as soon as the key file and the keyring allow.
    pub fn start(_cluster: Cluster, _options: SealOptions) -> Arc<Self> {
        todo!()
    }

    /// How it stands, and a notice of each change.
    pub fn status(&self) -> watch::Receiver<SealStatus> {
        todo!()
    }

    /// Reads the key file again and tries to unseal (SIGHUP, `conclave seal retry`). Returns at
    /// once; the outcome shows in [`Self::status`].
    pub fn retry(&self) {
        todo!()
    }

    /// Tries to unseal and waits for the outcome.
    pub async fn retry_and_wait(&self, _deadline: Instant) -> Result<(), SealedReason> {
        todo!()
    }

    /// Adds a data key term, returns it, and begins to re-seal in the background.
    pub async fn rotate(&self, _deadline: Instant) -> Result<u32, SealError> {
        todo!()
    }

    /// Wraps the keyring under the key in another file (on this node), and returns that key's id.
    /// Other nodes stay unsealed, but need the new file before their next start.
    pub async fn rekey(&self, _new_key_file: PathBuf, _deadline: Instant) -> Result<String, SealError> {
        todo!()
    }
}
