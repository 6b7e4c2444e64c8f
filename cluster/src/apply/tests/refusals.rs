//! What breaks a rule is refused, and changes nothing.

use super::fixtures::*;
use crate::{
    apply::{NEWEST_RULES, STEPS_MAX},
    command::{
        AtAuditLimit, AuditRetention, Command, Done, Entry, Expected, NumberChoice, Operation, Outcome,
        Precondition, Refusal, Stamp, VersionChange, Which,
    },
    model::{Action, AuditKey, OutcomeKind, ProposalId, SecretSettings, VersionState},
};
use bytes::Bytes;
use conclave_raft::{
    codec,
    identity::{NodeRecord, RaftId},
    state_machine::CommittedPayload,
    types::encode_membership,
};
use std::collections::{BTreeMap, BTreeSet};

fn malformed(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Refused {
            step: 0,
            refusal: Refusal::Malformed(_)
        }
    )
}

fn change(numbers: &[u32], change: VersionChange) -> Operation {
    let versions = numbers.iter().map(|&number| version(number)).collect();
    Operation::ChangeVersions {
        at: at(1),
        versions,
        change,
        spare_active: false,
        refuse_destroyed: false,
    }
}

#[test]
fn garbage_stops_nobody() {
    let mut bench = Bench::new();
    let response = bench.apply_payload(CommittedPayload::Proposal(Bytes::from_static(b"garbage")));
    assert!(response.outcomes[0].as_ref().is_some_and(malformed));
    let response = bench.apply_payload(CommittedPayload::Proposal(Bytes::new()));
    assert!(response.outcomes[0].as_ref().is_some_and(malformed));
    let mut garbage = bench.proposal(&tick());
    garbage.command = Bytes::from_static(&[1, 255, 255, 255]);
    let good = bench.proposal(&steps(vec![Operation::Put(put(1, 10))]));
    let outcomes = bench.apply(vec![garbage, good]);
    assert!(malformed(&outcomes[0]));
    assert!(matches!(outcomes[1], Outcome::Done(_)));
    bench.scanned_digest();
}

#[test]
fn limits_of_a_command() {
    let mut bench = Bench::new();
    assert!(malformed(&bench.command(&steps(vec![
        disclose(
            at(1),
            Which::Active
        );
        STEPS_MAX + 1
    ]))));
    assert!(malformed(&bench.command(&steps(vec![]))));
    assert!(malformed(&bench.command(&steps(vec![change(
        &vec![1; 5_000],
        VersionChange::Destroy
    )]))));
    let mut command = steps(vec![disclose(at(1), Which::Active)]);
    command.steps[0].preconditions = vec![Precondition::Absent { place: place(1) }; 65];
    assert!(malformed(&bench.command(&command)));
    bench.put(put(1, 10));
    for number in (3..9_000).step_by(2).map(version) {
        let mut gap = put(1, 10);
        gap.number = NumberChoice::Exactly(number);
        let outcome = bench.command(&steps(vec![Operation::Put(gap)]));
        if malformed(&outcome) {
            assert_eq!(number.get(), 2 * 4096 + 1);
            return;
        }
    }
    panic!("the number of gaps is not bounded");
}

#[test]
fn what_is_not_there() {
    let mut bench = Bench::new();
    let nowhere = [
        disclose(at(1), Which::Active),
        disclose(Expected::Id(id(1)), Which::Active),
        Operation::Activate {
            at: at(1),
            version: version(1),
        },
        change(&[1], VersionChange::Destroy),
        Operation::Delete {
            at: at(1),
            recoverable_ms: None,
        },
        Operation::Restore {
            secret: id(1),
            place: place(1),
        },
        Operation::Move {
            at: at(1),
            to: place(2),
            name: sealed(1),
        },
        Operation::Configure {
            at: at(1),
            metadata: None,
            settings: None,
        },
        Operation::Look(crate::command::Look::Secret(at(1))),
    ];
    for operation in nowhere {
        assert_eq!(bench.refused(operation), Refusal::NotFound);
    }
    let mut without_create = put(1, 10);
    without_create.create = None;
    assert_eq!(bench.refused(Operation::Put(without_create)), Refusal::NotFound);
    bench.put(put(1, 10));
    assert_eq!(
        bench.refused(disclose(at(1), Which::Number(version(2)))),
        Refusal::VersionNotFound
    );
    assert_eq!(
        bench.refused(change(&[1, 2], VersionChange::Destroy)),
        Refusal::VersionNotFound
    );
    let operation = Operation::Activate {
        at: at(1),
        version: version(2),
    };
    assert_eq!(bench.refused(operation), Refusal::VersionNotFound);
}

