//! Secrets that clients share. A secret is retired after so many calls, or writes of unknown outcome:
//! each of these doubles what a checker has to search.

use rand::{Rng, RngExt, seq::IndexedRandom};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

/// A pool of secrets in use.
pub struct Pool {
    prefix: String,
    limits: PoolLimits,
    secrets: Mutex<Secrets>,
}

/// How large a pool is and when a secret is retired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolLimits {
    /// Secrets in use at once.
    pub secrets: usize,
    /// Calls to one secret.
    pub calls: u32,
    /// Writes of unknown outcome to one secret.
    pub unknown: u32,
}

struct Secrets {
    in_use: Vec<Arc<PooledSecret>>,
    next: u64,
}

/// A secret, and what clients learned about it: enough to make calls that make sense.
pub(super) struct PooledSecret {
    pub(super) name: String,
    calls: AtomicU32,
    unknown: AtomicU32,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    highest: u32,
    active: Option<u32>,
    values: Vec<u64>,
}

impl Pool {
    /// Secrets named `PREFIX/1`, `PREFIX/2`, and so on.
    pub fn new(prefix: &str, limits: PoolLimits) -> Self {
        let mut secrets = Secrets {
            in_use: Vec::new(),
            next: 1,
        };
        for _ in 0..limits.secrets {
            let secret = secrets.next(prefix);
            secrets.in_use.push(secret);
        }
        Self {
            prefix: prefix.to_owned(),
            limits,
            secrets: Mutex::new(secrets),
        }
    }

    /// Every secret that was ever in use.
    pub fn names(&self) -> Vec<String> {
        let next = self.secrets().next;
        (1..next).map(|number| name(&self.prefix, number)).collect()
    }

    /// One of those in use.
    pub(super) fn draw(&self, random: &mut impl Rng) -> Arc<PooledSecret> {
        let mut secrets = self.secrets();
        let position = random.random_range(0..secrets.in_use.len());
        let drawn = secrets.in_use[position].clone();
        let calls = drawn.calls.fetch_add(1, Ordering::Relaxed);
        if calls < self.limits.calls && drawn.unknown.load(Ordering::Relaxed) < self.limits.unknown {
            return drawn;
        }
        let new = secrets.next(&self.prefix);
        secrets.in_use[position] = new.clone();
        new
    }

    fn secrets(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Secrets {
    fn next(&mut self, prefix: &str) -> Arc<PooledSecret> {
        let name = name(prefix, self.next);
        self.next += 1;
        Arc::new(PooledSecret {
            name,
            calls: AtomicU32::new(0),
            unknown: AtomicU32::new(0),
            known: Mutex::default(),
        })
    }
}

impl PooledSecret {
    /// The highest version that anybody heard of.
    pub(super) fn highest_version(&self) -> u32 {
        self.known().highest
    }

    /// The version that somebody last heard to be active.
    pub(super) fn polled_version(&self) -> Option<u32> {
        self.known().active
    }

    /// A value that was stored here once.
    pub(super) fn known_value(&self, random: &mut impl Rng) -> Option<u64> {
        self.known().values.choose(random).copied()
    }

    pub(super) fn saw_value(&self, version: u32, value: u64) {
        let mut known = self.known();
        known.highest = known.highest.max(version);
        known.values.push(value);
    }

    pub(super) fn saw_active(&self, version: u32) {
        self.known().active = Some(version);
    }

    pub(super) fn saw_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(prefix: &str, number: u64) -> String {
    format!("{prefix}/{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn a_secret_is_retired_after_its_calls_or_its_unknown_writes() {
        let limits = PoolLimits {
            secrets: 1,
            calls: 3,
            unknown: 2,
        };
        let pool = Pool::new("a", limits);
        let mut random = StdRng::seed_from_u64(1);
        let mut drawn = || pool.draw(&mut random).name.clone();
        assert_eq!([drawn(), drawn(), drawn(), drawn()], ["a/1", "a/1", "a/1", "a/2"]);
        let secret = pool.draw(&mut StdRng::seed_from_u64(2));
        secret.saw_unknown();
        secret.saw_unknown();
        assert_eq!(pool.draw(&mut StdRng::seed_from_u64(3)).name, "a/3");
        assert_eq!(pool.names(), ["a/1", "a/2", "a/3"]);
    }
}
