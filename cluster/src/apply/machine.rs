//! What every operation reads and writes: the records by their types, and attempts that leave
//! nothing when they are refused.

use super::window::NewOutcomes;
use crate::{
    command::Refusal,
    model::{Place, PlaceRecord, SecretId, SecretRecord, Version, VersionRecord},
    state::{Direction, KeyRange, Meta, StoredValue, Table, Transaction, keys},
};
use conclave_raft::state_machine::LogPosition;
use std::{io, ops::ControlFlow};

/// The state while one entry is being applied.
pub(super) struct Machine<'m, 'd> {
    pub(super) rows: &'m mut Transaction<'d>,
    pub(super) meta: &'m mut Meta,
    /// The entry's place in the log.
    pub(super) position: LogPosition,
    /// How many audit records the entry wrote.
    pub(super) recorded: u64,
    /// Outcomes of the entry that no row has yet.
    pub(super) outcomes: NewOutcomes,
}

/// Why an operation ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Refused: an outcome.
    Refused(Refusal),
    /// Local damage: the node halts.
    Damage(io::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Damage(error)
    }
}

impl<'m, 'd> Machine<'m, 'd> {
    pub(super) fn new(rows: &'m mut Transaction<'d>, meta: &'m mut Meta, position: LogPosition) -> Self {
        Self {
            rows,
            meta,
            position,
            recorded: 0,
            outcomes: NewOutcomes::default(),
        }
    }

    /// The entry's time in milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.meta.time_ms
    }

    /// Does all of `operation`, or nothing.
    pub(super) fn attempt<T, E>(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let meta = *self.meta;
        self.rows.begin();
        let result = operation(self);
        match result {
            Ok(_) => self.rows.keep(),
            Err(_) => {
                self.rows.undo();
                *self.meta = meta;
            }
        }
        result
    }

    pub(super) fn place(&self, place: Place) -> io::Result<PlaceRecord> {
        Ok(self.rows.get(Table::Place, &place.to_key())?.unwrap_or_default())
    }

    pub(super) fn put_place(&mut self, place: Place, record: &PlaceRecord) {
        self.rows.put(Table::Place, &place.to_key(), record);
    }

    pub(super) fn secret(&self, secret: SecretId) -> io::Result<Option<SecretRecord>> {
        self.rows.get(Table::Secret, &secret.0)
    }

    /// Counts a change and writes the record.
    pub(super) fn put_changed_secret(&mut self, secret: SecretId, record: &mut SecretRecord) {
        record.revision += 1;
        record.changed_ms = self.now_ms();
        self.put_secret(secret, record);
    }

    pub(super) fn put_secret(&mut self, secret: SecretId, record: &SecretRecord) {
        self.rows.put(Table::Secret, &secret.0, record);
    }

    /// Whether an id was ever used.
    pub(super) fn is_known(&self, secret: SecretId) -> io::Result<bool> {
        Ok(self.rows.contains(Table::Secret, &secret.0)?
            || self.rows.contains(Table::SpentSecret, &secret.0)?)
    }

    pub(super) fn version(&self, secret: SecretId, version: Version) -> io::Result<Option<VersionRecord>> {
        self.rows.get(Table::Version, &keys::version_key(secret, version))
    }

    /// Writes a version under a number that was never used.
    pub(super) fn put_new_version(
        &mut self,
        secret: SecretId,
        version: Version,
        record: &VersionRecord,
        value: &StoredValue,
    ) {
        let key = keys::version_key(secret, version);
        self.rows.put_new(Table::Version, &key, record);
        self.rows.put_new(Table::Value, &key, value);
    }

    pub(super) fn put_version(&mut self, secret: SecretId, version: Version, record: &VersionRecord) {
        self.rows
            .put(Table::Version, &keys::version_key(secret, version), record);
    }

    pub(super) fn delete_version(&mut self, secret: SecretId, version: Version) {
        self.rows
            .delete(Table::Version, &keys::version_key(secret, version));
    }

    /// A secret's versions that have a row, in order of their numbers, and whether each has a value.
    /// Nothing else of them: there can be many, with metadata.
    pub(super) fn versions(&self, secret: SecretId) -> io::Result<Vec<(Version, bool)>> {
        let mut versions = Vec::new();
        self.scan_versions(secret, Direction::Ascending, |version, record| {
            versions.push((version, record.has_value()));
            ControlFlow::Continue(())
        })?;
        Ok(versions)
    }

    /// The highest of a secret's versions that has a value. Most of the time it is the highest number
    /// that was used; only where that was destroyed are the others looked through.
    pub(super) fn latest_version(
        &self,
        id: SecretId,
        secret: &SecretRecord,
    ) -> io::Result<Option<(Version, VersionRecord)>> {
        if let Some(highest) = secret.used.highest()
            && let Some(version) = self.version(id, highest)?
            && version.has_value()
        {
            return Ok(Some((highest, version)));
        }
        self.highest_version(id, VersionRecord::has_value)
    }

    /// The highest of a secret's versions that `wanted` accepts.
    pub(super) fn highest_version(
        &self,
        secret: SecretId,
        wanted: impl Fn(&VersionRecord) -> bool,
    ) -> io::Result<Option<(Version, VersionRecord)>> {
        let mut highest = None;
        self.scan_versions(secret, Direction::Descending, |version, record| {
            if wanted(&record) {
                highest = Some((version, record));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(highest)
    }

    /// The stored value of a version that has one. That it is missing is damage.
    pub(super) fn value(&self, secret: SecretId, version: Version) -> io::Result<StoredValue> {
        self.rows
            .get(Table::Value, &keys::version_key(secret, version))?
            .ok_or_else(|| {
                self.rows
                    .damage(Table::Value, "the value of a version is missing")
            })
    }

    pub(super) fn put_value(&mut self, secret: SecretId, version: Version, value: &StoredValue) {
        self.rows
            .put(Table::Value, &keys::version_key(secret, version), value);
    }

    /// Visits a secret's versions that have a row.
    pub(super) fn scan_versions(
        &self,
        secret: SecretId,
        direction: Direction,
        mut visit: impl FnMut(Version, VersionRecord) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.rows.scan(
            Table::Version,
            &KeyRange::prefix(&secret.0),
            direction,
            |key, row| {
                let version = keys::version_of_key(key)
                    .ok_or_else(|| self.rows.damage(Table::Version, "a key is malformed"))?;
                Ok(visit(version, self.rows.decode(Table::Version, row)?))
            },
        )
    }
}
