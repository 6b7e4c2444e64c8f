//! The routes, and the order in which a call is checked: HTTP method, who calls and within which
//! limits, the body, then the right and all else.

use super::{
    audit, cluster,
    errors::Failure,
    health,
    messages::{ErrorCode, Health},
    seal, status,
};
use crate::{
    operations::{Caller, Dialect, Recording},
    server::{Answer, Call, Edge},
};
use conclave_cluster::model::{Action, AuditKey};
use hyper::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// A route of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    Health,
    Status,
    AuditList,
    AuditLimit,
    ClusterMembers,
    ClusterAdd,
    ClusterPromote,
    ClusterRemove,
    ClusterReplace,
    ClusterTransfer,
    ClusterVerify,
    SealStatus,
    SealRetry,
    SealRotate,
    SealRekey,
}

/// A call whose form and caller are known.
pub(super) struct Checked<'a> {
    pub(super) edge: &'a Edge,
    pub(super) caller: Caller,
    body: Zeroizing<Vec<u8>>,
}

/// The longest time that an operation of the cluster may be waited for.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

impl Route {
    const ALL: [Self; 15] = [
        Self::Health,
        Self::Status,
        Self::AuditList,
        Self::AuditLimit,
        Self::ClusterMembers,
        Self::ClusterAdd,
        Self::ClusterPromote,
        Self::ClusterRemove,
        Self::ClusterReplace,
        Self::ClusterTransfer,
        Self::ClusterVerify,
        Self::SealStatus,
        Self::SealRetry,
        Self::SealRotate,
        Self::SealRekey,
    ];

    /// The route at a path.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/conclave/v1/")?;
        Self::ALL.into_iter().find(|route| route.path() == path)
    }

    /// Its name in metrics.
    pub(crate) fn label(self) -> &'static str {
        self.path()
    }

    fn path(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Status => "status",
            Self::AuditList => "audit/list",
            Self::AuditLimit => "audit/limit",
            Self::ClusterMembers => "cluster",
            Self::ClusterAdd => "cluster/add",
            Self::ClusterPromote => "cluster/promote",
            Self::ClusterRemove => "cluster/remove",
            Self::ClusterReplace => "cluster/replace",
            Self::ClusterTransfer => "cluster/transfer",
            Self::ClusterVerify => "cluster/verify",
            Self::SealStatus => "seal",
            Self::SealRetry => "seal/retry",
            Self::SealRotate => "seal/rotate",
            Self::SealRekey => "seal/rekey",
        }
    }

    fn takes(self, method: &Method) -> bool {
        match self {
            Self::Health => matches!(*method, Method::GET | Method::HEAD),
            Self::Status | Self::ClusterMembers | Self::SealStatus => *method == Method::GET,
            _ => *method == Method::POST,
        }
    }
}

/// Answers a call.
pub(crate) async fn handle(edge: &Edge, route: Route, call: &mut Call) -> Answer {
    checked_and_answered(edge, route, call)
        .await
        .unwrap_or_else(Failure::answer)
}

async fn checked_and_answered(edge: &Edge, route: Route, call: &mut Call) -> Result<Answer, Failure> {
    if !route.takes(call.request.method()) {
        let message = format!(
            "{} is not for {}",
            call.request.uri().path(),
            call.request.method()
        );
        return Err(Failure::new(ErrorCode::MethodNotAllowed, message));
    }
    if route == Route::Health {
        let state = health::state(edge);
        let status = StatusCode::from_u16(state.http_status()).expect("each state has a status");
        return Ok(if call.request.method() == Method::HEAD {
            // In HTTP/2 nobody takes the body away for us.
            Answer::empty(status)
        } else {
            Answer::json(status, &Health { state })
        });
    }
    let action = match route {
        Route::AuditList => Action::AuditRead,
        _ => Action::Operate,
    };
    let caller = call.admit(edge, Dialect::Conclave, action).await?;
    let body = call.read_body(&edge.limits).await?;
    let checked = Checked { edge, caller, body };
    match route {
        Route::Health => unreachable!("answered above"),
        Route::Status => answered(status::show(&checked).await),
        Route::AuditList => answered(audit::list(&checked).await),
        Route::AuditLimit => answered(audit::limit(&checked).await),
        Route::ClusterMembers => answered(cluster::members(&checked).await),
        Route::ClusterAdd => answered(cluster::add(&checked).await),
        Route::ClusterPromote => answered(cluster::promote(&checked).await),
        Route::ClusterRemove => answered(cluster::remove(&checked).await),
        Route::ClusterReplace => answered(cluster::replace(&checked).await),
        Route::ClusterTransfer => answered(cluster::transfer(&checked).await),
        Route::ClusterVerify => answered(cluster::verify(&checked).await),
        Route::SealStatus => answered(seal::show(&checked).await),
        Route::SealRetry => answered(seal::retry(&checked).await),
        Route::SealRotate => answered(seal::rotate(&checked).await),
        Route::SealRekey => answered(seal::rekey(&checked).await),
    }
}

