//! A value given out: resolved, counted, and perhaps consumed.

use super::{
    machine::{Machine, Stop},
    recording, resolve,
    subject::Subject,
    versions,
};
use crate::{
    command::{Disclosed, Done, Expected, Refusal, Which},
    model::{EndAction, Version, VersionState},
};

/// Discloses a value. Nothing is disclosed that is not also recorded.
pub(super) fn disclose(
    machine: &mut Machine<'_, '_>,
    at: Expected,
    which: Which,
    unless_active_is: Option<Version>,
    subject: &mut Subject,
) -> Result<Done, Stop> {
    let (id, mut secret) = resolve::living_secret(machine, at)?;
    if let Some(known) = unless_active_is.filter(|&known| secret.active == Some(known))
        && machine
            .version(id, known)?
            .is_some_and(|version| version.is_available(machine.now_ms()))
    {
        subject.is_recorded = false;
        return Ok(Done::NotModified { version: known });
    }
    if recording::refuses_disclosures(machine.meta) {
        return Err(Refusal::AuditFull.into());
    }
    let (number, mut version) = resolve::available_version(machine, (id, &secret), which)?;
    subject.version = Some(number);
    let value = machine.value(id, number)?;
    let missing_digest = "a version with a value has no digest";
    let digest = version
        .digest
        .ok_or_else(|| machine.rows.damage(crate::state::Table::Version, missing_digest))?;
    let disclosures_left = version.disclosures_left.map(|left| left.saturating_sub(1));
    let disclosed = Disclosed {
        secret: id,
        name: secret.name.clone(),
        version: number,
        active: secret.active == Some(number),
        made_ms: version.made_ms,
        expires_ms: version.expires_ms,
        disclosures_left,
        value: value.sealed,
        digest,
        metadata: version.metadata.clone(),
        sealed_revision: value.sealed_revision,
    };
    if disclosures_left != version.disclosures_left {
        // A use is not a change of the secret; what its end does is.
        version.disclosures_left = disclosures_left;
        if disclosures_left == Some(0) {
            match version.on_end {
                EndAction::Disable => version.state = VersionState::Disabled,
                EndAction::Delete => version.state = VersionState::Deleted { until_ms: None },
                EndAction::Destroy => {
                    versions::destroy(machine, id, number, &mut version)?;
                    secret.active = secret.active.filter(|&active| active != number);
                }
            }
            version.changed_ms = machine.now_ms();
            machine.put_changed_secret(id, &mut secret);
        }
        machine.put_version(id, number, &version);
    }
    Ok(Done::Disclosed(Box::new(disclosed)))
}
