//! What may be done without an audit record, and nothing else.

use super::fixtures::*;
use crate::{
    apply::AUDIT_LIMIT_BYTES_MIN,
    command::{
        AtAuditLimit, AuditRetention, Command, Expected, Look, NumberChoice, Operation, Outcome,
        Precondition, Put, Refusal, Refusing, SealedPart, VersionChange, Which,
    },
    model::{Action, AuditRecord, OutcomeKind, Place, Token},
};
use bytes::Bytes;

fn systems(byte: u8) -> Place {
    Place {
        namespace: Token::SYSTEM_NAMESPACE,
        ..place(byte)
    }
}

fn put_at(place: Place, secret: u8) -> Put {
    Put {
        place,
        ..put(secret, secret)
    }
}

fn unrecorded(operation: Operation) -> Command {
    let mut command = steps(vec![operation]);
    command.steps[0].audit = None;
    command
}

/// Everything that is done to or said of the secret that lies at the place.
fn about(place: Place, secret: u8) -> Vec<Operation> {
    let at = Expected::At(place);
    vec![
        Operation::Put(put_at(place, secret)),
        Operation::Activate {
            at,
            version: version(1),
        },
        Operation::ChangeVersions {
            at: Expected::Id(id(secret)),
            versions: vec![version(1)],
            change: VersionChange::Disable,
            spare_active: false,
            refuse_destroyed: false,
        },
        Operation::Configure {
            at,
            metadata: None,
            settings: None,
        },
        Operation::ConfigureVersion {
            at,
            version: version(1),
            metadata: None,
            lifetime_ms: None,
            disclosures_left: None,
            on_end: None,
        },
        disclose(at, Which::Latest),
        disclose(Expected::Id(id(secret)), Which::Latest),
        Operation::Look(Look::Secret(at)),
        Operation::Look(Look::Store(place)),
        Operation::Delete {
            at,
            recoverable_ms: Some(1_000),
        },
        Operation::Restore {
            secret: id(secret),
            place,
        },
        Operation::Delete {
            at,
            recoverable_ms: None,
        },
    ]
}

fn audit(bench: &Bench) -> Vec<AuditRecord> {
    let page = bench.store.view().audit(&Default::default(), None, 1_000, false);
    page.unwrap()
        .records
        .into_iter()
        .map(|(_, record)| record)
        .collect()
}

#[track_caller]
fn assert_refused(bench: &mut Bench, command: &Command) {
    let outcome = bench.command(command);
    let Outcome::Refused {
        step: 0,
        refusal: Refusal::Malformed(reason),
    } = outcome
    else {
        panic!("{outcome:?} for {command:?}")
    };
    assert!(reason.contains("audit record"), "{reason}");
}

#[test]
fn nothing_is_done_to_a_clients_secret_without_a_record() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let seen = bench.secret(1);
    let mut operations = about(place(1), 1);
    operations.extend([
        Operation::Create {
            place: place(2),
            secret: id(2),
            create: create(Default::default()),
        },
        Operation::Move {
            at: at(1),
            to: systems(1),
            name: sealed(1),
        },
        Operation::Look(Look::Other),
        Operation::Refuse(Refusing {
            place: None,
            version: None,
            attempts: 1,
        }),
    ]);
    for operation in operations {
        assert_refused(&mut bench, &unrecorded(operation.clone()));
        // A stub that says nothing is none.
        let mut empty = steps(vec![operation]);
        let stub = empty.steps[0].audit.as_mut().unwrap();
        stub.sealed.ciphertext = Bytes::new();
        assert_refused(&mut bench, &empty);
    }
    assert_eq!(bench.secret(1), seen);
    assert_eq!(audit(&bench).len(), 1, "that of the first put");
    // Nor as a guard, beside a step that is spoken for.
    let mut guarded = steps(vec![Operation::Put(put(1, 11))]);
    guarded.guards = unrecorded(disclose(at(1), Which::Active)).steps;
    assert_refused(&mut bench, &guarded);
    assert_eq!(bench.secret(1), seen);
    bench.scanned_digest();
}

