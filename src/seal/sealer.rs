//! Holds this node's keys, or says why it has none.
//!
//! A node seals nothing before it read the committed keyring, and uses no other. Which keyring that
//! is, the cluster decides: several nodes may propose the first one, on the precondition that none
//! exists, and all of them open the one that was stored. Once there was one, no node ever makes
//! another; those that hold it keep it if it disappears, and put it back ([`super::keep`]).

use super::{
    keep,
    keyring::Keyring,
    provider::{SealProvider, SealSource},
    reason::SealedReason,
    reseal,
    stored_keyring::{self, Found, KeyringPlace, StoredKeyring},
};
use conclave_cluster::{
    command::{Command, Outcome, Refusal},
    model::Version,
    node::{Cluster, ProposeError},
};
use std::{
    io,
    sync::{Arc, RwLock, RwLockReadGuard},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

/// How a node gets its keys.
#[derive(Clone)]
pub struct SealOptions {
    /// Where the seal key is found.
    pub source: Arc<dyn SealSource>,
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
    /// Something that will keep this node from unsealing at its next start, or that the stored keyring
    /// is gone.
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
    /// Whether a pass found nothing under an older term. What was on its way meanwhile is looked for
    /// once more, about a minute later.
    pub finished: bool,
}

/// Why an operation on the seal failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SealError {
    /// The node is sealed.
    #[error("the node is sealed: {0}")]
    Sealed(#[from] SealedReason),
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
    pub(super) reseal_bytes_per_s: u64,
    pub(super) source: Arc<dyn SealSource>,
    keys: RwLock<Result<Held, SealedReason>>,
    pub(super) status: watch::Sender<SealStatus>,
    pub(super) retry: Arc<Notify>,
    /// Notified when this node was asked to re-seal.
    pub(super) reseal_asked: Arc<Notify>,
    /// One attempt to unseal at a time.
    attempt: tokio::sync::Mutex<()>,
}

/// The keys that a node holds.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) keyring: Arc<Keyring>,
    /// The version of the stored keyring that was opened.
    pub(super) number: Version,
    /// The seal key that it was wrapped under.
    pub(super) seal_key_id: String,
}

/// What an attempt to unseal came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Nothing is to be done until something changes.
    Settled,
    /// There is no keyring yet; no majority answered to make one.
    AwaitsKeyring,
    /// This node holds the keys, and the stored keyring is gone.
    HoldsLost,
    /// An error that may pass by itself was in the way.
    Hindered,
}

impl Sealer {
    /// How long a node waits for a majority.
    pub(super) const PATIENCE: Duration = Duration::from_secs(5);
    /// How often a write of the keyring is tried again when another node was faster.
    const WRITE_TRIES: usize = 8;