#[test]
fn check_and_set() {
    let mut bench = Bench::new();
    let mut checked = put(1, 10);
    checked.create = Some(create(SecretSettings {
        check_and_set_required: true,
        ..SecretSettings::default()
    }));
    assert_eq!(
        bench.refused(Operation::Put(checked.clone())),
        Refusal::CheckAndSetRequired
    );
    checked.check_and_set = Some(1);
    assert_eq!(
        bench.refused(Operation::Put(checked.clone())),
        Refusal::CheckAndSet { latest: 0 }
    );
    checked.check_and_set = Some(0);
    assert_eq!(bench.put(checked.clone()), 1);
    assert_eq!(
        bench.refused(Operation::Put(checked.clone())),
        Refusal::CheckAndSet { latest: 1 }
    );
    // Destroying the latest does not let an older expectation hold again.
    checked.check_and_set = Some(1);
    assert_eq!(bench.put(checked.clone()), 2);
    bench.run(change(&[2], VersionChange::Destroy));
    assert_eq!(
        bench.refused(Operation::Put(checked.clone())),
        Refusal::CheckAndSet { latest: 2 }
    );
    checked.check_and_set = None;
    assert_eq!(
        bench.refused(Operation::Put(checked)),
        Refusal::CheckAndSetRequired
    );
}

#[test]
fn states_of_versions() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let not_available = |state| Refusal::NotAvailable {
        version: version(1),
        state,
    };
    bench.run(change(&[1], VersionChange::Enable));
    assert_eq!(bench.secret(1).revision, 1, "what is so already is no change");
    bench.run(change(&[1], VersionChange::Disable));
    bench.run(change(&[1], VersionChange::Disable));
    assert_eq!(bench.secret(1).revision, 2);
    let activate = Operation::Activate {
        at: at(1),
        version: version(1),
    };
    assert_eq!(bench.refused(activate), not_available(VersionState::Disabled));
    bench.run(change(&[1], VersionChange::Undelete));
    assert_eq!(bench.secret(1).versions[0].state, VersionState::Disabled);
    bench.run(change(
        &[1],
        VersionChange::Delete {
            recoverable_ms: Some(10),
        },
    ));
    let deleted = VersionState::Deleted {
        until_ms: Some(bench.time_ms + 10),
    };
    assert_eq!(
        bench.refused(change(&[1], VersionChange::Disable)),
        not_available(deleted)
    );
    bench.time_ms += 10;
    assert_eq!(
        bench.refused(change(&[1], VersionChange::Undelete)),
        not_available(deleted)
    );
    assert_eq!(
        bench.refused(change(&[1], VersionChange::Enable)),
        not_available(deleted)
    );
    bench.run(change(&[1], VersionChange::Destroy));
    for wanted in [
        VersionChange::Enable,
        VersionChange::Disable,
        VersionChange::Undelete,
    ] {
        assert_eq!(
            bench.refused(change(&[1], wanted)),
            not_available(VersionState::Destroyed)
        );
    }
    bench.run(change(&[1], VersionChange::Delete { recoverable_ms: None }));
}

#[test]
fn a_protected_secret_is_not_deleted() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let settings = SecretSettings {
        protected: true,
        ..SecretSettings::default()
    };
    bench.run(Operation::Configure {
        at: at(1),
        metadata: None,
        settings: Some(settings),
    });
    for recoverable_ms in [None, Some(10)] {
        assert_eq!(
            bench.refused(Operation::Delete {
                at: at(1),
                recoverable_ms
            }),
            Refusal::Protected
        );
    }
}

