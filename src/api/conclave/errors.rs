//! Which code and status each failure has.

use super::messages::{ErrorBody, ErrorCode, ErrorDetail};
use crate::{
    operations::OperationError,
    seal::{KeyFileError, SealError, SealedReason},
    server::{Answer, BodyError, NotAdmitted},
};
use conclave_cluster::node::OperateError;
use hyper::StatusCode;
use std::time::Duration;

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    message: String,
    retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry_after = match code {
            ErrorCode::OutcomeUnknown | ErrorCode::Unavailable => Some(Duration::from_secs(1)),
            ErrorCode::Sealed => Some(Duration::from_secs(30)),
            _ => None,
        };
        Self {
            code,
            message: message.into(),
            retry_after,
        }
    }

    pub(super) fn answer(self) -> Answer {
        let status = StatusCode::from_u16(self.code.http_status()).expect("each code has a status");
        let detail = ErrorDetail {
            code: self.code,
            message: self.message,
        };
        let answer = Answer::json(status, &ErrorBody { error: detail });
        match self.retry_after {
            Some(after) => answer.retry_after(after),
            None => answer,
        }
    }
}

/// Refuses what the entrance stopped.
pub(crate) fn refuse(status: StatusCode, message: &str) -> Answer {
    let code = match status {
        StatusCode::MISDIRECTED_REQUEST => ErrorCode::UnknownHost,
        StatusCode::FORBIDDEN => ErrorCode::Denied,
        StatusCode::SERVICE_UNAVAILABLE => ErrorCode::Unavailable,
        _ => ErrorCode::InvalidRequest,
    };
    Failure::new(code, message).answer()
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        let code = match &error {
            OperationError::NotFound | OperationError::VersionNotFound | OperationError::NotAvailable => {
                ErrorCode::NotFound
            }
            OperationError::Denied | OperationError::Protected => ErrorCode::Denied,
            OperationError::Invalid(_) => ErrorCode::InvalidRequest,
            OperationError::TooLarge { .. } => ErrorCode::TooLarge,
            OperationError::ActiveVersion
            | OperationError::VersionUsed
            | OperationError::NumbersExhausted
            | OperationError::PreconditionFailed(_) => ErrorCode::Conflict,
            OperationError::Sealed { .. } => ErrorCode::Sealed,
            OperationError::OutcomeUnknown => ErrorCode::OutcomeUnknown,
            OperationError::NoMajority
            | OperationError::NoSpace
            | OperationError::Overloaded
            | OperationError::AuditFull
            | OperationError::Stopping => ErrorCode::Unavailable,
            OperationError::RateLimited { retry_after } => {
                let failure = Self::new(ErrorCode::RateLimited, error.to_string());
                return Self {
                    retry_after: Some(*retry_after),
                    ..failure
                };
            }
            OperationError::Damaged(reason) => {
                tracing::error!(reason, "an operation met damage");
                return Self::new(ErrorCode::Internal, "internal error; the node's log says more");
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        let code = match &error {
            OperateError::NoLeader => ErrorCode::Unavailable,
            OperateError::Refused(_) => ErrorCode::Conflict,
            OperateError::Unfinished(_) => ErrorCode::OutcomeUnknown,
        };
        Self::new(code, error.to_string())
    }
}

impl From<SealedReason> for Failure {
    fn from(reason: SealedReason) -> Self {
        Self::new(ErrorCode::Sealed, format!("the node is sealed: {reason}"))
    }
}

/// A key file that a caller named.
impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::new(ErrorCode::InvalidRequest, error.to_string())
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Sealed(reason) => reason.into(),
            SealError::Contended => Self::new(ErrorCode::Conflict, error.to_string()),
            SealError::Propose(error) => OperationError::from(error).into(),
            SealError::Damaged(reason) => OperationError::Damaged(reason).into(),
        }
    }
}

impl From<NotAdmitted> for Failure {
    fn from(refusal: NotAdmitted) -> Self {
        match refusal {
            NotAdmitted::Unidentified => Self::new(ErrorCode::Denied, refusal.to_string()),
            NotAdmitted::Limited(error) => error.into(),
            NotAdmitted::Busy => Self::new(ErrorCode::Unavailable, refusal.to_string()),
        }
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge { .. } => ErrorCode::TooLarge,
            BodyError::TooSlow { .. } => ErrorCode::TooSlow,
            BodyError::Broken => ErrorCode::InvalidRequest,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_json_with_code_status_and_retry() {
        let answer = Failure::from(OperationError::NoMajority).answer();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()[hyper::header::RETRY_AFTER], "1");
        let body: ErrorBody = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(body.error.code, ErrorCode::Unavailable);

        let limited = OperationError::RateLimited {
            retry_after: Duration::from_secs(7),
        };
        assert_eq!(
            Failure::from(limited).answer().headers()[hyper::header::RETRY_AFTER],
            "7"
        );
        let damaged = Failure::from(OperationError::Damaged("the path".into())).answer();
        assert_eq!(damaged.status(), 500);
        assert!(!String::from_utf8_lossy(damaged.body()).contains("the path"));
    }
}
