//! `conclave server`: one node.

use super::{Failure, config::Source};
use crate::server::{self, ConfigSource, RunError};
use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::{os::unix::process::CommandExt, time::Duration};
use tokio::runtime::Runtime;

/// Runs a node until it is told to stop (SIGTERM, SIGINT). SIGHUP reads certificates, grants and the
/// seal key again.
#[derive(Args, Debug)]
pub struct Server {
    #[command(flatten)]
    source: Source,
    /// Before starting, look through all stored data, and start only if it is as it was written; also on
    /// a directory that an earlier run marked as damaged.
    #[arg(long)]
    rescan: bool,
    /// Stop when this process, which must be the parent, ends.
    #[arg(long, value_name = "PID", hide = true)]
    exit_with_parent: Option<i32>,
}

impl Server {
    pub fn run(self) -> Result<(), Failure> {
        if let Some(parent) = self.exit_with_parent {
            exit_with_parent(parent)?;
        }
        let overrides = self.source.overrides();
        let source = ConfigSource {
            path: self.source.file,
            overrides,
        };
        let runtime = Runtime::new().map_err(|error| Failure::Other(error.to_string()))?;
        let result = runtime.block_on(server::run(source, self.rescan));
        // Whatever still blocks a thread must not keep a stopped node's process alive.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result.map_err(|error| match error {
            RunError::Configuration { .. } => Failure::Invalid(error.to_string()),
            // The disk is known to be old; what follows from that needs no operator.
            RunError::Reverted(reason) => start_over(&reason),
            _ => Failure::Other(error.to_string()),
        })
    }
}

/// Runs this program again in place of itself, with the same arguments. Returns only what kept it
/// from doing so.
fn start_over(reason: &str) -> Failure {
    tracing::warn!(reason, "starting over as a new incarnation");
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Failure::Other(format!("{reason}; and this program is not found: {error}")),
    };
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    Failure::Other(format!("{reason}; and starting over failed: {error}"))
}

fn exit_with_parent(parent: i32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Failure::Other(format!("cannot watch the parent process: {error}")))?;
    // It may have ended before the line above.
    if getppid() != Pid::from_raw(parent) {
        return Err(Failure::Other("the parent process has ended".into()));
    }
    Ok(())
}
