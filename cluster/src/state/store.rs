//! The state machine that the log feeds: one database, applied to in order, read by many.
//!
//! A run of entries ends in one write, atomic with the applied position and the digest. It is not
//! synced: after a crash the log replays what was lost.

use super::{
    database::Database,
    digest::Digest,
    generation,
    meta::Meta,
    recent::Recent,
    recent_rows::{Moment, RecentRows},
    table::Table,
    transaction::{RUNNING_DIGEST_KEY, Transaction},
    view::{StateView, stored_meta},
};
use crate::{agreement::looking_twice, apply, node::Change};
use bytes::Bytes;
use conclave_raft::state_machine::{AppliedState, Checkpoint, CommittedEntry, LogPosition, StateMachine};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::broadcast;

/// How many changes a slow receiver may be behind before it must rebuild.
const CHANGES_KEPT: usize = 64 * 1024;

/// The stored state of one node.
pub struct Store {
    root: PathBuf,
    current: RwLock<Current>,
    /// Held by whoever changes the state, with what apply has at hand then; `None` where it has to be
    /// read again.
    writing: Mutex<Option<Recent>>,
    changes: broadcast::Sender<Change>,
}

/// The database in use, with what of it every view needs.
struct Current {
    database: Arc<Database>,
    meta: Meta,
    digest: Digest,
    /// Rows that apply and views share.
    recent_rows: Arc<RecentRows>,
    /// The view of whoever asks first, shared until the next write.
    view: OnceLock<Arc<StateView>>,
}

impl Store {
    /// Opens the state in a directory of its own, or begins an empty one.
    ///
    /// # Errors
    /// Damage refuses to open, naming directory, column family or file.
    pub fn open(root: &Path) -> io::Result<Self> {
        let current = Current::of(Database::open(&generation::current(root)?)?)?;
        let recent = Recent::of(&current.database, current.recent_rows.clone())?;
        Ok(Self {
            root: root.to_owned(),
            current: RwLock::new(current),
            writing: Mutex::new(Some(recent)),
            changes: broadcast::Sender::new(CHANGES_KEPT),
        })
    }

    /// The state as it is now.
    pub fn view(&self) -> Arc<StateView> {
        let current = self.read();
        let view = || {
            let (database, recent_rows) = (current.database.clone(), current.recent_rows.clone());
            Arc::new(StateView::new(database, current.meta, recent_rows))
        };
        current.view.get_or_init(view).clone()
    }

    /// Changes from now on, each sent once it can be seen in a [`Self::view`].
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Current> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_writing(&self) -> MutexGuard<'_, Option<Recent>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a run of entries in one write.
    pub(crate) fn apply_in(&self, entries: &[CommittedEntry], order: apply::Order) -> io::Result<Vec<Bytes>> {
        let mut writing = self.begin_writing();
        let (database, rows) = {
            let current = self.read();
            (current.database.clone(), current.recent_rows.clone())
        };
        let mut recent = match writing.take() {
            Some(recent) => recent,
            None => {
                // A run that failed may have noted what it did not write.
                rows.forget();
                Recent::of(&database, rows)?
            }
        };
        let responses = self.apply_run(&database, entries, order, &mut recent)?;
        *writing = Some(recent);
        Ok(responses)
    }

    fn apply_run(
        &self,
        database: &Database,
        entries: &[CommittedEntry],
        order: apply::Order,
        recent: &mut Recent,
    ) -> io::Result<Vec<Bytes>> {
        let (mut meta, digest) = {
            let current = self.read();
            (current.meta, current.digest)
        };
        let before = Moment::after(meta.applied);
        let mut transaction = Transaction::new(database, before, digest, recent);
        let mut answers = apply::RunAnswers::new();
        let responses = entries
            .iter()
            .map(|entry| apply::apply_entry(&mut transaction, &mut meta, &mut answers, entry, order))
            .collect::<io::Result<_>>()?;
        let finished = transaction.finish(Moment::after(meta.applied));
        {
            // Views are taken under the same lock, so that none sees rows and figures that differ.
            let mut current = self.write();
            database.write(finished.batch)?;
            current.meta = meta;
            current.digest = finished.digest;
            current.view = OnceLock::new();
        }
        for (index, secret) in finished.changed {
            // Nobody may be listening.
            let _ = self.changes.send(Change::Secret { secret, index });
        }
        Ok(responses)
    }

    /// What an entry would answer, and the digest after it; nothing is written.
    #[cfg(test)]
    pub(crate) fn apply_without_writing(&self, entry: &CommittedEntry) -> io::Result<(Bytes, [u8; 32])> {
        let (database, mut meta, digest) = {
            let current = self.read();
            (current.database.clone(), current.meta, current.digest)
        };
        let before = Moment::after(meta.applied);
        let mut recent = Recent::of(&database, Arc::new(RecentRows::new(before)))?;
        let mut transaction = Transaction::new(&database, before, digest, &mut recent);
        let mut answers = apply::RunAnswers::new();
        let order = apply::Order::AsProposed;
        let response = apply::apply_entry(&mut transaction, &mut meta, &mut answers, entry, order)?;
        Ok((
            response,
            transaction.finish(Moment::after(meta.applied)).digest.to_bytes(),
        ))
    }

