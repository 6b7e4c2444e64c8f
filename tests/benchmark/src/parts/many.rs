//! A million secrets: rates beside those of a thousand, memory, restart, and a node that lost its disk.

use super::{
    FEW_SECRETS, conclave, secrets,
    work::{Load, Work},
};
use crate::{
    Failure,
    measure::{Moments, Noting, Rounds, Spread, Usage, fill, mebibytes, thousands},
    options::Options,
    peers::{Cluster, Conclave, PATIENCE, spread_over},
    progress::say,
    report::{Section, Table},
};
use conclave::bench::{Kind, Plan, Progress, Secrets, run as drive};
use std::{fs, time::Duration};
use tokio::time::{Instant, sleep};

/// For what a node does a moment after the load has ended.
const SETTLING: Duration = Duration::from_secs(10);

pub async fn run(options: &Options) -> Result<Section, Failure> {
    let setup = &options.setup;
    let (few, many) = (secrets(FEW_SECRETS), secrets(options.secrets as usize));
    let mut large = conclave(setup, "conclave-many").await?;
    let empty = Memory::of(&large).await?;
    let filled = fill(&large, &many).await?;
    sleep(SETTLING).await;
    let full = Memory::of(&large).await?;

    let small = conclave(setup, "conclave").await?;
    fill(&small, &few).await?;
    let rates = rates(options, (&small, &few), (&large, &many)).await?;
    drop(small);
    sleep(SETTLING).await;
    let worked = Memory::of(&large).await?;
    let mut memory = memory(
        options,
        [
            ("empty", empty),
            ("filled", full),
            ("after the rounds above", worked),
        ],
    );
    memory.remark(format!(
        "{} secrets were filled in within {:.0} s, by 256 clients of all three nodes.",
        options.secrets,
        filled.as_secs_f64()
    ));
    let restart = restart(options, &mut large, &many).await?;
    let wiped = wiped(options, &mut large, &many).await?;
    Ok(Section {
        name: "many",
        tables: vec![rates, memory, restart, wiped],
    })
}

async fn rates(
    options: &Options,
    small: (&Conclave, &Secrets),
    large: (&Conclave, &Secrets),
) -> Result<Table, Failure> {
    let mut table = Table::new(&["work", "secrets", "per second", "median ms", "p99 ms", "errors"]);
    let load = Load {
        clients: options.setup.clients,
        per_second: None,
        seconds: options.seconds,
    };
    for work in [
        Work::at_leader(Kind::Put),
        Work::at_leader(Kind::Get),
        Work::at_follower(Kind::Poll),
    ] {
        let (mut of_few, mut of_many) = (Rounds::default(), Rounds::default());
        for _ in 0..options.rounds {
            of_few.push(work.round(small.0, small.1, load).await?);
            of_many.push(work.round(large.0, large.1, load).await?);
        }
        for (count, rounds) in [(small.1.count(), &of_few), (large.1.count(), &of_many)] {
            table.row([
                format!("{} at {}", work.name(), work.at.name()),
                count.to_string(),
                rounds.per_second().to_string(),
                rounds.latency_ms(0.5).to_string(),
                rounds.latency_ms(0.99).to_string(),
                rounds.errors().to_string(),
            ]);
        }
        // In a closed loop the time of an operation is one over the rate.
        let ratio = of_few.ratio(&of_many);
        let target = format!("{}: at most 1.2 × the time", work.name());
        table.verdict(&target, format!("{ratio} ×"), ratio.median() <= 1.2);
    }
    Ok(table)
}

/// Of all nodes, the leader's first.
struct Memory {
    resident_mib: Vec<f64>,
    anonymous_mib: Vec<f64>,
}

impl Memory {
    async fn of(cluster: &Conclave) -> Result<Self, Failure> {
        let pids = cluster.pids_from_leader().await?;
        let usage = pids.into_iter().map(Usage::of).collect::<Result<Vec<_>, _>>()?;
        let each = |bytes: fn(&Usage) -> u64| usage.iter().map(|of| mebibytes(bytes(of))).collect();
        Ok(Self {
            resident_mib: each(|usage| usage.resident_bytes),
            anonymous_mib: each(|usage| usage.anonymous_bytes),
        })
    }

    fn most_mib(&self) -> f64 {
        Spread::of(self.resident_mib.iter().copied()).most()
    }
}

