//! The pure function from state and entry to state and outcomes.
//!
//! There is no clock, randomness, unordered map, configuration or platform in here: what is not in
//! the state or in the entry does not count. A command that breaks a rule gets a refusal, the same
//! on every node; `Err` is left to damage that is local to this node.
//!
//! | file           | idea                                                              |
//! |----------------|-------------------------------------------------------------------|
//! | `window`       | each proposal once: outcomes remembered, late copies refused      |
//! | `answers`      | how much is answered                                              |
//! | `command`      | guards that stay, steps all or nothing, a record for each         |
//! | `precondition` | what must hold before a step                                      |
//! | `resolve`      | which secret and which version are meant                          |
//! | `put`          | a new version                                                     |
//! | `disclose`     | a value given out, counted, and perhaps consumed                  |
//! | `look`         | metadata given out                                                |
//! | `versions`     | activation and the states of versions                             |
//! | `secrets`      | making, deleting, restoring, moving and configuring secrets       |
//! | `numbers`      | at a place, no number is used twice                               |
//! | `reseal`       | the same plaintext under another key term                         |
//! | `cluster`      | Raft ids, rules, retention                                        |
//! | `recording`    | audit records, their chains, and pruning                          |
//! | `unrecorded`   | what may be done without an audit record                          |
//! | `machine`      | what all of these read and write                                  |

mod answers;
mod cluster;
mod command;
mod disclose;
mod look;
mod machine;
mod numbers;
mod precondition;
mod put;
mod recording;
mod reseal;
mod resolve;
mod secrets;
mod subject;
mod unrecorded;
mod versions;
mod window;

#[cfg(test)]
pub(crate) mod tests;

pub use answers::COMMAND_ANSWER_BYTES_MAX;
pub(crate) use answers::RunAnswers;
pub use cluster::NEWEST_RULES;
pub use command::{DESCRIPTION_BYTES_MAX, PRECONDITIONS_MAX, STEPS_MAX};
pub use put::VERSIONS_MAX;
pub use recording::{AUDIT_LIMIT_BYTES_MIN, leaf_hash};
pub use versions::CHANGED_VERSIONS_MAX;
pub use window::{WINDOW_BYTES, WINDOW_MS, WINDOW_OUTCOMES};

use crate::{
    command::{Entry, EntryResponse, Outcome, Refusal},
    state::{MEMBERSHIP_KEY, META_KEY, Meta, Table, Transaction},
};
use answers::EntryAnswers;
use bytes::Bytes;
use conclave_raft::{
    codec,
    state_machine::{CommittedEntry, CommittedPayload},
};
use machine::Machine;
use std::io;

/// Applies one entry and returns its response: an encoded [`EntryResponse`] for a proposal, nothing
/// for what is Raft's own, or where nobody waits for it.
///
/// # Errors
/// Only local damage: an I/O error, a stored row that cannot be decoded, an entry out of order, or
/// rules that this build does not know.
pub(crate) fn apply_entry(
    rows: &mut Transaction<'_>,
    meta: &mut Meta,
    answers: &mut RunAnswers,
    entry: &CommittedEntry,
    order: Order,
) -> io::Result<Bytes> {
    check_rules(meta)?;
    let position = entry.position;
    if meta
        .applied
        .is_some_and(|applied| applied.index + 1 != position.index)
    {
        let what = format!(
            "entry {} does not follow the applied {:?}",
            position.index, meta.applied
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    rows.begin();
    meta.applied = Some(position);
    let response = match &entry.payload {
        CommittedPayload::Blank => Bytes::new(),
        CommittedPayload::Membership(membership) => {
            rows.put(Table::Meta, MEMBERSHIP_KEY, &(position, membership));
            cluster::note_members(rows, meta, membership)?;
            Bytes::new()
        }
        CommittedPayload::Proposal(proposal) => {
            let mut machine = Machine::new(rows, meta, position);
            let mut answers = answers.of_entry(entry.answered);
            let outcomes = match codec::decode::<Entry>(proposal) {
                Ok(entry) => apply_proposals(&mut machine, &mut answers, &entry, order)?,
                // The decoder's words may change with its version; the outcome must not.
                Err(_) => vec![Some(malformed("the entry cannot be decoded"))],
            };
            if entry.answered {
                let time_ms = meta.time_ms;
                codec::encode(&EntryResponse { time_ms, outcomes }).into()
            } else {
                Bytes::new()
            }
        }
    };
    rows.put(Table::Meta, META_KEY, meta);
    rows.end_entry(position.index)?;
    Ok(response)
}

/// In which order an entry's proposals are applied. There is one; only a test can plant another,
/// which the digest must catch.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    AsProposed,
    #[cfg(test)]
    Random,
}

impl Order {
    fn of(self, proposals: usize) -> Vec<usize> {
        #[cfg_attr(
            not(any(test, feature = "planted-faults")),
            expect(unused_mut, reason = "only a test plants another order")
        )]
        let mut order: Vec<usize> = (0..proposals).collect();
        match self {
            #[cfg(feature = "planted-faults")]
            Self::AsProposed if conclave_raft::planted::is_planted("random-order") => shuffle(&mut order),
            Self::AsProposed => {}
            #[cfg(test)]
            Self::Random => shuffle(&mut order),
        }
        order
    }
}

#[cfg(any(test, feature = "planted-faults"))]
fn shuffle(order: &mut [usize]) {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new();
    order.sort_by_cached_key(|position| random.hash_one(position));
}

/// Refuses a state whose rules this build does not know: applying others would diverge.
pub(crate) fn check_rules(meta: &Meta) -> io::Result<()> {
    if meta.rules_version <= NEWEST_RULES {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "the cluster applies by rules {}, and this build knows only those up to {NEWEST_RULES}: upgrade this node",
            meta.rules_version
        ),
    ))
}

fn apply_proposals(
    machine: &mut Machine<'_, '_>,
    answers: &mut EntryAnswers<'_>,
    entry: &Entry,
    order: Order,
) -> io::Result<Vec<Option<Outcome>>> {
    if entry.stamp.term == machine.position.term {
        machine.meta.time_ms = machine.meta.time_ms.max(entry.stamp.time_ms);
    }
    window::expire(machine)?;
    let mut outcomes = vec![None; entry.proposals.len()];
    for position in order.of(entry.proposals.len()) {
        let proposal = &entry.proposals[position];
        let number = u32::try_from(position).expect("an entry's bytes are far below 4 GiB");
        outcomes[position] = answers.admit(window::apply_once(machine, number, proposal)?);
    }
    window::write_outcomes(machine);
    recording::prune(machine)?;
    Ok(outcomes)
}

fn malformed(what: &str) -> Outcome {
    Outcome::Refused {
        step: 0,
        refusal: malformed_refusal(what),
    }
}

fn malformed_refusal(what: &str) -> Refusal {
    Refusal::Malformed(what.to_owned())
}
