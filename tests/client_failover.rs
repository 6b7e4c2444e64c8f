//! Which node the client asks next, and what it never sends twice. The nodes are scripts here: each
//! answers what the test says, over real TLS.

use conclave::{
    client::{Client, ClientError, Settings},
    pki::{Authority, AuthorityKind, Validity},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

const VALUE: &str = r#"HTTP/1.1 200 OK|{"Value":"dmFsdWU=","Version":3}"#;
const SEALED: &str = "HTTP/1.1 500 Internal Server Error\r\nRetry-After: 1|this node is sealed";
const UNKNOWN: &str =
    "HTTP/1.1 500 Internal Server Error\r\nRetry-After: 1|no majority answered; the outcome is unknown";
const BROKEN: &str = "HTTP/1.1 500 Internal Server Error|stored bytes are damaged";
/// Reads the request and closes the connection.
const HANGS_UP: &str = "";

#[tokio::test]
async fn a_node_that_is_down_or_sealed_is_passed_over() {
    let world = World::new();
    let (sealed, serving) = (world.node(SEALED).await, world.node(VALUE).await);
    let client = world.client(&[world.nobody().await, sealed.address, serving.address]);
    assert_eq!(
        client.get("a", None).await.ok().map(|value| value.version),
        Some(3)
    );
    assert_eq!((sealed.asked(), serving.asked()), (1, 1));
    // The one that served is asked first from now on.
    assert!(client.get("a", None).await.is_ok());
    assert_eq!((sealed.asked(), serving.asked()), (1, 2));
    // What must not be done twice is passed on too, for nothing was done.
    let client = world.client(&[world.nobody().await, sealed.address, serving.address]);
    assert_eq!(client.create_version("a", 1, b"value").await, Ok(()));
}

#[tokio::test]
async fn what_may_have_been_done_is_repeated_only_if_harmless() {
    let world = World::new();
    for uncertain in [UNKNOWN, HANGS_UP] {
        let (first, second) = (world.node(uncertain).await, world.node(VALUE).await);
        let addresses = [first.address, second.address];
        assert!(world.client(&addresses).get("a", None).await.is_ok());
        assert_eq!((first.asked(), second.asked()), (1, 1));
        for answer in [
            world.client(&addresses).create_version("a", 1, b"value").await,
            world.client(&addresses).delete_version("a", 1).await,
        ] {
            assert!(
                matches!(answer, Err(ClientError::OutcomeUnknown(_))),
                "{answer:?}"
            );
        }
        assert_eq!((first.asked(), second.asked()), (3, 1));
    }
}

#[tokio::test]
async fn an_answer_is_an_answer() {
    let world = World::new();
    for (answer, expected) in [
        (
            "HTTP/1.1 404 Not Found|no such secret",
            ClientError::NotFound("no such secret".into()),
        ),
        (
            "HTTP/1.1 403 Forbidden|no right",
            ClientError::Denied("no right".into()),
        ),
        (
            "HTTP/1.1 400 Bad Request|bad name",
            ClientError::Invalid("bad name".into()),
        ),
        (
            "HTTP/1.1 412 Precondition Failed|used",
            ClientError::Invalid("used".into()),
        ),
    ] {
        let (first, second) = (world.node(answer).await, world.node(VALUE).await);
        let got = world
            .client(&[first.address, second.address])
            .get("a", None)
            .await
            .err();
        assert_eq!(got, Some(expected));
        assert_eq!(second.asked(), 0);
    }
    let (first, second) = (world.node(BROKEN).await, world.node(VALUE).await);
    let got = world
        .client(&[first.address, second.address])
        .get("a", None)
        .await
        .err();
    assert!(matches!(got, Some(ClientError::Other(_))), "{got:?}");
    assert_eq!(second.asked(), 0);
}

#[tokio::test]
async fn when_nobody_serves_in_time_every_reason_is_given() {
    let world = World::new();
    let (sealed, nobody) = (world.node(SEALED).await, world.nobody().await);
    let client = world
        .client(&[sealed.address, nobody])
        .with_timeout(Duration::from_millis(300));
    match client.put("a", b"value").await {
        Err(ClientError::Unavailable(reasons)) => {
            assert!(reasons.contains("this node is sealed"), "{reasons}");
            assert!(reasons.contains(&nobody.to_string()), "{reasons}");
        }
        other => panic!("{other:?}"),
    }
    // Where one attempt may have succeeded, nothing else is claimed.
    let unknown = world.node(UNKNOWN).await;
    let client = world
        .client(&[unknown.address, nobody])
        .with_timeout(Duration::from_millis(300));
    assert!(matches!(
        client.put("a", b"value").await,
        Err(ClientError::OutcomeUnknown(_))
    ));
}

#[tokio::test]
async fn a_node_of_another_authority_gets_no_request() {
    let (ours, theirs) = (World::new(), World::new());
    let node = theirs.node(VALUE).await;
    let client = ours
        .client(&[node.address])
        .with_timeout(Duration::from_millis(300));
    assert!(matches!(
        client.get("a", None).await.err(),
        Some(ClientError::Unavailable(_))
    ));
    assert_eq!(node.asked(), 0);
}

/// An authority, and nodes with its certificates.
struct World {
    folder: tempfile::TempDir,
    authority: Authority,
}

struct Node {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority =
            Authority::generate(AuthorityKind::Nodes, "test", Validity::days(1)).expect("an authority");
        authority
            .write(&folder.path().join("ca.pem"), &folder.path().join("ca.key"))
            .expect("written");
        Self { folder, authority }
    }

    fn client(&self, addresses: &[SocketAddr]) -> Client {
        let authority: PathBuf = self.folder.path().join("ca.pem");
        let addresses = addresses.iter().map(ToString::to_string).collect();
        let settings = Settings {
            addresses,
            authority,
            identity: None,
            timeout: Duration::from_secs(20),
        };
        Client::new(&settings).expect("a client")
    }

    /// An address at which nobody listens.
    async fn nobody(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        listener.local_addr().expect("an address")
    }

    /// Answers every request with a status line and headers, `|`, and a body.
    async fn node(&self, answer: &'static str) -> Node {
        let issued = self
            .authority
            .issue_api_server(&["127.0.0.1".to_owned()], Validity::days(1))
            .expect("a certificate");
        let certificate = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(issued.private_key_pem.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("the certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let node = Node {
            address: listener.local_addr().expect("an address"),
            requests: Arc::new(AtomicUsize::new(0)),
        };
        let requests = node.requests.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let (acceptor, requests) = (acceptor.clone(), requests.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(socket).await else {
                        return;
                    };
                    while read_request(&mut stream).await {
                        requests.fetch_add(1, Ordering::Relaxed);
                        let Some((head, body)) = answer.split_once('|') else {
                            return;
                        };
                        let text = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        if stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        node
    }
}

impl Node {
    fn asked(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Reads one request to the end of its body; false at the end of the connection.
async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return true;
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}
