//! Each answer that a client saw has the record that it must have, found by the request's id: a value,
//! the record of its disclosure with this caller, secret and version; a write or a look, its record; a
//! refusal, one that says so; a 304, none. No request has two records that say done. Who has no right
//! to a secret is told nothing about it (design, sections 2, 12 and 13).

use super::{Check, Finding};
use crate::history::{Answer, Call, Operation};
use conclave::api::conclave::messages::AuditEntry;
use std::collections::HashMap;

/// Looks up every answer. `denied_principals` have no right to what they asked for.
pub fn check(history: &[Operation], audit: &[AuditEntry], denied_principals: &[String]) -> Check {
    let mut records: HashMap<&str, Vec<&AuditEntry>> = HashMap::new();
    for record in audit {
        if let Some(request_id) = &record.request_id {
            records.entry(request_id).or_default().push(record);
        }
    }
    let mut findings = Vec::new();
    let (mut disclosures, mut unchanged) = (0, 0);
    for operation in history {
        let Some(answer) = operation.answer() else {
            continue;
        };
        if matches!(answer, Answer::Value { .. }) {
            disclosures += 1;
        }
        if *answer == Answer::NotModified {
            unchanged += 1;
        }
        let own = operation.request_id.as_deref().and_then(|id| records.get(id));
        let own = own.map_or(&[][..], Vec::as_slice);
        let is_denied = denied_principals.contains(&operation.principal);
        let wrong = match answer {
            // Refusals may share records: see `wrong_refusals`.
            Answer::Denied if is_denied && own.is_empty() => None,
            _ if is_denied && *answer != Answer::Denied => {
                Some("somebody without a right was answered".to_owned())
            }
            _ => wrong(operation, answer, own),
        };
        if let Some(text) = wrong {
            findings.push(Finding {
                secret: operation.secret.clone(),
                operations: vec![operation.id],
                text,
            });
        }
    }
    for principal in denied_principals {
        findings.extend(wrong_refusals(history, audit, principal));
    }
    let figures = vec![
        ("records", audit.len().into()),
        ("disclosures", disclosures.into()),
        ("answers-304", unchanged.into()),
    ];
    Check::of("audit", findings, figures)
}

/// What is wrong with the refusals of one caller. Of many in a short time most share a record with a
/// count, and what was counted and not yet written dies with a node: so there may be fewer attempts in
/// records than were answered, but some, and never more than were made.
fn wrong_refusals(history: &[Operation], audit: &[AuditEntry], principal: &str) -> Option<Finding> {
    let made: Vec<&Operation> = history
        .iter()
        .filter(|operation| operation.principal == principal)
        .collect();
    let is_denied = |operation: &&&Operation| operation.answer() == Some(&Answer::Denied);
    let answered = made.iter().filter(is_denied).count();
    let records = audit
        .iter()
        .filter(|record| record.principal.as_deref() == Some(principal));
    let recorded: u64 = records.map(|record| u64::from(record.attempts)).sum();
    let text = if answered > 0 && recorded == 0 {
        format!("{answered} refusals and no record of any")
    } else if recorded > u64::try_from(made.len()).unwrap_or(u64::MAX) {
        format!("{recorded} refusals are recorded of {} calls", made.len())
    } else {
        return None;
    };
    Some(Finding {
        secret: None,
        operations: Vec::new(),
        text,
    })
}

fn wrong(operation: &Operation, answer: &Answer, own: &[&AuditEntry]) -> Option<String> {
    if operation.request_id.is_none() {
        return Some("the answer has no request id".to_owned());
    }
    if *answer == Answer::NotModified {
        return (!own.is_empty()).then(|| "an unchanged poll has a record".to_owned());
    }
    let expected: &[&str] = match (answer, &operation.call) {
        // The look was done, its answer was lost, and the secret was gone when it was asked for again.
        (Answer::NotFound, Call::Info) => &["not-found", "refused", "done"],
        // A secret that is not there is not found; a version that is not there is a refusal.
        (Answer::NotFound, _) => &["not-found", "refused"],
        (Answer::Denied, _) => &["denied"],
        (Answer::VersionUsed | Answer::ActiveVersion, _) => &["refused"],
        // Deleting what is not there succeeds, and the record says that there was nothing.
        (_, Call::Delete) => &["done", "not-found"],
        _ => &["done"],
    };
    let record = match own {
        [] => return Some("the answer has no record".to_owned()),
        [record] => record,
        _ => return Some(format!("{} records of one request", own.len())),
    };
    let version = match (answer, &operation.call) {
        (Answer::Value { version, .. } | Answer::Version { version }, _) => Some(*version),
        _ => None,
    };
    let facts = [
        ("action", record.action.as_str(), action(&operation.call)),
        (
            "principal",
            record.principal.as_deref().unwrap_or_default(),
            operation.principal.as_str(),
        ),
    ];
    for (what, is, should_be) in facts {
        if is != should_be {
            return Some(format!("the record's {what} is {is:?}, not {should_be:?}"));
        }
    }
    if !expected.contains(&record.outcome.as_str()) {
        return Some(format!(
            "the record's outcome is {:?}, not one of {expected:?}",
            record.outcome
        ));
    }
    if operation.secret.is_some() && record.secret != operation.secret {
        return Some("the record names another secret".to_owned());
    }
    if version.is_some() && record.version != version {
        return Some(format!(
            "the record names version {:?}, the answer {version:?}",
            record.version
        ));
    }
    let node = format!("node-{}", operation.node + 1);
    if record.node.as_ref() != Some(&node) {
        return Some(format!(
            "the record names node {:?}, asked was {node}",
            record.node
        ));
    }
    None
}

