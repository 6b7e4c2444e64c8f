//! Prometheus reads `GET /metrics` here, in plain HTTP, on loopback unless configured otherwise.

use super::entrance::Entrance;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Open connections; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// How long a connection may stay.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
/// How long a request's headers may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop` is cancelled.
pub(super) async fn serve(
    socket: TcpListener,
    metrics: PrometheusHandle,
    entrance: Entrance,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let entrance = Arc::new(entrance);
    loop {
        let accepted = async {
            let slot = slots
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (slot, socket.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(local) = stream.local_addr() else { continue };
        let (metrics, entrance, stop) = (metrics.clone(), entrance.clone(), stop.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&request, &metrics, &entrance, local.ip());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = timeout(CONNECTION_LIFETIME, connection) => {}
                () = stop.cancelled() => {}
            }
            drop(slot);
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    metrics: &PrometheusHandle,
    entrance: &Entrance,
    local: IpAddr,
) -> Response<Full<Bytes>> {
    let text = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    };
    if let Err(refused) = entrance.check(request.uri(), request.headers(), local, &[]) {
        return text(refused.status(), format!("{}\n", refused.message()));
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => text(StatusCode::OK, metrics.render()),
        (_, "/metrics") => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".to_owned()),
    }
}
