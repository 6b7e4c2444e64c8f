//! The command line.

use crate::peers::BareHandler;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Measures Conclave beside etcd and a bare handler, and writes docs/benchmarks.md.
#[derive(Parser, Debug)]
#[command(name = "conclave-benchmark")]
pub struct Command {
    #[command(subcommand)]
    pub task: Task,
}

#[derive(Subcommand, Debug)]
pub enum Task {
    /// Everything but the hour of mixed load, or the parts that are named.
    Run(Options),
    /// Mixed load for long: memory, files and latency over time.
    Hour(Hour),
    /// The handler that polls are compared with.
    #[command(hide = true)]
    BareHandler(BareHandler),
}

/// Parts of a run, each with tables of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// Durable puts beside etcd's.
    Put,
    /// Audited gets beside etcd's linearizable ones.
    Get,
    /// Polls answered 304 by a follower beside a bare handler.
    Poll,
    /// Latency at half of the highest rate.
    Half,
    /// Syncs of all processes.
    Syncs,
    /// The writes' pause when the leader is killed, beside etcd's.
    LeaderKilled,
    /// A rolling restart under load.
    RollingRestart,
    /// Disk at 100,000 secrets beside etcd's.
    Disk,
    /// Many secrets: rates, memory, restart, a wiped node.
    Many,
}

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only these parts, as in: --only put,get
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long a round is counted, after two seconds of warm-up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub kills: u32,
    /// What "many secrets" means.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub secrets: u32,
    /// What the part about disk fills in.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub disk_secrets: u32,
    #[command(flatten)]
    pub setup: Setup,
}

#[derive(Args, Clone, Debug)]
pub struct Hour {
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub minutes: u32,
    /// Operations a second: one put, two gets, seven polls of ten.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    #[command(flatten)]
    pub setup: Setup,
}

/// What is the same for all.
#[derive(Args, Clone, Debug)]
pub struct Setup {
    /// Clients, each with one connection and one request at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=500))]
    pub clients: u32,
    /// All data directories lie in here, on one disk. What an earlier run left there is deleted.
    #[arg(long, default_value = "target/benchmark")]
    pub folder: PathBuf,
    /// The tables are written into this file, between its markers.
    #[arg(long, default_value = "docs/benchmarks.md")]
    pub report: PathBuf,
    /// The `conclave` program. Default: the one beside this program.
    #[arg(long)]
    pub conclave: Option<PathBuf>,
    /// The `etcd` program.
    #[arg(long, default_value = "etcd")]
    pub etcd: PathBuf,
}

impl Options {
    /// Whether a part is to be measured.
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

impl Setup {
    /// The `conclave` program.
    pub fn conclave(&self) -> std::io::Result<PathBuf> {
        match &self.conclave {
            Some(path) => Ok(path.clone()),
            None => Ok(std::env::current_exe()?.with_file_name("conclave")),
        }
    }
}
