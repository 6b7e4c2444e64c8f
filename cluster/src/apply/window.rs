//! Each proposal once: outcomes are remembered for a bounded window of replicated time, and a copy
//! that comes later than that is refused.
//!
//! The rule: when outcomes up to the index `floor` have been forgotten, a proposal that was made
//! before `floor` was applied is refused, because a forgotten copy of it may have been applied
//! there. One made later cannot have been.
//!
//! The window keeps outcomes, never values. The answer to a disclosure is put together again from
//! the stored value, and a value that no version shows any more lingers until every outcome up to
//! then has left the window. What a look saw of versions is not kept either, as there can be many: a
//! copy sees the secret as it is when the copy is applied, or that it is gone, which its caller cannot
//! tell from a later first try. It never sees some of what was then and some of what is now.

use super::{
    answers::CommandAnswers,
    command, look,
    machine::{Machine, Stop},
    malformed,
};
use crate::{
    command::{Command, Done, Operation, Outcome, Proposal, Refusal, SecretView},
    model::{NumberRanges, ProposalId, SecretId, Version},
    state::{Direction, KeyRange, StoredValue, Table, WindowOutcome, WindowRow, keys},
};
use bytes::Bytes;
use conclave_raft::codec;
use std::{io, ops::ControlFlow};

/// How long an outcome is remembered, in milliseconds of state time.
pub const WINDOW_MS: u64 = 60_000;
/// The most outcomes that are remembered.
pub const WINDOW_OUTCOMES: u64 = 1 << 20;
/// The most bytes of outcomes that are remembered.
pub const WINDOW_BYTES: u64 = 256 * 1024 * 1024;

/// So many bytes of outcomes one row has at most, or one outcome.
const ROW_BYTES: usize = 64 * 1024;
/// So many outcomes are forgotten in one entry, then as many more as the entry of the last has.
const FORGOTTEN_PER_ENTRY: usize = 4096;
/// So many lingering values are removed in one entry, or one.
const REMOVED_PER_ENTRY: usize = 4096;
/// So many bytes of lingering values are removed in one entry, or one value.
const REMOVED_BYTES_PER_ENTRY: u64 = 16 * 1024 * 1024;

/// Outcomes that are to be written as one row.
#[derive(Default)]
pub(super) struct NewOutcomes {
    /// Position in the entry of the first.
    first_position: u32,
    outcomes: Vec<WindowOutcome>,
    bytes: usize,
}

/// Applies a proposal unless it was applied before.
pub(super) fn apply_once(
    machine: &mut Machine<'_, '_>,
    position: u32,
    proposal: &Proposal,
) -> io::Result<Outcome> {
    if let Some(outcome) = recall(machine, proposal.id)? {
        #[cfg(feature = "planted-faults")]
        if conclave_raft::planted::is_planted("applied-twice")
            && let Ok(command) = codec::decode::<Command>(&proposal.command)
        {
            return command::perform(machine, position, proposal.node, &command);
        }
        return Ok(outcome);
    }
    if proposal.made_at_index < machine.meta.window.floor_index {
        return Ok(Outcome::Refused {
            step: 0,
            refusal: Refusal::TooLate,
        });
    }
    let outcome = match codec::decode::<Command>(&proposal.command) {
        _ if proposal.made_at_index >= machine.position.index => malformed("made after it was appended"),
        // The decoder's words may change with its version; the outcome must not.
        Err(_) => malformed("the command cannot be decoded"),
        // It may be applied any number of times, and must not keep the window from emptying.
        Ok(command) if is_tick(&command) => return Ok(Outcome::Done(vec![Done::Done; command.steps.len()])),
        Ok(command) => command::perform(machine, position, proposal.node, &command)?,
    };
    remember(machine, position, proposal.id, &outcome);
    Ok(outcome)
}

/// Forgets what has left the window, and removes values that lingered for it.
pub(super) fn expire(machine: &mut Machine<'_, '_>) -> io::Result<()> {
    forget_outcomes(machine)?;
    remove_lingering(machine)
}

