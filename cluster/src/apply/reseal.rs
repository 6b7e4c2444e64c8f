//! The same plaintext, sealed under another key term. Also for secrets that are deleted
//! recoverably: their bytes must outlive the old term as well.

use super::{
    machine::{Machine, Stop},
    resolve,
};
use crate::{
    command::{Done, Refusal, SealedPart},
    model::{Sealed, SecretId, Version, VersionRecord},
    state::StoredValue,
};

/// Replaces sealed bytes. Times stay: nothing changed that anyone could see.
pub(super) fn reseal(
    machine: &mut Machine<'_, '_>,
    id: SecretId,
    part: SealedPart,
    replacement: &Sealed,
) -> Result<Done, Stop> {
    let mut secret = machine.secret(id)?.ok_or(Refusal::NotFound)?;
    secret.revision += 1;
    secret.sealed_revision += 1;
    let with_value = |machine: &Machine<'_, '_>, number: Version| -> Result<VersionRecord, Stop> {
        let version = resolve::version(machine, (id, &secret), number)?;
        if !version.has_value() {
            return Err(Refusal::NotAvailable {
                version: number,
                state: version.state,
            }
            .into());
        }
        Ok(version)
    };
    match part {
        SealedPart::Name => secret.name = replacement.clone(),
        SealedPart::Metadata if secret.metadata.is_none() => return Err(Refusal::NotFound.into()),
        SealedPart::Metadata => secret.metadata = Some(replacement.clone()),
        SealedPart::Value(number) => {
            let mut version = with_value(machine, number)?;
            version.sealed_revision = secret.sealed_revision;
            machine.put_version(id, number, &version);
            let value = StoredValue {
                sealed: replacement.clone(),
                sealed_revision: secret.sealed_revision,
            };
            machine.put_value(id, number, &value);
        }
        SealedPart::VersionMetadata(number) => {
            // Also of a destroyed version: its metadata is still there.
            let mut version = resolve::version(machine, (id, &secret), number)?;
            if version.metadata.is_none() {
                return Err(Refusal::NotFound.into());
            }
            version.metadata = Some(replacement.clone());
            machine.put_version(id, number, &version);
        }
    }
    machine.put_secret(id, &secret);
    Ok(Done::Done)
}
