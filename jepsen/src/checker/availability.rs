//! How long calls stood still in each fault: a figure, which no bound decides about here. It is taken
//! from clients that wait 400 ms for an answer and then ask the next node, and is as much too long.

use super::Check;
use crate::{
    history::{Answer, Operation},
    nemesis::Done,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The longest time in each fault, from its beginning until a while after its end, in which no write
/// and no unchanged poll was answered; by fault, the median and the longest of all its strikes.
pub fn check(history: &[Operation], faults: &[Done], end_ns: u64) -> Check {
    let mut writes: Vec<u64> = Vec::new();
    let mut polls: Vec<u64> = Vec::new();
    for operation in history.iter().filter(|operation| operation.workload == PROBE) {
        match (operation.completed_ns, operation.answer()) {
            (Some(at_ns), Some(Answer::NotModified)) => polls.push(at_ns),
            (Some(at_ns), Some(_)) if operation.call.writes() => writes.push(at_ns),
            _ => {}
        }
    }
    writes.sort_unstable();
    polls.sort_unstable();
    let mut gaps: BTreeMap<&str, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    for fault in faults {
        let from_ns = fault.began_ns;
        let until_ns = fault
            .ended_ns
            .unwrap_or(end_ns)
            .saturating_add(SETTLING_NS)
            .min(end_ns);
        let (of_writes, of_polls) = gaps.entry(&fault.fault).or_default();
        of_writes.push(longest_gap_ms(&writes, from_ns, until_ns));
        of_polls.push(longest_gap_ms(&polls, from_ns, until_ns));
    }
    let figures: Vec<(&str, Value)> = gaps
        .into_iter()
        .map(|(fault, (writes, polls))| {
            let figures = json!({
                "strikes": writes.len(),
                "writes-median-ms": median(writes.clone()),
                "writes-longest-ms": writes.iter().max(),
                "polls-median-ms": median(polls.clone()),
                "polls-longest-ms": polls.iter().max(),
            });
            (fault, figures)
        })
        .collect();
    Check::of("availability", Vec::new(), figures)
}

/// The workload whose clients do not wait long: [`crate::workload::Workload::Probe`].
const PROBE: &str = "probe";
/// After a fault ended.
const SETTLING_NS: u64 = 1_500_000_000;

fn longest_gap_ms(times: &[u64], from_ns: u64, until_ns: u64) -> u64 {
    let first = times.partition_point(|at| *at <= from_ns);
    let last = times.partition_point(|at| *at <= until_ns);
    let within = &times[first..last.max(first)];
    let mut before = from_ns;
    let mut longest = 0;
    for at in within.iter().copied().chain([until_ns]) {
        longest = longest.max(at.saturating_sub(before));
        before = at;
    }
    longest / 1_000_000
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::test_history::{answered, put, version};

    #[test]
    fn the_longest_pause_within_a_fault_is_found() {
        let times = [1, 2, 3, 9, 10, 30];
        let history: Vec<Operation> = times
            .iter()
            .enumerate()
            .map(|(id, at)| answered(id, put(7), at * 1_000 - 1, at * 1_000, version(1)))
            .map(|operation| Operation {
                workload: PROBE.to_owned(),
                ..operation
            })
            .collect();
        let fault = Done {
            fault: "kill-leader".to_owned(),
            nodes: vec![0],
            leader: Some(0),
            began_ns: 2_500_000_000,
            ended_ns: Some(8_800_000_000),
            notes: Vec::new(),
        };
        let figures = check(&history, &[fault], 40_000_000_000).figures;
        assert_eq!(figures["kill-leader"]["writes-longest-ms"], 6_000);
        assert_eq!(figures["kill-leader"]["polls-longest-ms"], 7_800);
    }
}
