//! How an operation fails. Dialects map each case to a status; none carries a name or a value.

use crate::{index::IndexError, seal::SealedReason};
use conclave_cluster::{command::Refusal, model::VersionState, node::ProposeError};
use std::time::Duration;

/// Why an operation was not done, or why that is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OperationError {
    /// No such secret.
    #[error("no such secret")]
    NotFound,
    /// The secret has no such version, or no active one.
    #[error("no such version")]
    VersionNotFound,
    /// The version is there, but disabled, deleted, expired or used up.
    #[error("the version is not available")]
    NotAvailable,
    /// The caller has no right to it.
    #[error("access denied")]
    Denied,
    /// The request breaks a rule that the message names.
    #[error("{0}")]
    Invalid(String),
    /// The value has more bytes than the configured limit.
    #[error("the value has {size_bytes} bytes; at most {limit_bytes} are allowed")]
    TooLarge { size_bytes: usize, limit_bytes: usize },
    /// The active version alone cannot be deleted.
    #[error("the active version cannot be deleted")]
    ActiveVersion,
    /// The version's number had a value before.
    #[error("the version's number was already used")]
    VersionUsed,
    /// No number is left above the highest.
    #[error("no version number is left")]
    NumbersExhausted,
    /// A condition that the request named does not hold.
    #[error("{0}")]
    PreconditionFailed(String),
    /// The secret is protected.
    #[error("the secret is protected")]
    Protected,
    /// Disclosures are refused while the audit log is at its limit.
    #[error("the audit log is full; `conclave audit limit` raises its limit")]
    AuditFull,
    /// This node has no keys now.
    #[error("the node is sealed: {reason}; ask an unsealed node")]
    Sealed { reason: SealedReason },
    /// No leader was found in time; nothing was done.
    #[error("no majority of nodes answers; nothing was done")]
    NoMajority,
    /// No majority answered in time; it may or may not have been done.
    #[error("no majority of nodes answered in time; the outcome is unknown")]
    OutcomeUnknown,
    /// The leader's disk is below its reserve.
    #[error("no space is left on the leader's disk")]
    NoSpace,
    /// Too much is waiting.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The caller is over its limit.
    #[error("too many requests from this caller; try again in {} s", retry_after.as_secs().max(1))]
    RateLimited { retry_after: Duration },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// Local damage, or bytes that our keys do not open. The message names no secret.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl From<ProposeError> for OperationError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::OutcomeUnknown => Self::OutcomeUnknown,
            ProposeError::NoLeader => Self::NoMajority,
            ProposeError::Overloaded => Self::Overloaded,
            ProposeError::NoSpace => Self::NoSpace,
            ProposeError::TooLarge {
                size_bytes,
                limit_bytes,
            } => Self::TooLarge {
                size_bytes,
                limit_bytes,
            },
            ProposeError::Stopping => Self::Stopping,
        }
    }
}

impl From<Refusal> for OperationError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NotFound,
            Refusal::VersionNotFound => Self::VersionNotFound,
            // What is destroyed never comes back: to a caller it is as if it never was.
            Refusal::NotAvailable {
                state: VersionState::Destroyed,
                ..
            } => Self::VersionNotFound,
            Refusal::NotAvailable { .. } => Self::NotAvailable,
            Refusal::NumberUsed { .. } => Self::VersionUsed,
            Refusal::NumbersExhausted => Self::NumbersExhausted,
            Refusal::ActiveVersion { .. } => Self::ActiveVersion,
            Refusal::Protected => Self::Protected,
            Refusal::AuditFull => Self::AuditFull,
            Refusal::TooLate => Self::OutcomeUnknown,
            Refusal::TooManyVersions { .. } | Refusal::AnswerTooLarge => Self::Invalid(refusal.to_string()),
            Refusal::Malformed(reason) => Self::Damaged(format!("the cluster refused our command: {reason}")),
            Refusal::AlreadyExists
            | Refusal::OtherSecret { .. }
            | Refusal::CheckAndSet { .. }
            | Refusal::CheckAndSetRequired
            | Refusal::Precondition { .. }
            | Refusal::NumbersOverlap
            | Refusal::NotRestorable => Self::PreconditionFailed(refusal.to_string()),
        }
    }
}

impl From<SealedReason> for OperationError {
    fn from(reason: SealedReason) -> Self {
        Self::Sealed { reason }
    }
}

impl From<std::io::Error> for OperationError {
    fn from(error: std::io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<IndexError> for OperationError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Sealed(reason) => reason.into(),
            IndexError::State(error) => error.into(),
        }
    }
}
