//! Leads each request to its dialect: checks the entrance, bounds what is in flight, gives it an id
//! and a deadline, counts and times it. No log line names a secret or a person.

use super::{
    Answer,
    call::{Call, Edge, RequestBody},
    entrance::Entrance,
    listener::Handler,
    tls::Tls,
};
use crate::{api, identity::ConnectionIdentity, metric_definitions as metrics};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// The API listener's handler.
pub(super) struct Routes {
    edge: Arc<Edge>,
    tls: Arc<Tls>,
    /// Hosts and origins of the configuration; the certificate's names come to them.
    configured: Entrance,
    in_flight: Semaphore,
}

impl Routes {
    pub(super) fn new(edge: Arc<Edge>, tls: Arc<Tls>, configured: Entrance) -> Arc<Self> {
        let in_flight = Semaphore::new(edge.limits.requests_in_flight);
        Arc::new(Self {
            edge,
            tls,
            configured,
            in_flight,
        })
    }

    async fn answer(
        &self,
        connection: Arc<ConnectionIdentity>,
        request: Request<RequestBody>,
        request_id: &str,
    ) -> (&'static str, &'static str, Answer) {
        let mut entrance = self.configured.clone();
        entrance.hosts.extend(self.tls.in_use().names.iter().cloned());
        let path = request.uri().path().to_owned();
        let route = api::route(&path);
        let (api, action) = route.labels();
        if let Err(refused) = entrance.check(request.uri(), request.headers(), connection.local.ip()) {
            return (api, action, route.refuse(refused.status(), refused.message()));
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            let answer = route.refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests are being worked on",
            );
            return (api, action, answer.retry_after(Duration::from_secs(1)));
        };
        let call = Call {
            request,
            connection,
            request_id: request_id.to_owned(),
        };
        (api, action, route.handle(&self.edge, call).await)
    }
}

impl Handler for Routes {
    async fn handle(
        self: Arc<Self>,
        connection: Arc<ConnectionIdentity>,
        request: Request<RequestBody>,
    ) -> Response<Full<Bytes>> {
        let began = Instant::now();
        let request_id = new_request_id();
        // A task of its own: what was accepted is finished though the caller hangs up, so that
        // nothing is left half done and half recorded.
        let answering = {
            let (routes, request_id) = (self.clone(), request_id.clone());
            tokio::spawn(async move { routes.answer(connection, request, &request_id).await })
        };
        let (api, action, answer) = answering.await.unwrap_or_else(|error| {
            tracing::error!(%error, request_id, "a request was not answered");
            (
                "unknown",
                "unknown",
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
            )
        });
        let elapsed = began.elapsed();
        metrics::count_request(api, action, answer.status(), elapsed);
        tracing::debug!(
            api,
            action,
            status = answer.status().as_u16(),
            elapsed_us = elapsed.as_micros() as u64,
            request_id,
            "answered"
        );
        answer.into_response(&request_id)
    }
}

/// 128 random bits in hexadecimal.
fn new_request_id() -> String {
    let bytes = crate::seal::random_bytes::<16>();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
