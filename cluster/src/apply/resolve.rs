//! Which secret and which version are meant.

use super::machine::{Machine, Stop};
use crate::{
    command::{Expected, Refusal, Which},
    model::{SecretId, SecretRecord, Version, VersionRecord, VersionState},
};

/// The secret that is meant, also while it is deleted recoverably if it is named by its id.
pub(super) fn secret(machine: &Machine<'_, '_>, at: Expected) -> Result<(SecretId, SecretRecord), Stop> {
    let (id, record) = match at {
        Expected::At(place) => match machine.place(place)?.secret {
            Some(secret) => {
                let record = machine.secret(secret)?;
                let missing = "a place points to a secret that is missing";
                (
                    secret,
                    Some(record.ok_or_else(|| machine.rows.damage(crate::state::Table::Secret, missing))?),
                )
            }
            None => return Err(Refusal::NotFound.into()),
        },
        Expected::Id(secret) => (secret, machine.secret(secret)?),
    };
    Ok((id, record.ok_or(Refusal::NotFound)?))
}

/// The secret that is meant, unless it is deleted.
pub(super) fn living_secret(
    machine: &Machine<'_, '_>,
    at: Expected,
) -> Result<(SecretId, SecretRecord), Stop> {
    let (id, record) = secret(machine, at)?;
    if record.deleted.is_some() {
        return Err(Refusal::NotFound.into());
    }
    Ok((id, record))
}

/// A version that has a row. A number that was used and has none is of a destroyed version.
pub(super) fn version(
    machine: &Machine<'_, '_>,
    (id, secret): (SecretId, &SecretRecord),
    version: Version,
) -> Result<VersionRecord, Stop> {
    match machine.version(id, version)? {
        Some(record) => Ok(record),
        None if secret.used.contains(version) => Err(Refusal::NotAvailable {
            version,
            state: VersionState::Destroyed,
        }
        .into()),
        None => Err(Refusal::VersionNotFound.into()),
    }
}

/// The version that is wanted, if it is available.
pub(super) fn available_version(
    machine: &Machine<'_, '_>,
    (id, secret): (SecretId, &SecretRecord),
    which: Which,
) -> Result<(Version, VersionRecord), Stop> {
    let now_ms = machine.now_ms();
    let (number, record) = match which {
        Which::Number(number) => (number, version(machine, (id, secret), number)?),
        Which::Active => {
            let number = secret.active.ok_or(Refusal::VersionNotFound)?;
            (number, version(machine, (id, secret), number)?)
        }
        Which::Latest => machine
            .latest_version(id, secret)?
            .ok_or(Refusal::VersionNotFound)?,
        Which::LatestEnabled => machine
            .highest_version(id, |version| version.is_available(now_ms))?
            .ok_or(Refusal::VersionNotFound)?,
    };
    if !record.is_available(now_ms) {
        return Err(Refusal::NotAvailable {
            version: number,
            state: record.state_at(now_ms),
        }
        .into());
    }
    Ok((number, record))
}
