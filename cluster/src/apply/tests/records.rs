//! An audit record for everything, chained, bounded, found.

use super::fixtures::*;
use crate::{
    apply::{cluster::DESTROYED_IS_NOT_FOUND, leaf_hash},
    audit::AuditFilter,
    command::{
        AtAuditLimit, AuditRetention, Look, Operation, Outcome, Precondition, Refusal, Refusing,
        VersionChange, Which,
    },
    model::{Action, AuditKey, AuditRecord, OutcomeKind, Place, Token},
    state::{Table, keys},
};
use conclave_raft::codec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn all(bench: &Bench, filter: &AuditFilter) -> Vec<(AuditKey, AuditRecord)> {
    bench
        .store
        .view()
        .audit(filter, None, usize::MAX, false)
        .unwrap()
        .records
}

#[test]
fn each_outcome_has_its_kind() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    bench.refused(disclose(at(2), Which::Active));
    bench.refused(Operation::Put(crate::command::Put {
        check_and_set: Some(9),
        ..put(1, 1)
    }));
    let refusing = Refusing {
        place: Some(place(1)),
        version: Some(version(4)),
        attempts: 12,
    };
    bench.run(Operation::Refuse(refusing));
    let whole_store = Place {
        name: Token::NONE,
        ..place(1)
    };
    bench.run(Operation::Look(Look::Store(whole_store)));
    bench.run(Operation::Look(Look::Other));
    bench.run(Operation::Look(Look::Several { looks: 7 }));
    let records: Vec<AuditRecord> = all(&bench, &AuditFilter::default())
        .into_iter()
        .map(|(_, record)| record)
        .collect();
    let kinds: Vec<OutcomeKind> = records.iter().map(|record| record.outcome).collect();
    use OutcomeKind::{Denied, Done, NotFound, Refused};
    assert_eq!(kinds, [Done, NotFound, Refused, Denied, Done, Done, Done]);
    assert_eq!(
        (records[0].secret, records[0].version),
        (Some(id(1)), Some(version(1)))
    );
    assert_eq!((records[1].place, records[1].secret), (Some(place(2)), None));
    assert_eq!(records[2].secret, Some(id(1)), "the one that lies there");
    assert_eq!((records[3].attempts, records[3].version), (12, Some(version(4))));
    assert_eq!(records[4].place, Some(whole_store));
    assert_eq!((records[5].place, records[5].place_count), (None, 0));
    assert_eq!((records[5].attempts, records[6].attempts), (1, 7));
}

/// By the rules before it was refused; what was recorded then stays as it is.
#[test]
fn a_destroyed_version_is_recorded_as_not_found() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    bench.put(put(1, 11));
    for change in [VersionChange::Disable, VersionChange::Destroy] {
        bench.run(Operation::ChangeVersions {
            at: at(1),
            versions: vec![version(2)],
            change,
            spare_active: true,
            refuse_destroyed: false,
        });
        let ask = disclose(at(1), Which::Number(version(2)));
        assert!(matches!(bench.refused(ask.clone()), Refusal::NotAvailable { .. }));
        if change == VersionChange::Destroy {
            bench.run(Operation::RaiseRules {
                version: DESTROYED_IS_NOT_FOUND,
            });
            bench.refused(ask);
            bench.refused(disclose(at(1), Which::Number(version(9))));
        }
    }
    let gets = AuditFilter {
        actions: vec![Action::Get],
        ..AuditFilter::default()
    };
    let records = all(&bench, &gets);
    let seen: Vec<_> = records
        .iter()
        .map(|(_, record)| (record.outcome, record.version))
        .collect();
    use OutcomeKind::{NotFound, Refused};
    assert_eq!(
        seen,
        [
            (Refused, Some(version(2))),
            (Refused, Some(version(2))),
            (NotFound, Some(version(2))),
            (NotFound, Some(version(9))),
        ]
    );
}