#[test]
fn preconditions_name_any_record() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let try_with = |bench: &mut Bench, preconditions: Vec<Precondition>| {
        let mut command = steps(vec![Operation::Put(put(2, 20))]);
        command.steps[0].preconditions = preconditions;
        bench.command(&command)
    };
    let held = [
        Precondition::Absent { place: place(9) },
        Precondition::Present {
            place: place(1),
            secret: None,
        },
        Precondition::Present {
            place: place(1),
            secret: Some(id(1)),
        },
        Precondition::AtRevision {
            secret: id(1),
            revision: 1,
        },
        Precondition::AtSealedRevision {
            secret: id(1),
            sealed_revision: 1,
        },
        Precondition::Available {
            secret: id(1),
            version: version(1),
        },
    ];
    let broken = [
        Precondition::Absent { place: place(1) },
        Precondition::Present {
            place: place(9),
            secret: None,
        },
        Precondition::Present {
            place: place(1),
            secret: Some(id(2)),
        },
        Precondition::AtRevision {
            secret: id(1),
            revision: 2,
        },
        Precondition::AtRevision {
            secret: id(9),
            revision: 0,
        },
        Precondition::AtSealedRevision {
            secret: id(1),
            sealed_revision: 0,
        },
        Precondition::Available {
            secret: id(1),
            version: version(2),
        },
    ];
    assert!(matches!(try_with(&mut bench, held.to_vec()), Outcome::Done(_)));
    for precondition in broken {
        let outcome = try_with(&mut bench, vec![held[0], precondition]);
        assert_eq!(
            outcome,
            Outcome::Refused {
                step: 0,
                refusal: Refusal::Precondition { number: 1 }
            }
        );
    }
}

#[test]
fn guards_stay_and_steps_are_all_or_nothing() {
    let mut bench = Bench::new();
    let mut token = put(1, 10);
    token.disclosures = Some(1);
    bench.put(token);
    let command = Command {
        guards: vec![step(disclose(at(1), Which::Active))],
        steps: vec![
            step(Operation::Put(put(2, 20))),
            step(disclose(at(3), Which::Active)),
            step(Operation::Put(put(4, 40))),
        ],
    };
    assert_eq!(
        bench.command(&command),
        Outcome::Refused {
            step: 2,
            refusal: Refusal::NotFound
        }
    );
    // The use of the guard is spent; of the rest nothing was done, and all of it is recorded.
    assert_eq!(bench.secret(1).versions[0].disclosures_left, Some(0));
    assert!(bench.store.view().secret(&id(2)).unwrap().is_none());
    let index = bench.index - 1;
    let page = bench
        .store
        .view()
        .audit(
            &Default::default(),
            Some(AuditKey {
                index,
                position: 0,
                step: 0,
            }),
            10,
            false,
        )
        .unwrap();
    let kinds: Vec<OutcomeKind> = page.records.iter().map(|(_, record)| record.outcome).collect();
    use OutcomeKind::{Abandoned, Done, NotFound, Refused};
    assert_eq!(kinds, [Done, Abandoned, NotFound, Abandoned]);
    // A guard that is refused ends the command.
    let outcome = bench.command(&command);
    assert!(matches!(
        outcome,
        Outcome::Refused {
            step: 0,
            refusal: Refusal::NotAvailable { .. }
        }
    ));
    let page = bench
        .store
        .view()
        .audit(
            &Default::default(),
            Some(AuditKey {
                index: index + 1,
                position: 0,
                step: 0,
            }),
            10,
            false,
        )
        .unwrap();
    let kinds: Vec<OutcomeKind> = page.records.iter().map(|(_, record)| record.outcome).collect();
    assert_eq!(kinds, [Refused, Abandoned, Abandoned, Abandoned]);
    bench.scanned_digest();
}

#[test]
fn time_is_bound_to_the_term_and_never_goes_back() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    assert_eq!(bench.store.view().time_ms(), 1_000);
    let mut apply = |stamp: Stamp| {
        let entry = codec::encode(&Entry {
            stamp,
            proposals: Vec::new(),
        });
        bench
            .apply_payload(CommittedPayload::Proposal(entry.into()))
            .time_ms
    };
    assert_eq!(
        apply(Stamp {
            term: TERM - 1,
            time_ms: 9_999_999
        }),
        1_000
    );
    assert_eq!(
        apply(Stamp {
            term: TERM,
            time_ms: 10
        }),
        1_000
    );
    assert_eq!(
        apply(Stamp {
            term: TERM,
            time_ms: 1_001
        }),
        1_001
    );
}

