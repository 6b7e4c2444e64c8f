//! Places, numbers, lifetimes, disclosures.

use super::fixtures::*;
use crate::{
    command::{
        Activation, Done, Expected, Look, NumberChoice, Operation, Refusal, SameValue, SealedPart,
        VersionChange, Which,
    },
    model::{EndAction, SecretSettings, VersionState},
    node::Change,
};

#[test]
fn the_first_put_activates_and_later_ones_do_not() {
    let mut bench = Bench::new();
    let answer = bench.run(Operation::Put(put(1, 10)));
    assert_eq!(
        answer,
        Done::Version {
            secret: id(1),
            version: version(1),
            stored: true,
            active: true
        }
    );
    let answer = bench.run(Operation::Put(put(1, 11)));
    assert_eq!(
        answer,
        Done::Version {
            secret: id(1),
            version: version(2),
            stored: true,
            active: false
        }
    );
    let disclosed = bench.disclose(at(1), Which::Active);
    assert_eq!(
        (disclosed.version, disclosed.value, disclosed.active),
        (version(1), sealed(10), true)
    );
    assert_eq!(bench.disclose(at(1), Which::Latest).value, sealed(11));
    bench.run(Operation::Activate {
        at: at(1),
        version: version(2),
    });
    assert_eq!(bench.disclose(at(1), Which::Active).value, sealed(11));
    bench.scanned_digest();
}

#[test]
fn the_same_value_is_kept_once() {
    let mut bench = Bench::new();
    let same = |value| {
        let mut put = put(1, value);
        put.same_value = SameValue::KeepActiveOrLatest;
        put
    };
    assert_eq!(bench.put(same(10)), 1);
    assert_eq!(bench.put(same(11)), 2);
    assert_eq!(bench.put(same(12)), 3);
    assert_eq!(bench.put(same(10)), 1, "the active version has it");
    assert_eq!(bench.put(same(12)), 3, "the latest has it");
    assert_eq!(
        bench.put(same(11)),
        4,
        "another than the active and the latest does not count"
    );
    let mut other_key = same(10);
    other_key.digest.key = 2;
    assert_eq!(
        bench.put(other_key),
        5,
        "digests under different keys are never compared"
    );
    let change = VersionChange::Disable;
    bench.run(Operation::ChangeVersions {
        at: at(1),
        versions: vec![version(1)],
        change,
        spare_active: false,
        refuse_destroyed: false,
    });
    assert_eq!(
        bench.put(same(10)),
        6,
        "a disabled version cannot stand for the value"
    );
}

#[test]
fn numbers_are_never_used_twice_at_a_place() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    bench.put(put(1, 11));
    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: None,
    });
    // Another secret at the same place goes on above, and activates.
    let mut second = put(2, 12);
    second.place = place(1);
    let answer = bench.run(Operation::Put(second.clone()));
    assert_eq!(
        answer,
        Done::Version {
            secret: id(2),
            version: version(3),
            stored: true,
            active: true
        }
    );
    second.number = NumberChoice::Exactly(version(2));
    assert_eq!(
        bench.refused(Operation::Put(second.clone())),
        Refusal::NumberUsed { version: version(2) }
    );
    second.number = NumberChoice::Exactly(version(u32::MAX));
    assert_eq!(bench.put(second.clone()), u32::MAX);
    second.number = NumberChoice::Next;
    assert_eq!(bench.refused(Operation::Put(second)), Refusal::NumbersExhausted);
    assert_eq!(
        bench.refused(Operation::Put(put(1, 10))),
        Refusal::OtherSecret { secret: id(2) }
    );
}

#[test]
fn an_id_is_never_used_twice() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: None,
    });
    assert_eq!(bench.refused(Operation::Put(put(1, 10))), Refusal::NotFound);
    let operation = Operation::Create {
        place: place(1),
        secret: id(1),
        create: create(SecretSettings::default()),
    };
    assert_eq!(bench.refused(operation), Refusal::AlreadyExists);
}

