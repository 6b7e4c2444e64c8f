//! What a step was about, for its audit record.

use super::machine::Machine;
use crate::{
    command::{Expected, Look, NumberChoice, Operation, SealedPart, Which},
    model::{Place, SecretId, Version},
};
use std::io;

/// What a step was about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) place: Option<Place>,
    pub(super) secret: Option<SecretId>,
    pub(super) version: Option<Version>,
    /// For how many attempts the record stands.
    pub(super) attempts: u32,
    /// False where the step leaves no record.
    pub(super) is_recorded: bool,
}

impl Subject {
    /// What can be said before the step is performed.
    pub(super) fn of(machine: &Machine<'_, '_>, operation: &Operation) -> io::Result<Self> {
        let nothing = Self {
            place: None,
            secret: None,
            version: None,
            attempts: 1,
            is_recorded: true,
        };
        let at = |at: Expected, version: Option<Version>| -> io::Result<Self> {
            let (place, secret) = whereabouts(machine, at)?;
            Ok(Self {
                place,
                secret,
                version,
                ..nothing
            })
        };
        match operation {
            Operation::Create { place, .. } => at(Expected::At(*place), None),
            Operation::Put(put) => at(
                Expected::At(put.place),
                match put.number {
                    NumberChoice::Exactly(version) => Some(version),
                    NumberChoice::Next => None,
                },
            ),
            Operation::Activate {
                at: expected,
                version,
            } => at(*expected, Some(*version)),
            Operation::ChangeVersions {
                at: expected,
                versions,
                ..
            } => {
                // One version is named; of several, the record's sealed part tells.
                at(
                    *expected,
                    versions.first().copied().filter(|_| versions.len() == 1),
                )
            }
            Operation::Delete { at: expected, .. }
            | Operation::Move { at: expected, .. }
            | Operation::Configure { at: expected, .. } => at(*expected, None),
            Operation::Restore { secret, .. } => at(Expected::Id(*secret), None),
            Operation::ConfigureVersion {
                at: expected,
                version,
                ..
            } => at(*expected, Some(*version)),
            Operation::Disclose {
                at: expected, which, ..
            } => at(
                *expected,
                match which {
                    Which::Number(version) => Some(*version),
                    Which::Active | Which::Latest | Which::LatestEnabled => None,
                },
            ),
            Operation::Look(Look::Secret(expected)) => at(*expected, None),
            Operation::Look(Look::Store(place)) => Ok(Self {
                place: Some(*place),
                ..nothing
            }),
            Operation::Look(Look::Several { looks }) => Ok(Self {
                attempts: (*looks).max(1),
                ..nothing
            }),
            Operation::Refuse(refusing) => Ok(Self {
                place: refusing.place,
                version: refusing.version,
                attempts: refusing.attempts.max(1),
                ..nothing
            }),
            Operation::Reseal { secret, part, .. } => at(
                Expected::Id(*secret),
                match part {
                    SealedPart::Value(version) | SealedPart::VersionMetadata(version) => Some(*version),
                    SealedPart::Name | SealedPart::Metadata => None,
                },
            ),
            Operation::Look(Look::Other)
            | Operation::AllocateRaftId
            | Operation::RaiseRules { .. }
            | Operation::SetAuditRetention(_)
            | Operation::Tick => Ok(nothing),
        }
    }
}

/// Where the secret lies, or lay when it was deleted recoverably, and which it is.
pub(super) fn whereabouts(
    machine: &Machine<'_, '_>,
    at: Expected,
) -> io::Result<(Option<Place>, Option<SecretId>)> {
    match at {
        Expected::At(place) => Ok((Some(place), machine.place(place)?.secret)),
        Expected::Id(secret) => Ok(match machine.secret(secret)? {
            Some(record) => (
                record.place.or(record.deleted.map(|deletion| deletion.place)),
                Some(secret),
            ),
            None => (None, None),
        }),
    }
}
