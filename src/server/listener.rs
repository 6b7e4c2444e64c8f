//! Accepts connections by TLS, as many as the limits allow, and ends them gracefully.

use super::{call::RequestBody, connection, source_limits::SourceLimits, tls::Tls};
use crate::{config::LimitsSection, identity::ConnectionIdentity};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Answers requests.
pub(super) trait Handler: Send + Sync + 'static {
    fn handle(
        self: Arc<Self>,
        connection: Arc<ConnectionIdentity>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenerLimits {
    pub(super) connections: usize,
    pub(super) connections_per_source: usize,
    pub(super) header_bytes: usize,
    pub(super) handshake_timeout: Duration,
    pub(super) header_timeout: Duration,
    pub(super) shutdown_grace: Duration,
}

/// A bound listener that doesn't accept yet.
pub(super) struct Listener {
    socket: TcpListener,
    tls: Arc<Tls>,
    limits: ListenerLimits,
}

impl From<&LimitsSection> for ListenerLimits {
    fn from(limits: &LimitsSection) -> Self {
        Self {
            connections: limits.connections,
            connections_per_source: limits.connections_per_source,
            header_bytes: limits.header_bytes,
            handshake_timeout: Duration::from_millis(limits.handshake_timeout_ms),
            header_timeout: Duration::from_millis(limits.header_timeout_ms),
            shutdown_grace: Duration::from_millis(limits.shutdown_grace_ms),
        }
    }
}

impl Listener {
    pub(super) async fn bind(address: SocketAddr, tls: Arc<Tls>, limits: ListenerLimits) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::bind(address).await?,
            tls,
            limits,
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop` is cancelled, then gives what was accepted its grace.
    pub(super) async fn serve<H: Handler>(self, handler: Arc<H>, stop: CancellationToken) {
        let Self { socket, tls, limits } = self;
        let slots = Arc::new(Semaphore::new(limits.connections));
        let sources = SourceLimits::new(limits.connections_per_source);
        let connections = TaskTracker::new();
        let abandon = CancellationToken::new();
        loop {
            // Beyond the limit connections wait in the kernel's queue.
            let accepted = async {
                let slot = slots
                    .clone()
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                (slot, socket.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: let some close.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(share) = sources.acquire(remote.ip()) else {
                crate::metric_definitions::count_refused_connection();
                continue;
            };
            let in_use = tls.in_use();
            let ending = connection::Ending {
                gracefully: stop.clone(),
                replaced: in_use.replaced.clone(),
            };
            let serving = connection::serve(
                stream,
                remote,
                in_use.config.clone(),
                handler.clone(),
                limits,
                ending,
            );
            let abandon = abandon.clone();
            connections.spawn(async move {
                let open = crate::metric_definitions::OpenConnection::count();
                tokio::select! {
                    () = serving => {}
                    () = abandon.cancelled() => {}
                }
                drop((slot, share, open));
            });
        }
        drop(socket);
        connections.close();
        if timeout(limits.shutdown_grace, connections.wait()).await.is_err() {
            tracing::warn!(
                open = connections.len(),
                "connections are closed before they ended"
            );
            abandon.cancel();
            connections.wait().await;
        }
    }
}
