//! Searches every secret of a history: first without the 304s of conditional gets, which may be stale;
//! then with them, each allowed to be as old as the bound. What the second search refuses and the
//! first accepts was staler than was promised.

use super::{
    Check, Finding, Verdict,
    linearizability::{self, Entry, Search},
};
use crate::history::Operation;
use std::{collections::BTreeMap, sync::Mutex, thread, time::Duration};

/// Two checks: linearizability, and the staleness of follower answers.
pub fn check(history: &[Operation], staleness_bound: Duration) -> [Check; 2] {
    let strict = search_all(linearizability::entries(history, None));
    let bound_ns = u64::try_from(staleness_bound.as_nanos()).unwrap_or(u64::MAX);
    let with_polls = linearizability::entries(history, Some(bound_ns));
    let polls = history
        .iter()
        .filter(|operation| is_not_modified(operation))
        .count();
    let good = |(secret, _): &(String, Vec<Entry>)| strict.get(secret) == Some(&Search::Linearizable);
    let stale = search_all(with_polls.into_iter().filter(good).collect());
    // How stale they were at least: the same with a bound of nothing.
    let fresh = linearizability::entries(history, Some(0));
    let fresh = search_all(fresh.into_iter().filter(good).collect());
    let seen_stale = fresh
        .values()
        .filter(|search| matches!(search, Search::Stuck { .. }))
        .count();
    let linearizable = verdict(
        "linearizability",
        &strict,
        vec![("operations", history.len().into())],
        |states| format!("no order is left when this returns; before it the secret was {states}"),
    );
    let staleness = verdict(
        "staleness",
        &stale,
        vec![
            ("answers-304", polls.into()),
            (
                "bound-ms",
                u64::try_from(staleness_bound.as_millis())
                    .unwrap_or(u64::MAX)
                    .into(),
            ),
            ("secrets-with-a-stale-304-within-the-bound", seen_stale.into()),
        ],
        |states| {
            format!(
                "staler than the bound, or a write that contradicts it; before it the secret was {states}"
            )
        },
    );
    [linearizable, staleness]
}

fn is_not_modified(operation: &Operation) -> bool {
    operation.answer() == Some(&crate::history::Answer::NotModified)
}

/// Searches secrets on all processors.
fn search_all(secrets: BTreeMap<String, Vec<Entry>>) -> BTreeMap<String, Search> {
    let work = Mutex::new(secrets.into_iter());
    let done = Mutex::new(BTreeMap::new());
    let next = || {
        work.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .next()
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((secret, entries)) = next() {
                    let search = linearizability::search(&entries);
                    done.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .insert(secret, search);
                }
            });
        }
    });
    done.into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn verdict(
    name: &'static str,
    searches: &BTreeMap<String, Search>,
    mut figures: Vec<(&str, serde_json::Value)>,
    text: impl Fn(String) -> String,
) -> Check {
    let mut findings = Vec::new();
    let mut given_up = Vec::new();
    for (secret, search) in searches {
        match search {
            Search::Linearizable => {}
            Search::GaveUp => given_up.push(secret.clone()),
            Search::Stuck { id, states } => findings.push(Finding {
                secret: Some(secret.clone()),
                operations: vec![*id],
                text: text(
                    states
                        .iter()
                        .map(|state| format!("{state:?}"))
                        .collect::<Vec<_>>()
                        .join(" or "),
                ),
            }),
        }
    }
    figures.push(("secrets", searches.len().into()));
    figures.push(("searches-given-up", given_up.len().into()));
    let mut check = Check::of(name, findings, figures);
    // A few that are too wide leave the rest telling.
    if check.verdict == Verdict::Valid && given_up.len() * 20 > searches.len() {
        check.verdict = Verdict::Unknown;
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::test_history::{answered, put, version},
        history::{Answer, Call},
    };

    #[test]
    fn a_poll_beyond_the_bound_is_stale_and_all_else_stays_linearizable() {
        let history = [
            answered(0, put(7), 0, 1, version(1)),
            answered(1, put(8), 2, 3, version(2)),
            answered(2, Call::Activate { version: 2 }, 10, 20, Answer::Done),
            answered(3, Call::Poll { version: 1 }, 1_000, 1_010, Answer::NotModified),
        ];
        let verdicts = |bound_ms| check(&history, Duration::from_millis(bound_ms)).map(|check| check.verdict);
        assert_eq!(verdicts(2_000), [Verdict::Valid, Verdict::Valid]);
        assert_eq!(verdicts(500), [Verdict::Valid, Verdict::Invalid]);
        let [_, stale] = check(&history, Duration::from_millis(500));
        assert_eq!(stale.findings[0].operations, [3]);
        let [_, within] = check(&history, Duration::from_secs(2));
        assert_eq!(within.figures["secrets-with-a-stale-304-within-the-bound"], 1);
    }

    #[test]
    fn a_lost_write_is_no_staleness() {
        let history = [
            answered(0, put(7), 0, 1, version(1)),
            answered(1, Call::Info, 2, 3, Answer::NotFound),
        ];
        let [linearizable, stale] = check(&history, Duration::from_secs(2));
        assert_eq!(linearizable.verdict, Verdict::Invalid);
        assert_eq!(stale.verdict, Verdict::Valid);
    }
}