    /// Changes a stored pair behind the digest's back, as damage would.
    #[cfg(test)]
    pub(crate) fn overwrite_for_test(&self, table: super::Table, key: &[u8], value: &[u8]) {
        *self.begin_writing() = None;
        self.read().recent_rows.forget();
        let database = self.database();
        let mut batch = rocksdb::WriteBatch::default();
        batch.put_cf(database.family(table), key, value);
        database.write(batch).expect("a test's database can be written");
        self.write().view = OnceLock::new();
    }

    /// How many rows, of all tables, are in no file yet.
    #[cfg(test)]
    pub(crate) fn rows_in_memory_for_test(&self) -> u64 {
        let database = self.database();
        let in_memory = |table: Table| {
            let entries = rocksdb::properties::NUM_ENTRIES_ACTIVE_MEM_TABLE;
            let figure = database
                .rocks()
                .property_int_value_cf(database.family(table), entries);
            figure
                .expect("a property can be read")
                .expect("there is such a property")
        };
        Table::ALL.into_iter().map(in_memory).sum()
    }

    /// Puts a table's rows into a file, and so begins another write-ahead log.
    #[cfg(test)]
    pub(crate) fn switch_log_for_test(&self, table: super::Table) {
        let database = self.database();
        let flushed = database.rocks().flush_cf(database.family(table));
        flushed.expect("a test's database can be flushed");
    }

    fn database(&self) -> Arc<Database> {
        self.read().database.clone()
    }
}

impl StateMachine for Store {
    fn applied(&self) -> io::Result<AppliedState> {
        let view = self.view();
        Ok(AppliedState {
            position: view.meta().applied,
            membership: view.membership()?,
        })
    }

    fn apply(&self, entries: Vec<CommittedEntry>) -> io::Result<Vec<Bytes>> {
        looking_twice(|| self.apply_in(&entries, apply::Order::AsProposed))
    }

    fn flush(&self) -> io::Result<Option<LogPosition>> {
        let (database, applied) = {
            let current = self.read();
            (current.database.clone(), current.meta.applied)
        };
        database.sync()?;
        Ok(applied)
    }

    fn prepare_checkpoint(&self) -> io::Result<()> {
        self.database().write_out()
    }

    fn checkpoint(&self, directory: PathBuf) -> io::Result<Checkpoint> {
        let _writing = self.begin_writing();
        let view = self.view();
        let position = view.meta().applied.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a checkpoint of an empty state was asked for",
            )
        })?;
        let membership = view.membership()?;
        self.database().checkpoint(&directory)?;
        let size_bytes = size_of_files(&directory)?;
        Ok(Checkpoint {
            directory,
            position,
            membership,
            size_bytes,
        })
    }

    fn verify(&self, checkpoint: &Checkpoint, go_on: &dyn Fn() -> bool) -> io::Result<()> {
        verify(checkpoint, go_on)
    }

    fn install(&self, checkpoint: Checkpoint) -> io::Result<()> {
        let mut writing = self.begin_writing();
        *writing = None;
        let old = self.database();
        let directory = generation::replace(&self.root, old.directory(), &checkpoint.directory)?;
        *self.write() = Current::of(Database::open(&directory)?)?;
        old.retire();
        drop(old);
        // Nobody may be listening.
        let _ = self.changes.send(Change::Replaced);
        Ok(())
    }
}

impl Current {
    fn of(database: Database) -> io::Result<Self> {
        let meta = stored_meta(&database)?;
        let digest = match database.get(Table::Digest, RUNNING_DIGEST_KEY)? {
            Some(row) => database.decode(Table::Digest, &row)?,
            None if meta.applied.is_none() => Digest::default(),
            None => return Err(database.damage(Table::Digest, "the running digest is missing")),
        };
        apply::check_rules(&meta)?;
        Ok(Self {
            database: Arc::new(database),
            meta,
            digest,
            recent_rows: Arc::new(RecentRows::new(Moment::after(meta.applied))),
            view: OnceLock::new(),
        })
    }
}

/// Checks that a received checkpoint is whole: every pair counts in the digest that it carries.
fn verify(checkpoint: &Checkpoint, go_on: &dyn Fn() -> bool) -> io::Result<()> {
    let refuse = |what: &str| {
        let what = format!("checkpoint {}: {what}", checkpoint.directory.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    };
    let view = StateView::of(Arc::new(Database::open_read_only(&checkpoint.directory)?))?;
    if view.meta().applied != Some(checkpoint.position) {
        return refuse("it holds another position than it was sent for");
    }
    if view.membership()? != checkpoint.membership {
        return refuse("it holds another membership than it was sent with");
    }
    match view.scan_digest(None, go_on)? {
        Some(digest) if digest.scanned == digest.running => Ok(()),
        Some(_) => refuse("its pairs do not give its digest"),
        None => Err(io::Error::other("nobody waits for the scan any more")),
    }
}

fn size_of_files(directory: &Path) -> io::Result<u64> {
    fs::read_dir(directory)?.try_fold(0, |sum, entry| Ok(sum + entry?.metadata()?.len()))
}
