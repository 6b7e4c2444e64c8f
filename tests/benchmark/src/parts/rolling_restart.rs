//! Each node in turn stopped (SIGTERM) and started again, when the one before serves, under load of clients as
//! users have them: they know all nodes, and ask another when one is away.

use super::{FEW_SECRETS, conclave, secrets};
use crate::{
    Failure,
    measure::{Moments, Spread, fill},
    options::Options,
    peers::{Cluster, Conclave, PATIENCE, run_number},
    progress::say,
    report::{Section, Table},
};
use conclave::{
    bench::{Driver, Pace, Plan, Progress, Secrets, run as drive},
    client::Client,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A third each of puts, gets and polls.
const PER_SECOND: f64 = 600.0;
const LEAD: Duration = Duration::from_secs(3);
/// After a node serves again, and at the end.
const REST: Duration = Duration::from_secs(2);
const KINDS: [&str; 3] = ["put", "get", "poll"];

pub async fn run(options: &Options) -> Result<Section, Failure> {
    let setup = &options.setup;
    let secrets = secrets(FEW_SECRETS);
    let mut cluster = conclave(setup, "conclave").await?;
    fill(&cluster, &secrets).await?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(restart_all(&mut cluster, &secrets, setup.clients).await?);
    }
    let mut table = Table::new(&["work", "succeeded", "failed", "longest pause ms"]);
    let mut longest_ms: f64 = 0.0;
    let mut failed = 0;
    for (kind, name) in KINDS.iter().enumerate() {
        let pauses = Spread::of(rounds.iter().map(|round| round.pauses_ms[kind]));
        longest_ms = longest_ms.max(pauses.most());
        let failures: usize = rounds.iter().map(|round| round.failed[kind]).sum();
        failed += failures;
        table.row([
            (*name).to_owned(),
            rounds
                .iter()
                .map(|round| round.succeeded[kind])
                .sum::<usize>()
                .to_string(),
            failures.to_string(),
            pauses.to_string(),
        ]);
    }
    table.verdict("no failed request", format!("{failed} failed"), failed == 0);
    table.verdict(
        "longest pause at most 100 ms",
        format!("{longest_ms:.0} ms at the worst"),
        longest_ms <= 100.0,
    );
    Ok(Section {
        name: "rolling-restart",
        tables: vec![table],
    })
}

/// One time round, for each kind.
struct Round {
    succeeded: [usize; 3],
    failed: [usize; 3],
    pauses_ms: [f64; 3],
}

/// A client with all rights that knows all nodes.
struct User {
    client: Client,
    secrets: Secrets,
    run: u64,
    seen: Seen,
}

/// Clones share it.
#[derive(Clone, Default)]
struct Seen {
    succeeded: [Moments; 3],
    failed: [Moments; 3],
}

impl Driver for User {
    async fn perform(&mut self, number: u64) -> Result<(), String> {
        let name = self.secrets.name(self.secrets.scattered(number));
        let kind = (number % 3) as usize;
        let done = match kind {
            0 => {
                let value = self.secrets.value(Some(self.run.wrapping_add(number)));
                self.client.put(&name, value.as_bytes()).await.map(drop)
            }
            1 => self.client.get(&name, None).await.map(drop),
            _ => self.client.get_if_changed(&name, 1).await.map(drop),
        };
        match done {
            Ok(()) => self.seen.succeeded[kind].note(),
            Err(error) => {
                self.seen.failed[kind].note();
                say(format!("a {} failed: {error}", KINDS[kind]));
            }
        }
        Ok(())
    }
}

async fn restart_all(cluster: &mut Conclave, secrets: &Secrets, clients: u32) -> Result<Round, Failure> {
    cluster.wait_until_serving().await?;
    let seen = Seen::default();
    let run = run_number();
    let users = (0..clients).map(|_| User {
        client: cluster.client().clone(),
        secrets: secrets.clone(),
        run,
        seen: seen.clone(),
    });
    let plan = Plan {
        pace: Pace::Open {
            per_second: PER_SECOND,
        },
        warm_up: Duration::ZERO,
        duration: PATIENCE * 10,
        operations: None,
    };
    let load = tokio::spawn(drive(plan, users.collect(), Progress::default()));
    sleep(LEAD).await;
    let from = Instant::now();
    for node in 0..cluster.len() {
        cluster.stop(node).await?;
        cluster.start_node(node)?;
        cluster.wait_until_serving().await?;
        say(format!("{} was restarted", cluster.node_name(node)));
        sleep(REST).await;
    }
    let until = Instant::now();
    load.abort();
    Ok(Round {
        succeeded: seen
            .succeeded
            .each_ref()
            .map(|moments| moments.count(from, until)),
        failed: seen.failed.each_ref().map(|moments| moments.count(from, until)),
        pauses_ms: seen
            .succeeded
            .each_ref()
            .map(|moments| moments.longest_pause(from, until).as_secs_f64() * 1_000.0),
    })
}
