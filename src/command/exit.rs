//! How a command ends: the exit codes are part of the command's contract with scripts.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | any other failure |
//! | 2 | the command line is wrong |
//! | 3 | not found |
//! | 4 | denied |
//! | 5 | invalid |
//! | 6 | unavailable (a node that stays sealed after `seal retry`, for one), or the outcome is unknown |

use crate::client::{ClientError, SettingsError};
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A request to the cluster failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The command line or the environment is wrong.
    #[error("{0}")]
    Usage(String),
    /// What was given (a file, a configuration, an answer to a question) breaks a rule.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Client(ClientError::NotFound(_)) => 3,
            Self::Client(ClientError::Denied(_)) => 4,
            Self::Client(ClientError::Invalid(_)) | Self::Invalid(_) => 5,
            Self::Client(ClientError::Unavailable(_) | ClientError::OutcomeUnknown(_)) => 6,
            Self::Client(ClientError::Other(_)) | Self::Other(_) => 1,
            Self::Usage(_) => 2,
        })
    }

    /// The failure's kind in `--json`'s error object.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Client(ClientError::NotFound(_)) => "not_found",
            Self::Client(ClientError::Denied(_)) => "denied",
            Self::Client(ClientError::Invalid(_)) | Self::Invalid(_) => "invalid",
            Self::Client(ClientError::Unavailable(_)) => "unavailable",
            Self::Client(ClientError::OutcomeUnknown(_)) => "outcome_unknown",
            Self::Client(ClientError::Other(_)) | Self::Other(_) => "failed",
            Self::Usage(_) => "usage",
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Usage(error.0)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}
