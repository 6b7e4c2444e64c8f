//! Patterns of grants, as setec's: `*` matches any run of characters, `/` included; everything else
//! matches itself. Matching takes time linear in the name for each `*`-free piece of the pattern, and
//! never backtracks, so that no pattern can be made expensive.

use std::fmt;

/// A pattern of secret names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Matches every name.
    pub const EVERYTHING: &str = "*";

    /// Every string is a pattern.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        let mut pieces = self.0.split('*');
        let first = pieces.next().expect("split yields at least one piece");
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = pieces.next_back() else {
            return rest.is_empty();
        };
        // Between two stars the leftmost occurrence is as good as any: it leaves the most behind it.
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(last)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pattern(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
            Some((wanted, rest)) => name
                .split_first()
                .is_some_and(|(c, name)| c == wanted && naive(rest, name)),
        }
    }

    #[test]
    fn stars_match_slashes_too() {
        assert!(Pattern::new("dev/*").matches("dev/a/b"));
        assert!(Pattern::new("dev/*").matches("dev/"));
        assert!(!Pattern::new("dev/*").matches("dev"));
        assert!(!Pattern::new("a*a").matches("a"));
        assert!(Pattern::new("a*a").matches("aa"));
        assert!(Pattern::new("*").matches("anything"));
        assert!(!Pattern::new("").matches("a"));
        assert!(!Pattern::new("A").matches("a"));
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(pattern in "[ab*é/]{0,9}", name in "[abé/]{0,12}") {
            let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(Pattern::new(pattern).matches(&name), naive(&p, &n));
        }
    }
}