fn action(call: &Call) -> &'static str {
    match call {
        Call::Get | Call::GetVersion { .. } | Call::Poll { .. } => "get",
        other => other.name(),
    }
}

#[cfg(test)]
pub(super) mod test_records {
    //! Records for the tests of checkers.

    use super::*;

    /// The record of an operation, made by the first node.
    pub fn record(operation: &Operation, action: &str, outcome: &str, version: Option<u32>) -> AuditEntry {
        AuditEntry {
            id: format!("{}-0-0", operation.id),
            time_ms: 0,
            action: action.to_owned(),
            outcome: outcome.to_owned(),
            secret: operation.secret.clone(),
            version,
            principal: Some(operation.principal.clone()),
            device: None,
            remote: None,
            api: Some("setec".to_owned()),
            request_id: operation.request_id.clone(),
            node: Some("node-1".to_owned()),
            node_id: 1,
            detail: None,
            attempts: 1,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{test_records::record, *};
    use crate::checker::{
        Verdict,
        test_history::{answered, put, value, version},
    };

    #[test]
    fn each_answer_with_its_record_is_accepted() {
        let history = [
            answered(0, put(7), 0, 1, version(1)),
            answered(1, Call::Get, 2, 3, value(1, 7)),
            answered(2, Call::Poll { version: 1 }, 4, 5, Answer::NotModified),
            answered(3, Call::Activate { version: 9 }, 6, 7, Answer::NotFound),
            answered(4, Call::List, 8, 9, Answer::Listing { secrets: Vec::new() }),
            answered(5, Call::DeleteVersion { version: 1 }, 8, 9, Answer::ActiveVersion),
        ];
        let audit = [
            record(&history[0], "put", "done", Some(1)),
            record(&history[1], "get", "done", Some(1)),
            record(&history[3], "activate", "not-found", Some(9)),
            record(&history[4], "list", "done", None),
            record(&history[5], "delete-version", "refused", Some(1)),
        ];
        let check = check(&history, &audit, &[]);
        assert_eq!((check.verdict, check.findings), (Verdict::Valid, Vec::new()));
    }

    #[test]
    fn a_disclosure_without_its_own_record_is_caught() {
        let history = [answered(0, Call::Get, 2, 3, value(2, 7))];
        let good = record(&history[0], "get", "done", Some(2));
        let findings = |audit: &[AuditEntry]| check(&history, audit, &[]).findings.len();
        assert_eq!(findings(std::slice::from_ref(&good)), 0);
        assert_eq!(findings(&[]), 1);
        assert_eq!(findings(&[good.clone(), good.clone()]), 1);
        let changed = |change: fn(&mut AuditEntry)| {
            let mut record = good.clone();
            change(&mut record);
            findings(&[record])
        };
        assert_eq!(changed(|record| record.version = Some(1)), 1);
        assert_eq!(changed(|record| record.secret = Some("b".to_owned())), 1);
        assert_eq!(
            changed(|record| record.principal = Some("uri:other".to_owned())),
            1
        );
        assert_eq!(changed(|record| record.outcome = "not-found".to_owned()), 1);
        assert_eq!(changed(|record| record.node = Some("node-2".to_owned())), 1);
        assert_eq!(changed(|record| record.request_id = Some("other".to_owned())), 1);
    }

    #[test]
    fn a_recorded_304_and_an_answer_to_somebody_without_rights_are_caught() {
        let poll = [answered(0, Call::Poll { version: 1 }, 4, 5, Answer::NotModified)];
        let recorded = [record(&poll[0], "get", "done", Some(1))];
        assert_eq!(check(&poll, &recorded, &[]).verdict, Verdict::Invalid);
        let get = [answered(0, Call::Get, 2, 3, Answer::NotFound)];
        let recorded = [record(&get[0], "get", "not-found", None)];
        let denied = [get[0].principal.clone()];
        assert_eq!(check(&get, &recorded, &denied).verdict, Verdict::Invalid);
        assert_eq!(check(&get, &recorded, &[]).verdict, Verdict::Valid);
    }

    #[test]
    fn refusals_may_share_records_but_are_neither_forgotten_nor_made_up() {
        let history: Vec<Operation> = (0..5)
            .map(|id| answered(id, Call::Get, 2, 3, Answer::Denied))
            .collect();
        let denied = [history[0].principal.clone()];
        let shared = |attempts| AuditEntry {
            attempts,
            request_id: Some("another".to_owned()),
            ..record(&history[0], "get", "denied", None)
        };
        let own = record(&history[1], "get", "denied", None);
        let verdict = |audit: &[AuditEntry]| check(&history, audit, &denied).verdict;
        assert_eq!(verdict(&[own.clone(), shared(4)]), Verdict::Valid);
        assert_eq!(verdict(&[own.clone(), shared(2)]), Verdict::Valid);
        assert_eq!(verdict(&[own, shared(5)]), Verdict::Invalid);
        assert_eq!(verdict(&[]), Verdict::Invalid);
    }
}
