//! A new version.

use super::{
    machine::{Machine, Stop},
    numbers, secrets,
    subject::Subject,
    window,
};
use crate::{
    command::{Activation, Done, NumberChoice, Put, Refusal, SameValue},
    model::{PlaceRecord, SecretId, SecretRecord, Version, VersionRecord, VersionState},
    state::StoredValue,
};

/// The most versions of one secret that have a row, so that a look at it has an end.
pub const VERSIONS_MAX: u32 = 16 * 1024;

/// Adds a version, and makes the secret where the put says so.
pub(super) fn put(machine: &mut Machine<'_, '_>, put: &Put, subject: &mut Subject) -> Result<Done, Stop> {
    let place = machine.place(put.place)?;
    let existing = match place.secret {
        Some(secret) if secret != put.secret => return Err(Refusal::OtherSecret { secret }.into()),
        Some(secret) => Some(machine.secret(secret)?.ok_or(Refusal::NotFound)?),
        None => None,
    };
    let settings = match (&existing, &put.create) {
        (Some(secret), _) => &secret.settings,
        (None, Some(create)) => &create.settings,
        (None, None) => return Err(Refusal::NotFound.into()),
    };
    check_and_set(put, settings.check_and_set_required, existing.as_ref())?;
    if let Some(secret) = &existing
        && put.same_value == SameValue::KeepActiveOrLatest
        && let Some(version) = version_of_same_value(machine, put, secret)?
    {
        subject.version = Some(version);
        let active = secret.active == Some(version);
        return Ok(Done::Version {
            secret: put.secret,
            version,
            stored: false,
            active,
        });
    }
    let number = choose_number(put.number, &place, existing.as_ref())?;
    let mut secret = match (existing, &put.create) {
        (Some(secret), _) => secret,
        (None, Some(create)) => secrets::make(machine, put.place, put.secret, create)?,
        (None, None) => return Err(Refusal::NotFound.into()),
    };
    subject.secret = Some(put.secret);
    subject.version = Some(number);

    secret.used.insert(number);
    if secret.used.ranges().len() > numbers::RANGES_MAX {
        return Err(Refusal::Malformed("too many gaps between version numbers".to_owned()).into());
    }
    secret.sealed_revision += 1;
    store(machine, put, &secret, number);
    let activates = match put.activation {
        Activation::Always => true,
        Activation::WhenNoneActive => secret.active.is_none(),
        Activation::Never => false,
    };
    if activates {
        secret.active = Some(number);
    }
    if let Some(keep) = secret.settings.keep_versions {
        destroy_oldest(machine, put.secret, &secret, number, keep)?;
    }
    bound_versions(machine, put.secret, &secret)?;
    machine.put_changed_secret(put.secret, &mut secret);
    Ok(Done::Version {
        secret: put.secret,
        version: number,
        stored: true,
        active: activates,
    })
}

/// The latest is the highest number that the secret ever used, also if that was destroyed since:
/// whoever names it has seen every version.
fn check_and_set(put: &Put, required: bool, existing: Option<&SecretRecord>) -> Result<(), Refusal> {
    let latest = existing
        .and_then(|secret| secret.used.highest())
        .map_or(0, Version::get);
    match put.check_and_set {
        Some(expected) if expected != latest => Err(Refusal::CheckAndSet { latest }),
        None if required => Err(Refusal::CheckAndSetRequired),
        _ => Ok(()),
    }
}

/// The active version if it has the same value, else the latest if that has it. Only versions that
/// can be disclosed count: answering with another would lose the value.
fn version_of_same_value(
    machine: &Machine<'_, '_>,
    put: &Put,
    secret: &SecretRecord,
) -> Result<Option<Version>, Stop> {
    let is_same = |version: &VersionRecord| {
        // Equal keys as well: digests under different keys are never compared.
        version.is_available(machine.now_ms()) && version.digest == Some(put.digest)
    };
    if let Some(active) = secret.active
        && machine
            .version(put.secret, active)?
            .is_some_and(|version| is_same(&version))
    {
        return Ok(Some(active));
    }
    let latest = machine.latest_version(put.secret, secret)?;
    Ok(latest
        .filter(|(_, version)| is_same(version))
        .map(|(number, _)| number))
}

fn choose_number(
    choice: NumberChoice,
    place: &PlaceRecord,
    existing: Option<&SecretRecord>,
) -> Result<Version, Refusal> {
    match choice {
        NumberChoice::Next => match numbers::highest_used(place, existing) {
            Some(highest) => highest.next().ok_or(Refusal::NumbersExhausted),
            None => Ok(Version::FIRST),
        },
        NumberChoice::Exactly(version) if numbers::is_used(place, existing, version) => {
            Err(Refusal::NumberUsed { version })
        }
        NumberChoice::Exactly(version) => Ok(version),
    }
}

fn store(machine: &mut Machine<'_, '_>, put: &Put, secret: &SecretRecord, number: Version) {
    let now_ms = machine.now_ms();
    let settings = &secret.settings;
    let lifetime_ms = put.lifetime_ms.or(settings.default_lifetime_ms);
    let version = VersionRecord {
        state: VersionState::Enabled,
        made_ms: now_ms,
        changed_ms: now_ms,
        expires_ms: lifetime_ms.map(|lifetime_ms| now_ms.saturating_add(lifetime_ms)),
        disclosures_left: put.disclosures.or(settings.default_disclosures),
        on_end: put.on_end.unwrap_or(settings.default_on_end),
        metadata: put.metadata.clone(),
        sealed_revision: secret.sealed_revision,
        digest: Some(put.digest),
    };
    let value = StoredValue {
        sealed: put.value.clone(),
        sealed_revision: secret.sealed_revision,
    };
    machine.put_new_version(put.secret, number, &version, &value);
}

/// Destroys the oldest versions until `keep` are left, but neither the active one nor the new one.
/// Their rows go as well: there would be no end of them.
fn destroy_oldest(
    machine: &mut Machine<'_, '_>,
    id: SecretId,
    secret: &SecretRecord,
    new: Version,
    keep: u32,
) -> Result<(), Stop> {
    let versions = machine.versions(id)?;
    let kept = versions.iter().filter(|(_, has_value)| *has_value).count();
    let excess = kept.saturating_sub(keep as usize);
    let oldest = versions
        .into_iter()
        .filter(|&(number, has_value)| has_value && number != new && secret.active != Some(number));
    for (number, _) in oldest.take(excess) {
        window::linger(machine, id, number)?;
        machine.delete_version(id, number);
    }
    Ok(())
}

/// Refuses a version too many. The rows of destroyed versions make room, when there is need of it.
fn bound_versions(machine: &mut Machine<'_, '_>, id: SecretId, secret: &SecretRecord) -> Result<(), Stop> {
    // Few secrets ever used so many numbers: only their rows are counted.
    if secret.used.count() <= u64::from(VERSIONS_MAX) {
        return Ok(());
    }
    let versions = machine.versions(id)?;
    if versions.len() <= VERSIONS_MAX as usize {
        return Ok(());
    }
    let kept = versions.iter().filter(|(_, has_value)| *has_value).count();
    if kept > VERSIONS_MAX as usize {
        return Err(Refusal::TooManyVersions { limit: VERSIONS_MAX }.into());
    }
    for (number, _) in versions.into_iter().filter(|(_, has_value)| !has_value) {
        machine.delete_version(id, number);
    }
    Ok(())
}