fn answered<T: Serialize>(result: Result<T, Failure>) -> Result<Answer, Failure> {
    result.map(|message| Answer::json(StatusCode::OK, &message))
}

impl Checked<'_> {
    /// Reads the body.
    pub(super) fn message<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        read_message(&self.body)
    }

    /// Checks the right `operate` and records its use.
    pub(super) async fn operate(&self, what: &str, recording: Recording) -> Result<(), Failure> {
        let deadline = self.edge.deadline();
        Ok(self
            .edge
            .operations
            .record_operate(&self.caller, what, recording, deadline)
            .await?)
    }

    /// Checks the right `operate` and records a change of the membership or of who leads. Answers where
    /// the record lies, for the leader.
    pub(super) async fn record_change(&self, what: &str) -> Result<AuditKey, Failure> {
        let deadline = self.edge.deadline();
        Ok(self
            .edge
            .operations
            .record_change(&self.caller, what, deadline)
            .await?)
    }

    /// When an operation of the cluster has to be done.
    pub(super) fn operation_deadline(&self, timeout_ms: Option<u64>, default: Duration) -> Instant {
        let timeout = timeout_ms
            .map_or(default, Duration::from_millis)
            .min(LONGEST_TIMEOUT);
        Instant::now() + timeout
    }
}

/// Reads a message. An empty body is an empty object.
pub(super) fn read_message<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = match body.trim_ascii_start().first() {
        None => b"{}",
        Some(b'{') => body,
        // serde would take an array for an object without its names.
        Some(_) => {
            let message = "invalid request: the body must be a JSON object";
            return Err(Failure::new(ErrorCode::InvalidRequest, message));
        }
    };
    serde_json::from_slice(body).map_err(|error| {
        // serde_json quotes wrong values, which may be long.
        let message: String = format!("invalid request: {error}").chars().take(300).collect();
        Failure::new(ErrorCode::InvalidRequest, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conclave::messages::{AuditListRequest, MemberId};
    use proptest::prelude::*;

    #[test]
    fn every_route_has_a_path_of_its_own_and_takes_one_method() {
        for route in Route::ALL {
            assert_eq!(
                Route::of_path(&format!("/conclave/v1/{}", route.path())),
                Some(route)
            );
            assert_ne!(route.takes(&Method::GET), route.takes(&Method::POST), "{route:?}");
            assert!(!route.takes(&Method::DELETE));
        }
        for path in [
            "/conclave/v1/",
            "/conclave/v1/seal/",
            "/conclave/v2/health",
            "/conclave/v1/Health",
        ] {
            assert_eq!(Route::of_path(path), None);
        }
    }

    #[test]
    fn messages_are_read_strictly() {
        assert_eq!(
            read_message::<AuditListRequest>(b"").unwrap(),
            AuditListRequest::default()
        );
        assert_eq!(
            read_message::<MemberId>(b"{\"id\":3}").unwrap(),
            MemberId {
                id: 3,
                timeout_ms: None
            }
        );
        for body in [
            &b"{\"id\":-1}"[..],
            b"{}",
            b"{\"id\":3,\"x\":1}",
            b"[",
            b"[3]",
            b"null",
        ] {
            assert_eq!(
                read_message::<MemberId>(body).unwrap_err().code,
                ErrorCode::InvalidRequest
            );
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(body: Vec<u8>) {
            let _ = read_message::<AuditListRequest>(&body);
        }
    }
}
