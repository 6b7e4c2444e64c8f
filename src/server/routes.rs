//! Leads each request to its dialect: checks the entrance, gives it an id, keeps its slot until the
//! answer was sent, counts and times it. No log line names a secret or a person.

use super::{
    Answer,
    call::{Call, Edge, ReadingBody, RequestBody},
    entrance::{Entrance, Refused},
    listener::Handler,
    tls::Tls,
};
use crate::{api, identity::ConnectionIdentity, metric_definitions as metrics};
use bytes::Bytes;
use futures::FutureExt;
use hyper::{Request, Response, StatusCode};
use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::Poll,
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
        request_id: Arc<str>,
        reading: ReadingBody,
    ) -> (&'static str, &'static str, Answer) {
        let route = api::route(request.uri().path());
        let (api, action) = route.labels();
        let mut call = Call {
            request,
            connection,
            request_id,
            reading,
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
        let reading = ReadingBody::default();
        let answering = {
            let (routes, request_id, reading) = (self.clone(), request_id.clone(), reading.clone());
            async move { routes.answer(connection, request, request_id, reading).await }
        };
        let (api, action, answer) = finished(answering, &reading).await.unwrap_or_else(|| {
            tracing::error!(%request_id, "a request was not answered");
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
            %request_id,
            "answered"
        );
        answer.into_response(&request_id)
    }
}

/// Finishes what was accepted though the caller hangs up, so that nothing is left half done and half
/// recorded: what has to wait becomes a task of its own. While the body comes in, nothing was accepted
/// yet, and the request ends with its connection. `None`: it panicked.
async fn finished<T: Send + 'static>(
    answering: impl Future<Output = T> + Send + 'static,
    reading: &ReadingBody,
) -> Option<T> {
    let mut answering = Box::pin(AssertUnwindSafe(answering).catch_unwind());
    let at_once = poll_fn(|context| match answering.as_mut().poll(context) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        Poll::Pending if reading.is_on() => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        Some(answered) => answered.ok(),
        None => tokio::spawn(answering).await.ok()?.ok(),
    }
}

/// 128 random bits in hexadecimal.
fn new_request_id() -> Arc<str> {
    format!("{:032x}", u128::from_be_bytes(crate::seal::random_bytes())).into()
}
