//! Which status each failure has: 400 for requests that are wrong in themselves, 403, 404, 412 for a
//! number that was used, 429 over a rate and 503 where too much is worked on (both ours), and 500
//! for all else, as the document has it, with the reason in plain words and `Retry-After` where trying
//! again may help.

use crate::{
    operations::OperationError,
    server::{Answer, NotAdmitted},
};
use hyper::StatusCode;
use std::time::Duration;

/// When to try again after an outage: a cluster elects a leader in about a second.
const OUTAGE_RETRY: Duration = Duration::from_secs(1);
/// When to try again after something that people have to end.
const LONG_RETRY: Duration = Duration::from_secs(30);

pub(super) fn answer(error: &OperationError) -> Answer {
    let with = |status: StatusCode| Answer::text(status, error.to_string());
    match error {
        OperationError::NotFound | OperationError::VersionNotFound | OperationError::NotAvailable => {
            with(StatusCode::NOT_FOUND)
        }
        OperationError::Denied | OperationError::Protected => with(StatusCode::FORBIDDEN),
        OperationError::Invalid(_)
        | OperationError::TooLarge { .. }
        | OperationError::ActiveVersion
        | OperationError::NumbersExhausted => with(StatusCode::BAD_REQUEST),
        OperationError::VersionUsed => with(StatusCode::PRECONDITION_FAILED),
        OperationError::RateLimited { retry_after } => {
            with(StatusCode::TOO_MANY_REQUESTS).retry_after(*retry_after)
        }
        OperationError::NoMajority
        | OperationError::OutcomeUnknown
        | OperationError::Overloaded
        | OperationError::Stopping => with(StatusCode::INTERNAL_SERVER_ERROR).outage(OUTAGE_RETRY),
        OperationError::PreconditionFailed(_) => {
            with(StatusCode::INTERNAL_SERVER_ERROR).retry_after(OUTAGE_RETRY)
        }
        OperationError::Sealed { .. } | OperationError::NoSpace | OperationError::AuditFull => {
            with(StatusCode::INTERNAL_SERVER_ERROR).outage(LONG_RETRY)
        }
        OperationError::Damaged(reason) => {
            tracing::error!(reason, "an operation met damage");
            Answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal error; the node's log says more",
            )
        }
    }
}

/// The answer to a call whose body was not read.
pub(super) fn not_admitted(refusal: &NotAdmitted) -> Answer {
    match refusal {
        NotAdmitted::Unidentified => Answer::text(StatusCode::FORBIDDEN, refusal.to_string()),
        NotAdmitted::Limited(error) => answer(error),
        NotAdmitted::Busy => {
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string()).retry_after(OUTAGE_RETRY)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::SealedReason;
    use hyper::header::RETRY_AFTER;

    #[test]
    fn statuses_are_those_of_the_document() {
        let sealed = OperationError::Sealed {
            reason: SealedReason::NoKeyConfigured,
        };
        let limited = OperationError::RateLimited {
            retry_after: Duration::from_millis(1500),
        };
        for (error, status, retry) in [
            (OperationError::NotFound, 404, None),
            (OperationError::VersionNotFound, 404, None),
            (OperationError::Denied, 403, None),
            (OperationError::Invalid("x".into()), 400, None),
            (
                OperationError::TooLarge {
                    size_bytes: 2,
                    limit_bytes: 1,
                },
                400,
                None,
            ),
            (OperationError::ActiveVersion, 400, None),
            (OperationError::VersionUsed, 412, None),
            (limited, 429, Some("2")),
            (OperationError::NoMajority, 500, Some("1")),
            (OperationError::OutcomeUnknown, 500, Some("1")),
            (sealed, 500, Some("30")),
            (OperationError::Damaged("the path".into()), 500, None),
        ] {
            let answer = answer(&error);
            assert_eq!(answer.status().as_u16(), status, "{error}");
            let found = answer
                .headers()
                .get(RETRY_AFTER)
                .map(|value| value.to_str().unwrap());
            assert_eq!(found, retry, "{error}");
            // Operators must be able to tell outages from damage, which has the same status.
            let outcome = match (status, retry) {
                (500, Some(_)) => "unavailable",
                (500, None) => "error",
                _ => continue,
            };
            assert_eq!(answer.outcome(), outcome, "{error}");
        }
    }

    #[test]
    fn damage_is_not_described_to_callers() {
        let answer = answer(&OperationError::Damaged("the path".into()));
        assert!(!String::from_utf8_lossy(answer.body()).contains("the path"));
    }
}
