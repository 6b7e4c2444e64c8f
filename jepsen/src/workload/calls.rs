//! Kinds of calls and how often each is made.

use rand::{Rng, RngExt};

/// What a client may do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Put,
    CreateVersion,
    Activate,
    Get,
    GetVersion,
    Poll,
    Info,
    DeleteVersion,
    Delete,
    List,
}

/// How often each kind is drawn, beside the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights(pub [(Kind, u32); 10]);

impl Weights {
    /// Those that are left out are never drawn.
    pub(super) fn of(some: &[(Kind, u32)]) -> Self {
        let mut weights = [(Kind::Put, 0); 10];
        weights[..some.len()].copy_from_slice(some);
        Self(weights)
    }

    pub(super) fn draw(&self, random: &mut impl Rng) -> Kind {
        let total: u32 = self.0.iter().map(|(_, weight)| weight).sum();
        let mut left = random.random_range(0..total);
        for (kind, weight) in self.0 {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        unreachable!("what was drawn is below the sum of the weights")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn kinds_are_drawn_by_their_weights() {
        let weights = Weights::of(&[(Kind::Get, 1), (Kind::Poll, 9), (Kind::Delete, 0)]);
        let mut random = StdRng::seed_from_u64(1);
        let drawn: Vec<Kind> = (0..1_000).map(|_| weights.draw(&mut random)).collect();
        let count = |kind| drawn.iter().filter(|drawn| **drawn == kind).count();
        assert_eq!(count(Kind::Get) + count(Kind::Poll), 1_000);
        assert!((50..200).contains(&count(Kind::Get)));
    }
}
