//! What can go wrong for a caller, by what the caller can do about it.

/// Why a request has no answer. The messages are the server's where it gave one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No such secret, version or member.
    #[error("not found: {0}")]
    NotFound(String),
    /// The caller has no identity there, or no right to it.
    #[error("denied: {0}")]
    Denied(String),
    /// The request breaks a rule; sending it again is no use.
    #[error("invalid: {0}")]
    Invalid(String),
    /// No node could serve it in time. Nothing was done.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It was sent, and nobody can say whether it was carried out.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(String),
    /// Anything else, such as an answer that cannot be understood.
    #[error("{0}")]
    Other(String),
}
