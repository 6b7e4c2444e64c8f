//! All that keeps a file from being a configuration, not only the first: every place where it is no
//! TOML, else every unknown key and every value of a wrong type. A message may quote what stands there,
//! except what stands in `[grants]`: that names secrets, and messages are logged.

use super::{Config, layers::line_at};
use crate::grants::without_quoted;
use serde::Deserialize;
use std::ops::Range;
use toml::de::{DeTable, DeValue, Deserializer};

/// One fault of a file's form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// 1-based.
    pub(super) line: usize,
    pub(super) message: String,
}

/// So many are told; whoever has more looks again afterwards.
const MOST: usize = 50;

/// Finds them, in the order of the file.
pub(super) fn faults(text: &str) -> Vec<Fault> {
    let (mut document, malformed) = DeTable::parse_recoverable(text);
    let mut found: Vec<Fault> = malformed.iter().map(|error| fault(text, error)).collect();
    // What could be guessed of a file that is no TOML would give rise to guesses.
    while malformed.is_empty() && found.len() < MOST {
        let Err(error) = Config::deserialize(Deserializer::from(document.clone())) else {
            break;
        };
        let mut fault = fault(text, &error);
        if error
            .span()
            .is_none_or(|place| in_grants(document.get_ref(), &place))
        {
            fault.message = without_quoted(&fault.message);
        }
        found.push(fault);
        // Without what is wrong the next fault shows.
        if !error
            .span()
            .is_some_and(|place| remove(document.get_mut(), &place))
        {
            break;
        }
    }
    found.sort_by_key(|fault| fault.line);
    // After one slip the parser often complains about the rest of its line as well.
    found.dedup_by_key(|fault| fault.line);
    found.truncate(MOST);
    found
}

fn fault(text: &str, error: &toml::de::Error) -> Fault {
    Fault {
        line: error.span().map_or(1, |place| line_at(text, place.start)),
        message: error.message().to_owned(),
    }
}

fn in_grants(document: &DeTable<'_>, place: &Range<usize>) -> bool {
    let grants = document.iter().find(|(key, _)| key.get_ref() == "grants");
    grants.is_some_and(|(_, value)| lies_in(value, place))
}

/// Removes the entry that lies at a place, or that has an array with something at that place. False:
/// there is none.
fn remove(table: &mut DeTable<'_>, place: &Range<usize>) -> bool {
    for (_, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut()
            && remove(inner, place)
        {
            return true;
        }
    }
    let at_place = table
        .iter()
        .find(|(key, value)| key.span() == *place || lies_in(value, place))
        .map(|(key, _)| key.clone());
    at_place.is_some_and(|key| table.remove(&key).is_some())
}

fn lies_in(value: &toml::Spanned<DeValue<'_>>, place: &Range<usize>) -> bool {
    if value.span() == *place {
        return true;
    }
    match value.get_ref() {
        DeValue::Array(elements) => elements.iter().any(|element| lies_in(element, place)),
        DeValue::Table(table) => table
            .iter()
            .any(|(key, value)| key.span() == *place || lies_in(value, place)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(text: &str) -> Vec<usize> {
        faults(text).iter().map(|fault| fault.line).collect()
    }

    #[test]
    fn all_faults_are_told_and_not_only_the_first() {
        let text = r#"node_name = 7
data_dri = "d"
[api]
listen = "nowhere"
[cluster]
rejoin = "sometimes"
nodes = [
    { name = "a", address = "127.0.0.1:1" },
    { name = "b", adress = "127.0.0.1:2" },
]
[limits]
value_bytes = "many"
header_bytes = 9000
[nowhere]
key = 1
"#;
        assert_eq!(lines(text), [1, 2, 4, 6, 9, 12, 14]);
        assert_eq!(lines("node_name = \"a\"\n"), [0; 0]);
    }

    #[test]
    fn nothing_of_the_grants_is_quoted() {
        for (text, expected) in [
            ("[grants]\nmarked = 1\n", "unknown field"),
            ("[grants]\nprincipals = \"marked\"\n", "invalid type"),
            ("[grants.marked]\n", "unknown field"),
            ("grants = \"marked\"\n", "invalid type"),
            ("grants.principals.\"cn:a\" = [\"marked\"]\n", "invalid type"),
            (
                "[grants.principals]\n\"cn:a\" = [{ action = [\"get\"], marked = 1 }]\n",
                "unknown field",
            ),
            (
                "[[grants.principals.\"cn:a\"]]\naction = [\"get\"]\nsecret = \"marked\"\n",
                "invalid type",
            ),
            ("[grants.principals]\n\"marked = []\n", ""),
            ("[grants]\nprincipals = { \"marked\" }\n", ""),
            ("[grants.principals]\n\"marked\" = []\n\"marked\" = []\n", ""),
        ] {
            let found = faults(text);
            assert!(!found.is_empty(), "{text}");
            for Fault { message, .. } in found {
                assert!(message.contains(expected), "{text}: {message}");
                assert!(!message.contains("marked"), "{text}: {message}");
            }
        }
        // Elsewhere people are told what they wrote.
        assert!(faults("marked = 1\n")[0].message.contains("marked"));
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_line_by_line() {
        let found = lines("node_name = \ncluster_name = \"c\"\n[api\nlisten = 'x\n");
        assert!(found.contains(&1) && found.contains(&3), "{found:?}");
    }

    proptest! {
        #[test]
        fn it_always_ends(text in "([a-z_.\\[\\]]{0,9}( = )?[\"a-z0-9\\[\\]{},=]{0,9}\n?){0,9}") {
            let found = faults(&text);
            prop_assert_eq!(found.is_empty(), toml::from_str::<Config>(&text).is_ok());
        }
    }
}
