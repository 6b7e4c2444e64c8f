//! Metadata given out.

use super::{
    answers::COMMAND_ANSWER_BYTES_MAX,
    machine::{Machine, Stop},
    resolve,
};
use crate::{
    command::{Done, Look, Refusal, SecretView},
    model::{SecretId, SecretRecord},
    state::Direction,
};
use std::ops::ControlFlow;

/// Looks at metadata. The record is all that it writes.
pub(super) fn look(machine: &mut Machine<'_, '_>, look: Look) -> Result<Done, Stop> {
    match look {
        Look::Secret(at) => {
            let (id, secret) = resolve::secret(machine, at)?;
            Ok(Done::Secret(Box::new(view(machine, id, secret)?)))
        }
        Look::Store(_) | Look::Other | Look::Several { .. } => Ok(Done::Recorded),
    }
}

/// A secret as it is seen now, with its versions.
pub(super) fn view(
    machine: &Machine<'_, '_>,
    id: SecretId,
    secret: SecretRecord,
) -> Result<SecretView, Stop> {
    let now_ms = machine.now_ms();
    let (mut versions, mut bytes) = (Vec::new(), 0);
    machine.scan_versions(id, Direction::Ascending, |number, version| {
        let version = version.view(number, now_ms);
        bytes += version.large_bytes();
        versions.push(version);
        if bytes > COMMAND_ANSWER_BYTES_MAX {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if bytes > COMMAND_ANSWER_BYTES_MAX {
        return Err(Refusal::AnswerTooLarge.into());
    }
    Ok(secret.view(id, versions))
}
