//! Nothing that is answered or remembered is large, whatever was asked.

use super::fixtures::*;
use crate::{
    apply::{COMMAND_ANSWER_BYTES_MAX, DESCRIPTION_BYTES_MAX, VERSIONS_MAX},
    command::{
        Done, Entry, EntryResponse, Look, Operation, Outcome, Proposal, Refusal, Stamp, VersionChange, Which,
    },
    state::Table,
};
use conclave_raft::{
    codec,
    state_machine::{CommittedEntry, CommittedPayload, LogPosition, StateMachine},
};

const MIB: usize = 1024 * 1024;

/// A secret with a value of 1 MiB.
fn large(bench: &mut Bench) {
    let mut large = put(1, 10);
    large.value.ciphertext = vec![10; MIB].into();
    bench.put(large);
}

/// Applies an entry, and returns what was answered, as it was encoded.
fn apply(bench: &mut Bench, proposals: Vec<Proposal>, answered: bool) -> Vec<u8> {
    let stamp = Stamp {
        term: TERM,
        time_ms: bench.time_ms,
    };
    let entry = CommittedEntry {
        position: LogPosition {
            term: TERM,
            index: bench.index,
        },
        payload: CommittedPayload::Proposal(codec::encode(&Entry { stamp, proposals }).into()),
        answered,
    };
    bench.index += 1;
    bench.store.apply(vec![entry]).unwrap().remove(0).to_vec()
}

#[test]
fn many_small_disclosures_have_a_bounded_answer_and_the_rest_asks_again() {
    let (mut leader, mut follower) = (Bench::new(), Bench::new());
    large(&mut leader);
    large(&mut follower);
    let proposals: Vec<Proposal> = (0..40)
        .map(|_| leader.proposal(&steps(vec![disclose(at(1), Which::Active)])))
        .collect();
    let answer = apply(&mut leader, proposals.clone(), true);
    assert!(answer.len() < COMMAND_ANSWER_BYTES_MAX + MIB, "{}", answer.len());
    let response: EntryResponse = codec::decode(&answer).unwrap();
    assert_eq!(response.outcomes.len(), 40);
    assert_eq!(response.outcomes.iter().flatten().count(), 15);
    // Where nobody waits nothing is answered, and the state is the same.
    assert!(apply(&mut follower, proposals.clone(), false).is_empty());
    assert_eq!(leader.pairs(), follower.pairs());
    assert_eq!(leader.store.view().meta().audit.records, 41);
    let again = leader.apply(proposals[39..].to_vec()).remove(0);
    let Outcome::Done(answers) = again else {
        panic!("{again:?}")
    };
    let Done::Disclosed(disclosed) = &answers[0] else {
        panic!("{answers:?}")
    };
    assert_eq!(disclosed.value.ciphertext.len(), MIB);
    assert_eq!(leader.store.view().meta().audit.records, 41);
}

#[test]
fn a_command_whose_answer_is_too_large_is_refused_everywhere() {
    let (mut leader, mut follower) = (Bench::new(), Bench::new());
    large(&mut leader);
    large(&mut follower);
    let command = steps(vec![disclose(at(1), Which::Active); 20]);
    let proposal = leader.proposal(&command);
    let response: EntryResponse = codec::decode(&apply(&mut leader, vec![proposal.clone()], true)).unwrap();
    assert!(matches!(
        response.outcomes[0],
        Some(Outcome::Refused {
            refusal: Refusal::AnswerTooLarge,
            ..
        })
    ));
    apply(&mut follower, vec![proposal], false);
    assert_eq!(leader.pairs(), follower.pairs());
}

#[test]
fn names_and_metadata_are_bounded() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let mut long = sealed(1);
    long.ciphertext = vec![1; DESCRIPTION_BYTES_MAX + 1].into();
    let mut with_metadata = put(1, 11);
    with_metadata.metadata = Some(long.clone());
    for operation in [
        Operation::Put(with_metadata),
        Operation::Move {
            at: at(1),
            to: place(2),
            name: long.clone(),
        },
        Operation::Configure {
            at: at(1),
            metadata: Some(long),
            settings: None,
        },
    ] {
        assert!(matches!(bench.refused(operation), Refusal::Malformed(_)));
    }
}

