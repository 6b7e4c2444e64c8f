//! Put, get and poll beside etcd and the bare handler, in turns; latency at half of the highest rate.

use super::{
    FEW_SECRETS, conclave, etcd, secrets,
    work::{At, Load, Work},
};
use crate::{
    Failure,
    measure::{Round, Rounds, Spread, fill, plan, round, thousands},
    options::{Options, Part},
    peers::{Bare, Conclave, Etcd},
    progress::say,
    report::{Section, Table},
};
use conclave::bench::{Kind, Secrets};

/// The programs, filled alike.
struct Peers {
    conclave: Conclave,
    etcd: Etcd,
    bare: Bare,
    secrets: Secrets,
}

/// To find the highest rate.
const HIGHEST_SECONDS: u32 = 5;

pub async fn run(options: &Options) -> Result<Vec<Section>, Failure> {
    let setup = &options.setup;
    let peers = Peers {
        conclave: conclave(setup, "conclave").await?,
        etcd: etcd(setup, "etcd").await?,
        bare: Bare::start(&setup.folder.join("bare")).await?,
        secrets: secrets(FEW_SECRETS),
    };
    fill(&peers.conclave, &peers.secrets).await?;
    fill(&peers.etcd, &peers.secrets).await?;
    let mut sections = Vec::new();
    if options.wants(Part::Put) {
        sections.push(peers.beside_etcd(options, "put", Kind::Put, 3.0).await?);
    }
    if options.wants(Part::Get) {
        sections.push(peers.beside_etcd(options, "get", Kind::Get, 2.0).await?);
    }
    if options.wants(Part::Poll) {
        sections.push(peers.beside_bare(options).await?);
    }
    if options.wants(Part::Half) {
        sections.push(peers.half_of_highest(options).await?);
    }
    Ok(sections)
}

impl Peers {
    async fn beside_etcd(
        &self,
        options: &Options,
        name: &'static str,
        kind: Kind,
        times: f64,
    ) -> Result<Section, Failure> {
        let mut table = Table::new(&HEADINGS);
        for at in [At::Leader, At::All] {
            let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
            let work = Work { kind, at };
            for _ in 0..options.rounds {
                ours.push(work.round(&self.conclave, &self.secrets, load(options)).await?);
                theirs.push(work.round(&self.etcd, &self.secrets, load(options)).await?);
            }
            let clients = format!("{name}, {} clients at {}", options.setup.clients, at.name());
            table.row(row(&clients, "conclave", &ours));
            table.row(row(&clients, "etcd", &theirs));
            let ratio = ours.ratio(&theirs);
            table.verdict(
                &format!("{clients}: at least {times} × etcd's"),
                format!("{ratio} ×"),
                ratio.median() >= times,
            );
            if kind == Kind::Get {
                let p99_ms = ours.latency_ms(0.99);
                let target = format!("{clients}: p99 at most 20 ms");
                table.verdict(&target, format!("{p99_ms} ms"), p99_ms.median() <= 20.0);
            }
        }
        Ok(section(name, table))
    }

    async fn beside_bare(&self, options: &Options) -> Result<Section, Failure> {
        let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
        let work = Work::at_follower(Kind::Poll);
        // The handler's secrets are all of version 1.
        let (clients, of_bare) = (options.setup.clients, secrets(FEW_SECRETS));
        for _ in 0..options.rounds {
            ours.push(work.round(&self.conclave, &self.secrets, load(options)).await?);
            let callers = (0..clients).map(|_| self.bare.polling(&of_bare));
            let plan = plan(None, options.seconds);
            let done = round(plan, callers.collect(), &[self.bare.pid()]).await?;
            say(format!("bare handler: poll: {:.0}/s", done.measured.per_second()));
            theirs.push(done);
        }
        let mut table = Table::new(&HEADINGS);
        table.row(row(
            &format!("poll, {clients} clients at one follower"),
            "conclave",
            &ours,
        ));
        table.row(row(&format!("poll, {clients} clients"), "bare handler", &theirs));
        let ratio = ours.ratio(&theirs);
        table.verdict(
            "a poll answered 304 by a follower: at least 0.8 × the bare handler",
            format!("{ratio} ×"),
            ratio.median() >= 0.8,
        );
        Ok(section("poll", table))
    }