#[test]
fn a_put_that_is_to_be_sealed_again_leaves_no_record() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let before = all(&bench, &AuditFilter::default());
    let other = crate::command::Put {
        place: place(1),
        ..put(3, 1)
    };
    assert_eq!(
        bench.refused(Operation::Put(other.clone())),
        Refusal::OtherSecret { secret: id(1) }
    );
    let gone = crate::command::Put {
        create: None,
        ..put(2, 1)
    };
    assert_eq!(bench.refused(Operation::Put(gone)), Refusal::NotFound);
    // Nor do the steps that it takes along: the whole command is proposed again.
    let outcome = bench.command(&steps(vec![
        disclose(at(1), Which::Active),
        Operation::Put(other),
    ]));
    assert!(matches!(outcome, Outcome::Refused { step: 1, .. }), "{outcome:?}");
    assert_eq!(all(&bench, &AuditFilter::default()), before);

    // One that brings the means to make a secret, and still cannot, is its caller's refusal.
    bench.run(Operation::Delete {
        at: at(1),
        recoverable_ms: None,
    });
    let before = all(&bench, &AuditFilter::default()).len();
    assert_eq!(bench.refused(Operation::Put(put(1, 10))), Refusal::NotFound);
    assert_eq!(all(&bench, &AuditFilter::default()).len(), before + 1);
}

#[test]
fn a_place_chains_its_records() {
    let mut bench = Bench::new();
    for value in 0..5 {
        bench.put(put(1, value));
        bench.put(put(2, value));
        bench.disclose(at(1), Which::Latest);
    }
    let mut chains: BTreeMap<Place, (u64, [u8; 32])> = BTreeMap::new();
    for (key, record) in all(&bench, &AuditFilter::default()) {
        let row: AuditRecord = bench
            .store
            .view()
            .get(Table::Audit, &key.to_key())
            .unwrap()
            .unwrap();
        assert_eq!(row, record);
        let chain = chains.entry(record.place.unwrap()).or_default();
        assert_eq!((record.place_count, record.previous_leaf), (chain.0 + 1, chain.1));
        *chain = (record.place_count, leaf_hash(&codec::encode(&record)));
    }
    for (place, chain) in chains {
        let record = bench.store.view().place(&place).unwrap().unwrap();
        assert_eq!((record.audit_count, record.last_leaf), chain);
    }
}

#[test]
fn a_leaf_is_that_of_rfc_9162() {
    // SHA-256 of a single zero byte: the leaf hash of an empty entry.
    let hex: String = leaf_hash(b"").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    );
}

#[test]
fn the_oldest_are_pruned_and_the_gap_is_recorded() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let limit_bytes = 16 * 1024;
    bench.run(Operation::SetAuditRetention(AuditRetention {
        limit_bytes,
        at_limit: AtAuditLimit::PruneOldest,
    }));
    let mut written = 2;
    for _ in 0..40 {
        let proposals = (0..10)
            .map(|_| bench.proposal(&steps(vec![disclose(at(1), Which::Active)])))
            .collect();
        bench.apply(proposals);
        written += 10;
        assert!(bench.store.view().meta().audit.bytes <= limit_bytes + 512);
    }
    let records = all(&bench, &AuditFilter::default());
    let meta = bench.store.view().meta().audit;
    assert_eq!(records.len() as u64, meta.records);
    let gaps: Vec<&AuditRecord> = records
        .iter()
        .map(|(_, record)| record)
        .filter(|record| record.action == Action::Prune)
        .collect();
    // What is left, and what the gaps stand for, is all that was written. Those that the last gap
    // swallowed count in it.
    let plain = records.len() - gaps.len();
    let gone: u64 = gaps.iter().map(|gap| u64::from(gap.attempts)).sum();
    assert_eq!(plain as u64 + gone, written);
    assert!(gaps.len() > 1, "the audit was at its limit more than once");
    // The indexes name the entries of what is left, and no others.
    let named = |prefix_of: &dyn Fn(&AuditRecord) -> Vec<u8>| -> BTreeSet<Vec<u8>> {
        let keys = records.iter().map(|(key, record)| {
            let mut prefix = prefix_of(record);
            prefix.extend(key.index.to_be_bytes());
            prefix
        });
        keys.collect()
    };
    let stored = |table| -> BTreeSet<Vec<u8>> {
        let pairs = pairs_of(&bench.store, &[table]);
        pairs.into_iter().map(|(_, key, _)| key.to_vec()).collect()
    };
    assert_eq!(
        stored(Table::AuditByKind),
        named(&|record| keys::audit_kind_prefix(record.action, record.outcome))
    );
    assert_eq!(
        stored(Table::AuditByPrincipal),
        named(&|record| keys::audit_principal_prefix(record.principal))
    );
    assert_eq!(
        meta.bytes as usize,
        pairs_of(&bench.store, &[Table::Audit])
            .iter()
            .map(|(_, key, row)| key.len() + row.len())
            .sum::<usize>()
    );
    bench.scanned_digest();
}

