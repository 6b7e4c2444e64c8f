//! What was answered before something else was asked has its record before the other's: so no record was
//! committed only after its answer, when others were being written meanwhile. Needs no clocks but the
//! harness's, and holds through every fault (design, section 2: the record before the disclosure).

use super::{Check, Finding};
use crate::history::{Answer, Operation};
use conclave::api::conclave::messages::AuditEntry;
use std::collections::HashMap;

/// Where a record lies: index, position, step.
type Place = (u64, u64, u64);

/// Compares real time with the audit's order, over all answers that have one record.
pub fn check(history: &[Operation], audit: &[AuditEntry]) -> Check {
    let mut findings = Vec::new();
    let mut places: HashMap<&str, Option<Place>> = HashMap::new();
    for record in audit {
        let Some(request_id) = &record.request_id else {
            continue;
        };
        let Some(place) = place(&record.id) else {
            findings.push(Finding {
                secret: None,
                operations: Vec::new(),
                text: format!("the record id {:?} is no place", record.id),
            });
            continue;
        };
        // Of two records of one request `audit` tells.
        places
            .entry(request_id)
            .and_modify(|known| *known = None)
            .or_insert(Some(place));
    }
    let recorded = history.iter().filter_map(|operation| {
        // Refusals may share records.
        let answered = operation.answer().is_some_and(|answer| *answer != Answer::Denied);
        let place = places.get(operation.request_id.as_deref()?).copied().flatten()?;
        Some((operation, place)).filter(|_| answered)
    });
    let mut by_invocation: Vec<(&Operation, Place)> = recorded.collect();
    let mut by_answer = by_invocation.clone();
    by_invocation.sort_by_key(|(operation, _)| operation.invoked_ns);
    by_answer.sort_by_key(|(operation, _)| operation.completed_ns);
    let mut answers = by_answer.into_iter().peekable();
    let mut latest: Option<(&Operation, Place)> = None;
    let compared = by_invocation.len();
    for (operation, place) in by_invocation {
        let before = |(other, _): &(&Operation, Place)| other.completed_ns < Some(operation.invoked_ns);
        while let Some(answered) = answers.next_if(before) {
            latest = latest
                .into_iter()
                .chain([answered])
                .max_by_key(|(_, place)| *place);
        }
        if let Some((earlier, record)) = latest
            && record > place
        {
            findings.push(Finding {
                secret: earlier.secret.clone(),
                operations: vec![earlier.id, operation.id],
                text: format!(
                    "the first was answered before the second was asked, and its record {record:?} lies after the \
                     other's {place:?}"
                ),
            });
        }
    }
    Check::of("order", findings, vec![("records", compared.into())])
}

fn place(id: &str) -> Option<Place> {
    let mut parts = id.split('-').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::{
            Verdict,
            audit::test_records::record,
            test_history::{answered, put, value, version},
        },
        history::Call,
    };

    #[test]
    fn a_record_that_came_after_its_answer_is_caught() {
        let history = [
            answered(0, put(7), 0, 10, version(1)),
            answered(1, Call::Get, 20, 30, value(1, 7)),
            answered(2, put(8), 25, 50, version(2)),
            answered(3, Call::Get, 40, 60, value(1, 7)),
        ];
        let verdict = |indices: [u64; 4]| {
            let audit = history.iter().zip(indices).map(|(operation, index)| AuditEntry {
                id: format!("{index}-2-0"),
                ..record(operation, operation.call.name(), "done", None)
            });
            check(&history, &audit.collect::<Vec<_>>()).verdict
        };
        assert_eq!(verdict([5, 6, 7, 8]), Verdict::Valid);
        // Those that overlap may come in any order, or share an entry.
        assert_eq!(verdict([5, 8, 6, 9]), Verdict::Valid);
        // 1 was answered before 3 was asked.
        assert_eq!(verdict([5, 9, 6, 8]), Verdict::Invalid);
        assert_eq!(verdict([10, 11, 12, 9]), Verdict::Invalid);
    }

    #[test]
    fn a_record_without_a_place_is_caught() {
        let history = [answered(0, put(7), 0, 10, version(1))];
        let audit = [AuditEntry {
            id: "elsewhere".to_owned(),
            ..record(&history[0], "put", "done", Some(1))
        }];
        assert_eq!(check(&history, &audit).verdict, Verdict::Invalid);
    }
}
