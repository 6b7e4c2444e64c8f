//! Metadata given out.

use super::{
    machine::{Machine, Stop},
    resolve,
};
use crate::command::{Done, Look};

/// Looks at metadata. The record is all that it writes.
pub(super) fn look(machine: &mut Machine<'_, '_>, look: Look) -> Result<Done, Stop> {
    match look {
        Look::Secret(at) => {
            let (id, secret) = resolve::secret(machine, at)?;
            let now_ms = machine.now_ms();
            let versions = machine.versions(id)?;
            let versions = versions
                .into_iter()
                .map(|(number, version)| version.view(number, now_ms));
            Ok(Done::Secret(Box::new(secret.view(id, versions.collect()))))
        }
        Look::Store(_) | Look::Other | Look::Several { .. } => Ok(Done::Recorded),
    }
}
