//! Whether enough was done for the other checks to mean something. A run in which hardly anything
//! succeeded finds nothing wrong, and says nothing.

use super::{Check, Finding, Verdict};
use crate::history::{Operation, Outcome};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Wants so many answers a second over all clients, some of every workload, and a share of all calls.
pub fn check(history: &[Operation], load: Duration, workloads: &[&str]) -> Check {
    let mut counts: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for operation in history {
        let of = counts.entry(&operation.workload).or_default();
        of[match operation.outcome {
            Outcome::Ok { .. } => 0,
            Outcome::Fail { .. } => 1,
            Outcome::Info { .. } => 2,
        }] += 1;
    }
    let total = counts.values().fold([0, 0, 0], |sum, of| {
        [0, 1, 2].map(|kind: usize| sum[kind] + of[kind])
    });
    let [ok, failed, unknown] = total;
    let mut lacking = Vec::new();
    let wanted = load.as_secs() * ANSWERS_PER_S;
    if ok < wanted {
        lacking.push(format!(
            "{ok} answers in {} s: at least {wanted} are wanted",
            load.as_secs()
        ));
    }
    if ok * 5 < ok + failed + unknown {
        lacking.push(format!(
            "{ok} answers, {failed} failures, {unknown} unknown: less than a fifth was answered"
        ));
    }
    for workload in workloads {
        let of = counts.get(workload).map_or(0, |of| of[0]);
        if of < load.as_secs() / 10 {
            lacking.push(format!("{of} answers to clients of {workload}"));
        }
    }
    let findings = lacking.into_iter().map(|text| Finding {
        secret: None,
        operations: Vec::new(),
        text,
    });
    let by_workload = counts.iter().map(|(workload, [ok, failed, unknown])| {
        (
            (*workload).to_owned(),
            json!({ "ok": ok, "fail": failed, "info": unknown }),
        )
    });
    let figures = vec![
        ("ok", ok.into()),
        ("fail", failed.into()),
        ("info", unknown.into()),
        ("by-workload", Value::Object(by_workload.collect())),
    ];
    let mut check = Check::of("enough", findings.collect(), figures);
    if check.verdict == Verdict::Invalid {
        check.verdict = Verdict::Unknown;
    }
    check
}

/// Of all clients together: a tenth of what they reach on a slow machine without faults.
const ANSWERS_PER_S: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::test_history::{answered, put, unknown, version};

    #[test]
    fn a_run_with_too_few_answers_is_no_success() {
        let good: Vec<Operation> = (0..100)
            .map(|id| answered(id, put(7), 0, 1, version(1)))
            .collect();
        let verdict = |history: &[Operation], workloads: &[&str]| {
            check(history, Duration::from_secs(10), workloads).verdict
        };
        assert_eq!(verdict(&good, &["registers"]), Verdict::Valid);
        assert_eq!(verdict(&good, &["registers", "ledger"]), Verdict::Unknown);
        assert_eq!(verdict(&good[1..], &["registers"]), Verdict::Unknown);
        assert_eq!(verdict(&[], &[]), Verdict::Unknown);
        let mut hopeless = good;
        hopeless.extend((100..600).map(|id| unknown(id, put(7), 0)));
        assert_eq!(verdict(&hopeless, &["registers"]), Verdict::Unknown);
    }
}
