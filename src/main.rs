//! The one binary: see [`conclave::command`].

use conclave::command::CommandLine;
use std::process::ExitCode;

fn main() -> ExitCode {
    CommandLine::run_process()
}
