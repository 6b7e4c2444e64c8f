//! Draws that follow from a seed.

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// A sequence of draws.
pub struct Dice(SmallRng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Another sequence, that has nothing to do with the rest of this one.
    pub fn child(&mut self) -> Self {
        Self::new(self.number())
    }

    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From `low` to `high`, both included. The tiny bias of the remainder does not matter here.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high - low + 1)
    }

    /// True in so many of a hundred draws.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// An index into something of this length, which is not empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.between(0, length as u64 - 1)).expect("it is less than a length")
    }

    /// So many different numbers below `below`, in order.
    pub fn some_of(&mut self, below: usize, count: usize) -> Vec<usize> {
        let mut rest: Vec<usize> = (0..below).collect();
        while rest.len() > count {
            let gone = self.index(rest.len());
            rest.remove(gone);
        }
        rest
    }
}
