//! The ordered index of opened names, in memory: what a listing is made from.
//!
//! It follows the local state: whoever asks brings it up to date first, by what the cluster reported
//! as changed, so that it is never behind the state that the asker waited for. It is rebuilt when
//! reports were missed, when a snapshot replaced the state, and when the keyring became another.
//! Names that do not open, or whose place is not theirs, are left out.

mod names;

use crate::{
    name::{FullName, StorePath},
    seal::{Keyring, SYSTEM_NAMESPACE, SealedReason, Sealer},
};
use conclave_cluster::{
    model::SecretId,
    node::{Change, Cluster},
    state::StateView,
};
use names::Names;
use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, Weak},
};
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

/// The index of one node.
pub struct NameIndex {
    cluster: Cluster,
    sealer: Arc<Sealer>,
    state: Mutex<State>,
}

/// What a listing is made from.
pub struct NamesFound {
    /// In byte order.
    pub names: Vec<(FullName, SecretId)>,
    /// False when some name anywhere did not open under the keyring in use.
    pub is_complete: bool,
}

/// Why the index is not up to date.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There are no keys to open names with.
    #[error(transparent)]
    Sealed(#[from] SealedReason),
    /// Local damage.
    #[error(transparent)]
    State(#[from] io::Error),
}

struct State {
    changes: broadcast::Receiver<Change>,
    names: Names,
    /// What the names were opened with; `None` before they were first read.
    keyring: Option<Arc<Keyring>>,
    /// Secrets whose name did not open. They are tried again under another keyring.
    unopened: BTreeSet<SecretId>,
}

impl NameIndex {
    /// Secrets read at once while rebuilding.
    const PAGE: usize = 1024;

    /// An empty index that follows the cluster in the background until the last handle is dropped.
    pub fn start(cluster: Cluster, sealer: Arc<Sealer>) -> Arc<Self> {
        let state = State {
            changes: cluster.changes(),
            names: Names::default(),
            keyring: None,
            unopened: BTreeSet::new(),
        };
        let changes = cluster.changes();
        let index = Arc::new(Self {
            cluster,
            sealer,
            state: Mutex::new(state),
        });
        tokio::spawn(follow(Arc::downgrade(&index), changes));
        index
    }

    /// Brings the index up to what this node has applied, and returns the secrets of a store whose
    /// names pass the filter, in byte order. May read the whole state: not for an async thread.
    pub fn list(
        &self,
        store: &StorePath,
        filter: impl Fn(&FullName) -> bool,
    ) -> Result<NamesFound, IndexError> {
        let mut state = self.lock();
        self.catch_up(&mut state)?;
        Ok(NamesFound {
            names: state.names.of(store).filter(|(name, _)| filter(name)).collect(),
            is_complete: state.unopened.is_empty(),
        })
    }

    /// How many names it holds.
    pub fn len(&self) -> usize {
        self.lock().names.len()
    }

    /// Whether it holds no name.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic leaves it half updated at worst: it is then built anew.
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = poisoned.into_inner();
            state.keyring = None;
            state
        })
    }

    /// The node reports a change before it reports the entry as applied, so that what is in the
    /// queue now covers everything that the caller waited for.
    fn catch_up(&self, state: &mut State) -> Result<(), IndexError> {
        let keyring = self.sealer.keyring()?;
        let mut changed = BTreeSet::new();
        let mut rebuild = state
            .keyring
            .as_ref()
            .is_none_or(|used| used.id() != keyring.id());
        loop {
            match state.changes.try_recv() {
                Ok(Change::Secret { secret, .. }) => {
                    changed.insert(secret);
                }
                Ok(Change::Replaced) | Err(TryRecvError::Lagged(_)) => rebuild = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if state
            .keyring
            .as_ref()
            .is_some_and(|used| !used.is_same_as(&keyring))
        {
            changed.append(&mut state.unopened);
        }
        // Until it is done, an error leaves nothing that looks complete.
        state.keyring = None;
        let view = self.cluster.view();
        if rebuild {
            state.rebuild(&view, &keyring)?;
        } else {
            for secret in changed {
                state.update(&view, &keyring, secret)?;
            }
        }
        state.keyring = Some(keyring);
        Ok(())
    }
}

impl State {
    fn rebuild(&mut self, view: &StateView, keyring: &Keyring) -> io::Result<()> {
        self.names = Names::default();
        self.unopened.clear();
        let mut after = None;
        loop {
            let page = view.secrets(after, NameIndex::PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (secret, record) in page {
                self.set(keyring, secret, Some(record));
            }
        }
    }

    fn update(&mut self, view: &StateView, keyring: &Keyring, secret: SecretId) -> io::Result<()> {
        let record = view.secret(&secret)?;
        self.set(keyring, secret, record);
        Ok(())
    }

    fn set(
        &mut self,
        keyring: &Keyring,
        secret: SecretId,
        record: Option<conclave_cluster::model::SecretRecord>,
    ) {
        self.unopened.remove(&secret);
        let placed = record.and_then(|record| Some((record.place?, record.name)));
        let Some((place, sealed)) = placed.filter(|(place, _)| place.namespace != SYSTEM_NAMESPACE) else {
            self.names.remove(secret);
            return;
        };
        match keyring.open_name(secret, &sealed) {
            Ok(name) if keyring.place(&name) == place => self.names.insert(secret, &name),
            wrong => {
                let reason = wrong
                    .err()
                    .map_or("its place is not its own".to_owned(), |error| error.to_string());
                tracing::warn!(%secret, reason, "a stored name is left out of listings");
                self.names.remove(secret);
                self.unopened.insert(secret);
            }
        }
    }
}

/// Keeps the index near the state, so that a listing finds little to do.
async fn follow(index: Weak<NameIndex>, mut changes: broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
        // One look serves everything that is reported by now.
        while matches!(changes.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
        let Some(index) = index.upgrade() else { return };
        let caught_up = tokio::task::spawn_blocking(move || {
            let mut state = index.lock();
            index.catch_up(&mut state)
        });
        match caught_up.await {
            Ok(Ok(()) | Err(IndexError::Sealed(_))) => {}
            Ok(Err(IndexError::State(error))) => tracing::error!(%error, "the index of names cannot be read"),
            Err(_) => return,
        }
    }
}
