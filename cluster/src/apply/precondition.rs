//! What must hold before a step. It may name any record, also one that isn't written.

use super::machine::{Machine, Stop};
use crate::command::{Precondition, Refusal};
use std::io;

/// Refuses with the first precondition that does not hold.
pub(super) fn check(machine: &Machine<'_, '_>, preconditions: &[Precondition]) -> Result<(), Stop> {
    for (number, precondition) in (0..).zip(preconditions) {
        if !holds(machine, *precondition)? {
            return Err(Refusal::Precondition { number }.into());
        }
    }
    Ok(())
}

fn holds(machine: &Machine<'_, '_>, precondition: Precondition) -> io::Result<bool> {
    Ok(match precondition {
        Precondition::Absent { place } => machine.place(place)?.secret.is_none(),
        Precondition::Present { place, secret } => match machine.place(place)?.secret {
            Some(present) => secret.is_none_or(|secret| secret == present),
            None => false,
        },
        Precondition::AtRevision { secret, revision } => machine
            .secret(secret)?
            .is_some_and(|record| record.revision == revision),
        Precondition::AtSealedRevision {
            secret,
            sealed_revision,
        } => machine
            .secret(secret)?
            .is_some_and(|record| record.sealed_revision == sealed_revision),
        Precondition::Available { secret, version } => {
            let is_living = machine
                .secret(secret)?
                .is_some_and(|record| record.deleted.is_none());
            is_living
                && machine
                    .version(secret, version)?
                    .is_some_and(|version| version.is_available(machine.now_ms()))
        }
    })
}
