//! The one binary: see [`conclave::command`].

use clap::Parser;
use conclave::command::CommandLine;
use std::process::ExitCode;

fn main() -> ExitCode {
    CommandLine::parse().run()
}