/// Keeps a value that no version shows any more for answers that must be given again.
pub(super) fn linger(machine: &mut Machine<'_, '_>, secret: SecretId, version: Version) -> io::Result<()> {
    let value = machine.value(secret, version)?;
    let index = machine.position.index;
    let size_bytes = value.sealed.ciphertext.len() as u64;
    machine.rows.put_new(
        Table::Lingering,
        &keys::lingering_key(index, secret, version),
        &size_bytes,
    );
    machine.meta.window.lingering += 1;
    Ok(())
}

fn recall(machine: &Machine<'_, '_>, id: ProposalId) -> io::Result<Option<Outcome>> {
    let Some(encoded) = remembered(machine, id)? else {
        return Ok(None);
    };
    let remembered = match machine.rows.decode(Table::Window, &encoded)? {
        Outcome::Done(remembered) => remembered,
        refused => return Ok(Some(refused)),
    };
    let mut answers = CommandAnswers::default();
    for (step, answer) in (0_u16..).zip(remembered) {
        match complete(machine, answer).and_then(|answer| answers.push(answer)) {
            Ok(()) => {}
            Err(Stop::Refused(refusal)) => return Ok(Some(Outcome::Refused { step, refusal })),
            Err(Stop::Damage(error)) => return Err(error),
        }
    }
    Ok(Some(Outcome::Done(answers.into_answers())))
}

/// Adds what [`shorten`] left out.
fn complete(machine: &Machine<'_, '_>, answer: Done) -> Result<Done, Stop> {
    Ok(match answer {
        Done::Disclosed(mut disclosed) => {
            // Re-sealed meanwhile, it is the same plaintext under another term.
            let StoredValue {
                sealed,
                sealed_revision,
            } = machine.value(disclosed.secret, disclosed.version)?;
            disclosed.value = sealed;
            disclosed.sealed_revision = sealed_revision;
            Done::Disclosed(disclosed)
        }
        Done::Secret(seen) => match machine.secret(seen.secret)? {
            Some(secret) if secret.place == seen.place => {
                Done::Secret(Box::new(look::view(machine, seen.secret, secret)?))
            }
            _ => Done::Secret(Box::new(gone(*seen))),
        },
        small => small,
    })
}

/// What a copy of a look sees of a secret that has left the place where it was seen, or was destroyed.
fn gone(seen: SecretView) -> SecretView {
    SecretView {
        place: None,
        active: None,
        ..seen
    }
}

/// Leaves out what the state holds anyway, so that no outcome is large.
fn shorten(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    if let Outcome::Done(answers) = &mut outcome {
        for answer in answers {
            match answer {
                Done::Disclosed(disclosed) => disclosed.value.ciphertext = Bytes::new(),
                Done::Secret(seen) => {
                    seen.versions = Vec::new();
                    seen.used = NumberRanges::default();
                }
                _ => {}
            }
        }
    }
    outcome
}

/// The encoded outcome of a proposal, if the window has it.
fn remembered(machine: &Machine<'_, '_>, id: ProposalId) -> io::Result<Option<Bytes>> {
    let Some(index) = machine.rows.entry_of(id) else {
        return Ok(None);
    };
    let of_id = |outcomes: &[WindowOutcome]| {
        let found = outcomes.iter().find(|remembered| remembered.proposal == id);
        found.map(|remembered| remembered.outcome.clone())
    };
    let mut found = None;
    if index == machine.position.index {
        found = of_id(&machine.outcomes.outcomes);
    }
    if found.is_none() {
        let rows = KeyRange::prefix(&index.to_be_bytes());
        machine
            .rows
            .scan(Table::Window, &rows, Direction::Ascending, |_, row| {
                let row: WindowRow = machine.rows.decode(Table::Window, row)?;
                found = of_id(&row.outcomes);
                Ok(match found {
                    Some(_) => ControlFlow::Break(()),
                    None => ControlFlow::Continue(()),
                })
            })?;
    }
    let missing = || {
        machine
            .rows
            .damage(Table::Window, "a remembered outcome is missing")
    };
    found.map(Some).ok_or_else(missing)
}

fn remember(machine: &mut Machine<'_, '_>, position: u32, id: ProposalId, outcome: &Outcome) {
    let outcome = Bytes::from(codec::encode(&shorten(outcome)));
    if machine.outcomes.bytes + outcome.len() > ROW_BYTES {
        write_outcomes(machine);
    }
    let new = &mut machine.outcomes;
    if new.outcomes.is_empty() {
        new.first_position = position;
    }
    new.bytes += outcome.len();
    new.outcomes.push(WindowOutcome {
        proposal: id,
        outcome,
    });
    machine.rows.note_remembered(id, machine.position.index);
}

