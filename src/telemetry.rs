//! Logging: for people on a terminal, JSON lines otherwise.

use crate::config::{LogFormat, LogSection};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Installs the log for this process, on standard error.
pub fn install(log: &LogSection) -> Result<(), String> {
    // openraft tells each step of Raft at `info`; whoever wants that says so in `log.level`.
    let directives = format!("openraft=warn,{}", log.level);
    let filter = EnvFilter::try_new(directives).map_err(|error| format!("log.level: {error}"))?;
    let is_terminal = stderr().is_terminal();
    let human = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let installed = if human {
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
