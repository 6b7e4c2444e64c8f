//! What the voters' clocks say of this node's. A pure function of their distances.

/// The distance of one voter's wall clock from this node's, in milliseconds: positive when theirs is
/// ahead. This node's own is 0.
pub(crate) type Distance = i64;

/// What a comparison came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Agreement {
    /// A majority of the voters lies within the bound of the median.
    Agreed {
        /// The median's distance from this node's clock, in milliseconds.
        median_ms: Distance,
        /// Whether this node's clock lies within the bound of it.
        within_bound: bool,
    },
    /// Too few answered, or those that did are too far apart.
    NoMajority,
}

/// Compares the clocks of the voters that answered (this node's among them, where it votes) among
/// `voters` voters.
pub(crate) fn compare(distances: &[Distance], voters: usize, bound_ms: i64) -> Agreement {
    let majority = voters / 2 + 1;
    let mut sorted = distances.to_vec();
    sorted.sort_unstable();
    if sorted.len() < majority {
        return Agreement::NoMajority;
    }
    let median_ms = match (
        sorted.get(sorted.len() / 2),
        sorted.get(sorted.len().saturating_sub(1) / 2),
    ) {
        (Some(&upper), Some(&lower)) => lower.midpoint(upper),
        _ => return Agreement::NoMajority,
    };
    let agreeing = sorted
        .iter()
        .filter(|distance| distance.abs_diff(median_ms) <= bound_ms.unsigned_abs())
        .count();
    if agreeing < majority {
        return Agreement::NoMajority;
    }
    Agreement::Agreed {
        median_ms,
        within_bound: median_ms.unsigned_abs() <= bound_ms.unsigned_abs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUND_MS: i64 = 5_000;
    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn one_wrong_clock_of_three_is_found() {
        // This node's clock is right, another's is an hour ahead.
        assert_eq!(
            compare(&[0, 3, HOUR_MS], 3, BOUND_MS),
            Agreement::Agreed {
                median_ms: 3,
                within_bound: true
            }
        );
        // This node's clock is an hour ahead of the two others.
        assert_eq!(
            compare(&[0, -HOUR_MS, -HOUR_MS + 2], 3, BOUND_MS),
            Agreement::Agreed {
                median_ms: -HOUR_MS + 2,
                within_bound: false
            }
        );
    }

    #[test]
    fn two_that_differ_are_no_majority_of_three() {
        assert_eq!(compare(&[0, HOUR_MS], 3, BOUND_MS), Agreement::NoMajority);
        assert_eq!(
            compare(&[0, HOUR_MS, -HOUR_MS], 3, BOUND_MS),
            Agreement::NoMajority
        );
        assert_eq!(compare(&[0], 3, BOUND_MS), Agreement::NoMajority);
        assert_eq!(compare(&[], 0, BOUND_MS), Agreement::NoMajority);
    }

    #[test]
    fn a_single_voter_agrees_with_itself() {
        assert_eq!(
            compare(&[0], 1, BOUND_MS),
            Agreement::Agreed {
                median_ms: 0,
                within_bound: true
            }
        );
    }

    proptest! {
        /// While a majority's clocks are together, no wrong minority makes a right node hand over,
        /// nor the median wrong by more than their distance.
        #[test]
        fn a_minority_cannot_depose_a_right_clock(
            right in prop::collection::vec(-1_000_i64..1_000, 2..4),
            wrong in prop::collection::vec(prop_oneof![Just(HOUR_MS), Just(-HOUR_MS)], 0..2),
        ) {
            let distances: Vec<_> = std::iter::once(0).chain(right).chain(wrong).collect();
            match compare(&distances, distances.len(), BOUND_MS) {
                Agreement::Agreed { median_ms, within_bound } => {
                    prop_assert!(within_bound);
                    prop_assert!(median_ms.abs() <= 1_000);
                }
                Agreement::NoMajority => prop_assert!(false, "a majority is together"),
            }
        }
    }
}