/// What a full disk is to be emptied by must not fill it.
#[test]
fn what_is_left_of_destroyed_versions_is_small() {
    let mut bench = Bench::new();
    for value in 0..20 {
        let mut metadata = sealed(1);
        metadata.ciphertext = vec![1; DESCRIPTION_BYTES_MAX].into();
        let mut with_metadata = put(1, value);
        with_metadata.metadata = Some(metadata);
        bench.put(with_metadata);
    }
    bench.run(Operation::ChangeVersions {
        at: at(1),
        versions: (1..=20).map(version).collect(),
        change: VersionChange::Destroy,
        spare_active: false,
        refuse_destroyed: false,
    });
    let rows = pairs_of(&bench.store, &[Table::Version]);
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|(_, key, row)| key.len() + row.len() < 100));
}

#[test]
fn a_look_is_remembered_without_its_versions_and_told_again_with_them() {
    let mut bench = Bench::new();
    for value in 0..200 {
        bench.put(put(1, value));
    }
    let proposal = bench.proposal(&steps(vec![Operation::Look(Look::Secret(at(1)))]));
    let first = bench.apply(vec![proposal.clone()]).remove(0);
    assert!(first.large_bytes() > 200 * 100);
    let rows = pairs_of(&bench.store, &[Table::Window]);
    let (_, _, row) = rows.last().unwrap();
    assert!(row.len() < 300, "{}", row.len());
    assert_eq!(bench.apply(vec![proposal.clone()]).remove(0), first);
    // A change since then is seen.
    bench.put(put(1, 200));
    assert_ne!(bench.apply(vec![proposal]).remove(0), first);
}

/// Found by `jepsen/` (seeds 8002 and 9002): a copy of a look told of an active version and of none.
#[test]
fn a_look_that_is_told_again_does_not_mix_what_was_with_what_is() {
    for recoverable_ms in [None, Some(60_000)] {
        let mut bench = Bench::new();
        bench.put(put(1, 1));
        let proposal = bench.proposal(&steps(vec![Operation::Look(Look::Secret(at(1)))]));
        bench.apply(vec![proposal.clone()]);
        bench.run(Operation::Delete {
            at: at(1),
            recoverable_ms,
        });
        let Outcome::Done(answers) = bench.apply(vec![proposal]).remove(0) else {
            panic!("refused")
        };
        let Done::Secret(seen) = &answers[0] else {
            panic!("no secret")
        };
        assert_eq!((seen.secret, seen.place, seen.active), (id(1), None, None));
        assert!(seen.versions.is_empty());
    }
}

#[test]
fn a_secret_has_a_bounded_number_of_versions() {
    let mut bench = Bench::new();
    let mut made = 0;
    while made < VERSIONS_MAX {
        let batch = (VERSIONS_MAX - made).min(2048);
        let proposals = (0..batch)
            .map(|_| bench.proposal(&steps(vec![Operation::Put(put(1, 10))])))
            .collect();
        bench.apply(proposals);
        made += batch;
    }
    assert_eq!(bench.secret(1).versions.len(), VERSIONS_MAX as usize);
    let too_many = Refusal::TooManyVersions { limit: VERSIONS_MAX };
    assert_eq!(bench.refused(Operation::Put(put(1, 11))), too_many);
    // What is destroyed makes room.
    bench.run(Operation::ChangeVersions {
        at: at(1),
        versions: (2..=3).map(version).collect(),
        change: VersionChange::Destroy,
        spare_active: true,
        refuse_destroyed: false,
    });
    assert_eq!(bench.put(put(1, 11)), VERSIONS_MAX + 1);
    assert_eq!(bench.put(put(1, 11)), VERSIONS_MAX + 2);
    assert_eq!(bench.refused(Operation::Put(put(1, 11))), too_many);
    // So does a number of versions to keep.
    let settings = crate::model::SecretSettings {
        keep_versions: Some(10),
        ..Default::default()
    };
    bench.run(Operation::Configure {
        at: at(1),
        metadata: None,
        settings: Some(settings),
    });
    bench.put(put(1, 12));
    bench.scanned_digest();
}
