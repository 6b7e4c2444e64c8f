//! Any text as a name, and as a pattern on a name.

use super::{FullName, NameError, NamespacePath, Pattern, SecretName, StoreName};
use conclave_fuzz::{explore, in_bounded_memory};

/// The longest name, as the documentation has it.
const LIMIT_BYTES: usize = 1024;

#[test]
fn names() {
    explore!(
        "names",
        ["dev/a b", "é*", "a//b", "team/app", "a\nb"],
        |input: &[u8]| {
            let Ok(text) = std::str::from_utf8(input) else {
                return;
            };
            let keeps_the_rules =
                (1..=LIMIT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
            let read = in_bounded_memory(input.len(), || SecretName::new(text));
            assert_eq!(read.is_ok(), keeps_the_rules);
            assert_eq!(StoreName::new(text).is_ok(), keeps_the_rules);
            if let Ok(name) = read {
                assert_eq!(name.as_str(), text);
                let full = FullName::setec(text).expect("its last part is a name");
                assert!(full.name == name && full.store_path().contains(&full));
            }

            let has_empty_part = text.split('/').any(str::is_empty);
            match NamespacePath::new(text) {
                Ok(path) => {
                    assert_eq!(path.as_str(), text);
                    assert!(text.is_empty() || (keeps_the_rules && !has_empty_part));
                }
                Err(NameError::EmptyPart) => assert!(has_empty_part),
                Err(_) => assert!(!keeps_the_rules),
            }
        }
    );
}

#[test]
fn patterns() {
    let seeds = [
        "dev/*\ndev/a/b",
        "a*a\naa",
        "*\nanything",
        "a*b*c\nabxbc",
        "\n",
        "é*\né",
    ];
    explore!("patterns", seeds, |input: &[u8]| {
        let Some((pattern, name)) = pattern_and_name(input) else {
            return;
        };
        assert_eq!(
            Pattern::new(pattern).matches(name),
            matches_by_the_definition(pattern, name)
        );
    });
}

/// A line break can be in no name, and parts the two.
fn pattern_and_name(input: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(input).ok()?.split_once('\n')
}

/// The definition itself, for all beginnings of the name: `reached[n]` says whether the pattern so far
/// matches the first `n` characters.
fn matches_by_the_definition(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for wanted in pattern.chars() {
        let mut next = vec![false; name.len() + 1];
        for end in 0..=name.len() {
            next[end] = match (wanted, end.checked_sub(1)) {
                ('*', None) => reached[0],
                ('*', Some(before)) => reached[end] || next[before],
                (_, None) => false,
                (_, Some(before)) => reached[before] && name[before] == wanted,
            };
        }
        reached = next;
    }
    reached[name.len()]
}