    /// Starts sealed and unseals in the background as soon as the seal key and the keyring allow.
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
            reseal_bytes_per_s: options.reseal_bytes_per_s,
            source: options.source,
            keys: RwLock::new(Err(SealedReason::Starting)),
            status: watch::Sender::new(status),
            retry: Arc::default(),
            reseal_asked: Arc::default(),
            attempt: tokio::sync::Mutex::new(()),
        });
        tokio::spawn(keep::keep_unsealed(Arc::downgrade(&sealer), changes));
        tokio::spawn(reseal::run(Arc::downgrade(&sealer)));
        sealer
    }

    /// The keys, or why there are none.
    pub fn keyring(&self) -> Result<Arc<Keyring>, SealedReason> {
        match &*self.keys() {
            Ok(held) => Ok(held.keyring.clone()),
            Err(reason) => Err(reason.clone()),
        }
    }

    /// The same, with where they come from.
    pub(super) fn held(&self) -> Result<Held, SealedReason> {
        self.keys().clone()
    }

    fn keys(&self) -> RwLockReadGuard<'_, Result<Held, SealedReason>> {
        self.keys.read().unwrap_or_else(|poisoned| poisoned.into_inner())
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

    /// Asks for the seal key again and tries to unseal (SIGHUP). Returns at once; the outcome shows in
    /// [`Self::status`]. A node that is unsealed stays so.
    pub fn retry(&self) {
        self.retry.notify_one();
    }

    /// Tries to unseal and waits for the outcome.
    pub async fn retry_and_wait(&self, deadline: Instant) -> Result<(), SealedReason> {
        let _ = timeout_at(deadline, self.unseal()).await;
        // What hindered it, if anything did, is tried again in the background.
        self.retry.notify_one();
        self.keyring().map(drop)
    }

    /// Adds a data key term, returns it, and begins to re-seal in the background.
    pub async fn rotate(&self, deadline: Instant) -> Result<u32, SealError> {
        let keyring = self.write(deadline, None, Keyring::with_next_term).await?;
        // Whoever looks from now on sees that it is not finished.
        reseal::progress(self, keyring.key_term(), |progress| progress.finished = false);
        self.reseal_asked.notify_one();
        Ok(keyring.key_term())
    }

    /// Wraps the keyring under another seal key, which this node's source has to give by its id from
    /// now on. Other nodes stay unsealed, but need the new key before their next start.
    pub async fn rekey(&self, provider: &dyn SealProvider, deadline: Instant) -> Result<(), SealError> {
        self.write(deadline, Some(provider), Keyring::duplicate).await?;
        Ok(())
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
            let Found::Keyring(stored) = self.read_place()?.found else {
                return Err(SealedReason::KeyringGone.into());
            };
            // Keys that are held need not be opened: so that a node may wrap them anew which has no
            // longer the key that they are wrapped under.
            let mut held = self.held()?;
            if !stored.holds_the_keys_of(&held.keyring) {
                held = self.open(&stored, Some(&held)).await.map_err(Failure::reason)?;
            }
            let keyring = change(&held.keyring);
            let command = match new_provider {
                Some(provider) => {
                    stored_keyring::replace_command(&stored.occupant, &keyring, provider).await?
                }
                None => {
                    let provider = self.source.with_id(stored.seal_key_id())?;
                    stored_keyring::replace_command(&stored.occupant, &keyring, &*provider).await?
                }
            };
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
    pub(super) async fn unseal(&self) -> Standing {
        let _one_at_a_time = self.attempt.lock().await;
        let outcome = self.try_unseal().await;
        let Attempted {
            keys,
            warning,
            standing,
        } = Attempted::of(outcome, self.held().ok());
        let (before, after) = (self.keyring().err(), keys.as_ref().err().cloned());
        if before != after {
            match &after {
                None => tracing::info!("unsealed"),
                Some(reason) => tracing::warn!(%reason, "sealed"),
            }
        }
        if let Some(warning) = warning
            .as_ref()
            .filter(|warning| self.status.borrow().warning.as_ref() != Some(warning))
        {
            tracing::warn!(%warning, "the stored keyring does not open");
        }
        // The keys first: whoever hears "unsealed" uses them at once.
        *self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = keys.clone();
        self.status.send_modify(|status| {
            status.sealed = after;
            status.warning = warning;
            if let Ok(Held { keyring, .. }) = &keys {
                status.keyring_id = Some(keyring.id().iter().map(|byte| format!("{byte:02x}")).collect());
                status.key_term = Some(keyring.key_term());
            } else {
                status.key_term = None;
            }
        });
        standing
    }

    async fn try_unseal(&self) -> Result<Held, Failure> {
        let held = self.held().ok();
        let mut place = self.read_place()?;
        if held.is_none() && matches!(place.found, Found::Nothing) {
            place = self.make_keyring().await?;
        }
        let Found::Keyring(stored) = place.found else {
            return Err(Failure::Lost(SealedReason::KeyringGone));
        };
        self.status.send_if_modified(|status| {
            let id = Some(stored.seal_key_id().to_owned());
            let modified = status.seal_key_id != id;
            status.seal_key_id = id;
            modified
        });
        self.open(&stored, held.as_ref()).await
    }

    /// Opens the stored keyring, which must not be older than the one that is held.
    pub(super) async fn open(&self, stored: &StoredKeyring, held: Option<&Held>) -> Result<Held, Failure> {
        let without_key = |reason| match held.map(|held| &*held.keyring) {
            // Whatever it says of itself: whoever has the keys did not write this.
            Some(held) if !stored.is_proven_to(held) => Failure::Lost(SealedReason::Damaged(
                "what is stored was written by somebody without its keys".to_owned(),
            )),
            Some(held) if stored.is_older_than(held) => Failure::Lost(older()),
            Some(held) if stored.holds_the_keys_of(held) => Failure::HoldsAllKeys(reason),
            _ => Failure::Sealed(reason),
        };
        let provider = self.source.with_id(stored.seal_key_id()).map_err(without_key)?;
        let keyring = stored.open(&*provider).await.map_err(|reason| match reason {
            // It names the right seal key: whoever has that key did not write this.
            SealedReason::Damaged(_) => Failure::Lost(reason),
            other => without_key(other),
        })?;
        match held {
            Some(Held { keyring: held, .. })
                if held.id() == keyring.id() && held.generation() > keyring.generation() =>
            {
                Err(Failure::Lost(older()))
            }
            _ => Ok(Held {
                keyring: Arc::new(keyring),
                number: stored.number,
                seal_key_id: stored.seal_key_id().to_owned(),
            }),
        }
    }

    /// Proposes the first keyring once a majority confirms that there never was one, and reads what
    /// was stored, whoever proposed it.
    async fn make_keyring(&self) -> Result<KeyringPlace, SealedReason> {
        let provider = self.source.configured()?;
        let absent = |error: ProposeError| SealedReason::NoKeyring(error.to_string());
        self.check_that_none_was_made()?;
        let deadline = Instant::now() + Self::PATIENCE;
        self.cluster.read_barrier(deadline).await.map_err(absent)?;
        let place = self.read_place()?;
        if !matches!(place.found, Found::Nothing) {
            return Ok(place);
        }
        self.check_that_none_was_made()?;
        let command: Command = stored_keyring::create_command(&Keyring::generate(), &*provider).await?;
        let answer = self.cluster.propose(command, deadline).await.map_err(absent)?;
        if !self.cluster.wait_applied(answer.index, deadline).await {
            return Err(absent(ProposeError::OutcomeUnknown));
        }
        let place = self.read_place()?;
        match (&place.found, answer.outcome) {
            (Found::Nothing, Outcome::Refused { refusal, .. }) => {
                Err(SealedReason::NoKeyring(refusal.to_string()))
            }
            _ => Ok(place),
        }
    }

    /// A keyring that was made and is gone must not be followed by another: neither secrets nor
    /// audit records that are stored would ever open again.
    fn check_that_none_was_made(&self) -> Result<(), SealedReason> {
        let view = self.cluster.view();
        let place = KeyringPlace::read(&view).map_err(unreadable)?;
        let is_new = place.last_number.is_none() && view.secrets(None, 1).map_err(unreadable)?.is_empty();
        if is_new || !matches!(place.found, Found::Nothing) {
            Ok(())
        } else {
            Err(SealedReason::KeyringGone)
        }
    }

    pub(super) fn read_place(&self) -> Result<KeyringPlace, SealedReason> {
        KeyringPlace::read(&self.cluster.view()).map_err(unreadable)
    }
}

