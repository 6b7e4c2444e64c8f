//! Keeps drivers busy for a while, and counts what they do. Any server can be driven: a driver is
//! one client with one connection.

use super::Measured;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// One client, which does one thing at a time.
pub trait Driver: Send + 'static {
    /// Does the operation with this number. Numbers are unique within a run.
    ///
    /// # Errors
    /// In words, when the server did not do what was asked.
    fn perform(&mut self, number: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// When operations start.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// Each client starts the next when its last one has ended.
    Closed,
    /// So many a second over all clients, evenly, whether or not earlier ones have ended. One that finds
    /// no free client waits for it, and its wait counts.
    Open {
        /// Operations a second; above 0.
        per_second: f64,
    },
}

/// How long, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// When operations start.
    pub pace: Pace,
    /// Operations that were to start in this time are done, and not counted.
    pub warm_up: Duration,
    /// The time that is counted, after the warm-up.
    pub duration: Duration,
    /// The run ends earlier, when so many operations have been started.
    pub operations: Option<u64>,
}

impl Plan {
    /// So many operations, as fast as they go.
    pub fn of_operations(operations: u64) -> Self {
        Self {
            pace: Pace::Closed,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(86_400),
            operations: Some(operations),
        }
    }
}

/// How far a run is, to be looked at while it goes on. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Operations that have ended, the warm-up's included.
    pub fn operations(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs the plan over these drivers to its end.
pub async fn run<D: Driver>(plan: Plan, drivers: Vec<D>, progress: Progress) -> Measured {
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for driver in drivers {
        let (next, progress) = (next.clone(), progress.clone());
        clients.spawn(keep_busy(plan, started, driver, next, progress));
    }
    let mut whole = Measured::new(plan.duration);
    while let Some(ended) = clients.join_next().await {
        match ended {
            Ok(measured) => whole.add(&measured),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    whole
}

async fn keep_busy<D: Driver>(
    plan: Plan,
    started: Instant,
    mut driver: D,
    next: Arc<AtomicU64>,
    progress: Progress,
) -> Measured {
    let counted_from = started + plan.warm_up;
    let until = counted_from + plan.duration;
    let mut measured = Measured::new(plan.duration);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if plan.operations.is_some_and(|operations| number >= operations) {
            return measured;
        }
        let start = match plan.pace {
            Pace::Closed => Instant::now(),
            Pace::Open { per_second } => started + Duration::from_secs_f64(number as f64 / per_second),
        };
        if start >= until {
            return measured;
        }
        tokio::time::sleep_until(start).await;
        let outcome = driver.perform(number).await;
        let ended = Instant::now();
        progress.0.fetch_add(1, Ordering::Relaxed);
        // In a closed loop what ends late was cut off by nothing, and would make the rate too high.
        let counts = start >= counted_from && (plan.pace != Pace::Closed || ended <= until);
        match outcome {
            Ok(()) if counts => measured.succeeded(ended - start),
            Err(reason) if counts => measured.failed(reason),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that stalls once.
    struct Stalling {
        stalls_at: u64,
        stall: Duration,
    }

    impl Driver for Stalling {
        async fn perform(&mut self, number: u64) -> Result<(), String> {
            if number == self.stalls_at {
                tokio::time::sleep(self.stall).await;
            }
            if number == 7 { Err("seven".into()) } else { Ok(()) }
        }
    }

    fn one(stalls_at: u64) -> Vec<Stalling> {
        let stall = Duration::from_millis(500);
        vec![Stalling { stalls_at, stall }]
    }

    #[tokio::test]
    async fn an_open_loop_counts_what_waited_behind_a_stall() {
        let plan = Plan {
            pace: Pace::Open { per_second: 100.0 },
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(1),
            operations: None,
        };
        let measured = run(plan, one(20), Progress::default()).await;
        assert_eq!(measured.operations(), 99);
        assert_eq!(measured.errors(), 1);
        // Half of the second was stalled: the one that stalled, and those behind it. More where this
        // machine stalls as well.
        let slow = measured.count_slower_than(Duration::from_millis(5));
        assert!(slow >= 45, "{slow}");
    }

    #[tokio::test]
    async fn the_warm_up_is_not_counted() {
        let plan = Plan {
            pace: Pace::Open { per_second: 100.0 },
            warm_up: Duration::from_millis(500),
            duration: Duration::from_millis(500),
            operations: None,
        };
        let progress = Progress::default();
        let measured = run(plan, one(0), progress.clone()).await;
        assert_eq!(progress.operations(), 100);
        assert_eq!((measured.operations(), measured.errors()), (50, 0));
    }
}
