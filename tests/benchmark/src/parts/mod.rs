//! The rows of the table in `docs/benchmarks.md`, one file a row or a group of rows that share clusters.
//!
//! | file              | idea                                                           |
//! |-------------------|----------------------------------------------------------------|
//! | `work`            | one round of one kind of work at some nodes of a cluster        |
//! | `rates`           | put, get and poll beside etcd and the bare handler; half a rate |
//! | `syncs`           | syncs of all processes, counted by the kernel's tracer          |
//! | `leader_killed`   | how long writes stand still                                     |
//! | `rolling_restart` | each node stopped and started under load                        |
//! | `disk`            | what 100,000 secrets take, and what accounts for it             |
//! | `many`            | a million secrets: rates, memory, restart, a wiped node         |
//! | `hour`            | an hour of mixed load                                           |

mod disk;
mod hour;
mod leader_killed;
mod many;
mod rates;
mod rolling_restart;
mod syncs;
mod work;

use crate::{
    Failure, machine,
    options::{Command, Options, Part, Setup, Task},
    peers::{Conclave, Etcd},
    report::{self, Section},
};

/// Every section that is ever written.
#[cfg(test)]
pub const SECTIONS: [&str; 11] = [
    "machine",
    "put",
    "get",
    "poll",
    "half",
    "syncs",
    "leader-killed",
    "rolling-restart",
    "disk",
    "many",
    "hour",
];

/// Bytes of a value, everywhere.
const VALUE_BYTES: usize = 256;
/// Secrets where nothing else is said.
const FEW_SECRETS: usize = 1_000;
const PREFIX: &str = "bench/";

/// Does what the command line says.
///
/// # Errors
/// When something could not be measured or written; what was measured before is written.
pub async fn run(command: Command) -> Result<(), Failure> {
    match command.task {
        Task::BareHandler(handler) => handler.serve().await,
        Task::Hour(options) => {
            begin(&options.setup)?;
            write(&options.setup, &hour::run(&options).await?)
        }
        Task::Run(options) => {
            begin(&options.setup)?;
            run_parts(&options).await
        }
    }
}

async fn run_parts(options: &Options) -> Result<(), Failure> {
    let setup = &options.setup;
    let rates = [Part::Put, Part::Get, Part::Poll, Part::Half];
    if rates.iter().any(|part| options.wants(*part)) {
        for section in rates::run(options).await? {
            write(setup, &section)?;
        }
    }
    if options.wants(Part::Syncs) {
        write(setup, &syncs::run(options).await?)?;
    }
    if options.wants(Part::LeaderKilled) {
        write(setup, &leader_killed::run(options).await?)?;
    }
    if options.wants(Part::RollingRestart) {
        write(setup, &rolling_restart::run(options).await?)?;
    }
    if options.wants(Part::Disk) {
        write(setup, &disk::run(options).await?)?;
    }
    if options.wants(Part::Many) {
        write(setup, &many::run(options).await?)?;
    }
    Ok(())
}

fn begin(setup: &Setup) -> Result<(), Failure> {
    std::fs::create_dir_all(&setup.folder)?;
    write(setup, &report::machine(machine::facts(setup)?))
}

fn write(setup: &Setup, section: &Section) -> Result<(), Failure> {
    report::write(&setup.report, section, &machine::provenance()?)
}

async fn conclave(setup: &Setup, folder: &str) -> Result<Conclave, Failure> {
    Conclave::start(&setup.conclave()?, &setup.folder.join(folder)).await
}

async fn etcd(setup: &Setup, folder: &str) -> Result<Etcd, Failure> {
    Etcd::start(&setup.etcd, &setup.folder.join(folder)).await
}

fn secrets(count: usize) -> conclave::bench::Secrets {
    conclave::bench::Secrets::new(PREFIX, count, VALUE_BYTES)
}
