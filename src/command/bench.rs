//! `conclave bench`: how much a cluster does, and how long each request takes.

use super::{
    Failure,
    connection::Connection,
    output::{Format, table},
    progress::Progress as ProgressLine,
};
use crate::bench::{Caller, Driver, Kind, Measured, Pace, Plan, Progress, Secrets, Target, run};
use clap::Args;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the progress line changes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Measures a cluster under load: operations a second, and how long they took.
///
/// Makes secrets under a prefix, works on them, and leaves them there. Clients are spread evenly over the
/// given addresses; name one address to measure one node. Gets leave audit records, as all gets do.
#[derive(Args, Debug)]
pub struct Bench {
    /// What is asked.
    kind: Kind,
    /// Clients, each with one connection and one request at a time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Operations a second over all clients, evenly (open loop): latency counts from when each was to
    /// start. Without it each client asks again when it was answered (closed loop).
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// How long is counted, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    duration_s: u32,
    /// How long before that is not, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    warm_up_s: u32,
    /// Secrets that are worked on.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    secrets: u32,
    /// Bytes of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(32..=1_048_576))]
    value_bytes: u32,
    /// What the secrets' names begin with.
    #[arg(long, value_name = "PREFIX", default_value = "bench/")]
    prefix: String,
    /// The secrets are there already, from an earlier run: make none.
    #[arg(long)]
    filled: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Bench {
    pub fn run(self, format: Format) -> Result<(), Failure> {
        // Unlike other client commands this one has much to do at once.
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Other(format!("cannot start: {error}")))?
            .block_on(self.measure(format))
    }

    async fn measure(self, format: Format) -> Result<(), Failure> {
        let targets = Target::all(&self.connection.settings()?, Target::HTTP_1)?;
        let secrets = Secrets::new(&self.prefix, self.secrets as usize, self.value_bytes as usize);
        if !self.filled {
            let fillers = self.callers(&targets, |target| Caller::filling(target, secrets.clone()));
            let filled = watched(
                format,
                "filling",
                Plan::of_operations(self.secrets.into()),
                fillers,
            )
            .await;
            complain(&filled)?;
        }
        // Another run's values are others: its number is the time.
        let started_ns = SystemTime::now().duration_since(UNIX_EPOCH);
        let started_ns = started_ns.map_or(0, |since| since.as_nanos() as u64);
        let callers = self.callers(&targets, |target| {
            Caller::working(target, secrets.clone(), self.kind, started_ns)
        });
        let plan = Plan {
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open {
                per_second: rate.into(),
            }),
            warm_up: Duration::from_secs(self.warm_up_s.into()),
            duration: Duration::from_secs(self.duration_s.into()),
            operations: None,
        };
        let measured = watched(format, "measuring", plan, callers).await;
        let mut json = measured.json();
        json["clients"] = self.clients.into();
        json["rate"] = self.rate.into();
        format.print(&json, || text(&measured))?;
        if measured.operations() == 0 {
            complain(&measured)
        } else {
            Ok(())
        }
    }

    fn callers(&self, targets: &[Target], make: impl Fn(Target) -> Caller) -> Vec<Caller> {
        let spread = targets.iter().cycle().take(self.clients as usize);
        spread.map(|target| make(target.clone())).collect()
    }
}

async fn watched<D: Driver>(format: Format, what: &str, plan: Plan, drivers: Vec<D>) -> Measured {
    let line = ProgressLine::start(format, what.to_owned());
    let progress = Progress::default();
    let looked_at = progress.clone();
    let looking = async {
        let mut before = 0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = looked_at.operations();
            let per_second = (now - before) as f64 / LOOK_EVERY.as_secs_f64();
            line.say(format!("{what}: {now} operations, {per_second:.0}/s"));
            before = now;
        }
    };
    tokio::select! {
        biased;
        measured = run(plan, drivers, progress) => measured,
        () = looking => unreachable!("it looks until the run has ended"),
    }
}

fn text(measured: &Measured) -> String {
    let headings = [
        "PER SECOND",
        "OPERATIONS",
        "ERRORS",
        "P50 MS",
        "P90 MS",
        "P99 MS",
        "P99.9 MS",
        "MAX MS",
    ];
    let latency = |share| format!("{:.2}", measured.latency_ms(share));
    let row = [
        format!("{:.0}", measured.per_second()),
        measured.operations().to_string(),
        measured.errors().to_string(),
        latency(0.5),
        latency(0.9),
        latency(0.99),
        latency(0.999),
        latency(1.0),
    ];
    let mut lines = vec![table(headings, &[row])];
    lines.extend(
        measured
            .reasons()
            .iter()
            .map(|(reason, times)| format!("{times} × {reason}")),
    );
    lines.join("\n")
}

/// A run in which nothing, or not everything that had to, succeeded is a failure.
fn complain(measured: &Measured) -> Result<(), Failure> {
    match measured.reasons().iter().next() {
        Some((reason, _)) => Err(Failure::Other(format!(
            "{} requests failed, as in: {reason}",
            measured.errors()
        ))),
        None => Ok(()),
    }
}
