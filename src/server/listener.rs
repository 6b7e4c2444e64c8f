//! Accepts connections by TLS, as many as the limits allow, and ends them gracefully.

use super::{
    call::RequestBody,
    connection,
    reports::Reports,
    source_limits::{SourceFull, SourceLimits},
    tls::Tls,
};
use crate::{config::LimitsSection, identity::ConnectionIdentity};
use bytes::Bytes;
use hyper::{Request, Response};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Answers requests.
pub(super) trait Handler: Send + Sync + 'static {
    fn handle(
        self: Arc<Self>,
        connection: Arc<ConnectionIdentity>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<Bytes>> + Send;
}

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenerLimits {
    pub(super) connections: usize,
    pub(super) connections_per_source: usize,
    pub(super) header_bytes: usize,
    pub(super) handshake_timeout: Duration,
    pub(super) header_timeout: Duration,
    pub(super) send_timeout: Duration,
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
            send_timeout: Duration::from_millis(limits.send_timeout_ms),
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
        let failures = Reports::new();
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
                    if let Some(times) = failures.count(Instant::now()) {
                        tracing::warn!(%error, times, "a connection could not be accepted");
                    }
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let share = match sources.acquire(remote.ip(), Instant::now()) {
                Ok(share) => share,
                Err(SourceFull { to_report }) => {
                    crate::metric_definitions::count_refused_connection();
                    if let Some(refused) = to_report {
                        tracing::warn!(
                            source = %remote.ip(),
                            refused,
                            "limits.connections_per_source: connections are closed, for their source has {}",
                            sources.limit()
                        );
                    }
                    continue;
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::TlsSection,
        pki::{Authority, AuthorityKind, ClientName, Issued, NodeName, Validity},
    };
    use http_body_util::Full;
    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::SystemTime,
    };
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::Notify,
        task::JoinHandle,
    };
    use tokio_rustls::{TlsConnector, client::TlsStream};

    /// Says who calls. Requests of `/wait` wait until they are let go; the answer to `/large` is more
    /// than any buffer on its way takes in.
    #[derive(Default)]
    struct SayWho {
        waiting: Notify,
        go: Notify,
        handled: AtomicUsize,
        /// Held by each large answer until it is gone.
        large: Arc<()>,
    }

    struct Large(
        Vec<u8>,
        #[allow(dead_code, reason = "it only has to be dropped")] Arc<()>,
    );

    impl AsRef<[u8]> for Large {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Handler for SayWho {
        async fn handle(
            self: Arc<Self>,
            connection: Arc<ConnectionIdentity>,
            request: Request<RequestBody>,
        ) -> Response<Bytes> {
            if request.uri().path() == "/wait" {
                self.waiting.notify_one();
                self.go.notified().await;
            }
            if request.uri().path() == "/large" {
                let large = Large(vec![0; 32 << 20], self.large.clone());
                return Response::new(Bytes::from_owner(large));
            }
            self.handled.fetch_add(1, Ordering::SeqCst);
            let who = connection
                .certificate
                .as_ref()
                .map_or("nobody".to_owned(), |certificate| {
                    certificate.principal.to_string()
                });
            Response::new(Bytes::from(who))
        }
    }

    struct Server {
        address: SocketAddr,
        tls: Arc<Tls>,
        handler: Arc<SayWho>,
        nodes: Authority,
        clients: Authority,
        stop: CancellationToken,
        serving: JoinHandle<()>,
        _folder: TempDir,
    }

    fn limits() -> ListenerLimits {
        ListenerLimits {
            connections: 64,
            connections_per_source: 64,
            header_bytes: 8192,
            handshake_timeout: Duration::from_secs(20),
            header_timeout: Duration::from_secs(20),
            send_timeout: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(20),
        }
    }

    impl Server {
        async fn start(limits: ListenerLimits) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            let nodes = Authority::generate(AuthorityKind::Nodes, "test", Validity::days(2)).unwrap();
            let clients = Authority::generate(AuthorityKind::Clients, "test", Validity::days(2)).unwrap();
            nodes.write(&path("nodes.pem"), &path("nodes.key")).unwrap();
            clients.write(&path("clients.pem"), &path("clients.key")).unwrap();
            let api = nodes
                .issue_api_server(&["localhost".to_owned()], Validity::days(1))
                .unwrap();
            api.write(&path("api.pem"), &path("api.key")).unwrap();
            let files = TlsSection {
                api_certificate: path("api.pem"),
                api_private_key: path("api.key"),
                client_authority: Some(path("clients.pem")),
                ..TlsSection::default()
            };
            let tls = Arc::new(Tls::load(&files).unwrap());
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), tls.clone(), limits)
                .await
                .unwrap();
            let address = listener.local_addr().unwrap();
            let (handler, stop) = (Arc::new(SayWho::default()), CancellationToken::new());
            let serving = tokio::spawn(listener.serve(handler.clone(), stop.clone()));
            Self {
                address,
                tls,
                handler,
                nodes,
                clients,
                stop,
                serving,
                _folder: folder,
            }
        }

        fn client(&self, name: &str, validity: Validity) -> Issued {
            self.clients
                .issue_client(&ClientName::parse(name).unwrap(), validity)
                .unwrap()
        }

        async fn connect(
            &self,
            certificate: Option<&Issued>,
            alpn: &[u8],
        ) -> io::Result<TlsStream<TcpStream>> {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.nodes.certificate_pem().as_bytes()).unwrap())
                .unwrap();
            let builder =
                ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots);
            let mut config = match certificate {
                None => builder.with_no_client_auth(),
                Some(issued) => builder
                    .with_client_auth_cert(
                        vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()],
                        PrivateKeyDer::from_pem_slice(issued.private_key_pem.as_bytes()).unwrap(),
                    )
                    .unwrap(),
            };
            config.alpn_protocols = vec![alpn.to_vec()];
            let stream = TcpStream::connect(self.address).await?;
            TlsConnector::from(Arc::new(config))
                .connect(ServerName::try_from("localhost").unwrap(), stream)
                .await
        }

        /// The body of the answer to one request by HTTP/1.1.
        async fn who(&self, certificate: Option<&Issued>) -> io::Result<String> {
            let mut stream = self.connect(certificate, b"http/1.1").await?;
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await?;
            let answer = read_to_end(&mut stream).await?;
            let (_, body) = answer
                .split_once("\r\n\r\n")
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(body.to_owned())
        }
    }

    async fn read_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<String> {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[tokio::test]
    async fn certificates_are_asked_for_not_required_and_bad_ones_fail_the_handshake() {
        let server = Server::start(limits()).await;
        assert_eq!(server.who(None).await.unwrap(), "nobody");
        let client = server.client("email:a@b.example", Validity::days(1));
        assert_eq!(server.who(Some(&client)).await.unwrap(), "email:a@b.example");

        let hour = Duration::from_secs(3600);
        let past = Validity {
            from: SystemTime::now() - 2 * hour,
            until: SystemTime::now() - hour,
        };
        let node = server
            .nodes
            .issue_node(&NodeName::new("test", "a").unwrap(), &[], Validity::days(1))
            .unwrap();
        let foreign = Authority::generate(AuthorityKind::Clients, "test", Validity::days(1)).unwrap();
        let stranger = foreign
            .issue_client(&ClientName::parse("cn:a").unwrap(), Validity::days(1))
            .unwrap();
        for bad in [server.client("cn:a", past), node, stranger] {
            assert!(server.who(Some(&bad)).await.is_err());
        }
        assert_eq!(server.handler.handled.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn plain_http_is_told_to_use_https() {
        let server = Server::start(limits()).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET /api/list HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_to_end(&mut stream).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("use https://"),
            "{answer}"
        );
        assert_eq!(server.who(None).await.unwrap(), "nobody");
    }

    #[tokio::test]
    async fn silent_and_slow_peers_are_closed() {
        let quick = Duration::from_millis(100);
        let server = Server::start(ListenerLimits {
            handshake_timeout: quick,
            ..limits()
        })
        .await;
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);

        let server = Server::start(ListenerLimits {
            header_timeout: quick,
            shutdown_grace: quick,
            ..limits()
        })
        .await;
        let mut answer = String::new();
        for _ in 0..100 {
            // On a busy machine even this may come too late, as one that asked nothing.
            let Ok(mut half) = server.connect(None, b"http/1.1").await else {
                continue;
            };
            let _ = half.write_all(b"GET / HTTP/1.1\r\nhost:").await;
            answer = read_to_end(&mut half).await.unwrap_or_default();
            if !answer.is_empty() {
                break;
            }
        }
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("the request's headers took too long\n"),
            "{answer}"
        );
        for protocol in [&b"http/1.1"[..], b"h2"] {
            let mut idle = server.connect(None, protocol).await.unwrap();
            let said = read_to_end(&mut idle).await.unwrap_or_default();
            assert!(!said.contains("408"), "nothing was asked: {said}");
        }
        assert_eq!(server.handler.handled.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn headers_beyond_the_limit_are_refused() {
        let server = Server::start(limits()).await;
        let mut stream = server.connect(None, b"http/1.1").await.unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nhost: x\r\nfiller: {}\r\n\r\n",
            "x".repeat(9000)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 431");
    }

    #[tokio::test]
    async fn one_source_has_its_share_and_no_more() {
        let server = Server::start(ListenerLimits {
            connections_per_source: 1,
            ..limits()
        })
        .await;
        let first = server.connect(None, b"http/1.1").await.unwrap();
        assert!(server.connect(None, b"http/1.1").await.is_err());
        drop(first);
        // The first connection's end is noticed in its own time.
        while server.who(None).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_stop_finishes_what_was_accepted() {
        let server = Server::start(limits()).await;
        let mut stream = server.connect(None, b"http/1.1").await.unwrap();
        stream
            .write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        server.handler.waiting.notified().await;
        let mut idle = server.connect(None, b"http/1.1").await.unwrap();
        server.stop.cancel();
        let _ = read_to_end(&mut idle).await;
        server.handler.go.notify_one();
        let answer = read_to_end(&mut stream).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("nobody"),
            "{answer}"
        );
        server.serving.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn a_stop_abandons_what_does_not_end() {
        let quick = Duration::from_millis(50);
        let server = Server::start(ListenerLimits {
            shutdown_grace: quick,
            ..limits()
        })
        .await;
        let mut stream = server.connect(None, b"http/1.1").await.unwrap();
        stream
            .write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        server.handler.waiting.notified().await;
        server.stop.cancel();
        server.serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_reload_ends_connections_of_the_old_certificates() {
        let server = Server::start(limits()).await;
        let client = server.client("cn:a", Validity::days(1));
        let mut stream = server.connect(Some(&client), b"http/1.1").await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        server.tls.reload().unwrap();
        let _ = read_to_end(&mut stream).await;
        assert_eq!(server.who(Some(&client)).await.unwrap(), "cn:a");
    }

    /// What a client sends first by HTTP/2: the preface, and its settings.
    const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    /// Long enough that only a hang reaches it.
    const PATIENCE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    async fn large_http_2(
        server: &Server,
    ) -> (
        Response<hyper::body::Incoming>,
        JoinHandle<Result<(), hyper::Error>>,
    ) {
        let stream = server.connect(None, b"h2").await.unwrap();
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::Builder::new(executor)
            .initial_stream_window_size(1024)
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("https://localhost/large");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        (sender.send_request(request).await.unwrap(), connection)
    }

    #[tokio::test]
    async fn an_answer_is_held_until_it_was_sent_or_nobody_wants_it() {
        let server = Server::start(ListenerLimits {
            send_timeout: HOUR,
            ..limits()
        })
        .await;
        let (answer, _connection) = large_http_2(&server).await;
        assert_eq!(Arc::strong_count(&server.handler.large), 2);
        // The stream is reset.
        drop(answer);
        timeout(PATIENCE, gone(&server)).await.unwrap();

        let (answer, _connection) = large_http_2(&server).await;
        let whole = http_body_util::BodyExt::collect(answer.into_body())
            .await
            .unwrap();
        assert_eq!(whole.to_bytes().len(), 32 << 20);
        timeout(PATIENCE, gone(&server)).await.unwrap();
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_end_their_connection() {
        let server = Server::start(ListenerLimits {
            header_timeout: HOUR,
            send_timeout: Duration::from_millis(50),
            ..limits()
        })
        .await;
        let (_answer, connection) = large_http_2(&server).await;
        timeout(PATIENCE, gone(&server)).await.unwrap();
        let _ = timeout(PATIENCE, connection).await.unwrap();

        let mut stream = server.connect(None, b"http/1.1").await.unwrap();
        stream
            .write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        timeout(PATIENCE, gone(&server)).await.unwrap();
    }

    /// Waits until no large answer is held any more.
    async fn gone(server: &Server) {
        while Arc::strong_count(&server.handler.large) > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_closing_connection_ends_though_its_peer_never_confirms() {
        let server = Server::start(ListenerLimits {
            header_timeout: HOUR,
            shutdown_grace: Duration::from_millis(50),
            ..limits()
        })
        .await;
        let client = server.client("cn:a", Validity::days(1));
        let mut stream = server.connect(Some(&client), b"h2").await.unwrap();
        stream.write_all(HTTP_2_PREFACE).await.unwrap();
        // The server's settings have come, so it serves.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        server.tls.reload().unwrap();
        let _ = timeout(PATIENCE, read_to_end(&mut stream)).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_certificate() {
        let server = Server::start(ListenerLimits {
            header_timeout: HOUR,
            shutdown_grace: Duration::from_millis(50),
            ..limits()
        })
        .await;
        for protocol in [&b"http/1.1"[..], b"h2"] {
            // The shortest that lasts until the handshake is done: on a busy machine, longer.
            for seconds in [2, 8, 32] {
                let client = server.client(
                    "cn:a",
                    Validity {
                        from: SystemTime::now() - HOUR,
                        until: SystemTime::now() + Duration::from_secs(seconds),
                    },
                );
                let Ok(mut stream) = server.connect(Some(&client), protocol).await else {
                    continue;
                };
                let first = if protocol == b"h2" {
                    HTTP_2_PREFACE
                } else {
                    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
                };
                if stream.write_all(first).await.is_err() || stream.read_exact(&mut [0; 9]).await.is_err() {
                    continue;
                }
                let _ = timeout(PATIENCE, read_to_end(&mut stream)).await.unwrap();
                break;
            }
        }
    }

    #[tokio::test]
    async fn http_2_is_spoken() {
        let server = Server::start(limits()).await;
        let stream = server.connect(None, b"h2").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) = hyper::client::conn::http2::handshake(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(stream),
        )
        .await
        .unwrap();
        tokio::spawn(connection);
        let request = Request::get("https://localhost/")
            .body(Full::<Bytes>::default())
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    }
}
