//! At a name a number never stands for two values, over the whole run and also after deletions; and
//! a value that was put by one call only is stored under one number only, however often its proposal
//! was sent (design, sections 10 and 5).

use super::{Check, Finding};
use crate::history::{Answer, Call, Operation};
use std::collections::BTreeMap;

/// Looks at everything that clients were told about numbers and values.
pub fn check(history: &[Operation]) -> Check {
    let mut values: BTreeMap<(&str, u32), (u64, usize)> = BTreeMap::new();
    let mut numbers: BTreeMap<(&str, u64), (u32, usize)> = BTreeMap::new();
    let mut calls: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for operation in history {
        if let (Some(secret), Call::Put { value } | Call::CreateVersion { value, .. }) =
            (&operation.secret, &operation.call)
        {
            *calls.entry((secret, *value)).or_default() += 1;
        }
    }
    let mut findings = Vec::new();
    for (secret, version, value, id) in history.iter().filter_map(seen) {
        let (other, by) = *values.entry((secret, version)).or_insert((value, id));
        if other != value {
            findings.push(Finding {
                secret: Some(secret.to_owned()),
                operations: vec![by, id],
                text: format!("version {version} stood for value {other}, then for {value}"),
            });
        }
        let (number, by) = *numbers.entry((secret, value)).or_insert((version, id));
        if number != version && calls.get(&(secret, value)) == Some(&1) {
            findings.push(Finding {
                secret: Some(secret.to_owned()),
                operations: vec![by, id],
                text: format!("value {value}, put once, is version {number} and version {version}"),
            });
        }
    }
    Check::of("versions", findings, vec![("versions", values.len().into())])
}

/// A number and its value, as an answer shows them.
fn seen(operation: &Operation) -> Option<(&str, u32, u64, usize)> {
    let secret = operation.secret.as_deref()?;
    let (version, value) = match (&operation.call, operation.answer()?) {
        (Call::Put { value }, Answer::Version { version }) => (*version, *value),
        (Call::CreateVersion { version, value }, Answer::Done) => (*version, *value),
        (_, Answer::Value { version, value }) => (*version, *value),
        _ => return None,
    };
    Some((secret, version, value, operation.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{
        Verdict,
        test_history::{answered, put, unknown, value, version},
    };

    #[test]
    fn a_repeated_put_may_have_one_number_or_two() {
        let history = [
            answered(0, put(7), 0, 1, version(1)),
            answered(1, put(8), 2, 3, version(2)),
            answered(2, put(9), 4, 5, version(3)),
            answered(3, put(8), 6, 7, version(4)),
            answered(4, put(8), 8, 9, version(4)),
        ];
        assert_eq!(check(&history).verdict, Verdict::Valid);
    }

    #[test]
    fn a_number_with_two_values_is_caught_also_across_a_deletion() {
        let history = [
            answered(0, put(7), 0, 1, version(1)),
            answered(1, Call::Delete, 2, 3, Answer::Done),
            answered(2, put(8), 4, 5, version(1)),
        ];
        let check = check(&history);
        assert_eq!(check.verdict, Verdict::Invalid);
        assert_eq!(check.findings[0].operations, [0, 2]);
    }

    #[test]
    fn one_put_that_was_stored_twice_is_caught() {
        let history = [
            unknown(0, put(7), 0),
            answered(1, Call::GetVersion { version: 1 }, 2, 3, value(1, 7)),
            answered(2, Call::GetVersion { version: 2 }, 4, 5, value(2, 7)),
        ];
        let check = check(&history);
        assert_eq!(check.verdict, Verdict::Invalid);
        assert_eq!(check.findings[0].operations, [1, 2]);
    }
}