#[test]
fn a_deleted_secret_comes_back_while_it_may() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: Some(1_000),
    });
    assert_eq!(bench.refused(disclose(at(1), Which::Active)), Refusal::NotFound);
    assert_eq!(
        bench.refused(disclose(Expected::Id(id(1)), Which::Active)),
        Refusal::NotFound
    );
    assert_eq!(bench.secret(1).restorable_until_ms, Some(bench.time_ms + 1_000));
    assert!(matches!(
        bench.run(Operation::Look(Look::Secret(Expected::Id(id(1))))),
        Done::Secret(_)
    ));
    let restore = Operation::Restore {
        secret: id(1),
        place: place(1),
    };
    let elsewhere = Operation::Restore {
        secret: id(1),
        place: place(2),
    };
    assert_eq!(bench.refused(elsewhere), Refusal::NotRestorable);

    let mut other = put(2, 11);
    other.place = place(1);
    assert_eq!(
        bench.put(other),
        2,
        "the number after those of the one that may come back"
    );
    assert_eq!(bench.refused(restore.clone()), Refusal::AlreadyExists);
    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: None,
    });
    bench.run(restore.clone());
    assert_eq!(bench.disclose(at(1), Which::Active).value, sealed(10));
    assert_eq!(bench.put(put(1, 12)), 3, "2 was used by the other one");

    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: Some(1_000),
    });
    bench.time_ms += 1_000;
    assert_eq!(bench.refused(restore), Refusal::NotRestorable);
    // Time hides it, and only a command destroys it.
    assert!(
        bench
            .store
            .view()
            .sealed_value(&id(1), version(1))
            .unwrap()
            .is_some()
    );
    bench.run(Operation::Delete {
        at: Expected::Id(id(1)),
        recoverable_ms: None,
    });
    assert!(
        bench
            .store
            .view()
            .sealed_value(&id(1), version(1))
            .unwrap()
            .is_none()
    );
    bench.scanned_digest();
}

#[test]
fn a_move_changes_only_the_place() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let moved = |to| Operation::Move {
        at: Expected::Id(id(1)),
        to: place(to),
        name: sealed(99),
    };
    bench.run(moved(2));
    assert_eq!(bench.refused(disclose(at(1), Which::Active)), Refusal::NotFound);
    let view = bench.secret(1);
    assert_eq!(
        (view.place, view.name, view.active),
        (Some(place(2)), sealed(99), Some(version(1)))
    );
    assert_eq!(bench.disclose(at(2), Which::Active).value, sealed(10));
    bench.run(moved(1));
    bench.run(moved(2));
    // A new secret at the old place uses 2, and then the first one does too, where it is now.
    let mut other = put(3, 11);
    other.place = place(1);
    assert_eq!(bench.put(other), 2);
    let mut at_new_place = put(1, 12);
    at_new_place.place = place(2);
    assert_eq!(bench.put(at_new_place), 2);
    assert_eq!(bench.refused(moved(1)), Refusal::AlreadyExists);
    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: None,
    });
    assert_eq!(bench.refused(moved(1)), Refusal::NumbersOverlap);
}

#[test]
fn expiry_hides_and_never_destroys() {
    let mut bench = Bench::new();
    let mut expiring = put(1, 10);
    expiring.lifetime_ms = Some(500);
    expiring.on_end = Some(EndAction::Destroy);
    bench.put(expiring);
    assert_eq!(
        bench.disclose(at(1), Which::Active).expires_ms,
        Some(bench.time_ms + 500)
    );
    bench.time_ms += 499;
    bench.disclose(at(1), Which::Active);
    bench.time_ms += 1;
    let hidden = Refusal::NotAvailable {
        version: version(1),
        state: VersionState::Deleted { until_ms: None },
    };
    assert_eq!(bench.refused(disclose(at(1), Which::Active)), hidden);
    assert_eq!(
        bench.refused(disclose(at(1), Which::LatestEnabled)),
        Refusal::VersionNotFound
    );
    assert!(
        bench
            .store
            .view()
            .sealed_value(&id(1), version(1))
            .unwrap()
            .is_some()
    );
    bench.run(Operation::ConfigureVersion {
        at: at(1),
        version: version(1),
        metadata: None,
        lifetime_ms: Some(None),
        disclosures_left: None,
        on_end: None,
    });
    assert_eq!(bench.disclose(at(1), Which::Active).value, sealed(10));
}

#[test]
fn the_last_disclosure_acts() {
    for (on_end, state) in [
        (EndAction::Disable, VersionState::Disabled),
        (EndAction::Delete, VersionState::Deleted { until_ms: None }),
        (EndAction::Destroy, VersionState::Destroyed),
    ] {
        let mut bench = Bench::new();
        let mut limited = put(1, 10);
        limited.disclosures = Some(2);
        limited.on_end = Some(on_end);
        bench.put(limited);
        assert_eq!(bench.disclose(at(1), Which::Active).disclosures_left, Some(1));
        let revision = bench.secret(1).revision;
        assert_eq!(revision, 1, "a use is no change");
        assert_eq!(bench.disclose(at(1), Which::Active).disclosures_left, Some(0));
        assert_eq!(bench.secret(1).revision, 2, "what its end does is one");
        assert_eq!(bench.secret(1).sealed_revision, 1);
        assert_eq!(bench.secret(1).versions[0].state, state);
        let refusal = bench.refused(disclose(at(1), Which::Number(version(1))));
        assert_eq!(
            refusal,
            Refusal::NotAvailable {
                version: version(1),
                state
            }
        );
        let row = bench.store.view().version(&id(1), version(1)).unwrap().unwrap();
        assert_eq!(row.digest.is_none(), on_end == EndAction::Destroy);
        bench.scanned_digest();
    }
}

