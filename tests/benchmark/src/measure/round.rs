//! One round of load, and what it cost each process.

use super::{Spread, Usage};
use crate::{Failure, peers::Cluster, progress::say};
use conclave::bench::{Driver, Measured, Pace, Plan, Progress, Secrets, run};
use std::time::Duration;

/// Before what is counted.
const WARM_UP: Duration = Duration::from_secs(2);
/// Clients that fill; more than measure, for nothing is learnt meanwhile.
const FILLERS: usize = 256;

/// What one round came to.
pub struct Round {
    pub measured: Measured,
    /// Processor time of each server for one operation, in microseconds, in the order given.
    pub server_us: Vec<f64>,
    /// The generator's own.
    pub client_us: f64,
    /// Bytes that all servers together sent to the disk for one operation.
    pub written_bytes: f64,
}

/// Rounds of the same.
#[derive(Default)]
pub struct Rounds(Vec<Round>);

/// A closed loop, or so many operations a second.
pub fn plan(per_second: Option<f64>, seconds: u32) -> Plan {
    Plan {
        pace: per_second.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
        warm_up: WARM_UP,
        duration: Duration::from_secs(seconds.into()),
        operations: None,
    }
}

/// Drives servers with these process ids.
///
/// # Errors
/// When nothing succeeded, or a process cannot be looked into.
pub async fn round<D: Driver>(plan: Plan, drivers: Vec<D>, servers: &[u32]) -> Result<Round, Failure> {
    let look = || -> Result<Vec<Usage>, Failure> {
        let pids = servers.iter().copied().chain([std::process::id()]);
        pids.map(Usage::of).collect()
    };
    let progress = Progress::default();
    let before = look()?;
    let measured = run(plan, drivers, progress.clone()).await;
    let after = look()?;
    if let Some((reason, times)) = measured.reasons().iter().next() {
        say(format!("{times} × {reason}"));
    }
    if measured.operations() == 0 {
        return Err("no operation succeeded".into());
    }
    // Those of the warm-up cost as much.
    let operations = progress.operations() as f64;
    let mut processor_us: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after.processor - before.processor).as_micros() as f64 / operations)
        .collect();
    let client_us = processor_us.pop().expect("this process is the last one");
    let written = before.iter().zip(&after).take(servers.len());
    let written: u64 = written
        .map(|(before, after)| after.written_bytes - before.written_bytes)
        .sum();
    Ok(Round {
        measured,
        server_us: processor_us,
        client_us,
        written_bytes: written as f64 / operations,
    })
}

/// Makes each secret once, with clients at every node. Returns the time that it took.
///
/// # Errors
/// When one was not made.
pub async fn fill<C: Cluster>(cluster: &C, secrets: &Secrets) -> Result<Duration, Failure> {
    let count = secrets.count() as u64;
    say(format!("{}: filling in {count} secrets", cluster.name()));
    let callers = (0..FILLERS).map(|client| cluster.filling(client % cluster.len(), secrets));
    let started = tokio::time::Instant::now();
    let progress = Progress::default();
    let filling = run(Plan::of_operations(count), callers.collect(), progress.clone());
    let saying = async {
        loop {
            tokio::time::sleep(Duration::from_secs(15)).await;
            say(format!(
                "{}: {} of {count}",
                cluster.name(),
                progress.operations()
            ));
        }
    };
    let filled = tokio::select! {
        biased;
        filled = filling => filled,
        () = saying => unreachable!("it says so until all is filled"),
    };
    match filled.reasons().iter().next() {
        Some((reason, _)) => Err(format!("{} secrets were not made: {reason}", filled.errors()).into()),
        None => Ok(started.elapsed()),
    }
}

impl Rounds {
    /// One more.
    pub fn push(&mut self, round: Round) {
        self.0.push(round);
    }

    /// A figure of each.
    pub fn spread(&self, figure: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.0.iter().map(figure))
    }

    /// Operations a second.
    pub fn per_second(&self) -> Spread {
        self.spread(|round| round.measured.per_second())
    }

    /// The latency that this share of operations did not exceed.
    pub fn latency_ms(&self, share: f64) -> Spread {
        self.spread(|round| round.measured.latency_ms(share))
    }

    /// Processor time of each server for one operation, in microseconds: `186 + 104 + 104`.
    pub fn server_us(&self) -> String {
        let servers = self.0.first().map_or(0, |round| round.server_us.len());
        let each = (0..servers).map(|server| self.spread(|round| round.server_us[server]).median());
        each.map(super::thousands).collect::<Vec<_>>().join(" + ")
    }

    /// How many failed, over all rounds.
    pub fn errors(&self) -> u64 {
        self.0.iter().map(|round| round.measured.errors()).sum()
    }

    /// A figure of each round divided by another's of the same round: neighbours in time.
    pub fn ratio(&self, other: &Self) -> Spread {
        let pairs = self.0.iter().zip(&other.0);
        Spread::of(pairs.map(|(one, other)| one.measured.per_second() / other.measured.per_second()))
    }
}
