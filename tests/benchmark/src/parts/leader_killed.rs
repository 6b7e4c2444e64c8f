//! How long writes stand still when the leader is killed. Clients of the two survivors try a put each ten
//! milliseconds, from a crowd large enough that one is always free; each gives up after a second, and asks
//! anew. The pause is the longest time, from the kill on, in which no put succeeded. The same for etcd.

use super::{FEW_SECRETS, conclave, etcd, secrets};
use crate::{
    Failure,
    measure::{Moments, Noting, Spread, fill, thousands},
    options::Options,
    peers::{Cluster, PATIENCE},
    progress::say,
    report::{Section, Table},
};
use conclave::bench::{Kind, Pace, Plan, Progress, Secrets, run as drive};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// So many that some are free even if nothing is answered for longer than they wait.
const CLIENTS: usize = 160;
const PER_SECOND: f64 = 100.0;
const CLIENT_PATIENCE: Duration = Duration::from_secs(1);
/// Until every client is connected.
const LEAD: Duration = Duration::from_secs(2);
/// Writes go on when so many succeeded after the kill.
const ENOUGH: usize = 200;

pub async fn run(options: &Options) -> Result<Section, Failure> {
    let setup = &options.setup;
    let secrets = secrets(FEW_SECRETS);
    let mut conclave = conclave(setup, "conclave").await?;
    let mut etcd = etcd(setup, "etcd").await?;
    fill(&conclave, &secrets).await?;
    fill(&etcd, &secrets).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.kills {
        ours.push(pause_ms(&mut conclave, &secrets).await?);
        theirs.push(pause_ms(&mut etcd, &secrets).await?);
    }
    let mut table = Table::new(&[
        "program",
        "tries",
        "longest pause of writes, ms: median (least–most)",
        "each, ms",
    ]);
    for (program, pauses) in [("conclave", &ours), ("etcd", &theirs)] {
        let each: Vec<String> = pauses.iter().map(|pause| thousands(*pause)).collect();
        table.row([
            program.to_owned(),
            pauses.len().to_string(),
            Spread::of(pauses.iter().copied()).to_string(),
            each.join(" · "),
        ]);
    }
    let worst = Spread::of(ours).most();
    table.verdict(
        "at most 1 s at the worst",
        format!("{} ms at the worst", thousands(worst)),
        worst <= 1_000.0,
    );
    Ok(Section {
        name: "leader-killed",
        tables: vec![table],
    })
}

async fn pause_ms<C: Cluster>(cluster: &mut C, secrets: &Secrets) -> Result<f64, Failure> {
    cluster.wait_until_serving().await?;
    let leader = cluster.leader().await?;
    let survivors: Vec<usize> = (0..cluster.len()).filter(|node| *node != leader).collect();
    let moments = Moments::default();
    let clients = (0..CLIENTS).map(|client| Noting {
        driver: cluster.working(survivors[client % survivors.len()], secrets, Kind::Put),
        moments: moments.clone(),
        patience: CLIENT_PATIENCE,
    });
    let plan = Plan {
        pace: Pace::Open {
            per_second: PER_SECOND,
        },
        warm_up: Duration::ZERO,
        duration: LEAD + PATIENCE,
        operations: None,
    };
    let load = tokio::spawn(drive(plan, clients.collect(), Progress::default()));
    sleep(LEAD).await;
    let killed = Instant::now();
    cluster.kill(leader).await;
    while moments.count(killed, Instant::now()) < ENOUGH {
        if killed.elapsed() > PATIENCE {
            return Err(format!("{}: no writes after the leader was killed", cluster.name()).into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let pause = moments.longest_pause(killed, Instant::now());
    load.abort();
    cluster.start_node(leader)?;
    let pause_ms = pause.as_secs_f64() * 1_000.0;
    say(format!(
        "{}: writes stood still for {pause_ms:.0} ms",
        cluster.name()
    ));
    cluster.wait_until_serving().await?;
    Ok(pause_ms)
}
