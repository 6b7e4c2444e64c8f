//! What a run came to. Latencies are kept in a high dynamic range histogram (three digits), so that
//! percentiles are those of all operations, not of a sample or of averages.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Kinds of errors that are told apart; further ones are only counted.
const ERROR_KINDS: usize = 8;
/// The longest latency that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(600);

/// A run's figures.
#[derive(Clone, Debug)]
pub struct Measured {
    duration: Duration,
    latencies_us: Histogram<u64>,
    errors: u64,
    reasons: BTreeMap<String, u64>,
}

impl Measured {
    /// Nothing yet, of a run that counts for so long.
    pub fn new(duration: Duration) -> Self {
        let latencies_us = Histogram::new_with_bounds(1, LONGEST.as_micros() as u64, 3)
            .expect("three digits of 1 to 600 s are possible");
        Self {
            duration,
            latencies_us,
            errors: 0,
            reasons: BTreeMap::new(),
        }
    }

    /// One operation that succeeded.
    pub fn succeeded(&mut self, latency: Duration) {
        self.latencies_us.saturating_record(latency.as_micros() as u64);
    }

    /// One that did not.
    pub fn failed(&mut self, reason: String) {
        self.errors += 1;
        self.count(reason, 1);
    }

    /// What another client saw of the same run.
    pub fn add(&mut self, other: &Self) {
        self.latencies_us
            .add(&other.latencies_us)
            .expect("both have the same bounds");
        self.errors += other.errors;
        for (reason, times) in &other.reasons {
            self.count(reason.clone(), *times);
        }
    }

    /// Operations that succeeded.
    pub fn operations(&self) -> u64 {
        self.latencies_us.len()
    }

    /// Operations that failed.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Operations a second that succeeded.
    pub fn per_second(&self) -> f64 {
        self.operations() as f64 / self.duration.as_secs_f64()
    }

    /// The latency that this share (0 to 1) of operations did not exceed, in milliseconds.
    pub fn latency_ms(&self, share: f64) -> f64 {
        self.latencies_us.value_at_quantile(share) as f64 / 1000.0
    }

    /// How many took longer, to three digits.
    pub fn count_slower_than(&self, latency: Duration) -> u64 {
        let slower_us = latency.as_micros() as u64 + 1;
        self.latencies_us
            .count_between(slower_us, LONGEST.as_micros() as u64)
    }

    /// Why operations failed, and how often; the first kinds only.
    pub fn reasons(&self) -> &BTreeMap<String, u64> {
        &self.reasons
    }

    /// The figures for programs.
    pub fn json(&self) -> Value {
        json!({
            "seconds": self.duration.as_secs_f64(),
            "operations": self.operations(),
            "errors": self.errors,
            "error_reasons": self.reasons,
            "per_second": self.per_second(),
            "latency_ms": {
                "p50": self.latency_ms(0.5),
                "p90": self.latency_ms(0.9),
                "p99": self.latency_ms(0.99),
                "p99_9": self.latency_ms(0.999),
                "max": self.latency_ms(1.0),
            },
        })
    }

    fn count(&mut self, reason: String, times: u64) {
        if self.reasons.len() < ERROR_KINDS || self.reasons.contains_key(&reason) {
            *self.reasons.entry(reason).or_default() += times;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_clients_add_up() {
        let mut whole = Measured::new(Duration::from_secs(2));
        let mut other = whole.clone();
        (1..=60).for_each(|ms| whole.succeeded(Duration::from_millis(ms)));
        (61..=100).for_each(|ms| other.succeeded(Duration::from_millis(ms)));
        other.failed("refused".into());
        whole.add(&other);
        assert_eq!((whole.operations(), whole.errors()), (100, 1));
        assert!((whole.per_second() - 50.0).abs() < 0.01);
        assert!(
            (whole.latency_ms(0.5) - 50.0).abs() < 0.1,
            "{}",
            whole.latency_ms(0.5)
        );
        // Three digits: 90.0 and 90.1 ms cannot be told apart.
        assert_eq!(whole.count_slower_than(Duration::from_micros(90_500)), 10);
        assert_eq!(whole.reasons()["refused"], 1);
    }
}