#[test]
fn what_lies_in_the_systems_namespace_is_the_edges_own() {
    let mut bench = Bench::new();
    let is_restored = |operation: &Operation| matches!(operation, Operation::Restore { .. });
    for operation in about(systems(1), 1)
        .into_iter()
        .take_while(|operation| !is_restored(operation))
    {
        let outcome = bench.command(&unrecorded(operation.clone()));
        let expected = matches!(&outcome, Outcome::Done(_))
            // It was disabled before.
            || matches!(&operation, Operation::Disclose { .. });
        assert!(expected, "{outcome:?} for {operation:?}");
    }
    assert_eq!(audit(&bench).len(), 0);
    // But it does not leave that namespace unseen.
    bench.command(&unrecorded(Operation::Put(put_at(systems(2), 2))));
    assert_refused(
        &mut bench,
        &unrecorded(Operation::Move {
            at: Expected::At(systems(2)),
            to: place(2),
            name: sealed(1),
        }),
    );
}

#[test]
fn the_numbers_of_the_systems_places_cannot_be_used_up() {
    let mut bench = Bench::new();
    let last = |place, secret| Put {
        number: NumberChoice::Exactly(version(u32::MAX)),
        ..put_at(place, secret)
    };
    bench.run(Operation::Put(last(place(1), 1)));
    bench.run(Operation::Put(last(place(2), 2)));
    bench.run(Operation::Delete {
        at: at(2),
        recoverable_ms: Some(1_000),
    });
    bench.command(&unrecorded(Operation::Put(put_at(systems(3), 3))));
    for operation in [
        Operation::Put(last(systems(3), 3)),
        Operation::Put(last(systems(4), 4)),
        Operation::Move {
            at: at(1),
            to: systems(4),
            name: sealed(1),
        },
        Operation::Restore {
            secret: id(2),
            place: systems(4),
        },
    ] {
        // Although each brings a record, as somebody with a node's certificate can make one.
        let refusal = bench.refused(operation);
        assert!(
            matches!(&refusal, Refusal::Malformed(reason) if reason.contains("numbers")),
            "{refusal:?}"
        );
    }
    for put in [put_at(systems(3), 3), put_at(systems(4), 4)] {
        let outcome = bench.command(&unrecorded(Operation::Put(put)));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
    bench.scanned_digest();
}

#[test]
fn resealing_leaves_no_record() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let mut reseal = unrecorded(Operation::Reseal {
        secret: id(1),
        part: SealedPart::Value(version(1)),
        replacement: sealed(55),
    });
    reseal.steps[0].preconditions = vec![Precondition::AtRevision {
        secret: id(1),
        revision: 1,
    }];
    assert!(matches!(bench.command(&reseal), Outcome::Done(_)));
    assert_eq!(audit(&bench).len(), 1);
}

#[test]
fn a_change_of_the_audits_limit_is_always_recorded() {
    let mut bench = Bench::new();
    let set = |limit_bytes| {
        Operation::SetAuditRetention(AuditRetention {
            limit_bytes,
            at_limit: AtAuditLimit::PruneOldest,
        })
    };
    // A new cluster's leader sets it once; nobody speaks for that but the core.
    assert!(matches!(
        bench.command(&unrecorded(set(1 << 20))),
        Outcome::Done(_)
    ));
    assert_refused(&mut bench, &unrecorded(set(AUDIT_LIMIT_BYTES_MIN)));
    assert_eq!(bench.store.view().meta().retention.limit_bytes, 1 << 20);
    bench.run(set(1 << 21));
    assert_eq!(bench.store.view().meta().retention.limit_bytes, 1 << 21);
    let records = audit(&bench);
    let seen: Vec<_> = records
        .iter()
        .map(|record| (record.action, record.outcome, record.principal == Token::NONE))
        .collect();
    assert_eq!(
        seen,
        [
            (Action::Operate, OutcomeKind::Done, true),
            (Action::Operate, OutcomeKind::Refused, true),
            (Action::Operate, OutcomeKind::Done, false),
        ]
    );
    assert!(records[0].sealed.ciphertext.is_empty());
    bench.scanned_digest();
}
