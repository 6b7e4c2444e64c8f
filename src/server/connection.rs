//! One connection from its first byte to its last: the handshake, requests, and every way in which
//! a slow, silent or confused peer could hold it open.

use super::listener::{Handler, ListenerLimits};
use crate::identity::{ConnectionIdentity, principal_of};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use rustls::ServerConfig;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// When a connection has to end.
pub(super) struct Ending {
    /// It finishes what it carries, and takes nothing more.
    pub(super) gracefully: CancellationToken,
    /// The certificates that it was accepted with were replaced.
    pub(super) replaced: CancellationToken,
}

/// Serves a connection until it ends.
pub(super) async fn serve<H: Handler>(
    stream: TcpStream,
    remote: SocketAddr,
    config: Arc<ServerConfig>,
    handler: Arc<H>,
    limits: ListenerLimits,
    ending: Ending,
) {
    let handshake = timeout(limits.handshake_timeout, handshake(stream, config));
    let stream = tokio::select! {
        biased;
        () = ending.gracefully.cancelled() => return,
        stream = handshake => match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return refused(remote, &error.to_string()),
            Err(_) => return refused(remote, "the TLS handshake took too long"),
        },
    };
    let (tcp, tls) = stream.get_ref();
    let Ok(local) = tcp.local_addr() else { return };
    // The verifier has refused certificates that name no principal.
    let certificate = match tls
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|leaf| principal_of(leaf))
    {
        None => None,
        Some(Ok(principal)) => Some(principal),
        Some(Err(error)) => return refused(remote, &error.to_string()),
    };
    let is_http2 = tls.alpn_protocol() == Some(b"h2");
    let identity = Arc::new(ConnectionIdentity::new(local, remote, certificate));
    let activity = Arc::new(Activity::new());
    let service = {
        let activity = activity.clone();
        service_fn(move |request: Request<Incoming>| {
            let (handler, identity, busy) = (handler.clone(), identity.clone(), activity.begin());
            async move {
                let request = request.map(|body| body.map_err(Into::into).boxed());
                let response: Response<Full<Bytes>> = handler.handle(identity, request).await;
                drop(busy);
                Ok::<_, Infallible>(response)
            }
        })
    };
    let io = TokioIo::new(stream);
    if is_http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(limits.header_bytes.try_into().unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(Some(limits.header_timeout))
            .keep_alive_timeout(limits.header_timeout);
        drive(
            builder.serve_connection(io, service),
            &activity,
            limits.header_timeout,
            &ending,
        )
        .await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.header_bytes)
            .half_close(false);
        drive(
            builder.serve_connection(io, service),
            &activity,
            limits.header_timeout,
            &ending,
        )
        .await;
    }
}

/// Requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 256;

/// Completes the TLS handshake. A peer that speaks plain HTTP is told so in plain HTTP.
async fn handshake(mut stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        const HINT: &str = "this port speaks HTTPS; use https://\n";
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{HINT}",
            HINT.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection, and the hint might get lost.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        return Err(io::Error::other("the peer speaks plain HTTP"));
    }
    stream.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(stream).await
}

fn refused(remote: SocketAddr, reason: &str) {
    crate::metric_definitions::count_refused_connection();
    tracing::info!(%remote, reason, "a connection was refused");
}

/// Runs a connection, ends it gracefully when it has to end or idles, and drops it when it doesn't
/// come to its end then.
async fn drive<C: GracefulConnection>(
    connection: C,
    activity: &Activity,
    idle_limit: Duration,
    ending: &Ending,
) {
    let mut connection = pin!(connection);
    let mut is_closing = false;
    let mut next_look = Instant::now() + idle_limit;
    loop {
        tokio::select! {
            // An error is the peer's: a reset, a malformed request that was answered 400.
            _ = connection.as_mut() => return,
            () = ending.gracefully.cancelled(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = ending.replaced.cancelled(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(next_look) => match activity.idle_since() {
                None => next_look = Instant::now() + idle_limit,
                Some(since) if since + idle_limit > Instant::now() => next_look = since + idle_limit,
                // It was told to close and didn't, or an answer is stuck in it.
                Some(_) if is_closing => return,
                Some(_) => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                    next_look = Instant::now() + idle_limit;
                }
            },
        }
    }
}

/// Whether requests of a connection are being worked on.
struct Activity(Mutex<ActivityState>);

struct ActivityState {
    in_flight: usize,
    last_end: Instant,
}

/// A request being worked on, until dropped.
struct Busy(Arc<Activity>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(ActivityState {
            in_flight: 0,
            last_end: Instant::now(),
        }))
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).in_flight += 1;
        Busy(self.clone())
    }

    /// Since when nothing is being worked on; `None`: something is.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.in_flight == 0).then_some(state.last_end)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.in_flight -= 1;
        state.last_end = Instant::now();
    }
}