/// Writes the outcomes that no row has yet.
pub(super) fn write_outcomes(machine: &mut Machine<'_, '_>) {
    let NewOutcomes {
        first_position,
        outcomes,
        ..
    } = std::mem::take(&mut machine.outcomes);
    if outcomes.is_empty() {
        return;
    }
    machine.meta.window.outcomes += outcomes.len() as u64;
    let time_ms = machine.now_ms();
    let row = Bytes::from(codec::encode(&WindowRow { time_ms, outcomes }));
    machine.meta.window.bytes += row.len() as u64;
    let key = keys::window_key(machine.position.index, first_position);
    machine.rows.put_new_bytes(Table::Window, &key, row);
}

fn is_tick(command: &Command) -> bool {
    command.guards.is_empty()
        && !command.steps.is_empty()
        && command.steps.iter().all(|step| {
            step.operation == Operation::Tick && step.audit.is_none() && step.preconditions.is_empty()
        })
}

fn forget_outcomes(machine: &mut Machine<'_, '_>) -> io::Result<()> {
    let now_ms = machine.now_ms();
    let mut window = machine.meta.window;
    let mut rows: Vec<Vec<u8>> = Vec::new();
    let mut forgotten: Vec<ProposalId> = Vec::new();
    let from = KeyRange::from((window.floor_index + 1).to_be_bytes().to_vec());
    machine
        .rows
        .scan(Table::Window, &from, Direction::Ascending, |key, encoded| {
            let index = keys::index_at_start(key)
                .ok_or_else(|| machine.rows.damage(Table::Window, "a key is malformed"))?;
            let row: WindowRow = machine.rows.decode(Table::Window, encoded)?;
            // An entry's outcomes are forgotten together, so that the floor says all.
            if index != window.floor_index {
                let is_old = row.time_ms.saturating_add(WINDOW_MS) <= now_ms;
                let is_full = window.outcomes > WINDOW_OUTCOMES || window.bytes > WINDOW_BYTES;
                if !(is_old || is_full) || forgotten.len() >= FORGOTTEN_PER_ENTRY {
                    return Ok(ControlFlow::Break(()));
                }
            }
            window.floor_index = index;
            window.outcomes -= row.outcomes.len() as u64;
            window.bytes -= encoded.len() as u64;
            rows.push(key.to_vec());
            forgotten.extend(row.outcomes.iter().map(|outcome| outcome.proposal));
            Ok(ControlFlow::Continue(()))
        })?;
    for key in rows {
        machine.rows.delete(Table::Window, &key);
    }
    for proposal in forgotten {
        machine.rows.note_forgotten(proposal);
    }
    machine.meta.window = window;
    Ok(())
}

fn remove_lingering(machine: &mut Machine<'_, '_>) -> io::Result<()> {
    let mut window = machine.meta.window;
    if window.lingering == 0 {
        return Ok(());
    }
    let mut removed: Vec<Vec<u8>> = Vec::new();
    let mut removed_bytes: u64 = 0;
    let range = KeyRange {
        start: window.lingering_from.to_be_bytes().to_vec(),
        end: Some((window.floor_index + 1).to_be_bytes().to_vec()),
    };
    machine
        .rows
        .scan(Table::Lingering, &range, Direction::Ascending, |key, row| {
            let size_bytes: u64 = machine.rows.decode(Table::Lingering, row)?;
            let is_enough = removed.len() >= REMOVED_PER_ENTRY || removed_bytes >= REMOVED_BYTES_PER_ENTRY;
            if is_enough {
                return Ok(ControlFlow::Break(()));
            }
            removed_bytes += size_bytes;
            removed.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
    for key in removed {
        // What follows the index is the value's own key.
        machine.rows.delete(Table::Value, &key[8..]);
        machine.rows.delete(Table::Lingering, &key);
        window.lingering -= 1;
        window.lingering_from = keys::index_at_start(&key).unwrap_or(window.lingering_from);
    }
    machine.meta.window = window;
    Ok(())
}
