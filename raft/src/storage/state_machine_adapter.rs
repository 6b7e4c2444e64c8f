//! openraft's `RaftStateMachine` over our [`StateMachine`].
//!
//! The state machine runs on a thread of its own: its calls block, and one thread makes them
//! serial, so that a checkpoint always lies between two applies.
//!
//! Invariants: a response is sent only after its entry was applied; a snapshot names exactly the
//! position that it contains; a crash during an installation leaves the old state or the new one.

use super::{
    fatal::OnFatal,
    snapshot_store::{SnapshotData, SnapshotStore},
};
use crate::{
    metric_definitions as metric,
    runtime::{DedicatedThread, Runtime},
    state_machine::{AppliedState, Checkpoint, CommittedEntry, CommittedPayload, LogPosition, StateMachine},
    types::{
        Entry, LogId, LogTypes, Payload, Response, SnapshotMeta, StoredMembership, encode_membership,
        known_membership, stored_membership,
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::{
    AsyncRuntime, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine, Snapshot},
};
use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

/// A snapshot as openraft hands it around.
pub type StoredSnapshot =
    Snapshot<crate::types::CommittedLeaderId, u64, crate::identity::NodeRecord, SnapshotData>;

/// What openraft applies entries to.
pub struct StateMachineAdapter {
    thread: StateMachineThread,
    snapshots: SnapshotStore,
}

impl StateMachineAdapter {
    /// How many bytes of entries one call of [`StateMachine::apply`] gets (at least one entry): 4 MiB.
    pub const APPLY_LIMIT_BYTES: usize = 4 * 1024 * 1024;

    /// Feeds the machine behind `thread`, and keeps its snapshots in `snapshots`.
    pub fn new(thread: StateMachineThread, snapshots: SnapshotStore) -> Self {
        Self { thread, snapshots }
    }

    async fn checkpoint(&self) -> io::Result<Checkpoint> {
        let path = self.snapshots.checkpoint_path();
        self.thread
            .run_on_state(move |machine| machine.checkpoint(path))
            .await
    }
}

impl RaftStateMachine<LogTypes> for StateMachineAdapter {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let AppliedState { position, membership } = self.thread.run(|machine| machine.applied()).await?;
        let membership = stored_membership(membership.as_ref()).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the state's membership: {error}"),
            )
        })?;
        Ok((position.map(LogId::from), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<LogTypes>>> + Unpin + OptionalSend,
    {
        let mut ended = false;
        while !ended {
            let (mut batch, mut responders, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes < Self::APPLY_LIMIT_BYTES {
                let Some(next) = entries.next().await else {
                    ended = true;
                    break;
                };
                let (entry, responder) = next?;
                let entry = committed(entry, responder.is_some());
                bytes += entry.payload.bytes();
                batch.push(entry);
                responders.push(responder);
            }
            if batch.is_empty() {
                break;
            }
            let responses = self
                .thread
                .run_on_state(move |machine| apply(machine, batch))
                .await?;
            for (responder, response) in responders.into_iter().zip(responses) {
                if let Some(responder) = responder {
                    responder.send(Response(response));
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    /// Takes the checkpoint here, between two applies; the builder only makes it durable.
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            taken: Some(self.checkpoint().await),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> io::Result<()> {
        // The transport does so before openraft hears of a snapshot, since here an error is fatal; a
        // snapshot that comes by any other way is verified now.
        if !data.is_verified() {
            self.thread.verify(meta, &data).await?;
        }
        let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
        let checkpoint = blocking(move || checkpoint_of(&meta, snapshots.copy_in(&data)?)).await?;
        let installed = checkpoint.clone();
        self.thread.run(move |machine| machine.install(installed)).await?;
        let snapshots = self.snapshots.clone();
        blocking(move || snapshots.record(&checkpoint)).await?;
        metric::snapshot_installed();
        Ok(())
    }

    /// Also a damaged one: apply waits for this, and openraft takes none at all for fatal. It is not
    /// sent, and [`super::snapshot_policy`] takes another meanwhile.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<StoredSnapshot>> {
        let current = self.snapshots.current()?;
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Makes a checkpoint that was taken the current snapshot.
pub struct SnapshotBuilder {
    taken: Option<io::Result<Checkpoint>>,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<LogTypes> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<StoredSnapshot> {
        let checkpoint = self
            .taken
            .take()
            .ok_or_else(|| io::Error::other("a checkpoint builds one snapshot"))??;
        let snapshots = self.snapshots.clone();
        let (meta, snapshot) = blocking(move || snapshots.record(&checkpoint)).await?;
        metric::snapshot_taken();
        Ok(Snapshot { meta, snapshot })
    }
}

fn committed(entry: Entry, answered: bool) -> CommittedEntry {
    let payload = match entry.payload {
        Payload::Blank => CommittedPayload::Blank,
        Payload::Normal(proposal) => CommittedPayload::Proposal(proposal.0),
        Payload::Membership(membership) => CommittedPayload::Membership(encode_membership(&membership)),
    };
    CommittedEntry {
        position: entry.log_id.into(),
        payload,
        answered,
    }
}

impl CommittedPayload {
    fn bytes(&self) -> usize {
        match self {
            Self::Blank => 1,
            Self::Proposal(bytes) | Self::Membership(bytes) => bytes.len().max(1),
        }
    }
}

/// A snapshot's files as the state machine knows them.
fn checkpoint_of(meta: &SnapshotMeta, directory: PathBuf) -> io::Result<Checkpoint> {
    let position = meta
        .last_log_id
        .map(LogPosition::from)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a snapshot without a position"))?;
    let mut size_bytes = 0;
    for file in std::fs::read_dir(&directory)? {
        size_bytes += file?.metadata()?.len();
    }
    Ok(Checkpoint {
        directory,
        position,
        membership: known_membership(&meta.last_membership),
        size_bytes,
    })
}

fn apply(machine: &dyn StateMachine, entries: Vec<CommittedEntry>) -> io::Result<Vec<Bytes>> {
    let count = entries.len();
    let started = Instant::now();
    let responses = machine.apply(entries)?;
    metric::applied(count, started.elapsed());
    if responses.len() != count {
        return Err(io::Error::other(format!(
            "{count} entries were applied with {} responses",
            responses.len()
        )));
    }
    Ok(responses)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    Runtime::spawn_blocking(work).await?
}

/// The thread that calls the state machine, one call at a time. Clones share it; it ends when the
/// last one is dropped.
#[derive(Clone)]
pub struct StateMachineThread {
    calls: Arc<Calls>,
    machine: Arc<dyn StateMachine>,
    on_fatal: OnFatal,
    /// A flush has failed: what is on the disk is unknown, and nothing more is asked of it.
    failed: Arc<AtomicBool>,
    /// What of the state was found not to be what was written.
    damage: Arc<OnceLock<String>>,
    /// Held by the verification that runs.
    verifying: Arc<tokio::sync::Mutex<()>>,
}

type Call = Box<dyn FnOnce(&dyn StateMachine) + Send>;

struct Calls {
    // Dropped before the thread, which ends then.
    sender: mpsc::Sender<Call>,
    _thread: DedicatedThread,
}

impl StateMachineThread {
    /// Callers are few and wait for their answers: more than this never wait.
    const WAITING_CALLS: usize = 64;

    /// Starts the thread. `on_fatal` hears when the state cannot be flushed.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(machine: Arc<dyn StateMachine>, on_fatal: OnFatal) -> io::Result<Self> {
        let (sender, mut calls) = mpsc::channel::<Call>(Self::WAITING_CALLS);
        let called = Arc::clone(&machine);
        let thread = Runtime::spawn_thread("raft-state", async move {
            while let Some(call) = calls.recv().await {
                call(&*called);
            }
        })?;
        Ok(Self {
            calls: Arc::new(Calls {
                sender,
                _thread: thread,
            }),
            machine,
            on_fatal,
            failed: Arc::default(),
            damage: Arc::default(),
            verifying: Arc::default(),
        })
    }

    /// Verifies a snapshot, and marks it so. What the machine is doing goes on. One is verified at a
    /// time: it takes reading all of it, and whoever lost a connection soon sends again. It ends soon after
    /// nobody waits for it any more.
    ///
    /// # Errors
    /// As [`StateMachine::verify`].
    pub async fn verify(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<()> {
        let one = Arc::clone(&self.verifying).lock_owned().await;
        let (machine, meta, checked) = (Arc::clone(&self.machine), meta.clone(), data.clone());
        let waiting = Arc::new(());
        let waited_for = Arc::downgrade(&waiting);
        let verified = blocking(move || {
            let _one = one;
            let checkpoint = checkpoint_of(&meta, checked.directory().to_owned())?;
            machine.verify(&checkpoint, &|| waited_for.strong_count() > 0)?;
            checked.mark_verified();
            Ok(())
        });
        let verified = verified.await;
        drop(waiting);
        verified
    }

    /// What of the state was found not to be what was written, by applying to it or copying it. That
    /// ends openraft, which does not tell it from other errors.
    pub fn damage(&self) -> Option<String> {
        self.damage.get().cloned()
    }

    /// Makes everything applied so far durable, and returns the position that is now on the disk.
    ///
    /// # Errors
    /// A failed flush is fatal and never tried again: every later call fails too.
    pub async fn flush(&self) -> io::Result<Option<LogPosition>> {
        let (failed, on_fatal) = (Arc::clone(&self.failed), self.on_fatal.clone());
        self.run(move |machine| {
            // Another may have failed while this one was waiting.
            if failed.load(Ordering::Acquire) {
                return Err(disk_failed());
            }
            machine.flush().inspect_err(|error| {
                failed.store(true, Ordering::Release);
                on_fatal.call(&format!("the state could not be made durable: {error}"));
            })
        })
        .await
    }

    /// Makes the next checkpoint short, while applies go on.
    ///
    /// # Errors
    /// As [`StateMachine::prepare_checkpoint`]. It says nothing that the checkpoint would not say as well.
    pub async fn prepare_checkpoint(&self) -> io::Result<()> {
        let machine = Arc::clone(&self.machine);
        blocking(move || machine.prepare_checkpoint()).await
    }

    /// Makes the state durable up to `position`, for
    /// [`super::log_store::LogStoreOptions::before_purge`].
    ///
    /// # Errors
    /// The state on the disk does not reach that far: the log must not be purged.
    pub async fn flush_to(&self, position: LogPosition) -> io::Result<()> {
        let durable = self.flush().await?;
        if durable.is_none_or(|durable| durable.index < position.index) {
            return Err(io::Error::other(format!(
                "the state on the disk ends at {durable:?}, before {position:?}, up to which the log should be purged"
            )));
        }
        Ok(())
    }

    /// As [`Self::run`], for what reads the state.
    async fn run_on_state<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn StateMachine) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.run(call).await.inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                // The first finding stays.
                let _ = self.damage.set(error.to_string());
            }
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn StateMachine) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.failed.load(Ordering::Acquire) {
            return Err(disk_failed());
        }
        let ended = || io::Error::other("the state machine's thread has ended");
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |machine| {
            // Whoever asked may have gone; what was asked is done.
            let _ = reply.send(call(machine));
        });
        self.calls.sender.try_send(call).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn disk_failed() -> io::Error {
    io::Error::other("the state could not be made durable before, and is not tried again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::lone::State;
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread")]
    async fn verifications_that_nobody_waits_for_end_and_do_not_pile_up() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::default());
        let thread = StateMachineThread::start(Arc::clone(&state) as _, OnFatal::new(|_| {})).unwrap();
        let data = SnapshotStore::open(folder.path()).unwrap().incoming().unwrap();
        let meta = SnapshotMeta {
            last_log_id: Some(LogId::new_term_index(1, 1)),
            last_membership: StoredMembership::default(),
        };
        for round in 1..=3 {
            // It never ends by itself.
            let abandoned = thread.verify(&meta, &data);
            tokio::select! {
                ended = abandoned => panic!("it ended: {ended:?}"),
                () = state.until_verifications(round) => {}
            }
        }
        while state.verifying.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(state.most_verifying.load(Ordering::SeqCst), 1);
        assert!(!data.is_verified());
    }
}
