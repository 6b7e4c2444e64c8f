//! Leads each request to its dialect: checks the entrance, gives it an id, keeps its slot until the
//! answer was sent, counts and times it. No log line names a secret or a person.

use super::{
    Answer,
    call::{Call, Edge, RequestBody},
    entrance::{Entrance, Refused},
    listener::Handler,
    tls::Tls,
};
use crate::{api, identity::ConnectionIdentity, metric_definitions as metrics};
use bytes::Bytes;
use hyper::{Request, Response, StatusCode};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The answer was made, and cannot be kept until it is sent.
const NO_ROOM: &str = "too many large answers wait to be sent (limits.large_answer_bytes)";
/// When to try again then.
const NO_ROOM_RETRY: Duration = Duration::from_secs(1);

/// The API listener's handler.
pub(super) struct Routes {
    edge: Arc<Edge>,
    tls: Arc<Tls>,
    entrance: Entrance,
}

impl Routes {
    pub(super) fn new(edge: Arc<Edge>, tls: Arc<Tls>, entrance: Entrance) -> Arc<Self> {
        Arc::new(Self { edge, tls, entrance })
    }

    async fn answer(
        &self,
        connection: Arc<ConnectionIdentity>,
        request: Request<RequestBody>,
        request_id: &str,
    ) -> (&'static str, &'static str, Answer) {
        let path = request.uri().path().to_owned();
        let route = api::route(&path);
        let (api, action) = route.labels();
        let mut call = Call {
            request,
            connection,
            request_id: request_id.to_owned(),
            slot: None,
        };
        let mut answer = match self.check(&call) {
            Ok(()) => route.handle(&self.edge, &mut call).await,
            Err(refused) => route.refuse(refused.status(), refused.message()),
        };
        if let Some(slot) = &mut call.slot
            && slot.make_room(answer.body_bytes()).is_err()
        {
            answer = route
                .refuse(StatusCode::SERVICE_UNAVAILABLE, NO_ROOM)
                .retry_after(NO_ROOM_RETRY);
        }
        call.discard_body().await;
        (api, action, answer.holding(call.slot))
    }

    fn check(&self, call: &Call) -> Result<(), Refused> {
        let (uri, headers) = (call.request.uri(), call.request.headers());
        let certificate = &self.tls.in_use().names;
        self.entrance
            .check(uri, headers, call.connection.local.ip(), certificate)
    }
}

impl Handler for Routes {
    async fn handle(
        self: Arc<Self>,
        connection: Arc<ConnectionIdentity>,
        request: Request<RequestBody>,
    ) -> Response<Bytes> {
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
        metrics::count_request(api, action, answer.outcome(), elapsed);
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
