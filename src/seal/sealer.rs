//! Holds this node's keys, or says why it has none.
//!
//! A node seals nothing before it read the committed keyring, and uses no other. Which keyring that
//! is, the cluster decides: several nodes may propose the first one, on the precondition that none
//! exists, and all of them open the one that was stored.

use super::{
    key_file::KeyFile,
    keyring::Keyring,
    provider::SealProvider,
    reason::SealedReason,
    reseal,
    stored_keyring::{self, StoredKeyring},
};
use conclave_cluster::{
    command::{Command, Outcome, Refusal},
    node::{Change, Cluster, ProposeError},
};
use std::{
    path::PathBuf,
    sync::{Arc, RwLock, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::{Instant, timeout_at},
};

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
    /// The id of the seal key that the stored keyring needs, once read.
    pub seal_key_id: Option<String>,
    /// The keyring's id, in hex.
    pub keyring_id: Option<String>,
    /// The data keys' present term.
    pub key_term: Option<u32>,
    /// Re-sealing after a rotation, as far as this node does it.
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
    /// Sealed parts that this node replaced.
    pub parts_resealed: u64,
    /// Whether two passes found nothing under an older term.
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
    /// Other nodes changed the keyring meanwhile, too often.
    #[error("the keyring was changed by another node at the same time; try again")]
    Contended,
    /// No majority answered, or a limit refused.
    #[error("{0}")]
    Propose(#[from] ProposeError),
    /// The cluster refused, or local damage.
    #[error("{0}")]
    Damaged(String),
}

/// Holds this node's keys.
pub struct Sealer {
    pub(super) cluster: Cluster,
    pub(super) options: SealOptions,
    /// A key file that a `rekey` on this node brought, until the configuration names it.
    brought_key_file: RwLock<Option<PathBuf>>,
    keys: RwLock<Result<Arc<Keyring>, SealedReason>>,
    pub(super) status: watch::Sender<SealStatus>,
    retry: Arc<Notify>,
    /// Notified when this node was asked to re-seal.
    pub(super) reseal_asked: Arc<Notify>,
    /// One attempt to unseal at a time.
    attempt: tokio::sync::Mutex<()>,
}

impl Sealer {
    /// How long a node waits for a majority, and between attempts while there is no keyring.
    const PATIENCE: Duration = Duration::from_secs(5);
    const PAUSE: Duration = Duration::from_millis(200);
    /// How often a write of the keyring is tried again when another node was faster.
    const WRITE_TRIES: usize = 8;

    /// Starts sealed and unseals in the background as soon as the key file and the keyring allow.
    /// The background work ends when the last handle is dropped.
    pub fn start(cluster: Cluster, options: SealOptions) -> Arc<Self> {
        let status = SealStatus {
            sealed: Some(SealedReason::Starting),
            seal_key_id: None,
            keyring_id: None,
            key_term: None,
            reseal: None,
            warning: None,
        };
        let changes = cluster.changes();
        let sealer = Arc::new(Self {
            cluster,
            options,
            brought_key_file: RwLock::new(None),
            keys: RwLock::new(Err(SealedReason::Starting)),
            status: watch::Sender::new(status),
            retry: Arc::default(),
            reseal_asked: Arc::default(),
            attempt: tokio::sync::Mutex::new(()),
        });
        tokio::spawn(keep_unsealed(Arc::downgrade(&sealer), changes));
        tokio::spawn(reseal::run(Arc::downgrade(&sealer)));
        sealer
    }

    /// The keys, or why there are none.
    pub fn keyring(&self) -> Result<Arc<Keyring>, SealedReason> {
        self.keys
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    /// The keys that were committed up to `index`. For ciphertext under a term that is not known here
    /// yet: the keyring that has it was committed before.
    pub async fn keyring_as_of(&self, index: u64, deadline: Instant) -> Result<Arc<Keyring>, SealedReason> {
        if self.cluster.wait_applied(index, deadline).await {
            self.unseal().await;
        }
        self.keyring()
    }

    /// How it stands, and a notice of each change.
    pub fn status(&self) -> watch::Receiver<SealStatus> {
        self.status.subscribe()
    }

    /// Reads the key file again and tries to unseal (SIGHUP). Returns at once; the outcome shows in
    /// [`Self::status`]. A node that is unsealed stays so.
    pub fn retry(&self) {
        self.retry.notify_one();
    }

    /// Tries to unseal and waits for the outcome.
    pub async fn retry_and_wait(&self, deadline: Instant) -> Result<(), SealedReason> {
        let _ = timeout_at(deadline, self.unseal()).await;
        self.keyring().map(drop)
    }

    /// Adds a data key term, returns it, and begins to re-seal in the background.
    pub async fn rotate(&self, deadline: Instant) -> Result<u32, SealError> {
        let keyring = self.write(deadline, None, Keyring::with_next_term).await?;
        self.reseal_asked.notify_one();
        Ok(keyring.key_term())
    }

    /// Wraps the keyring under the key in another file (on this node), and returns that key's id.
    /// Other nodes stay unsealed, but need the new key in their file before their next start.
    pub async fn rekey(&self, new_key_file: PathBuf, deadline: Instant) -> Result<String, SealError> {
        let provider = KeyFile::load(&new_key_file).map_err(|error| SealError::KeyFile(error.to_string()))?;
        *self
            .brought_key_file
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(new_key_file);
        self.write(deadline, Some(&provider), Keyring::duplicate).await?;
        Ok(provider.id().to_owned())
    }

    /// Reads the stored keyring, changes it, and stores it on the precondition that it is unchanged.
    async fn write(
        &self,
        deadline: Instant,
        new_provider: Option<&dyn SealProvider>,
        change: impl Fn(&Keyring) -> Keyring,
    ) -> Result<Keyring, SealError> {
        self.keyring()?;
        for _ in 0..Self::WRITE_TRIES {
            self.cluster.read_barrier(deadline).await?;
            let stored = self
                .read_stored()?
                .ok_or_else(|| SealedReason::NoKeyring("it is not in this node's state".to_owned()))?;
            let provider = self.provider_for(&stored)?;
            let keyring = change(&stored.open(&provider).await?);
            let command =
                stored_keyring::replace_command(&stored, &keyring, new_provider.unwrap_or(&provider)).await?;
            let answer = self.cluster.propose(command, deadline).await?;
            match answer.outcome {
                Outcome::Done(_) => {
                    if !self.cluster.wait_applied(answer.index, deadline).await {
                        return Err(ProposeError::OutcomeUnknown.into());
                    }
                    self.unseal().await;
                    return Ok(keyring);
                }
                Outcome::Refused {
                    refusal: Refusal::Precondition { .. },
                    ..
                } => {}
                Outcome::Refused { refusal, .. } => return Err(SealError::Damaged(refusal.to_string())),
            }
        }
        Err(SealError::Contended)
    }

    /// One attempt to hold the committed keyring.
    async fn unseal(&self) {
        let _one_at_a_time = self.attempt.lock().await;
        let outcome = self.try_unseal().await;
        let held = self.keyring();
        let (keys, warning) = match (outcome, held) {
            (Ok(keyring), _) => (Ok(keyring), None),
            // The key file fails, yet nothing was added to the keys that are held.
            (Err(failure), Ok(held)) if failure.holds_no_other_keys => {
                (Ok(held), Some(failure.reason.to_string()))
            }
            (Err(failure), _) => (Err(failure.reason), None),
        };
        let (before, after) = (self.keyring().err(), keys.as_ref().err().cloned());
        if before != after {
            match &after {
                None => tracing::info!("unsealed"),
                Some(reason) => tracing::warn!(%reason, "sealed"),
            }
        }
        if let Some(warning) = &warning {
            tracing::warn!(%warning, "the seal key does not open the stored keyring; this node will start sealed");
        }
        // The keys first: whoever hears "unsealed" uses them at once.
        *self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = keys.clone();
        self.status.send_modify(|status| {
            status.sealed = after;
            status.warning = warning;
            if let Ok(keyring) = &keys {
                status.keyring_id = Some(keyring.id().iter().map(|byte| format!("{byte:02x}")).collect());
                status.key_term = Some(keyring.key_term());
            } else {
                status.key_term = None;
            }
        });
    }

    async fn try_unseal(&self) -> Result<Arc<Keyring>, Failure> {
        let stored = match self.read_stored()? {
            Some(stored) => stored,
            None => self.make_keyring().await?,
        };
        self.status.send_if_modified(|status| {
            let id = Some(stored.seal_key_id().to_owned());
            let modified = status.seal_key_id != id;
            status.seal_key_id = id;
            modified
        });
        let held = self.keyring().ok();
        let holds_no_other_keys = held.as_ref().is_some_and(|held| stored.holds_the_keys_of(held));
        let failure = |reason| Failure {
            reason,
            holds_no_other_keys,
        };
        let provider = self.provider_for(&stored).map_err(failure)?;
        let keyring = stored.open(&provider).await.map_err(failure)?;
        match held {
            Some(held) if held.id() == keyring.id() && held.generation() > keyring.generation() => {
                Err(SealedReason::Damaged("an older keyring was put back".to_owned()).into())
            }
            _ => Ok(Arc::new(keyring)),
        }
    }

    /// Proposes the first keyring once a majority confirms that there is none, and reads the one that
    /// was stored, whoever proposed it.
    async fn make_keyring(&self) -> Result<StoredKeyring, SealedReason> {
        let provider = self.configured_provider()?;
        let absent = |error: ProposeError| SealedReason::NoKeyring(error.to_string());
        let deadline = Instant::now() + Self::PATIENCE;
        self.cluster.read_barrier(deadline).await.map_err(absent)?;
        if let Some(stored) = self.read_stored()? {
            return Ok(stored);
        }
        let command: Command = stored_keyring::create_command(&Keyring::generate(), &provider).await?;
        let answer = self.cluster.propose(command, deadline).await.map_err(absent)?;
        if !self.cluster.wait_applied(answer.index, deadline).await {
            return Err(absent(ProposeError::OutcomeUnknown));
        }
        self.read_stored()?.ok_or_else(|| match answer.outcome {
            Outcome::Refused { refusal, .. } => SealedReason::NoKeyring(refusal.to_string()),
            Outcome::Done(_) => SealedReason::NoKeyring("it was stored, but is not in the state".to_owned()),
        })
    }

    fn read_stored(&self) -> Result<Option<StoredKeyring>, SealedReason> {
        StoredKeyring::read(&self.cluster.view()).map_err(|error| SealedReason::Damaged(error.to_string()))
    }

    fn configured_provider(&self) -> Result<KeyFile, SealedReason> {
        let path = self
            .options
            .key_file
            .as_ref()
            .ok_or(SealedReason::NoKeyConfigured)?;
        KeyFile::load(path).map_err(|error| SealedReason::KeyFile(error.to_string()))
    }

    /// The configured key file, unless the stored keyring needs the one that a `rekey` brought.
    fn provider_for(&self, stored: &StoredKeyring) -> Result<KeyFile, SealedReason> {
        let configured = self.configured_provider();
        if configured
            .as_ref()
            .is_ok_and(|provider| provider.id() == stored.seal_key_id())
        {
            return configured;
        }
        let brought = self
            .brought_key_file
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone();
        match brought.and_then(|path| KeyFile::load(&path).ok()) {
            Some(provider) if provider.id() == stored.seal_key_id() => Ok(provider),
            _ => Err(match configured {
                Ok(provider) => SealedReason::WrongSealKey {
                    needed: stored.seal_key_id().to_owned(),
                    configured: provider.id().to_owned(),
                },
                Err(reason) => reason,
            }),
        }
    }
}

/// Why an attempt failed, and whether the keys that are held remain all there are.
struct Failure {
    reason: SealedReason,
    holds_no_other_keys: bool,
}

impl From<SealedReason> for Failure {
    fn from(reason: SealedReason) -> Self {
        Self {
            reason,
            holds_no_other_keys: false,
        }
    }
}

/// Unseals, and follows every later write of the keyring.
async fn keep_unsealed(sealer: Weak<Sealer>, mut changes: broadcast::Receiver<Change>) {
    loop {
        let Some(sealer) = sealer.upgrade() else { return };
        sealer.unseal().await;
        let retries_by_itself = matches!(
            sealer.keyring(),
            Err(SealedReason::NoKeyring(_) | SealedReason::Starting)
        );
        let keyring_secret = sealer.read_stored().ok().flatten().map(|stored| stored.secret);
        let retry = sealer.retry.clone();
        drop(sealer);
        loop {
            tokio::select! {
                () = retry.notified() => break,
                () = tokio::time::sleep(Sealer::PAUSE), if retries_by_itself => break,
                change = changes.recv() => match change {
                    Ok(Change::Secret { secret, .. }) if keyring_secret.is_some_and(|keyring| keyring != secret) => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            }
        }
    }
}