    async fn half_of_highest(&self, options: &Options) -> Result<Section, Failure> {
        let mut table = Table::new(&[
            "work",
            "program",
            "highest rate per second",
            "median ms at half of it",
            "p99 ms",
            "p99 ÷ median",
            "errors",
        ]);
        let put = Work::at_leader(Kind::Put);
        let get = Work::at_leader(Kind::Get);
        let poll = Work::at_follower(Kind::Poll);
        for (work, beside_etcd) in [(put, true), (get, true), (poll, false)] {
            let mut programs = vec![("conclave", Half::default())];
            if beside_etcd {
                programs.push(("etcd", Half::default()));
            }
            for _ in 0..options.rounds {
                for (program, half) in &mut programs {
                    for at_half in [false, true] {
                        let load = half.next(options, at_half);
                        let done = match *program {
                            "etcd" => work.round(&self.etcd, &self.secrets, load).await?,
                            _ => work.round(&self.conclave, &self.secrets, load).await?,
                        };
                        half.push(done, at_half);
                    }
                }
            }
            for (program, half) in &programs {
                let ratio = half.ratio();
                table.row([
                    format!("{} at {}", work.name(), work.at.name()),
                    (*program).to_owned(),
                    half.highest.per_second().to_string(),
                    half.at_half.latency_ms(0.5).to_string(),
                    half.at_half.latency_ms(0.99).to_string(),
                    ratio.to_string(),
                    half.at_half.errors().to_string(),
                ]);
                if *program == "conclave" {
                    let target = format!("{}: p99 at most 5 × the median", work.name());
                    table.verdict(&target, format!("{ratio} ×"), ratio.median() <= 5.0);
                }
            }
        }
        Ok(section("half", table))
    }
}

/// Rounds at the highest rate, each followed by one at half of it.
#[derive(Default)]
struct Half {
    highest: Rounds,
    at_half: Rounds,
    last_per_second: f64,
}

impl Half {
    fn next(&self, options: &Options, at_half: bool) -> Load {
        Load {
            clients: options.setup.clients,
            per_second: at_half.then_some(self.last_per_second / 2.0),
            seconds: if at_half { options.seconds } else { HIGHEST_SECONDS },
        }
    }

    fn push(&mut self, done: Round, at_half: bool) {
        if at_half {
            self.at_half.push(done);
        } else {
            self.last_per_second = done.measured.per_second();
            self.highest.push(done);
        }
    }

    fn ratio(&self) -> Spread {
        let ratio = |round: &Round| round.measured.latency_ms(0.99) / round.measured.latency_ms(0.5);
        self.at_half.spread(ratio)
    }
}

const HEADINGS: [&str; 8] = [
    "work",
    "program",
    "per second",
    "median ms",
    "p99 ms",
    "processor µs per operation: servers, leader first; generator",
    "written to disk per operation, all nodes, bytes",
    "errors",
];

fn row(work: &str, program: &str, rounds: &Rounds) -> [String; 8] {
    [
        work.to_owned(),
        program.to_owned(),
        rounds.per_second().to_string(),
        rounds.latency_ms(0.5).to_string(),
        rounds.latency_ms(0.99).to_string(),
        format!(
            "{}; {}",
            rounds.server_us(),
            thousands(rounds.spread(|round| round.client_us).median())
        ),
        thousands(rounds.spread(|round| round.written_bytes).median()),
        rounds.errors().to_string(),
    ]
}

fn load(options: &Options) -> Load {
    Load {
        clients: options.setup.clients,
        per_second: None,
        seconds: options.seconds,
    }
}

fn section(name: &'static str, table: Table) -> Section {
    Section {
        name,
        tables: vec![table],
    }
}