fn older() -> SealedReason {
    SealedReason::Damaged("an older keyring was put back".to_owned())
}

fn unreadable(error: io::Error) -> SealedReason {
    SealedReason::Unreadable(error.to_string())
}

/// What an attempt to unseal leaves.
struct Attempted {
    keys: Result<Held, SealedReason>,
    warning: Option<String>,
    standing: Standing,
}

impl Attempted {
    /// `held`: the keys that the node had before.
    fn of(outcome: Result<Held, Failure>, held: Option<Held>) -> Self {
        let (failure, held) = match (outcome, held) {
            (Ok(opened), _) => {
                return Self {
                    keys: Ok(opened),
                    warning: None,
                    standing: Standing::Settled,
                };
            }
            (Err(failure), held) => (failure, held),
        };
        let after = match (&failure, &held) {
            (Failure::HoldsAllKeys(_), Some(_)) => Some("holds the keys, and will start sealed"),
            (Failure::Unread(_), Some(_)) => Some("goes on with the keys that it holds"),
            (Failure::Lost(_), Some(_)) => Some("holds the keys, and puts the keyring back"),
            _ => None,
        };
        let is_lost = matches!(failure, Failure::Lost(_));
        let reason = failure.reason();
        let standing = match reason {
            _ if is_lost && held.is_some() => Standing::HoldsLost,
            SealedReason::NoKeyring(_) => Standing::AwaitsKeyring,
            SealedReason::SealKey(_) | SealedReason::Unreadable(_) => Standing::Hindered,
            _ => Standing::Settled,
        };
        match (after, held) {
            (Some(after), Some(held)) => Self {
                keys: Ok(held),
                warning: Some(format!("{reason}; this node {after}")),
                standing,
            },
            _ => Self {
                keys: Err(reason),
                warning: None,
                standing,
            },
        }
    }
}