#[test]
fn raft_ids_are_above_every_member() {
    let mut bench = Bench::new();
    let nodes: BTreeMap<u64, NodeRecord> = [1, 2, 7].map(|id| (id, NodeRecord::default())).into();
    let membership = openraft_membership(vec![BTreeSet::from([1, 2])], nodes);
    bench.apply_payload(CommittedPayload::Membership(membership));
    assert_eq!(bench.run(Operation::AllocateRaftId), Done::RaftId(8));
    assert_eq!(bench.run(Operation::AllocateRaftId), Done::RaftId(9));
    // It stands alone, and is nobody's but the cluster's.
    let beside = bench.command(&steps(vec![
        Operation::AllocateRaftId,
        Operation::Put(put(1, 10)),
    ]));
    assert!(malformed(&beside));
    let mut spoken_for = steps(vec![Operation::AllocateRaftId]);
    spoken_for.steps[0].audit = Some(stub(Action::Operate));
    assert!(malformed(&bench.command(&spoken_for)));
    assert_eq!(bench.run(Operation::AllocateRaftId), Done::RaftId(10));
    // Members that can't be read change nothing.
    bench.apply_payload(CommittedPayload::Membership(Bytes::from_static(b"?")));
    assert_eq!(bench.run(Operation::AllocateRaftId), Done::RaftId(11));
}

/// What limits how often a node rejoins by itself survives with the state.
#[test]
fn the_state_knows_when_each_member_came() {
    let mut bench = Bench::new();
    let named = |ids: &[u64]| {
        let nodes: BTreeMap<u64, NodeRecord> = ids.iter().map(|id| (*id, NodeRecord::default())).collect();
        CommittedPayload::Membership(openraft_membership(vec![BTreeSet::from([1])], nodes))
    };
    bench.apply_payload(named(&[1, 2]));
    bench.run(Operation::AllocateRaftId);
    bench.apply_payload(named(&[1, 2, 3]));
    bench.time_ms += 5_000;
    bench.run(Operation::Tick);
    bench.apply_payload(named(&[1, 3]));
    let joined = bench.store.view().joined().unwrap();
    assert_eq!(joined, BTreeMap::from([(1, 0), (3, 1_000)]));
}

fn openraft_membership(voters: Vec<BTreeSet<u64>>, nodes: BTreeMap<u64, NodeRecord>) -> Bytes {
    encode_membership(&conclave_raft::types::Membership::new(voters, nodes).unwrap())
}

#[test]
fn rules_rise_one_by_one() {
    let mut bench = Bench::new();
    bench.run(Operation::RaiseRules {
        version: NEWEST_RULES,
    });
    for version in [0, NEWEST_RULES + 2, u32::MAX] {
        let refusal = bench.refused(Operation::RaiseRules { version });
        assert!(matches!(refusal, Refusal::Malformed(_)));
    }
    let mut beside = steps(vec![Operation::RaiseRules {
        version: NEWEST_RULES + 1,
    }]);
    beside.guards = vec![step(Operation::Put(put(1, 10)))];
    let refused = bench.command(&beside);
    assert!(matches!(refused, Outcome::Refused { step: 1, .. }), "{refused:?}");
    // A node that does not know the rules that are in force stops, and says what to do.
    bench.run(Operation::RaiseRules {
        version: NEWEST_RULES + 1,
    });
    let entry = bench.log[0].clone();
    let error = conclave_raft::state_machine::StateMachine::apply(&bench.store, vec![entry]).unwrap_err();
    assert!(error.to_string().contains("upgrade this node"), "{error}");
}

#[test]
fn the_audits_limit_has_a_least() {
    let mut bench = Bench::new();
    let retention = AuditRetention {
        limit_bytes: 1,
        at_limit: AtAuditLimit::PruneOldest,
    };
    assert!(matches!(
        bench.refused(Operation::SetAuditRetention(retention)),
        Refusal::Malformed(_)
    ));
}

#[test]
fn the_leader_names_the_proposing_node() {
    let mut bench = Bench::new();
    let mut proposal = bench.proposal(&steps(vec![Operation::Put(put(1, 10))]));
    proposal.node = RaftId(5);
    proposal.id = ProposalId([3; 16]);
    bench.apply(vec![proposal]);
    let page = bench
        .store
        .view()
        .audit(&Default::default(), None, 10, false)
        .unwrap();
    assert_eq!(page.records[0].1.node, RaftId(5));
}
