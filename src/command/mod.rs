//! The `conclave` command: one file per group of subcommands.
//!
//! Results go to standard output, everything else to standard error. Values are never taken from
//! arguments. How a command ends is in [`exit`].

mod audit;
mod bench;
mod cluster;
mod completions;
mod config;
mod connection;
mod dev;
pub mod exit;
mod input;
mod output;
mod pki;
mod progress;
mod read;
mod seal;
mod server;
mod status;
mod version;
mod write;

pub use exit::Failure;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use output::Format;
use std::{ffi::OsString, process::ExitCode};

/// A replicated secrets cluster: server, client and tools in one.
#[derive(Parser, Debug)]
#[command(name = "conclave", version, about, max_term_width = 100)]
pub struct CommandLine {
    /// Print JSON, one value a line; errors as {"error":{"code","message"}} on standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Server(server::Server),
    Dev(dev::Dev),
    List(read::List),
    Info(read::Info),
    Get(read::Get),
    Put(write::Put),
    CreateVersion(write::CreateVersion),
    Activate(write::Activate),
    Delete(write::Delete),
    DeleteVersion(write::DeleteVersion),
    Status(status::Status),
    Audit(audit::Audit),
    Cluster(cluster::Cluster),
    Seal(seal::Seal),
    Bench(bench::Bench),
    Pki(pki::Pki),
    Config(config::Config),
    Version(version::Version),
    Completions(completions::Completions),
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 invalid, \
                          6 unavailable (or still sealed) or outcome unknown.";

impl CommandLine {
    /// Reads this process's command line and runs it to its end.
    pub fn run_process() -> ExitCode {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        match Self::read(&arguments) {
            Ok(line) => line.run(),
            Err(refused) if wants_json(&arguments) && is_complaint(&refused) => {
                report(&Failure::Usage(sentence(&refused)), Format::Json)
            }
            // Help and version go to standard output, complaints to standard error.
            Err(answered) => answered.exit(),
        }
    }

    fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let matches = with_exit_codes(Self::command()).try_get_matches_from(arguments)?;
        Self::from_arg_matches(&matches)
    }

    fn run(self) -> ExitCode {
        let format = if self.json { Format::Json } else { Format::Text };
        match self.command.run(format) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => report(&failure, format),
        }
    }
}

/// Says on standard error why the command failed.
fn report(failure: &Failure, format: Format) -> ExitCode {
    match format {
        Format::Text => eprintln!("conclave: {failure}"),
        Format::Json => eprintln!(
            "{}",
            serde_json::json!({"error": {"code": failure.code(), "message": failure.to_string()}})
        ),
    }
    failure.exit_code()
}

/// The exit codes are the same for all commands, so each one's help has them.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    command.after_help(EXIT_CODES).mut_subcommands(with_exit_codes)
}

/// Looked for by hand, because a line that cannot be read is what it is about.
fn wants_json(arguments: &[OsString]) -> bool {
    let mut options = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    options.any(|argument| argument == "--json")
}

fn is_complaint(error: &clap::Error) -> bool {
    !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// clap's first lines, without its advice on usage.
fn sentence(error: &clap::Error) -> String {
    let without_command = [
        ErrorKind::MissingSubcommand,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if without_command.contains(&error.kind()) {
        return "a command is missing".to_owned();
    }
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

impl Command {
    fn run(self, format: Format) -> Result<(), Failure> {
        match self {
            // These build a runtime of their own, or need none.
            Self::Server(command) => command.run(),
            Self::Bench(command) => command.run(format),
            Self::Pki(command) => command.run(format),
            Self::Config(command) => command.run(format),
            Self::Version(command) => command.run(format),
            Self::Completions(command) => command.run(),
            other => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::Other(format!("cannot start: {error}")))?
                .block_on(other.run_client(format)),
        }
    }

    async fn run_client(self, format: Format) -> Result<(), Failure> {
        match self {
            Self::Dev(command) => command.run(format).await,
            Self::List(command) => command.run(format).await,
            Self::Info(command) => command.run(format).await,
            Self::Get(command) => command.run(format).await,
            Self::Put(command) => command.run(format).await,
            Self::CreateVersion(command) => command.run(format).await,
            Self::Activate(command) => command.run(format).await,
            Self::Delete(command) => command.run(format).await,
            Self::DeleteVersion(command) => command.run(format).await,
            Self::Status(command) => command.run(format).await,
            Self::Audit(command) => command.run(format).await,
            Self::Cluster(command) => command.run(format).await,
            Self::Seal(command) => command.run(format).await,
            Self::Server(_)
            | Self::Bench(_)
            | Self::Pki(_)
            | Self::Config(_)
            | Self::Version(_)
            | Self::Completions(_) => {
                unreachable!("run by `Command::run`, which calls this for the others only")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// clap checks itself only in debug builds, and we have none.
    #[test]
    fn no_two_arguments_of_a_command_share_a_name() {
        let mut open = vec![CommandLine::command()];
        while let Some(command) = open.pop() {
            let mut seen = BTreeSet::new();
            for argument in command.get_arguments() {
                let names = [Some(argument.get_id().as_str()), argument.get_long()];
                let names: BTreeSet<&str> = names.into_iter().flatten().collect();
                for name in names {
                    assert!(seen.insert(name.to_owned()), "{}: {name}", command.get_name());
                }
            }
            open.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn every_help_has_the_exit_codes() {
        let mut open = vec![with_exit_codes(CommandLine::command())];
        while let Some(mut command) = open.pop() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("4 denied"), "{help}");
            let own = command.get_subcommands();
            open.extend(own.filter(|command| command.get_name() != "help").cloned());
        }
    }

    #[test]
    fn wrong_lines_are_told_in_one_sentence() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for (words, part) in [
            (&["conclave", "--json", "get"][..], "<NAME>"),
            (&["conclave", "--json", "status", "--nothing"], "--nothing"),
            (&["conclave", "--json"], "a command is missing"),
            (&["conclave", "seal", "--json"], "a command is missing"),
        ] {
            let line = arguments(words);
            let error = CommandLine::read(&line).expect_err("it is wrong");
            assert!(wants_json(&line) && is_complaint(&error));
            let said = sentence(&error);
            assert!(said.contains(part) && !said.contains("Usage"), "{said}");
        }
        assert!(!wants_json(&arguments(&["conclave", "get", "--", "--json"])));
        let help = CommandLine::read(&arguments(&["conclave", "--json", "get", "--help"]));
        assert!(!is_complaint(&help.expect_err("help")));
    }

    #[test]
    fn every_documented_command_is_there() {
        let command = CommandLine::command();
        for name in [
            "server",
            "dev",
            "list",
            "info",
            "get",
            "put",
            "create-version",
            "activate",
            "delete",
            "delete-version",
            "status",
            "audit",
            "cluster",
            "seal",
            "pki",
            "config",
            "version",
            "completions",
        ] {
            assert!(command.find_subcommand(name).is_some(), "{name} is missing");
        }
    }

    #[test]
    fn no_command_takes_a_value_as_an_argument() {
        let name = ["conclave", "put", "name", "value"];
        assert!(CommandLine::try_parse_from(name).is_err());
        assert!(CommandLine::try_parse_from(["conclave", "create-version", "name", "1", "value"]).is_err());
    }
}
