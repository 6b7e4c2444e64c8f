//! A command: guards whose effect stays, then steps that are done all or none, and an audit record
//! for each, whatever became of it.

use super::{
    answers::CommandAnswers,
    cluster, disclose, look,
    machine::{Machine, Stop},
    malformed, precondition, put, recording, reseal, secrets,
    subject::Subject,
    unrecorded, versions,
};
use crate::{
    command::{Command, Done, Operation, Outcome, Refusal, SealedPart, Step},
    model::{OutcomeKind, Sealed, VersionState},
};
use conclave_raft::identity::RaftId;
use std::io;

/// The most guards and steps of one command.
pub const STEPS_MAX: usize = 1024;
/// The most preconditions of one step.
pub const PRECONDITIONS_MAX: usize = 64;
/// The most bytes of one name or one piece of metadata, sealed.
pub const DESCRIPTION_BYTES_MAX: usize = 64 * 1024;
/// The most sealed bytes of one audit record.
const AUDIT_STUB_BYTES_MAX: usize = 256 * 1024;

/// Performs a command.
pub(super) fn perform(
    machine: &mut Machine<'_, '_>,
    position: u32,
    node: RaftId,
    command: &Command,
) -> io::Result<Outcome> {
    if let Some(what) = broken_limit(command) {
        return Ok(malformed(what));
    }
    let mut recorder = Recorder {
        position,
        node,
        command,
    };
    let mut answers = CommandAnswers::default();
    for (number, guard) in command.guards.iter().enumerate() {
        let mut subject = Subject::of(machine, &guard.operation)?;
        match machine.attempt(|machine| answers.push(perform_step(machine, command, guard, &mut subject)?)) {
            Ok(()) => recorder.record(machine, number, &subject, OutcomeKind::Done)?,
            Err(Stop::Damage(error)) => return Err(error),
            Err(Stop::Refused(refusal)) => {
                return recorder.refuse(machine, number, number, &subject, refusal);
            }
        }
    }
    let guards = command.guards.len();
    let mut subjects: Vec<Subject> = Vec::with_capacity(command.steps.len());
    let result = machine.attempt(|machine| {
        command.steps.iter().try_for_each(|step| {
            let subject = Subject::of(machine, &step.operation)?;
            subjects.push(subject);
            let subject = subjects.last_mut().expect("it was just pushed");
            answers.push(perform_step(machine, command, step, subject)?)
        })
    });
    match result {
        Ok(()) => {
            for (number, subject) in subjects.iter().enumerate() {
                recorder.record(machine, guards + number, subject, OutcomeKind::Done)?;
            }
            Ok(Outcome::Done(answers.into_answers()))
        }
        Err(Stop::Damage(error)) => Err(error),
        Err(Stop::Refused(refusal)) => {
            let refused = guards + subjects.len() - 1;
            let subject = subjects.pop().expect("the refused step has a subject");
            recorder.refuse(machine, guards, refused, &subject, refusal)
        }
    }
}

fn perform_step(
    machine: &mut Machine<'_, '_>,
    command: &Command,
    step: &Step,
    subject: &mut Subject,
) -> Result<Done, Stop> {
    unrecorded::check(machine, command, step)?;
    if recording::is_exhausted(machine.meta)
        && unrecorded::stub_of(step).is_some()
        && !matches!(step.operation, Operation::SetAuditRetention(_))
    {
        return Err(Refusal::AuditFull.into());
    }
    precondition::check(machine, &step.preconditions)?;
    match &step.operation {
        Operation::Create {
            place,
            secret,
            create,
        } => secrets::create(machine, *place, *secret, create, subject),
        Operation::Put(put) => put::put(machine, put, subject),
        Operation::Activate { at, version } => versions::activate(machine, *at, *version),
        Operation::ChangeVersions {
            at,
            versions,
            change,
            spare_active,
            refuse_destroyed,
        } => {
            let refused = versions::Refused {
                active: *spare_active,
                destroyed: *refuse_destroyed,
            };
            versions::change(machine, *at, versions, *change, refused)
        }
        Operation::Delete { at, recoverable_ms } => secrets::delete(machine, *at, *recoverable_ms),
        Operation::Restore { secret, place } => secrets::restore(machine, *secret, *place),
        Operation::Move { at, to, name } => secrets::relocate(machine, *at, *to, name),
        Operation::Configure {
            at,
            metadata,
            settings,
        } => secrets::configure(machine, *at, metadata.as_ref(), settings.as_ref()),
        Operation::ConfigureVersion {
            at,
            version,
            metadata,
            lifetime_ms,
            disclosures_left,
            on_end,
        } => {
            let limits = versions::Limits {
                lifetime_ms: *lifetime_ms,
                disclosures_left: *disclosures_left,
                on_end: *on_end,
            };
            versions::configure(machine, *at, *version, metadata.as_ref(), limits)
        }
        Operation::Disclose {
            at,
            which,
            unless_active_is,
        } => disclose::disclose(machine, *at, *which, *unless_active_is, subject),
        Operation::Look(look) => look::look(machine, *look),
        Operation::Refuse(_) => Ok(Done::Recorded),
        Operation::Reseal {
            secret,
            part,
            replacement,
        } => reseal::reseal(machine, *secret, *part, replacement),
        Operation::AllocateRaftId => cluster::allocate_raft_id(machine),
        Operation::RaiseRules { version } => cluster::raise_rules(machine, *version),
        Operation::SetAuditRetention(retention) => cluster::set_audit_retention(machine, *retention),
        Operation::Tick => Ok(Done::Done),
    }
}

