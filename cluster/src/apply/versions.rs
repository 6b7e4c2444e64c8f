//! Activation, and the states of versions: enabled, disabled, deleted, destroyed.

use super::{
    machine::{Machine, Stop},
    resolve, window,
};
use crate::{
    command::{Done, Expected, Refusal, VersionChange, Which},
    model::{EndAction, Sealed, SecretId, Version, VersionRecord, VersionState},
};
use std::io;

/// The most versions that one step changes.
pub const CHANGED_VERSIONS_MAX: usize = 4096;

/// Makes an available version the active one.
pub(super) fn activate(machine: &mut Machine<'_, '_>, at: Expected, version: Version) -> Result<Done, Stop> {
    let (id, mut secret) = resolve::living_secret(machine, at)?;
    resolve::available_version(machine, (id, &secret), Which::Number(version))?;
    if secret.active != Some(version) {
        secret.active = Some(version);
        machine.put_changed_secret(id, &mut secret);
    }
    Ok(Done::Done)
}

/// Which versions refuse the whole change.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    pub(super) active: bool,
    /// Those that are destroyed already, where the change would leave them so.
    pub(super) destroyed: bool,
}

/// Changes the state of versions. Those that are already so stay as they are.
pub(super) fn change(
    machine: &mut Machine<'_, '_>,
    at: Expected,
    versions: &[Version],
    change: VersionChange,
    refused: Refused,
) -> Result<Done, Stop> {
    let (id, mut secret) = resolve::living_secret(machine, at)?;
    if let Some(active) = secret
        .active
        .filter(|active| refused.active && versions.contains(active))
    {
        return Err(Refusal::ActiveVersion { version: active }.into());
    }
    let mut any = false;
    for &number in versions {
        let mut version = match resolve::version(machine, (id, &secret), number) {
            Ok(version) => version,
            // Its row is gone with it.
            Err(Stop::Refused(Refusal::NotAvailable { .. }))
                if is_satisfied_by_destroyed(change) && !refused.destroyed =>
            {
                continue;
            }
            Err(stop) => return Err(stop),
        };
        if refused.destroyed && version.state == VersionState::Destroyed {
            return Err(Refusal::NotAvailable {
                version: number,
                state: version.state,
            }
            .into());
        }
        let Some(state) = state_after(number, &version, change, machine.now_ms())? else {
            continue;
        };
        any = true;
        if state == VersionState::Destroyed {
            destroy(machine, id, number, &mut version)?;
            secret.active = secret.active.filter(|&active| active != number);
        } else {
            version.state = state;
            version.changed_ms = machine.now_ms();
            machine.put_version(id, number, &version);
        }
    }
    if any {
        machine.put_changed_secret(id, &mut secret);
    }
    Ok(Done::Done)
}

/// New limits of a version; outer `None` leaves one as it is.
pub(super) struct Limits {
    pub(super) lifetime_ms: Option<Option<u64>>,
    pub(super) disclosures_left: Option<Option<u32>>,
    pub(super) on_end: Option<EndAction>,
}

/// Replaces what is given of a version's metadata and limits.
pub(super) fn configure(
    machine: &mut Machine<'_, '_>,
    at: Expected,
    number: Version,
    metadata: Option<&Sealed>,
    limits: Limits,
) -> Result<Done, Stop> {
    let (id, mut secret) = resolve::living_secret(machine, at)?;
    let mut version = resolve::version(machine, (id, &secret), number)?;
    if !version.has_value() {
        return Err(Refusal::NotAvailable {
            version: number,
            state: version.state,
        }
        .into());
    }
    let now_ms = machine.now_ms();
    if let Some(metadata) = metadata {
        version.metadata = Some(metadata.clone());
        secret.sealed_revision += 1;
    }
    if let Some(lifetime_ms) = limits.lifetime_ms {
        version.expires_ms = lifetime_ms.map(|lifetime_ms| now_ms.saturating_add(lifetime_ms));
    }
    if let Some(disclosures_left) = limits.disclosures_left {
        version.disclosures_left = disclosures_left;
    }
    if let Some(on_end) = limits.on_end {
        version.on_end = on_end;
    }
    version.changed_ms = now_ms;
    machine.put_version(id, number, &version);
    machine.put_changed_secret(id, &mut secret);
    Ok(Done::Done)
}

/// Destroys a version: its digest and its metadata go, and its value once no outcome needs it any more.
/// What is left is small, so that a full disk has room for many.
pub(super) fn destroy(
    machine: &mut Machine<'_, '_>,
    id: SecretId,
    number: Version,
    version: &mut VersionRecord,
) -> io::Result<()> {
    window::linger(machine, id, number)?;
    version.state = VersionState::Destroyed;
    version.digest = None;
    version.metadata = None;
    version.changed_ms = machine.now_ms();
    machine.put_version(id, number, version);
    Ok(())
}

fn is_satisfied_by_destroyed(change: VersionChange) -> bool {
    matches!(change, VersionChange::Destroy | VersionChange::Delete { .. })
}

/// The state after a change; `None` where it stays.
fn state_after(
    number: Version,
    version: &VersionRecord,
    change: VersionChange,
    now_ms: u64,
) -> Result<Option<VersionState>, Refusal> {
    use VersionState::{Deleted, Destroyed, Disabled, Enabled};
    let refused = Err(Refusal::NotAvailable {
        version: number,
        state: version.state,
    });
    match (change, version.state) {
        (VersionChange::Destroy | VersionChange::Delete { .. }, Destroyed) => Ok(None),
        (VersionChange::Destroy, _) => Ok(Some(Destroyed)),
        (_, Destroyed) => refused,
        (VersionChange::Delete { recoverable_ms }, Enabled | Disabled) => Ok(Some(Deleted {
            until_ms: recoverable_ms.map(|recoverable_ms| now_ms.saturating_add(recoverable_ms)),
        })),
        (VersionChange::Delete { .. }, Deleted { .. }) => Ok(None),
        (VersionChange::Disable, Enabled) => Ok(Some(Disabled)),
        (VersionChange::Disable, Disabled) => Ok(None),
        (VersionChange::Disable, Deleted { .. }) => refused,
        (
            VersionChange::Enable | VersionChange::Undelete,
            Deleted {
                until_ms: Some(until_ms),
            },
        ) if until_ms <= now_ms => refused,
        (VersionChange::Enable | VersionChange::Undelete, Deleted { .. }) => Ok(Some(Enabled)),
        (VersionChange::Enable, Disabled) => Ok(Some(Enabled)),
        (VersionChange::Enable | VersionChange::Undelete, Enabled) => Ok(None),
        (VersionChange::Undelete, Disabled) => Ok(None),
    }
}
