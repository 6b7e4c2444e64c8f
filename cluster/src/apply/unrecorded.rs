//! What may be done without an audit record.
//!
//! Invariant: whatever touches a client's secret brings a stub, and so leaves a record, also where a
//! stolen node certificate proposed it. Without one go the cluster's own operations (each alone in
//! its command, which only a leader proposes for itself), re-sealing, which changes nothing that
//! anyone could see, and what the edge does in the system's namespace.

use super::{
    machine::{Machine, Stop},
    malformed_refusal, subject,
};
use crate::{
    command::{Command, Expected, Look, NumberChoice, Operation, Step},
    model::{Action, AuditStub, Place, Sealed, Token, ValueId},
    state::Meta,
};
use bytes::Bytes;

/// Refuses a step that should leave a record and brings none, an operation of the cluster's own that
/// is not alone, and, with a record or without, what could use up the numbers of the system's places.
pub(super) fn check(machine: &Machine<'_, '_>, command: &Command, step: &Step) -> Result<(), Stop> {
    let is_own = matches!(
        step.operation,
        Operation::AllocateRaftId | Operation::RaiseRules { .. }
    );
    if is_own && !command.is_the_clusters_own() {
        return Err(malformed_refusal("an operation of the cluster's own stands alone").into());
    }
    if stub_of(step).is_none() && !may_go_unrecorded(machine, command, &step.operation)? {
        return Err(malformed_refusal("the step brings no audit record").into());
    }
    if may_use_up_numbers(&step.operation) {
        return Err(malformed_refusal("in the system's namespace numbers follow one another").into());
    }
    Ok(())
}

/// In the system's namespace a put must never be refused for want of a number: whoever could use them
/// up could keep the edge from ever putting a keyring back.
fn may_use_up_numbers(operation: &Operation) -> bool {
    match operation {
        Operation::Put(put) => is_the_systems(put.place) && matches!(put.number, NumberChoice::Exactly(_)),
        Operation::Restore { place, .. } => is_the_systems(*place),
        Operation::Move { to, .. } => is_the_systems(*to),
        _ => false,
    }
}

/// The stub that a step brings. One that says nothing is none.
pub(super) fn stub_of(step: &Step) -> Option<&AuditStub> {
    step.audit
        .as_ref()
        .filter(|stub| !stub.sealed.ciphertext.is_empty())
}

/// What the core says of a change of the audit's limit that nobody else speaks for.
pub(super) fn stub_of_the_core() -> AuditStub {
    AuditStub {
        action: Action::Operate,
        principal: Token::NONE,
        commitment: [0; 32],
        sealed: Sealed {
            key_term: 0,
            value_id: ValueId([0; 16]),
            nonce: [0; 24],
            ciphertext: Bytes::new(),
        },
    }
}

fn may_go_unrecorded(
    machine: &Machine<'_, '_>,
    command: &Command,
    operation: &Operation,
) -> Result<bool, Stop> {
    Ok(match operation {
        Operation::Tick | Operation::AllocateRaftId | Operation::RaiseRules { .. } => true,
        Operation::Reseal { .. } => true,
        // A new cluster's leader sets it once, and the core records that by itself.
        Operation::SetAuditRetention(_) => {
            command.is_the_clusters_own() && machine.meta.retention == Meta::default().retention
        }
        Operation::Create { place, .. } => is_the_systems(*place),
        Operation::Put(put) => is_the_systems(put.place),
        Operation::Activate { at, .. }
        | Operation::ChangeVersions { at, .. }
        | Operation::Delete { at, .. }
        | Operation::Configure { at, .. }
        | Operation::ConfigureVersion { at, .. }
        | Operation::Disclose { at, .. }
        | Operation::Look(Look::Secret(at)) => lies_with_the_systems(machine, *at)?,
        Operation::Look(Look::Store(place)) => is_the_systems(*place),
        Operation::Restore { .. } | Operation::Move { .. } => false,
        Operation::Look(Look::Other | Look::Several { .. }) | Operation::Refuse(_) => false,
    })
}

fn is_the_systems(place: Place) -> bool {
    place.namespace == Token::SYSTEM_NAMESPACE
}

fn lies_with_the_systems(machine: &Machine<'_, '_>, at: Expected) -> Result<bool, Stop> {
    let (place, _) = subject::whereabouts(machine, at)?;
    Ok(place.is_some_and(is_the_systems))
}
