//! What the digests of several nodes say of this one's. Pure.

use std::collections::BTreeMap;

/// A digest of the whole state.
pub(super) type Digest = [u8; 32];

/// What a comparison came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Verdict {
    /// Indexes at which a majority agreed and this node with it.
    pub(super) agreed: Vec<u64>,
    /// The first index at which a majority agreed, on something else than this node has.
    pub(super) alone_at: Option<u64>,
    /// The first index at which nodes differ and none of the digests has a majority.
    pub(super) undecided_at: Option<u64>,
}

/// Compares at every index that this node kept. `others` holds one map per other voter that
/// answered; `mine_counts` says whether this node votes.
pub(super) fn judge(
    mine: &BTreeMap<u64, Digest>,
    others: &[BTreeMap<u64, Digest>],
    voters: usize,
    mine_counts: bool,
) -> Verdict {
    let majority = voters / 2 + 1;
    let mut verdict = Verdict::default();
    for (&index, my_digest) in mine {
        let mut votes: BTreeMap<&Digest, usize> = BTreeMap::new();
        if mine_counts {
            votes.insert(my_digest, 1);
        }
        for digest in others.iter().filter_map(|kept| kept.get(&index)) {
            *votes.entry(digest).or_default() += 1;
        }
        match votes.iter().find(|&(_, &count)| count >= majority) {
            Some((&digest, _)) if digest == my_digest => verdict.agreed.push(index),
            Some(_) => verdict.alone_at = verdict.alone_at.or(Some(index)),
            None if votes.keys().any(|&digest| digest != my_digest) => {
                verdict.undecided_at = verdict.undecided_at.or(Some(index));
            }
            // Too few have come so far; they are asked again.
            None => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pairs: &[(u64, u8)]) -> BTreeMap<u64, Digest> {
        pairs.iter().map(|&(index, byte)| (index, [byte; 32])).collect()
    }

    #[test]
    fn the_one_that_differs_knows_it_and_the_others_go_on() {
        let (good, bad) = (kept(&[(256, 1), (512, 2)]), kept(&[(256, 1), (512, 9)]));
        let of_bad = judge(&bad, &[good.clone(), good.clone()], 3, true);
        assert_eq!(of_bad.alone_at, Some(512));
        assert_eq!(of_bad.agreed, [256]);
        let of_good = judge(&good, &[good.clone(), bad], 3, true);
        assert_eq!(
            of_good,
            Verdict {
                agreed: vec![256, 512],
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn without_a_majority_nobody_is_guilty() {
        let verdict = judge(&kept(&[(256, 1)]), &[kept(&[(256, 2)])], 3, true);
        assert_eq!(
            verdict,
            Verdict {
                undecided_at: Some(256),
                ..Verdict::default()
            }
        );
        let waiting = judge(&kept(&[(256, 1)]), &[kept(&[])], 3, true);
        assert_eq!(waiting, Verdict::default());
    }

    #[test]
    fn a_learner_is_judged_by_the_voters() {
        let verdict = judge(
            &kept(&[(256, 1)]),
            &[kept(&[(256, 2)]), kept(&[(256, 2)])],
            3,
            false,
        );
        assert_eq!(verdict.alone_at, Some(256));
    }
}
