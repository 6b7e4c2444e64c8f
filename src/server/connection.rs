//! One connection from its first byte to its last: the handshake, requests, and every way in which
//! a slow, silent or confused peer could hold it open.

use super::{
    listener::{Handler, ListenerLimits},
    reports::Reports,
};
use crate::identity::{ClientCertificate, ConnectionIdentity};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use rustls::ServerConfig;
use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
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
        .map(|leaf| ClientCertificate::of(leaf))
    {
        None => None,
        Some(Ok(certificate)) => Some(certificate),
        Some(Err(error)) => return refused(remote, &error.to_string()),
    };
    let is_http2 = tls.alpn_protocol() == Some(b"h2");
    let expires = certificate.as_ref().map(|certificate| {
        let rest = certificate.not_after.duration_since(SystemTime::now());
        Instant::now() + rest.unwrap_or_default().min(LONGEST_LIFETIME)
    });
    let identity = Arc::new(ConnectionIdentity::new(local, remote, certificate));
    let activity = Arc::new(Activity::new());
    let service = {
        let activity = activity.clone();
        service_fn(move |request: Request<Incoming>| {
            let (handler, identity, busy) = (handler.clone(), identity.clone(), activity.begin());
            async move {
                let request = request.map(|body| body.map_err(Into::into).boxed());
                let response = handler.handle(identity, request).await;
                Ok::<_, Infallible>(response.map(|body| Full::new(busy.until_sent(body))))
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
        let connection = pin!(builder.serve_connection(io, service));
        drive(connection, remote, &activity, &limits, &ending, expires).await;
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.header_bytes)
            .half_close(false);
        let mut connection = builder.serve_connection(io, service);
        let error = drive(
            Pin::new(&mut connection),
            remote,
            &activity,
            &limits,
            &ending,
            expires,
        )
        .await;
        if error.is_some_and(|error| error.is_timeout()) && activity.answers() == 0 {
            let parts = connection.into_parts();
            if !parts.read_buf.is_empty() {
                let text = "the request's headers took too long\n";
                let told = dismiss(parts.io.into_inner(), "408 Request Timeout", text);
                let _ = timeout(FAREWELL, told).await;
            }
        }
    }
}

/// Requests of one HTTP/2 connection at a time, those included whose answers are not sent yet.
const MAX_STREAMS: u32 = 64;
/// How long a peer may take for the last words to it.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long any connection may stay.
const LONGEST_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Completes the TLS handshake. A peer that speaks plain HTTP is told so in plain HTTP.
async fn handshake(mut stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        dismiss(
            &mut stream,
            "400 Bad Request",
            "this port speaks HTTPS; use https://\n",
        )
        .await?;
        return Err(io::Error::other("the peer speaks plain HTTP"));
    }
    stream.set_nodelay(true)?;
    TlsAcceptor::from(config).accept(stream).await
}

/// Answers outside of HTTP's machinery, and waits until the peer closes.
async fn dismiss(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    status: &str,
    text: &str,
) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with unread bytes would reset the connection, and the answer might get lost.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

fn refused(remote: SocketAddr, reason: &str) {
    static REPORTS: Reports = Reports::new();
    crate::metric_definitions::count_refused_connection();
    match REPORTS.count(Instant::now()) {
        Some(refused) => tracing::info!(%remote, reason, refused, "a connection was refused"),
        None => tracing::debug!(%remote, reason, "a connection was refused"),
    }
}

fn abandoned(remote: SocketAddr) {
    static REPORTS: Reports = Reports::new();
    let what = "a connection is closed: its peer does not take its answers";
    match REPORTS.count(Instant::now()) {
        Some(closed) => tracing::info!(%remote, closed, "{what}"),
        None => tracing::debug!(%remote, "{what}"),
    }
}

/// Runs a connection. When it has to end, or idles, it is asked to end gracefully, and is dropped
/// when it does not within the grace: a peer may never confirm that it heard. It is dropped at once
/// when an answer cannot be sent for too long. Returns the error that ended it, if one did.
async fn drive<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    remote: SocketAddr,
    activity: &Activity,
    limits: &ListenerLimits,
    ending: &Ending,
    expires: Option<Instant>,
) -> Option<C::Error> {
    let mut closed_by: Option<Instant> = None;
    let longest_pause = limits.header_timeout.min(limits.send_timeout);
    loop {
        let now = Instant::now();
        let sent_by = activity.unsent_since().map(|since| since + limits.send_timeout);
        if sent_by.is_some_and(|by| by <= now) {
            abandoned(remote);
            return None;
        }
        if closed_by.is_some_and(|by| by <= now) {
            return None;
        }
        let idle_by = activity.idle_since().map(|since| since + limits.header_timeout);
        let ends_by = [idle_by, expires].into_iter().flatten().min();
        let must_end = ends_by.is_some_and(|by| by <= now)
            || ending.gracefully.is_cancelled()
            || ending.replaced.is_cancelled();
        if must_end && closed_by.is_none() {
            connection.as_mut().graceful_shutdown();
            closed_by = Some(now + limits.shutdown_grace);
        }
        let next_look = match closed_by {
            Some(by) => Some(by),
            None => ends_by,
        };
        let next_look = [next_look, sent_by, Some(now + longest_pause)];
        let next_look = next_look.into_iter().flatten().min().expect("one is there");
        tokio::select! {
            // An error is the peer's: a reset, a malformed request that was answered 400.
            ended = connection.as_mut() => return ended.err(),
            () = ending.gracefully.cancelled(), if closed_by.is_none() => {}
            () = ending.replaced.cancelled(), if closed_by.is_none() => {}
            () = sleep_until(next_look) => {}
        }
    }
}

/// The requests of a connection: worked on, then answered, then gone.
struct Activity(Mutex<ActivityState>);

struct ActivityState {
    /// Requests whose answers were not sent yet.
    in_flight: usize,
    /// When the last of them ended.
    last_end: Instant,
    /// Since when answers wait to be sent, the oldest first.
    unsent: VecDeque<(u64, Instant)>,
    answers: u64,
}

/// A request until its answer was sent.
struct Busy {
    activity: Arc<Activity>,
    answer: Option<u64>,
}

/// An answer's bytes, which live until they were handed to TLS, or their stream ended.
struct Unsent {
    bytes: Bytes,
    _busy: Busy,
}

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(ActivityState {
            in_flight: 0,
            last_end: Instant::now(),
            unsent: VecDeque::new(),
            answers: 0,
        }))
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.state().in_flight += 1;
        Busy {
            activity: self.clone(),
            answer: None,
        }
    }

    /// Since when there is no request; `None`: there is one.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.in_flight == 0).then_some(state.last_end)
    }

    /// Since when the oldest answer waits to be sent.
    fn unsent_since(&self) -> Option<Instant> {
        self.state().unsent.front().map(|(_, since)| *since)
    }

    /// Requests that were answered.
    fn answers(&self) -> u64 {
        self.state().answers
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Busy {
    /// The request is answered with these bytes, and ends with them.
    fn until_sent(mut self, bytes: Bytes) -> Bytes {
        let mut state = self.activity.state();
        state.answers += 1;
        let answer = state.answers;
        state.unsent.push_back((answer, Instant::now()));
        drop(state);
        self.answer = Some(answer);
        Bytes::from_owner(Unsent { bytes, _busy: self })
    }
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        if let Some(answer) = self.answer {
            state.unsent.retain(|(unsent, _)| *unsent != answer);
        }
        state.in_flight -= 1;
        state.last_end = Instant::now();
    }
}
