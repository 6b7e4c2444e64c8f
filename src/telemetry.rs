//! Logging: for people on a terminal, JSON lines otherwise.

use crate::config::{LogFormat, LogSection};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Installs the log for this process, on standard error.
pub fn install(log: &LogSection) -> Result<(), String> {
    let filter = filter(log).map_err(|error| format!("log.level: {error}"))?;
    let is_terminal = stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    let installed = if is_for_people(log.format, is_terminal) {
        registry
            .with(fmt::layer().with_writer(stderr).with_ansi(is_terminal))
            .try_init()
    } else {
        registry
            .with(fmt::layer().json().flatten_event(true).with_writer(stderr))
            .try_init()
    };
    installed.map_err(|error| error.to_string())
}

/// What is logged. openraft tells each step of Raft at `info`, and each failed try at `warn`, which is
/// dozens of lines a second while a node is down; our own lines say once what is wrong and when it is
/// over. Whoever wants openraft's names it in `log.level`.
///
/// # Errors
/// When `log.level` is no filter.
pub fn filter(log: &LogSection) -> Result<EnvFilter, String> {
    let directives = format!("openraft=error,{}", log.level);
    EnvFilter::try_new(directives).map_err(|error| error.to_string())
}

fn is_for_people(format: LogFormat, is_terminal: bool) -> bool {
    match format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn is_logged(level: &str) -> [bool; 3] {
        let log = LogSection {
            level: level.to_owned(),
            format: LogFormat::Auto,
        };
        let subscriber = tracing_subscriber::registry().with(filter(&log).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            [
                tracing::enabled!(target: "openraft::replication", Level::WARN),
                tracing::enabled!(target: "openraft::replication", Level::ERROR),
                tracing::enabled!(target: "conclave_raft::transport", Level::WARN),
            ]
        })
    }

    #[test]
    fn openrafts_warnings_are_logged_only_when_they_are_asked_for() {
        assert_eq!(is_logged("info"), [false, true, true]);
        assert_eq!(is_logged("debug"), [false, true, true]);
        assert_eq!(is_logged("info,openraft=warn"), [true, true, true]);
        assert_eq!(is_logged("error"), [false, true, false]);
    }

    #[test]
    fn a_terminal_is_for_people_unless_told_otherwise() {
        for (format, on_a_terminal, elsewhere) in [
            (LogFormat::Auto, true, false),
            (LogFormat::Human, true, true),
            (LogFormat::Json, false, false),
        ] {
            assert_eq!(is_for_people(format, true), on_a_terminal);
            assert_eq!(is_for_people(format, false), elsewhere);
        }
    }
}
