//! Each proposal once, and lost answers given again.

use super::fixtures::*;
use crate::{
    apply::WINDOW_MS,
    command::{Done, Operation, Outcome, Refusal, SealedPart, VersionChange, Which},
    model::{EndAction, ProposalId},
    state::Table,
};

const TOO_LATE: Outcome = Outcome::Refused {
    step: 0,
    refusal: Refusal::TooLate,
};

#[test]
fn a_copy_gets_the_same_outcome_and_changes_nothing() {
    let mut bench = Bench::new();
    let proposal = bench.proposal(&steps(vec![Operation::Put(put(1, 10))]));
    // Twice in one entry, and again in later ones.
    let outcomes = bench.apply(vec![proposal.clone(), proposal.clone()]);
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(bench.apply(vec![proposal.clone()]), outcomes[..1]);
    bench.time_ms += WINDOW_MS - 1;
    assert_eq!(bench.apply(vec![proposal]), outcomes[..1]);
    assert_eq!(bench.secret(1).versions.len(), 1);
    assert_eq!(bench.store.view().meta().audit.records, 1);
}

#[test]
fn a_refusal_is_remembered_as_well() {
    let mut bench = Bench::new();
    let proposal = bench.proposal(&steps(vec![disclose(at(1), Which::Active)]));
    let first = bench.apply(vec![proposal.clone()]);
    bench.put(put(1, 10));
    assert_eq!(bench.apply(vec![proposal]), first);
}

#[test]
fn a_copy_that_comes_after_the_window_is_refused() {
    let mut bench = Bench::new();
    let proposal = bench.proposal(&steps(vec![Operation::Put(put(1, 10))]));
    bench.apply(vec![proposal.clone()]);
    bench.time_ms += WINDOW_MS;
    bench.command(&tick());
    assert_eq!(bench.store.view().meta().window.outcomes, 0);
    assert_eq!(bench.apply(vec![proposal.clone()]), [TOO_LATE]);
    // Also one that was never applied, but was made before what was forgotten: nobody can know.
    let mut unknown = proposal;
    unknown.id = ProposalId([0xee; 16]);
    assert_eq!(bench.apply(vec![unknown.clone()]), [TOO_LATE]);
    unknown.made_at_index = bench.store.view().meta().window.floor_index;
    assert_ne!(bench.apply(vec![unknown]), [TOO_LATE]);
    bench.scanned_digest();
}

#[test]
fn a_proposal_from_the_future_is_malformed() {
    let mut bench = Bench::new();
    let mut proposal = bench.proposal(&steps(vec![Operation::Put(put(1, 10))]));
    proposal.made_at_index = bench.index;
    let outcome = bench.apply(vec![proposal]).remove(0);
    assert!(matches!(
        outcome,
        Outcome::Refused {
            refusal: Refusal::Malformed(_),
            ..
        }
    ));
}

#[test]
fn a_consumed_value_is_given_again_until_its_outcome_left() {
    let mut bench = Bench::new();
    let mut once = put(1, 10);
    once.disclosures = Some(1);
    once.on_end = Some(EndAction::Destroy);
    bench.put(once);
    let proposal = bench.proposal(&steps(vec![disclose(at(1), Which::Active)]));
    let first = bench.apply(vec![proposal.clone()]);
    assert!(
        matches!(&first[0], Outcome::Done(answers) if matches!(&answers[0], Done::Disclosed(disclosed) if disclosed.value == sealed(10)))
    );
    bench.time_ms += WINDOW_MS - 1;
    assert_eq!(bench.apply(vec![proposal.clone()]), first);
    assert!(
        bench
            .store
            .view()
            .sealed_value(&id(1), version(1))
            .unwrap()
            .is_none()
    );
    assert_eq!(stored_values(&bench), 1);
    bench.time_ms += 1;
    bench.command(&tick());
    assert_eq!(stored_values(&bench), 0);
    assert_eq!(bench.apply(vec![proposal]), [TOO_LATE]);
    bench.scanned_digest();
}

#[test]
fn a_value_that_is_destroyed_or_resealed_later_can_still_be_given_again() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    bench.put(put(2, 20));
    let both = steps(vec![
        disclose(at(1), Which::Active),
        disclose(at(2), Which::Active),
    ]);
    let proposal = bench.proposal(&both);
    let first = bench.apply(vec![proposal.clone()]);
    bench.run(Operation::Reseal {
        secret: id(1),
        part: SealedPart::Value(version(1)),
        replacement: sealed(55),
    });
    bench.run(Operation::Delete {
        at: at(2),
        recoverable_ms: None,
    });
    let again = bench.apply(vec![proposal]);
    let (Outcome::Done(first), Outcome::Done(again)) = (&first[0], &again[0]) else {
        panic!("refused")
    };
    assert_eq!(first[1], again[1]);
    let Done::Disclosed(resealed) = &again[0] else {
        panic!("{:?}", again[0])
    };
    assert_eq!((&resealed.value, resealed.sealed_revision), (&sealed(55), 2));
}

#[test]
fn the_window_keeps_no_values() {
    let mut bench = Bench::new();
    let ciphertext = b"the marked ciphertext";
    let mut marked = put(1, 10);
    marked.value.ciphertext = ciphertext.as_slice().into();
    bench.put(marked);
    bench.disclose(at(1), Which::Active);
    for (table, _, row) in bench.pairs() {
        let holds = row.windows(ciphertext.len()).any(|window| window == ciphertext);
        assert_eq!(holds, table == Table::Value, "{table:?}");
    }
}

#[test]
fn an_idle_cluster_knows_when_to_tick_and_when_to_stop() {
    let mut bench = Bench::new();
    assert_eq!(bench.store.view().upkeep_due_ms().unwrap(), None);
    bench.put(put(1, 10));
    let change = VersionChange::Destroy;
    bench.run(Operation::ChangeVersions {
        at: at(1),
        versions: vec![version(1)],
        change,
        spare_active: false,
        refuse_destroyed: false,
    });
    assert_eq!(
        bench.store.view().upkeep_due_ms().unwrap(),
        Some(bench.time_ms + WINDOW_MS)
    );
    bench.time_ms += WINDOW_MS;
    bench.command(&tick());
    assert_eq!(bench.store.view().upkeep_due_ms().unwrap(), None);
    assert_eq!(stored_values(&bench), 0);
}

#[test]
fn many_outcomes_leave_in_bounded_steps() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let proposals = (0..3_000)
            .map(|_| bench.proposal(&steps(vec![disclose(at(1), Which::Active)])))
            .collect();
        bench.apply(proposals);
    }
    bench.time_ms += WINDOW_MS;
    let mut ticks = 0;
    while bench
        .store
        .view()
        .upkeep_due_ms()
        .unwrap()
        .is_some_and(|due_ms| due_ms <= bench.time_ms)
    {
        bench.command(&tick());
        ticks += 1;
        assert!(ticks < 10);
    }
    assert_eq!(ticks, 2);
    assert_eq!(bench.store.view().meta().window.bytes, 0);
    bench.scanned_digest();
}

fn stored_values(bench: &Bench) -> usize {
    pairs_of(&bench.store, &[Table::Value]).len()
}