fn memory(options: &Options, looks: [(&str, Memory); 3]) -> Table {
    let mut table = Table::new(&[
        "memory of a node, leader first",
        "resident MiB",
        "of that in no file, MiB",
        "largest node, less an empty one, per secret, bytes",
    ]);
    let shown = |mib: &[f64]| {
        mib.iter()
            .map(|mib| thousands(*mib))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let empty_mib = looks[0].1.most_mib();
    for (when, memory) in &looks {
        let bytes = (memory.most_mib() - empty_mib) * f64::from(1 << 20);
        table.row([
            (*when).to_owned(),
            shown(&memory.resident_mib),
            shown(&memory.anonymous_mib),
            thousands(bytes / f64::from(options.secrets)),
        ]);
    }
    let most = looks[1].1.most_mib().max(looks[2].1.most_mib());
    table.verdict(
        "at most 512 MiB at 1,000,000 secrets of 256 bytes",
        format!("{} MiB at {} secrets", thousands(most), options.secrets),
        most <= 512.0,
    );
    table
}

async fn restart(options: &Options, cluster: &mut Conclave, secrets: &Secrets) -> Result<Table, Failure> {
    let (mut one, mut killed, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let name = secrets.name(secrets.count() / 2);
    for _ in 0..options.rounds {
        for (orderly, times) in [(true, &mut one), (false, &mut killed)] {
            let node = (cluster.leader().await? + 1) % cluster.len();
            if orderly {
                cluster.stop(node).await?;
            } else {
                cluster.kill(node).await;
            }
            let started = Instant::now();
            cluster.start_node(node)?;
            cluster.wait_until_node_serves(node, &name).await?;
            times.push(started.elapsed().as_secs_f64());
            say(format!(
                "conclave: a node served again after {:.1} s",
                started.elapsed().as_secs_f64()
            ));
        }
        for node in 0..cluster.len() {
            cluster.stop(node).await?;
        }
        let started = Instant::now();
        for node in 0..cluster.len() {
            cluster.start_node(node)?;
        }
        for node in 0..cluster.len() {
            cluster.wait_until_node_serves(node, &name).await?;
        }
        all.push(started.elapsed().as_secs_f64());
    }
    let mut table = Table::new(&["restart, from the process's start to the first get answered", "s"]);
    let (one, killed, all) = (Spread::of(one), Spread::of(killed), Spread::of(all));
    table.row(["a follower, stopped with SIGTERM".to_owned(), one.to_string()]);
    table.row(["a follower, killed".to_owned(), killed.to_string()]);
    table.row(["all three at once, until each serves".to_owned(), all.to_string()]);
    table.verdict(
        "restart to serving at 1,000,000 secrets at most 5 s",
        format!("{one} s at {} secrets", options.secrets),
        one.median() <= 5.0,
    );
    Ok(table)
}

async fn wiped(options: &Options, cluster: &mut Conclave, secrets: &Secrets) -> Result<Table, Failure> {
    cluster.wait_until_serving().await?;
    let leader = cluster.leader().await?;
    let wiped = (leader + 1) % cluster.len();
    let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != wiped).collect();
    let moments = Moments::default();
    let clients = spread_over(&others, options.setup.clients).map(|node| Noting {
        driver: cluster.working(node, secrets, Kind::Mixed),
        moments: moments.clone(),
        patience: PATIENCE,
    });
    let mut plan = Plan::of_operations(u64::MAX);
    plan.duration = PATIENCE * 10;
    let load = tokio::spawn(drive(plan, clients.collect(), Progress::default()));
    let before_s = Duration::from_secs(options.seconds.into());
    sleep(SETTLING).await;
    let before = Instant::now();
    sleep(before_s).await;
    let away = Instant::now();
    cluster.stop(wiped).await?;
    let data_dir = cluster.data_dir(wiped).to_owned();
    fs::remove_dir_all(&data_dir)?;
    sleep(before_s).await;
    let back = Instant::now();
    cluster.start_node(wiped)?;
    wait_until_voter(cluster, wiped).await?;
    let voter = Instant::now();
    cluster.wait_until_node_serves(wiped, &secrets.name(0)).await?;
    let serves = Instant::now();
    say(format!(
        "conclave: a wiped node votes after {:.1} s",
        (voter - back).as_secs_f64()
    ));
    sleep(before_s).await;
    let end = Instant::now();
    load.abort();

    let mut table = Table::new(&[
        "a node wiped, under mixed load of the two others",
        "s",
        "operations per second of the others",
    ]);
    let row = |what: &str, from: Instant, until: Instant| {
        let seconds = (until - from).as_secs_f64();
        [
            what.to_owned(),
            thousands(seconds),
            thousands(moments.per_second(from, until)),
        ]
    };
    table.row(row("before", before, away));
    table.row(row("the node is away", away, back));
    table.row(row(
        "from its start, with an empty disk, until it votes",
        back,
        voter,
    ));
    table.row(row("until it answers a get", voter, serves));
    table.row(row("after that", serves, end));
    let slower = 100.0 * (1.0 - moments.per_second(back, voter) / moments.per_second(before, away));
    table.verdict(
        "the others at most 20 % slower meanwhile",
        format!("{slower:.0} % at {} secrets", options.secrets),
        slower <= 20.0,
    );
    Ok(table)
}

/// A voter again, as a new incarnation.
async fn wait_until_voter(cluster: &Conclave, node: usize) -> Result<(), Failure> {
    let name = cluster.node_name(node);
    let (asker, started) = ((node + 1) % cluster.len(), Instant::now());
    let client = cluster.client().at(asker);
    let own = cluster.client().at(node).with_timeout(Duration::from_secs(2));
    loop {
        let id = own.status().await.ok().and_then(|status| status.node_id);
        let members = client.members().await?;
        let same = members.members.iter().filter(|member| member.name == name);
        if same.clone().count() == 1 && same.clone().all(|member| member.voter && Some(member.id) == id) {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("{name} is no voter after {} s", PATIENCE.as_secs()).into());
        }
        sleep(Duration::from_millis(100)).await;
    }
}