fn broken_limit(command: &Command) -> Option<&'static str> {
    let all: Vec<&Step> = command.guards.iter().chain(&command.steps).collect();
    if all.len() > STEPS_MAX {
        return Some("too many steps");
    }
    if all.is_empty() {
        return Some("no steps");
    }
    if all
        .iter()
        .any(|step| step.preconditions.len() > PRECONDITIONS_MAX)
    {
        return Some("too many preconditions");
    }
    if all.iter().any(|step| {
        matches!(&step.operation, Operation::ChangeVersions { versions, .. } if versions.len() > versions::CHANGED_VERSIONS_MAX)
    }) {
        return Some("too many versions");
    }
    if all.iter().any(|step| {
        let stub = step.audit.as_ref();
        stub.is_some_and(|stub| stub.sealed.ciphertext.len() > AUDIT_STUB_BYTES_MAX)
    }) {
        return Some("an audit record is too large");
    }
    if all.iter().any(|step| {
        let mut descriptions = descriptions(&step.operation).into_iter().flatten();
        descriptions.any(|sealed| sealed.ciphertext.len() > DESCRIPTION_BYTES_MAX)
    }) {
        return Some("a name or metadata is too large");
    }
    None
}

/// The names and the metadata that an operation writes.
fn descriptions(operation: &Operation) -> [Option<&Sealed>; 3] {
    match operation {
        Operation::Create { create, .. } => [Some(&create.name), create.metadata.as_ref(), None],
        Operation::Put(put) => {
            let create = put.create.as_ref();
            [
                create.map(|create| &create.name),
                create.and_then(|create| create.metadata.as_ref()),
                put.metadata.as_ref(),
            ]
        }
        Operation::Move { name, .. } => [Some(name), None, None],
        Operation::Configure { metadata, .. } | Operation::ConfigureVersion { metadata, .. } => {
            [metadata.as_ref(), None, None]
        }
        Operation::Reseal {
            part: SealedPart::Name | SealedPart::Metadata | SealedPart::VersionMetadata(_),
            replacement,
            ..
        } => [Some(replacement), None, None],
        _ => [None; 3],
    }
}

/// Writes the records of one command.
struct Recorder<'c> {
    position: u32,
    node: RaftId,
    command: &'c Command,
}

impl Recorder<'_> {
    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.command.guards.iter().chain(&self.command.steps)
    }

    /// Records the refusal of the step `refused`, and that all others from `first` on were
    /// abandoned. Leaves no record where nobody is refused anything.
    fn refuse(
        &mut self,
        machine: &mut Machine<'_, '_>,
        first: usize,
        refused: usize,
        subject: &Subject,
        refusal: Refusal,
    ) -> io::Result<Outcome> {
        let step = u16::try_from(refused).expect("a command has at most STEPS_MAX steps");
        let is_unrecorded = match refusal {
            // A record would make it fuller, also one of a step that was abandoned for another's sake.
            _ if recording::is_exhausted(machine.meta) => true,
            Refusal::AuditFull => !recording::records_refused(machine.meta),
            _ => {
                let operation = self.steps().nth(refused).map(|step| &step.operation);
                operation.is_some_and(|operation| is_to_be_sealed_again(operation, &refusal))
            }
        };
        if is_unrecorded {
            return Ok(Outcome::Refused { step, refusal });
        }
        for number in first..self.command.guards.len() + self.command.steps.len() {
            if number == refused {
                let kind = kind_of(&refusal, machine.meta.rules_version);
                self.record(machine, number, subject, kind)?;
                continue;
            }
            let operation = self.steps().nth(number).map(|step| &step.operation);
            if let Some(operation) = operation {
                let subject = Subject::of(machine, operation)?;
                self.record(machine, number, &subject, OutcomeKind::Abandoned)?;
            }
        }
        Ok(Outcome::Refused { step, refusal })
    }

    fn record(
        &mut self,
        machine: &mut Machine<'_, '_>,
        number: usize,
        subject: &Subject,
        kind: OutcomeKind,
    ) -> io::Result<()> {
        let Some(step) = self.steps().nth(number) else {
            return Ok(());
        };
        let of_the_core =
            matches!(step.operation, Operation::SetAuditRetention(_)).then(unrecorded::stub_of_the_core);
        let stub = unrecorded::stub_of(step).or(of_the_core.as_ref());
        let Some(stub) = stub.filter(|_| subject.is_recorded) else {
            return Ok(());
        };
        let kind = match &step.operation {
            Operation::Refuse(_) if kind == OutcomeKind::Done => OutcomeKind::Denied,
            _ => kind,
        };
        let number = u16::try_from(number).expect("a command has at most STEPS_MAX steps");
        recording::record(machine, (self.position, number), self.node, stub, subject, kind)
    }
}

/// Whether the proposing edge only learns here what lies at the place, and proposes the same put once
/// more, sealed for that: its caller is refused nothing, and the record of that next one tells.
fn is_to_be_sealed_again(operation: &Operation, refusal: &Refusal) -> bool {
    match (operation, refusal) {
        (Operation::Put(_), Refusal::OtherSecret { .. }) => true,
        (Operation::Put(put), Refusal::NotFound) => put.create.is_none(),
        _ => false,
    }
}

fn kind_of(refusal: &Refusal, rules: u32) -> OutcomeKind {
    match refusal {
        Refusal::NotFound | Refusal::VersionNotFound => OutcomeKind::NotFound,
        // What is destroyed never comes back: a caller is told that there is no such version.
        Refusal::NotAvailable {
            state: VersionState::Destroyed,
            ..
        } if rules >= cluster::DESTROYED_IS_NOT_FOUND => OutcomeKind::NotFound,
        _ => OutcomeKind::Refused,
    }
}