#[test]
fn or_disclosures_are_refused() {
    let mut bench = Bench::new();
    bench.put(put(1, 10));
    let retention = |limit_bytes| AuditRetention {
        limit_bytes,
        at_limit: AtAuditLimit::RefuseDisclosures,
    };
    bench.run(Operation::SetAuditRetention(retention(16 * 1024)));
    let command = steps(vec![disclose(at(1), Which::Active)]);
    let full = Outcome::Refused {
        step: 0,
        refusal: Refusal::AuditFull,
    };
    while bench.command(&command) != full {
        assert!(bench.store.view().meta().audit.bytes < 17 * 1024);
    }
    // What is refused is recorded, but takes a part of the room that is left only.
    let records = |bench: &Bench| bench.store.view().meta().audit.records;
    let mut before = records(&bench) - 1;
    while records(&bench) > before {
        before = records(&bench);
        assert_eq!(bench.command(&command), full);
        assert!(bench.store.view().meta().audit.bytes < 19 * 1024);
    }
    let last = all(&bench, &AuditFilter::default()).pop().expect("records").1;
    assert_eq!((last.action, last.outcome), (Action::Get, OutcomeKind::Refused));
    // Everything else goes on for a while, and then ends as well: a limit is a limit.
    let change = steps(vec![Operation::Put(put(1, 11))]);
    while bench.command(&change) != full {
        assert!(bench.store.view().meta().audit.bytes < 21 * 1024);
    }
    let before = records(&bench);
    assert_eq!(bench.command(&change), full);
    assert_eq!(records(&bench), before, "a full audit does not grow by refusing");
    // Nor by what is abandoned because a step that needs no record was refused.
    let refused = crate::command::Step {
        preconditions: vec![Precondition::Absent { place: place(1) }],
        ..tick().steps.remove(0)
    };
    let mut abandoning = command.clone();
    abandoning.steps.insert(0, refused);
    assert!(matches!(
        bench.command(&abandoning),
        Outcome::Refused {
            refusal: Refusal::Precondition { .. },
            ..
        }
    ));
    assert_eq!(records(&bench), before);
    // A change of the limit ends it.
    bench.run(Operation::SetAuditRetention(retention(32 * 1024)));
    assert!(matches!(bench.command(&command), Outcome::Done(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_finds_what_a_scan_finds(
        seeds in prop::collection::vec((0_u8..4, 0_u8..3, 0_u8..4, 0_u64..3), 1..120),
        filter in filter(),
        page in 1_usize..20,
        descending: bool,
    ) {
        let mut bench = Bench::new();
        for (about, principal, action, pause_ms) in seeds {
            bench.time_ms += pause_ms;
            let mut command = steps(vec![match action {
                0 => disclose(at(about), Which::Active),
                1 => Operation::Put(put(about, 1)),
                2 => Operation::Refuse(Refusing { place: (about > 0).then(|| place(about)), version: None, attempts: 1 }),
                _ => Operation::Look(Look::Other),
            }]);
            command.steps[0].audit.as_mut().unwrap().principal = Token([principal; 16]);
            let twice = vec![bench.proposal(&command), bench.proposal(&command)];
            bench.apply(twice);
        }
        let mut expected: Vec<(AuditKey, AuditRecord)> =
            all(&bench, &AuditFilter::default()).into_iter().filter(|(_, record)| matches(&filter, record)).collect();
        if descending {
            expected.reverse();
        }
        let view = bench.store.view();
        let mut found = Vec::new();
        let mut from = None;
        loop {
            let answer = view.audit(&filter, from, page, descending).unwrap();
            prop_assert!(answer.records.len() <= page);
            found.extend(answer.records);
            match answer.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        prop_assert_eq!(found, expected);
    }
}

fn filter() -> impl Strategy<Value = AuditFilter> {
    let times = (prop::option::of(990_u64..1_200), prop::option::of(990_u64..1_200));
    let who = (prop::option::of(0_u8..5), prop::option::of(0_u8..4));
    let actions = prop::sample::subsequence(
        vec![Action::Get, Action::Put, Action::Operate, Action::Login],
        0..3,
    );
    let outcome = prop::option::of(prop::sample::select(OutcomeKind::ALL.to_vec()));
    (times, who, actions, outcome).prop_map(|((since_ms, until_ms), (about, principal), actions, outcome)| {
        AuditFilter {
            since_ms,
            until_ms,
            place: about.map(place),
            principal: principal.map(|principal| Token([principal; 16])),
            actions,
            outcome,
        }
    })
}

fn matches(filter: &AuditFilter, record: &AuditRecord) -> bool {
    filter.since_ms.is_none_or(|since_ms| record.time_ms >= since_ms)
        && filter.until_ms.is_none_or(|until_ms| record.time_ms < until_ms)
        && filter.place.is_none_or(|place| record.place == Some(place))
        && filter
            .principal
            .is_none_or(|principal| record.principal == principal)
        && (filter.actions.is_empty() || filter.actions.contains(&record.action))
        && filter.outcome.is_none_or(|outcome| record.outcome == outcome)
}

#[test]
fn a_million_records_answer_within_a_second() {
    let mut bench = Bench::new();
    let mut rare = steps(vec![Operation::Look(Look::Other)]);
    rare.steps[0].audit.as_mut().unwrap().principal = Token([77; 16]);
    for index in 0..1_000 {
        bench.time_ms += 1_000;
        let mut proposals: Vec<_> = (0..1_000_u32)
            .map(|n| {
                let mut command = steps(vec![disclose(at((n % 200) as u8), Which::Active)]);
                command.steps[0].audit.as_mut().unwrap().principal = Token([(n % 7) as u8; 16]);
                bench.proposal(&command)
            })
            .collect();
        if index % 100 == 50 {
            proposals.push(bench.proposal(&rare));
        }
        bench.apply(proposals);
    }
    assert!(bench.store.view().meta().audit.records >= 1_000_000);
    let end_ms = bench.time_ms;
    let filters = [
        AuditFilter::default(),
        AuditFilter {
            since_ms: Some(end_ms / 2),
            until_ms: Some(end_ms / 2 + 1),
            ..AuditFilter::default()
        },
        AuditFilter {
            place: Some(place(3)),
            principal: Some(Token([4; 16])),
            ..AuditFilter::default()
        },
        AuditFilter {
            place: Some(place(3)),
            principal: Some(Token([77; 16])),
            ..AuditFilter::default()
        },
        AuditFilter {
            principal: Some(Token([77; 16])),
            ..AuditFilter::default()
        },
        AuditFilter {
            principal: Some(Token([4; 16])),
            outcome: Some(OutcomeKind::Done),
            ..AuditFilter::default()
        },
        AuditFilter {
            outcome: Some(OutcomeKind::Denied),
            ..AuditFilter::default()
        },
    ];
    for filter in filters {
        for descending in [false, true] {
            let started = std::time::Instant::now();
            let page = bench
                .store
                .view()
                .audit(&filter, None, 1_000, descending)
                .unwrap();
            let took = started.elapsed();
            assert!(
                took.as_millis() < 1_000,
                "{took:?} for {} records of {filter:?}",
                page.records.len()
            );
        }
    }
}
