//! The same entries give the same stored pairs and digests, however they are cut into runs, and
//! also when a checkpoint was installed in between.

use super::{fixtures::*, model::commands};
use crate::{apply::Order, command::Command, state::Store};
use conclave_raft::state_machine::{CommittedPayload, StateMachine};
use proptest::prelude::*;

/// Entries of several commands each, with pauses.
fn entries() -> impl Strategy<Value = Vec<(u64, Vec<Command>)>> {
    let entry = (
        prop_oneof![4 => 0_u64..50, 1 => Just(61_000)],
        prop::collection::vec(commands(), 0..6),
    );
    prop::collection::vec(entry, 1..40)
}

fn fill(bench: &mut Bench, entries: &[(u64, Vec<Command>)]) {
    for (pause_ms, commands) in entries {
        bench.time_ms += pause_ms;
        if commands.is_empty() {
            bench.apply_payload(CommittedPayload::Blank);
        } else {
            let proposals = commands.iter().map(|command| bench.proposal(command)).collect();
            bench.apply(proposals);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_same_entries_give_the_same_pairs(entries in entries(), cuts in prop::collection::vec(1_usize..9, 1..5), install_at in 0_usize..40) {
        let mut one_by_one = Bench::new();
        fill(&mut one_by_one, &entries);
        one_by_one.scanned_digest();

        // The same log in runs of other lengths, with a checkpoint installed on the way.
        let mut other = Bench::new();
        let mut log = one_by_one.log.clone().into_iter();
        let mut applied = 0;
        let mut cuts = cuts.into_iter().cycle();
        loop {
            let run: Vec<_> = log.by_ref().take(cuts.next().unwrap()).collect();
            if run.is_empty() {
                break;
            }
            let before = applied;
            applied += run.len();
            other.store.apply(run).unwrap();
            if (before..applied).contains(&install_at) {
                let successor = Bench::new();
                let checkpoint = other.store.checkpoint(other.directory.path().join("checkpoint")).unwrap();
                successor.store.install(checkpoint).unwrap();
                other = successor;
            }
        }
        prop_assert_eq!(other.pairs(), one_by_one.pairs());
        other.scanned_digest();
    }
}

/// Two replicas of which one applies in another order come apart, and the digest tells.
#[test]
fn the_digest_catches_random_apply_order() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        let proposals = (0..8)
            .map(|value| bench.proposal(&steps(vec![crate::command::Operation::Put(put(1, value))])))
            .collect();
        bench.apply(proposals);
    }
    let replica = |order| {
        let directory = tempfile::tempdir().unwrap();
        let replica = Store::open(directory.path()).unwrap();
        replica.apply_in(&bench.log, order).unwrap();
        let digest = replica.view().scan_digest(None, || true).unwrap().unwrap();
        // Each is right by itself; only together they show the fault.
        assert_eq!(digest.scanned, digest.running);
        digest.scanned
    };
    let mine = bench.scanned_digest();
    assert_eq!(replica(Order::AsProposed), mine);
    assert_ne!(replica(Order::Random), mine);
}

#[test]
fn a_digest_tells_two_states_apart() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let directory = tempfile::tempdir().unwrap();
    let replica = Store::open(directory.path()).unwrap();
    replica.apply(bench.log.clone()).unwrap();
    assert_eq!(replica.view().running_digest().unwrap(), bench.scanned_digest());
    bench.put(put(1, 11));
    assert_ne!(replica.view().running_digest().unwrap(), bench.scanned_digest());
}