#[test]
fn a_destroyed_active_version_leaves_none_active() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let change = VersionChange::Destroy;
    let destroy = |spare_active| Operation::ChangeVersions {
        at: at(1),
        versions: vec![version(1)],
        change,
        spare_active,
        refuse_destroyed: false,
    };
    assert_eq!(
        bench.refused(destroy(true)),
        Refusal::ActiveVersion { version: version(1) }
    );
    bench.run(destroy(false));
    bench.run(destroy(false));
    assert_eq!(bench.secret(1).active, None);
    let again = Operation::ChangeVersions {
        at: at(1),
        versions: vec![version(1)],
        change,
        spare_active: false,
        refuse_destroyed: true,
    };
    assert_eq!(
        bench.refused(again),
        Refusal::NotAvailable {
            version: version(1),
            state: VersionState::Destroyed
        }
    );
    assert_eq!(
        bench.refused(disclose(at(1), Which::Active)),
        Refusal::VersionNotFound
    );
    let answer = bench.run(Operation::Put(put(1, 11)));
    assert_eq!(
        answer,
        Done::Version {
            secret: id(1),
            version: version(2),
            stored: true,
            active: true
        }
    );
}

#[test]
fn only_so_many_versions_are_kept() {
    let mut bench = Bench::new();
    let mut kept = put(1, 1);
    kept.create = Some(create(SecretSettings {
        keep_versions: Some(3),
        ..Default::default()
    }));
    for value in 1..=6 {
        kept.value = sealed(value);
        kept.digest = digest(value);
        bench.put(kept.clone());
    }
    // The active one stays, however old.
    let numbers: Vec<u32> = bench
        .secret(1)
        .versions
        .iter()
        .map(|version| version.version.get())
        .collect();
    assert_eq!(numbers, [1, 5, 6]);
    let destroyed = Refusal::NotAvailable {
        version: version(3),
        state: VersionState::Destroyed,
    };
    assert_eq!(
        bench.refused(disclose(at(1), Which::Number(version(3)))),
        destroyed
    );
    kept.activation = Activation::Always;
    bench.put(kept);
    let numbers: Vec<u32> = bench
        .secret(1)
        .versions
        .iter()
        .map(|version| version.version.get())
        .collect();
    assert_eq!(numbers, [5, 6, 7]);
}

#[test]
fn a_poll_of_the_active_version_leaves_no_record() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let poll = |known| Operation::Disclose {
        at: at(1),
        which: Which::Active,
        unless_active_is: Some(version(known)),
    };
    let records = bench.store.view().meta().audit.records;
    assert_eq!(bench.run(poll(1)), Done::NotModified { version: version(1) });
    assert_eq!(bench.store.view().meta().audit.records, records);
    assert!(matches!(bench.run(poll(2)), Done::Disclosed(_)));
    assert_eq!(bench.store.view().meta().audit.records, records + 1);
    let change = VersionChange::Disable;
    bench.run(Operation::ChangeVersions {
        at: at(1),
        versions: vec![version(1)],
        change,
        spare_active: false,
        refuse_destroyed: false,
    });
    let refusal = Refusal::NotAvailable {
        version: version(1),
        state: VersionState::Disabled,
    };
    assert_eq!(bench.refused(poll(1)), refusal);
}

#[test]
fn resealing_replaces_bytes_and_nothing_else() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let before = bench.secret(1);
    let reseal = |part| Operation::Reseal {
        secret: id(1),
        part,
        replacement: sealed(77),
    };
    bench.time_ms += 5;
    bench.run(reseal(SealedPart::Value(version(1))));
    bench.run(reseal(SealedPart::Name));
    assert_eq!(bench.refused(reseal(SealedPart::Metadata)), Refusal::NotFound);
    assert_eq!(
        bench.refused(reseal(SealedPart::VersionMetadata(version(1)))),
        Refusal::NotFound
    );
    assert_eq!(
        bench.refused(reseal(SealedPart::Value(version(9)))),
        Refusal::VersionNotFound
    );
    let after = bench.secret(1);
    assert_eq!(after.changed_ms, before.changed_ms);
    assert_eq!((after.sealed_revision, after.name), (3, sealed(77)));
    let disclosed = bench.disclose(at(1), Which::Active);
    assert_eq!((disclosed.value, disclosed.sealed_revision), (sealed(77), 2));
    assert_eq!(disclosed.digest, digest(10));
}

#[test]
fn edges_hear_of_names_that_come_and_go() {
    let mut bench = Bench::new();
    let mut changes = bench.store.changes();
    bench.put(put(1, 10));
    bench.disclose(at(1), Which::Active);
    bench.put(put(1, 11));
    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: None,
    });
    assert_eq!(
        changes.try_recv().unwrap(),
        Change::Secret {
            secret: id(1),
            index: 1
        }
    );
    assert_eq!(
        changes.try_recv().unwrap(),
        Change::Secret {
            secret: id(1),
            index: 4
        }
    );
    assert!(changes.try_recv().is_err());
}
