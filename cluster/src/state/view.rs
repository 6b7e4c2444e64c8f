//! The state at one applied index, for readers.

use super::{
    database::{Cursor, Database, Direction, KeyRange},
    digest::Digest,
    meta::{JOINED_KEY, Joined, MEMBERSHIP_KEY, META_KEY, Meta},
    recent_rows::{Moment, RecentRows},
    rows::{self, StoredValue},
    table::Table,
    transaction::RUNNING_DIGEST_KEY,
    upkeep,
};
use crate::{
    command::SecretView,
    model::{
        AuditKey, AuditRecord, Place, PlaceRecord, Sealed, SecretId, SecretRecord, Version, VersionRecord,
    },
    node::ScannedDigest,
};
use bytes::Bytes;
use conclave_raft::state_machine::LogPosition;
use rocksdb::{ReadOptions, Snapshot};
use self_cell::self_cell;
use serde::de::DeserializeOwned;
use std::{io, sync::Arc, thread, time::Duration, time::Instant};

self_cell!(
    struct PinnedSnapshot {
        owner: Arc<Database>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// The state at one applied index. Shared by whoever asks at that index; holds a storage snapshot while it
/// lives.
///
/// Every `Err` means local damage: the caller reports it and the node halts.
pub struct StateView {
    pinned: PinnedSnapshot,
    meta: Meta,
    recent_rows: Arc<RecentRows>,
}

impl StateView {
    /// Pins the present state. `meta` must be the one that is stored, and `recent_rows` what whoever writes
    /// to the database notes its rows in.
    pub(super) fn new(database: Arc<Database>, meta: Meta, recent_rows: Arc<RecentRows>) -> Self {
        Self {
            pinned: PinnedSnapshot::new(database, |database| database.rocks().snapshot()),
            meta,
            recent_rows,
        }
    }

    /// Pins the state of a database that nobody writes.
    pub(super) fn of(database: Arc<Database>) -> io::Result<Self> {
        let meta = stored_meta(&database)?;
        let recent_rows = Arc::new(RecentRows::new(Moment::after(meta.applied)));
        Ok(Self::new(database, meta, recent_rows))
    }

    /// The index that was applied last; `None` for an empty state.
    pub fn applied_index(&self) -> Option<u64> {
        self.meta.applied.map(|position| position.index)
    }

    /// State time in milliseconds.
    pub fn time_ms(&self) -> u64 {
        self.meta.time_ms
    }

    /// The state's own figures: rules, window, audit, retention.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The last applied membership.
    pub fn membership(&self) -> io::Result<Option<(LogPosition, Bytes)>> {
        self.get(Table::Meta, MEMBERSHIP_KEY)
    }

    /// When each member of the last applied membership came.
    pub(crate) fn joined(&self) -> io::Result<Joined> {
        Ok(self.get(Table::Meta, JOINED_KEY)?.unwrap_or_default())
    }

    /// State time in milliseconds from which a [`crate::command::Operation::Tick`] has something to
    /// do; `None` while there is nothing that time alone would end.
    pub fn upkeep_due_ms(&self) -> io::Result<Option<u64>> {
        upkeep::due_ms(self)
    }

    /// What is known of a place.
    pub fn place(&self, place: &Place) -> io::Result<Option<PlaceRecord>> {
        self.get(Table::Place, &place.to_key())
    }

    /// A secret.
    pub fn secret(&self, secret: &SecretId) -> io::Result<Option<SecretRecord>> {
        self.get(Table::Secret, &secret.0)
    }

    /// A version.
    pub fn version(&self, secret: &SecretId, version: Version) -> io::Result<Option<VersionRecord>> {
        self.get(Table::Version, &rows::version_key(*secret, version))
    }

    /// A secret with its versions, as a look at it would answer at the state's time.
    pub fn secret_view(&self, secret: &SecretId) -> io::Result<Option<SecretView>> {
        let Some(record) = self.secret(secret)? else {
            return Ok(None);
        };
        let mut versions = Vec::new();
        let mut cursor = self.cursor(Table::Version, &KeyRange::prefix(&secret.0), Direction::Ascending);
        while let Some((key, row)) = cursor.next()? {
            let version =
                rows::version_of_key(key).ok_or_else(|| self.damage(Table::Version, "a key is malformed"))?;
            let row: VersionRecord = self.decode(Table::Version, row)?;
            versions.push(row.view(version, self.meta.time_ms));
        }
        Ok(Some(record.view(*secret, versions)))
    }

    /// A stored value. Only for openings without a disclosure (design, section 10): what is
    /// needed to re-seal or to decide rights. `None` once the version is destroyed, even while the
    /// value lingers.
    pub fn sealed_value(&self, secret: &SecretId, version: Version) -> io::Result<Option<Sealed>> {
        let alive = self
            .version(secret, version)?
            .is_some_and(|version| version.has_value());
        if !alive {
            return Ok(None);
        }
        let value: Option<StoredValue> = self.get(Table::Value, &rows::version_key(*secret, version))?;
        Ok(value.map(|value| value.sealed))
    }

    /// The next secrets by id after `after`, at most `limit`.
    pub fn secrets(
        &self,
        after: Option<SecretId>,
        limit: usize,
    ) -> io::Result<Vec<(SecretId, SecretRecord)>> {
        let start = after.map_or_else(Vec::new, |after| [&after.0[..], &[0]].concat());
        let mut cursor = self.cursor(Table::Secret, &KeyRange::from(start), Direction::Ascending);
        let mut secrets = Vec::new();
        while secrets.len() < limit
            && let Some((key, row)) = cursor.next()?
        {
            let id = key
                .try_into()
                .map_err(|_| self.damage(Table::Secret, "a key is malformed"))?;
            secrets.push((SecretId(id), self.decode(Table::Secret, row)?));
        }
        Ok(secrets)
    }

    /// An audit record, if it lies there and was not pruned.
    pub fn audit_record(&self, key: AuditKey) -> io::Result<Option<AuditRecord>> {
        self.get(Table::Audit, &key.to_key())
    }

    /// The digest that was kept while applying.
    pub fn running_digest(&self) -> io::Result<[u8; 32]> {
        let digest: Option<Digest> = self.get(Table::Digest, RUNNING_DIGEST_KEY)?;
        Ok(digest.unwrap_or_default().to_bytes())
    }

    /// The kept digests, oldest first: at most [`super::DIGESTS_KEPT`], each with its index.
    pub fn kept_digests(&self) -> io::Result<Vec<(u64, [u8; 32])>> {
        let mut cursor = self.cursor(Table::Digest, &KeyRange::default(), Direction::Ascending);
        let mut digests = Vec::new();
        while let Some((key, row)) = cursor.next()? {
            if key != RUNNING_DIGEST_KEY {
                let index = rows::index_at_start(key)
                    .ok_or_else(|| self.damage(Table::Digest, "a key is malformed"))?;
                digests.push((index, self.decode::<Digest>(Table::Digest, row)?.to_bytes()));
            }
        }
        Ok(digests)
    }

    /// The digest that was kept at an index.
    pub fn kept_digest(&self, index: u64) -> io::Result<Option<[u8; 32]>> {
        let digest: Option<Digest> = self.get(Table::Digest, &index.to_be_bytes())?;
        Ok(digest.map(Digest::to_bytes))
    }

    /// Rescans every stored pair as fast as the disk, and compares. Blocks for as long as that takes.
    ///
    /// # Errors
    /// The stored state is not what was written, or cannot be read.
    pub(crate) fn check_digest(&self) -> io::Result<()> {
        match self.scan_digest(None, || true)? {
            Some(digest) if digest.scanned == digest.running => Ok(()),
            _ => Err(self.damage(
                Table::Digest,
                "the stored pairs do not give the digest that was kept",
            )),
        }
    }

    /// Rescans every stored pair, at most so many bytes per second (`None`: as fast as the disk).
    /// Blocks for as long as that takes. `go_on` is asked now and then; `None` is returned when it
    /// says no.
    pub fn scan_digest(
        &self,
        bytes_per_s: Option<u64>,
        go_on: impl Fn() -> bool,
    ) -> io::Result<Option<ScannedDigest>> {
        self.scan_digest_telling(bytes_per_s, |_| go_on())
    }

    /// As [`Self::scan_digest`], telling now and then how many bytes were read.
    pub fn scan_digest_telling(
        &self,
        bytes_per_s: Option<u64>,
        go_on: impl Fn(u64) -> bool,
    ) -> io::Result<Option<ScannedDigest>> {
        let mut digest = Digest::default();
        let mut pace = Pace::new(bytes_per_s);
        for table in Table::ALL.into_iter().filter(|table| table.is_digested()) {
            let mut options = self.read_options();
            // A scrub must see the disk, and must not push out what others use.
            options.fill_cache(false);
            options.set_verify_checksums(true);
            let mut cursor =
                self.database()
                    .cursor(table, &KeyRange::default(), Direction::Ascending, options);
            while let Some((key, value)) = cursor.next()? {
                digest.add(table, key, value);
                if pace.read(key.len() + value.len()) && !go_on(pace.bytes) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(ScannedDigest {
            index: self.applied_index().unwrap_or_default(),
            scanned: digest.to_bytes(),
            running: self.running_digest()?,
        }))
    }

    /// About how many bytes a scan reads, by the database's own figures.
    pub fn approximate_bytes(&self) -> u64 {
        let digested = Table::ALL.into_iter().filter(|table| table.is_digested());
        digested
            .map(|table| self.database().approximate_bytes(table))
            .sum()
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> io::Result<Option<T>> {
        let now = Moment::after(self.meta.applied);
        if let Some(row) = self.recent_rows.get(table, key, now) {
            return row.map(|row| self.decode(table, &row)).transpose();
        }
        let row = self
            .pinned
            .borrow_dependent()
            .get_pinned_cf(self.database().family(table), key)
            .map_err(|error| self.database().error(table, &error))?;
        self.recent_rows.note_read(table, key, row.as_deref(), now);
        row.map(|row| self.decode(table, &row)).transpose()
    }

    pub(crate) fn cursor(&self, table: Table, range: &KeyRange, direction: Direction) -> Cursor<'_> {
        self.database()
            .cursor(table, range, direction, self.read_options())
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self, table: Table, row: &[u8]) -> io::Result<T> {
        self.database().decode(table, row)
    }

    pub(crate) fn damage(&self, table: Table, what: &str) -> io::Error {
        self.database().damage(table, what)
    }

    fn database(&self) -> &Database {
        self.pinned.borrow_owner()
    }

    fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(self.pinned.borrow_dependent());
        options
    }
}

/// The stored figures of a state.
pub(super) fn stored_meta(database: &Database) -> io::Result<Meta> {
    let row = database.get(Table::Meta, META_KEY)?;
    row.map_or_else(|| Ok(Meta::default()), |row| database.decode(Table::Meta, &row))
}

/// Keeps a scan at a rate in bytes per second.
struct Pace {
    bytes_per_s: Option<u64>,
    started: Instant,
    bytes: u64,
    since_pause: usize,
}

impl Pace {
    /// So many bytes are read between two looks at the clock.
    const STRIDE_BYTES: usize = 64 * 1024;
    /// The longest single pause, so that a scan can be stopped.
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    fn new(bytes_per_s: Option<u64>) -> Self {
        Self {
            bytes_per_s,
            started: Instant::now(),
            bytes: 0,
            since_pause: 0,
        }
    }

    /// Counts what was read and pauses as is due. True now and then.
    fn read(&mut self, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        self.since_pause += bytes;
        if self.since_pause < Self::STRIDE_BYTES {
            return false;
        }
        self.since_pause = 0;
        if let Some(bytes_per_s) = self.bytes_per_s {
            let due = Duration::from_secs_f64(self.bytes as f64 / bytes_per_s.max(1) as f64);
            let ahead = due.saturating_sub(self.started.elapsed());
            thread::sleep(ahead.min(Self::LONGEST_PAUSE));
        }
        true
    }
}
