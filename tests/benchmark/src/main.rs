//! `make bench`: Conclave beside etcd and a bare handler, in turns on one machine, and the figures written
//! into `docs/benchmarks.md`.
//!
//! One generator drives all of them: `conclave bench`'s own (`conclave::bench`), with a driver for each
//! program. The invariant: whatever is compared had the same number of clients and connections, the same
//! sizes, certificates, fill and disk, and its rounds lie between those of what it is compared with.
//!
//! | file or folder | idea                                                              |
//! |----------------|-------------------------------------------------------------------|
//! | `peers`        | the programs: how each is started, found, killed and asked         |
//! | `measure`      | instruments: rounds, processor time, disk, moments, spread         |
//! | `parts`        | the rows of the table, one file a row or group of rows             |
//! | `options`      | the command line                                                   |
//! | `machine`      | what this was measured on                                          |
//! | `report`       | the tables between the markers of `docs/benchmarks.md`             |
//! | `progress`     | lines for who waits                                                |

mod machine;
mod measure;
mod options;
mod parts;
mod peers;
mod progress;
mod report;

use clap::Parser;
use options::Command;
use std::process::ExitCode;

/// Why a measurement could not be taken.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let command = Command::parse();
    // Nodes end with the thread that started them, so that everything is started from this one.
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(parts::run(command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("conclave-benchmark: {failure}");
            ExitCode::FAILURE
        }
    }
}
