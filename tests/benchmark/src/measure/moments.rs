//! When operations succeeded: the longest pause, and the rate over any while.

use conclave::bench::Driver;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Moments at which operations succeeded. Clones share them.
#[derive(Clone, Default)]
pub struct Moments(Arc<Mutex<Vec<Instant>>>);

/// A driver whose successes are noted. An operation that takes longer than `patience` has failed.
pub struct Noting<D> {
    pub driver: D,
    pub moments: Moments,
    pub patience: Duration,
}

impl<D: Driver> Driver for Noting<D> {
    async fn perform(&mut self, number: u64) -> Result<(), String> {
        let performed = tokio::time::timeout(self.patience, self.driver.perform(number)).await;
        performed.unwrap_or_else(|_| Err("took too long".to_owned()))?;
        self.moments.note();
        Ok(())
    }
}

impl Moments {
    /// Something succeeded now.
    pub fn note(&self) {
        self.lock().push(Instant::now());
    }

    /// How many there were in a while.
    pub fn count(&self, from: Instant, until: Instant) -> usize {
        let within = |moment: &&Instant| (from..until).contains(*moment);
        self.lock().iter().filter(within).count()
    }

    /// How many there were a second in a while.
    pub fn per_second(&self, from: Instant, until: Instant) -> f64 {
        self.count(from, until) as f64 / (until - from).as_secs_f64()
    }

    /// The longest time without any in a while, its ends included.
    pub fn longest_pause(&self, from: Instant, until: Instant) -> Duration {
        let mut moments = self.lock().clone();
        moments.retain(|moment| (from..until).contains(moment));
        moments.extend([from, until]);
        moments.sort();
        let pauses = moments.windows(2).map(|pair| pair[1] - pair[0]);
        pauses.max().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_may_lie_at_either_end() {
        let moments = Moments::default();
        let from = Instant::now();
        for pause_ms in [30, 10, 20] {
            tokio::time::advance(Duration::from_millis(pause_ms)).await;
            moments.note();
        }
        let end = from + Duration::from_millis(65);
        assert_eq!(moments.longest_pause(from, end), Duration::from_millis(30));
        let end = from + Duration::from_millis(160);
        assert_eq!(moments.longest_pause(from, end), Duration::from_millis(100));
        assert_eq!(moments.count(from, end), 3);
        assert!((moments.per_second(from, from + Duration::from_millis(50)) - 40.0).abs() < 0.01);
    }
}
