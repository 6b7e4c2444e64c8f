//! `conclave config check`.

use super::{
    Failure,
    output::{Format, write_line},
};
use crate::config::{self, Override, Severity};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Looks at a node's configuration.
#[derive(Args, Debug)]
pub struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Reports what is wrong with a configuration, line by line. Fails (exit code 5) on errors,
    /// not on warnings.
    Check {
        #[command(flatten)]
        source: Source,
    },
}

/// A node's configuration: a file, with environment variables (CONCLAVE_SECTION__KEY) and flags
/// over it.
#[derive(Args, Debug)]
pub struct Source {
    /// The configuration file (TOML).
    #[arg(long = "config", value_name = "FILE", env = "CONCLAVE_CONFIG")]
    pub file: PathBuf,
    /// Set a key over file and environment, as in: --set api.listen=127.0.0.1:8200
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = Override::from_flag)]
    flags: Vec<Override>,
}

impl Source {
    /// What lies over the file, later ones winning.
    pub fn overrides(&self) -> Vec<Override> {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut overrides = config::overrides_from_environment(variables);
        overrides.extend(self.flags.iter().cloned());
        overrides
    }
}

impl Config {
    pub fn run(self, format: Format) -> Result<(), Failure> {
        let Action::Check { source } = self.action;
        let (_, findings) = config::check(&source.file, &source.overrides());
        for finding in &findings {
            format.print(finding, || finding.to_string())?;
        }
        let errors = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .count();
        if errors > 0 {
            return Err(Failure::Invalid(format!(
                "{} has {errors} error(s)",
                source.file.display()
            )));
        }
        match format {
            Format::Text => write_line(&format!("{} can be used", source.file.display())),
            Format::Json => Ok(()),
        }
    }
}
