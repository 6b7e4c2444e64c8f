//! A set of version numbers as sorted, disjoint, non-adjacent closed ranges. Numbers are mostly
//! given out in order, so that the set stays small however many there were.

use super::Version;
use serde::{Deserialize, Serialize};

/// Version numbers that were ever used.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NumberRanges(Vec<(u32, u32)>);

impl NumberRanges {
    /// Adds one number.
    pub fn insert(&mut self, number: Version) {
        self.insert_range(number.get(), number.get());
    }

    /// Adds every number of another set.
    pub fn extend(&mut self, other: &Self) {
        for &(first, last) in &other.0 {
            self.insert_range(first, last);
        }
    }

    /// Whether a number was ever used.
    pub fn contains(&self, number: Version) -> bool {
        let number = number.get();
        let after = self.0.partition_point(|&(first, _)| first <= number);
        after > 0 && self.0[after - 1].1 >= number
    }

    /// Whether any number is in both sets.
    pub fn intersects(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(&&(a_first, a_last)), Some(&&(b_first, b_last))) = (mine.peek(), theirs.peek()) {
            if a_first <= b_last && b_first <= a_last {
                return true;
            }
            if a_last < b_last {
                mine.next();
            } else {
                theirs.next();
            }
        }
        false
    }

    /// The highest number, unless the set is empty.
    pub fn highest(&self) -> Option<Version> {
        self.0.last().and_then(|&(_, last)| Version::new(last))
    }

    /// How many numbers were used.
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .map(|&(first, last)| u64::from(last - first) + 1)
            .sum()
    }

    /// Whether no number was used.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in order, both ends included.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Adds every number below the highest, so that one range is left.
    pub fn fill(&mut self) {
        if let Some(&(_, last)) = self.0.last() {
            self.0 = vec![(1, last)];
        }
    }

    fn insert_range(&mut self, first: u32, last: u32) {
        let from = self.0.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self
            .0
            .partition_point(|&(start, _)| start <= last.saturating_add(1));
        let merged = self.0[from..to]
            .iter()
            .fold((first, last), |(a, b), &(c, d)| (a.min(c), b.max(d)));
        self.0.splice(from..to, [merged]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set(numbers in prop::collection::vec(1_u32..60, 0..80), probe in 1_u32..62) {
            let set: BTreeSet<u32> = numbers.iter().copied().collect();
            let mut ranges = NumberRanges::default();
            numbers.iter().for_each(|&number| ranges.insert(Version::new(number).unwrap()));
            prop_assert_eq!(ranges.contains(Version::new(probe).unwrap()), set.contains(&probe));
            prop_assert_eq!(ranges.count(), set.len() as u64);
            prop_assert_eq!(ranges.highest().map(Version::get), set.last().copied());
            for pair in ranges.ranges().windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0);
            }
        }

        #[test]
        fn intersects_when_a_number_is_in_both(a in prop::collection::btree_set(1_u32..40, 0..20), b in prop::collection::btree_set(1_u32..40, 0..20)) {
            let ranges = |set: &BTreeSet<u32>| set.iter().fold(NumberRanges::default(), |mut all, &n| {
                all.insert(Version::new(n).unwrap());
                all
            });
            prop_assert_eq!(ranges(&a).intersects(&ranges(&b)), !a.is_disjoint(&b));
        }
    }

    #[test]
    fn the_last_number_does_not_overflow() {
        let mut ranges = NumberRanges::default();
        ranges.insert(Version::LAST);
        ranges.insert(Version::new(u32::MAX - 1).unwrap());
        assert_eq!(ranges.ranges(), [(u32::MAX - 1, u32::MAX)]);
    }
}