/// Why an attempt failed, and what that says of keys that are held.
pub(super) enum Failure {
    /// They may no longer be all there are.
    Sealed(SealedReason),
    /// They are all there are; this node only cannot open them again.
    HoldsAllKeys(SealedReason),
    /// No usable keyring is stored, or one that is older: what is held has to be put back.
    Lost(SealedReason),
    /// Nothing: what is stored could not be read.
    Unread(SealedReason),
}

impl Failure {
    fn reason(self) -> SealedReason {
        match self {
            Self::Sealed(reason) | Self::HoldsAllKeys(reason) | Self::Lost(reason) | Self::Unread(reason) => {
                reason
            }
        }
    }
}

impl From<SealedReason> for Failure {
    fn from(reason: SealedReason) -> Self {
        match reason {
            SealedReason::Unreadable(_) => Self::Unread(reason),
            other => Self::Sealed(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_passes_takes_no_keys_away_and_is_tried_again() {
        let keyring = Arc::new(Keyring::generate());
        let held = Held {
            keyring,
            number: Version::FIRST,
            seal_key_id: "k".to_owned(),
        };
        let unreadable = || SealedReason::Unreadable("too many open files".to_owned());
        let no_file = || SealedReason::SealKey("too many open files".to_owned());
        let another = || SealedReason::WrongSealKey {
            needed: "a".to_owned(),
            configured: "b".to_owned(),
        };
        for (failure, keeps_keys, standing) in [
            (Failure::from(unreadable()), true, Standing::Hindered),
            (Failure::HoldsAllKeys(no_file()), true, Standing::Hindered),
            (Failure::HoldsAllKeys(another()), true, Standing::Settled),
            // There are keys that it does not hold: it serves nothing until it has read them.
            (Failure::from(no_file()), false, Standing::Hindered),
            (Failure::from(another()), false, Standing::Settled),
            (
                Failure::Lost(SealedReason::KeyringGone),
                true,
                Standing::HoldsLost,
            ),
        ] {
            let attempted = Attempted::of(Err(failure), Some(held.clone()));
            assert_eq!(attempted.standing, standing);
            assert_eq!(
                (attempted.keys.is_ok(), attempted.warning.is_some()),
                (keeps_keys, keeps_keys)
            );
        }
        for reason in [unreadable(), no_file()] {
            let attempted = Attempted::of(Err(reason.clone().into()), None);
            assert_eq!(attempted.keys.err(), Some(reason));
            assert_eq!(attempted.standing, Standing::Hindered);
        }
        let gone = Attempted::of(Err(Failure::Lost(SealedReason::KeyringGone)), None);
        assert_eq!(gone.standing, Standing::Settled);
        let opened = Attempted::of(Ok(held), None);
        assert!(opened.keys.is_ok() && opened.warning.is_none());
    }
}
