//! What is let through while a disk is below its reserve: commands that free space or that keep the
//! cluster going, so that a full majority can be emptied (design, section 7).

use crate::command::{Command, Entry, Operation, VersionChange};
use bytes::Bytes;
use conclave_raft::{codec, storage::space::EntryClass};

/// The most guards and steps of a command that is let through. A step writes more than itself: beside
/// a row of some hundred bytes for each version that it destroys also the secret's own, with the
/// secret's name and metadata.
const STEPS_MAX: usize = 16;

/// The class of an entry's payload: relieving if every command in it is.
pub(crate) fn classify(payload: &Bytes) -> EntryClass {
    match codec::decode::<Entry>(payload) {
        Ok(entry) if entry.proposals.iter().all(|proposal| relieves(&proposal.command)) => {
            EntryClass::Relieving
        }
        _ => EntryClass::Ordinary,
    }
}

/// Whether an encoded command only frees space or keeps the cluster going.
pub(super) fn relieves(command: &Bytes) -> bool {
    codec::decode::<Command>(command).is_ok_and(|command| {
        let mut steps = command.guards.iter().chain(&command.steps);
        command.guards.len() + command.steps.len() <= STEPS_MAX
            && steps.all(|step| match &step.operation {
                Operation::Delete { recoverable_ms, .. } => recoverable_ms.is_none(),
                Operation::ChangeVersions { change, .. } => matches!(change, VersionChange::Destroy),
                Operation::SetAuditRetention(_)
                | Operation::Tick
                | Operation::AllocateRaftId
                | Operation::RaiseRules { .. } => true,
                _ => false,
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        command::{Expected, Proposal, Stamp, Step},
        model::{ProposalId, SecretId},
    };
    use conclave_raft::identity::RaftId;

    fn entry(operations: Vec<Operation>) -> Bytes {
        let proposals = operations.into_iter().map(|operation| {
            let steps = vec![Step {
                preconditions: vec![],
                operation,
                audit: None,
            }];
            let command = codec::encode(&Command {
                guards: vec![],
                steps,
            })
            .into();
            Proposal {
                id: ProposalId([1; 16]),
                made_at_index: 0,
                node: RaftId(1),
                command,
            }
        });
        codec::encode(&Entry {
            stamp: Stamp { term: 1, time_ms: 1 },
            proposals: proposals.collect(),
        })
        .into()
    }

    #[test]
    fn a_long_command_is_ordinary() {
        let command = |steps: usize| {
            let step = |_| Step {
                preconditions: vec![],
                operation: Operation::Tick,
                audit: None,
            };
            let steps = (0..steps).map(step).collect();
            Bytes::from(codec::encode(&Command {
                guards: vec![],
                steps,
            }))
        };
        assert!(relieves(&command(STEPS_MAX)));
        assert!(!relieves(&command(STEPS_MAX + 1)));
    }

    #[test]
    fn only_entries_that_free_space_relieve() {
        let at = Expected::Id(SecretId([1; 16]));
        let destroy = Operation::Delete {
            at,
            recoverable_ms: None,
        };
        let keep = Operation::Delete {
            at,
            recoverable_ms: Some(1),
        };
        assert_eq!(
            classify(&entry(vec![destroy.clone(), Operation::Tick])),
            EntryClass::Relieving
        );
        assert_eq!(classify(&entry(vec![destroy, keep])), EntryClass::Ordinary);
        assert_eq!(classify(&Bytes::from_static(b"garbage")), EntryClass::Ordinary);
    }
}
