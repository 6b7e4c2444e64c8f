//! Any bytes in place of what the log carries and of what the disk holds. Whatever
//! was committed, apply answers it and goes on: one poisoned entry must not stop every node.

use super::{fixtures::*, model::commands};
use crate::{
    command::{
        AtAuditLimit, AuditRetention, Command, Entry, EntryResponse, Expected, Look, Operation, Outcome,
        Proposal, Refusing, SealedPart, Stamp, VersionChange, Which,
    },
    model::{AuditKey, AuditRecord, PlaceRecord, ProposalId, SecretRecord, Version, VersionRecord},
    state::{Joined, Meta, StoredValue, WindowRow, keys},
};
use conclave_fuzz::{explore, golden, in_bounded_memory};
use conclave_raft::{
    codec,
    identity::RaftId,
    state_machine::{CommittedEntry, CommittedPayload, LogPosition},
};
use proptest::{strategy::Strategy, strategy::ValueTree, test_runner::TestRunner};
use std::panic::AssertUnwindSafe;

/// Rows of the state, and the keys that hold more than an id.
#[test]
fn rows() {
    explore!("rows", golden(include_str!("golden.txt")), |input: &[u8]| {
        read::<Meta>(input);
        read::<Joined>(input);
        read::<PlaceRecord>(input);
        read::<SecretRecord>(input);
        read::<VersionRecord>(input);
        read::<StoredValue>(input);
        read::<WindowRow>(input);
        read::<Outcome>(input);
        read::<AuditRecord>(input);
        if let Some(key) = AuditKey::from_key(input) {
            assert_eq!(key.to_key()[..], *input);
        }
        assert!(keys::version_of_key(input).is_none_or(|_| input.len() == 20));
        assert_eq!(keys::index_at_start(input).is_some(), input.len() >= 8);
    });
}

/// What one command does to a state in which there is something of everything.
#[test]
fn any_command() {
    let bench = AssertUnwindSafe(furnished());
    explore!("any_command", command_seeds(), move |input: &[u8]| {
        read::<Command>(input);
        let bench = &*bench;
        let entry = Entry {
            stamp: Stamp {
                term: TERM,
                time_ms: bench.time_ms,
            },
            proposals: vec![Proposal {
                id: ProposalId([200; 16]),
                made_at_index: bench.index - 1,
                node: RaftId(1),
                command: input.to_vec().into(),
            }],
        };
        let response = answered(bench, codec::encode(&entry), input.len());
        assert_eq!(response.outcomes.len(), 1);
    });
}

/// The same of a whole entry, with its stamp and the ids of its proposals.
#[test]
fn any_entry() {
    let bench = AssertUnwindSafe(furnished());
    let seeds = command_seeds().into_iter().map(|command| {
        let proposal = Proposal {
            id: ProposalId([200; 16]),
            made_at_index: 20,
            node: RaftId(1),
            command: command.into(),
        };
        let stamp = Stamp {
            term: TERM,
            time_ms: 70_000,
        };
        codec::encode(&Entry {
            stamp,
            proposals: vec![proposal],
        })
    });
    explore!("any_entry", seeds, move |input: &[u8]| {
        let proposals = read::<Entry>(input).map(|entry| entry.proposals.len());
        let response = answered(&bench, input.to_vec(), input.len());
        // An entry that is none has one refusal for all.
        assert_eq!(response.outcomes.len(), proposals.unwrap_or(1));
    });
}

/// Applies an entry without writing what it does, twice: both must do the same.
fn answered(bench: &Bench, payload: Vec<u8>, input_bytes: usize) -> EntryResponse {
    let entry = CommittedEntry {
        position: LogPosition {
            term: TERM,
            index: bench.index,
        },
        payload: CommittedPayload::Proposal(payload.into()),
        answered: true,
    };
    let apply = || {
        bench
            .store
            .apply_without_writing(&entry)
            .expect("only damage is an error")
    };
    let (response, digest) = in_bounded_memory(input_bytes, apply);
    assert!(
        apply() == (response.clone(), digest),
        "the same entry did something else"
    );
    codec::decode(&response).expect("an entry is answered by a record")
}

/// A state with secrets that are there, deleted and destroyed, versions in every state, and outcomes.
fn furnished() -> Bench {
    let mut bench = Bench::new();
    for (secret, value) in [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1)] {
        bench.put(put(secret, value));
    }
    for (number, change) in [
        (2, VersionChange::Disable),
        (3, VersionChange::Delete { recoverable_ms: None }),
        (4, VersionChange::Destroy),
    ] {
        bench.run(changed(number, change));
    }
    bench.run(deleted(3, Some(3_600_000)));
    bench.run(deleted(4, None));
    bench.command(&tick());
    bench
}

fn changed(number: u32, change: VersionChange) -> Operation {
    Operation::ChangeVersions {
        at: at(1),
        versions: vec![version(number)],
        change,
        spare_active: false,
        refuse_destroyed: false,
    }
}

fn deleted(secret: u8, recoverable_ms: Option<u64>) -> Operation {
    Operation::Delete {
        at: at(secret),
        recoverable_ms,
    }
}

/// One of each kind, and some dozens of several steps as the model's test draws them.
fn command_seeds() -> Vec<Vec<u8>> {
    let kinds = [
        Operation::Create {
            place: place(9),
            secret: id(9),
            create: create(Default::default()),
        },
        Operation::Put(put(1, 9)),
        Operation::Put(put(9, 9)),
        Operation::Activate {
            at: at(1),
            version: version(1),
        },
        changed(1, VersionChange::Undelete),
        deleted(1, Some(1)),
        Operation::Restore {
            secret: id(3),
            place: place(3),
        },
        Operation::Move {
            at: Expected::Id(id(2)),
            to: place(8),
            name: sealed(1),
        },
        Operation::Configure {
            at: at(1),
            metadata: Some(sealed(2)),
            settings: Some(Default::default()),
        },
        Operation::ConfigureVersion {
            at: at(1),
            version: Version::FIRST,
            metadata: None,
            lifetime_ms: Some(Some(u64::MAX)),
            disclosures_left: Some(Some(1)),
            on_end: None,
        },
        disclose(at(1), Which::Latest),
        Operation::Look(Look::Secret(at(1))),
        Operation::Look(Look::Several { looks: 3 }),
        Operation::Refuse(Refusing {
            place: Some(place(1)),
            version: None,
            attempts: 2,
        }),
        Operation::Reseal {
            secret: id(1),
            part: SealedPart::Value(Version::FIRST),
            replacement: sealed(3),
        },
        Operation::AllocateRaftId,
        Operation::RaiseRules { version: 2 },
        Operation::SetAuditRetention(AuditRetention {
            limit_bytes: 64 * 1024,
            at_limit: AtAuditLimit::RefuseDisclosures,
        }),
    ];
    let alone = kinds.into_iter().map(|operation| steps(vec![operation]));
    let mut runner = TestRunner::deterministic();
    let drawn = (0..16).map(move |_| {
        let tree = commands().new_tree(&mut runner);
        tree.expect("commands can be drawn").current()
    });
    let all = alone.chain([tick()]).chain(drawn);
    all.map(|command| codec::encode(&command)).collect()
}
