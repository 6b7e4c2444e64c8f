//! `conclave completions SHELL`.

use super::{CommandLine, Failure};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Writes a shell's completion script to standard output.
#[derive(Args, Debug)]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut CommandLine::command(), "conclave", &mut script);
        super::output::write_bytes(&script)
    }
}
