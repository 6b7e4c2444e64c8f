//! Making, deleting, restoring, moving and configuring whole secrets.

use super::{
    machine::{Machine, Stop},
    numbers, resolve,
    subject::Subject,
    window,
};
use crate::{
    command::{Create, Done, Expected, Refusal},
    model::{Deletion, NumberRanges, Place, Sealed, SecretId, SecretRecord, SecretSettings},
    state::Table,
};

/// Makes a secret without a version.
pub(super) fn create(
    machine: &mut Machine<'_, '_>,
    place: Place,
    id: SecretId,
    create: &Create,
    subject: &mut Subject,
) -> Result<Done, Stop> {
    if machine.place(place)?.secret.is_some() || machine.is_known(id)? {
        return Err(Refusal::AlreadyExists.into());
    }
    let mut secret = make(machine, place, id, create)?;
    secret.sealed_revision = 1;
    machine.put_changed_secret(id, &mut secret);
    subject.secret = Some(id);
    Ok(Done::Done)
}

/// Takes a place, which is free, for a new secret. The caller completes and writes the record: its
/// revisions begin with 1 once it does.
///
/// Refused when the id was ever used: the secret that a value was sealed for is not there any more.
pub(super) fn make(
    machine: &mut Machine<'_, '_>,
    place: Place,
    id: SecretId,
    create: &Create,
) -> Result<SecretRecord, Stop> {
    if machine.is_known(id)? {
        return Err(Refusal::NotFound.into());
    }
    let mut record = machine.place(place)?;
    numbers::arrive(&mut record, id);
    machine.put_place(place, &record);
    Ok(SecretRecord {
        place: Some(place),
        name: create.name.clone(),
        metadata: create.metadata.clone(),
        settings: create.settings.clone(),
        made_ms: machine.now_ms(),
        changed_ms: machine.now_ms(),
        active: None,
        used: NumberRanges::default(),
        revision: 0,
        sealed_revision: 0,
        deleted: None,
    })
}

/// Deletes the whole secret, for good or for a time.
pub(super) fn delete(
    machine: &mut Machine<'_, '_>,
    at: Expected,
    recoverable_ms: Option<u64>,
) -> Result<Done, Stop> {
    let (id, secret) = resolve::secret(machine, at)?;
    if secret.settings.protected {
        return Err(Refusal::Protected.into());
    }
    match recoverable_ms {
        None => destroy(machine, id, &secret)?,
        Some(recoverable_ms) => delete_recoverably(machine, id, secret, recoverable_ms)?,
    }
    Ok(Done::Done)
}

/// Puts a recoverably deleted secret back at the place that it left.
pub(super) fn restore(machine: &mut Machine<'_, '_>, id: SecretId, place: Place) -> Result<Done, Stop> {
    let mut secret = machine.secret(id)?.ok_or(Refusal::NotFound)?;
    let deletion = secret.deleted.ok_or(Refusal::AlreadyExists)?;
    let mut record = machine.place(place)?;
    if deletion.place != place || deletion.until_ms <= machine.now_ms() {
        return Err(Refusal::NotRestorable.into());
    }
    if record.secret.is_some() {
        return Err(Refusal::AlreadyExists.into());
    }
    if !numbers::may_arrive(&record, id, &secret) {
        return Err(Refusal::NumbersOverlap.into());
    }
    numbers::arrive(&mut record, id);
    machine.put_place(place, &record);
    secret.place = Some(place);
    secret.deleted = None;
    machine.put_changed_secret(id, &mut secret);
    Ok(Done::Done)
}

/// Moves a secret to another place under another sealed name, or only renames it where it lies.
pub(super) fn relocate(
    machine: &mut Machine<'_, '_>,
    at: Expected,
    to: Place,
    name: &Sealed,
) -> Result<Done, Stop> {
    let (id, mut secret) = resolve::living_secret(machine, at)?;
    if let Some(from) = secret.place.filter(|&from| from != to) {
        let mut target = machine.place(to)?;
        if target.secret.is_some() {
            return Err(Refusal::AlreadyExists.into());
        }
        if !numbers::may_arrive(&target, id, &secret) {
            return Err(Refusal::NumbersOverlap.into());
        }
        let mut source = machine.place(from)?;
        numbers::leave(&mut source, id, &secret);
        machine.put_place(from, &source);
        numbers::arrive(&mut target, id);
        machine.put_place(to, &target);
        secret.place = Some(to);
    }
    secret.name = name.clone();
    secret.sealed_revision += 1;
    machine.put_changed_secret(id, &mut secret);
    Ok(Done::Done)
}

/// Replaces what is given of a secret's metadata and settings.
pub(super) fn configure(
    machine: &mut Machine<'_, '_>,
    at: Expected,
    metadata: Option<&Sealed>,
    settings: Option<&SecretSettings>,
) -> Result<Done, Stop> {
    let (id, mut secret) = resolve::living_secret(machine, at)?;
    if let Some(metadata) = metadata {
        secret.metadata = Some(metadata.clone());
        secret.sealed_revision += 1;
    }
    if let Some(settings) = settings {
        secret.settings = settings.clone();
    }
    machine.put_changed_secret(id, &mut secret);
    Ok(Done::Done)
}

fn destroy(machine: &mut Machine<'_, '_>, id: SecretId, secret: &SecretRecord) -> Result<(), Stop> {
    for (number, has_value) in machine.versions(id)? {
        if has_value {
            window::linger(machine, id, number)?;
        }
        machine.delete_version(id, number);
    }
    let place = secret.place.or(secret.deleted.map(|deletion| deletion.place));
    if let Some(place) = place {
        let mut record = machine.place(place)?;
        numbers::bury(&mut record, id, secret);
        machine.put_place(place, &record);
    }
    machine.rows.delete(Table::Secret, &id.0);
    machine.rows.put_key(Table::SpentSecret, &id.0);
    Ok(())
}

fn delete_recoverably(
    machine: &mut Machine<'_, '_>,
    id: SecretId,
    mut secret: SecretRecord,
    recoverable_ms: u64,
) -> Result<(), Stop> {
    // Deleted already: nothing lies there.
    let place = secret.place.ok_or(Refusal::NotFound)?;
    let now_ms = machine.now_ms();
    let mut record = machine.place(place)?;
    numbers::leave(&mut record, id, &secret);
    machine.put_place(place, &record);
    secret.place = None;
    secret.deleted = Some(Deletion {
        place,
        deleted_ms: now_ms,
        until_ms: now_ms.saturating_add(recoverable_ms),
    });
    machine.put_changed_secret(id, &mut secret);
    Ok(())
}
