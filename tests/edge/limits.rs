//! Limits at the listener, on real nodes with small ones: each refusal names its limit, a slow or
//! greedy client costs nobody else anything, and what was accepted is finished at a graceful stop.

use crate::{
    requests,
    support::{
        Identity, PATIENCE, PROGRAM, TestCluster, eventually,
        setec::{Answer, Setec},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use conclave::{api::conclave::messages::AuditListRequest, client::Settings};
use hyper::Version;
use rustix::process::Signal;
use rustls_pki_types::ServerName;
use serde_json::json;
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const VALUE_BYTES: usize = 64 << 10;
const BODY_BYTES: usize = 128 << 10;
const CONNECTIONS_PER_SOURCE: usize = 6;
const IN_FLIGHT: usize = 3;
const SLOW_MS: u64 = 2_000;

#[tokio::test]
async fn each_limit_refuses_clearly_and_harms_nobody() {
    let mut cluster = TestCluster::builder()
        .nodes(1)
        .production()
        .setting("limits.value_bytes", &VALUE_BYTES.to_string())
        .setting("limits.body_bytes", &BODY_BYTES.to_string())
        .setting("limits.large_answer_bytes", "1")
        .setting("limits.header_bytes", "8192")
        .setting(
            "limits.connections_per_source",
            &CONNECTIONS_PER_SOURCE.to_string(),
        )
        .setting("limits.requests_in_flight", &IN_FLIGHT.to_string())
        .setting("limits.handshake_timeout_ms", &SLOW_MS.to_string())
        .setting("limits.header_timeout_ms", &SLOW_MS.to_string())
        .setting("limits.body_timeout_ms", &SLOW_MS.to_string())
        .start()
        .await;
    sizes(&cluster).await;
    both_versions_of_http(&cluster).await;
    one_source_has_its_share(&cluster).await;
    slow_clients(&cluster).await;
    requests_in_flight(&cluster).await;
    large_answers(&cluster).await;
    a_stop_finishes_what_was_accepted(&mut cluster).await;
}

#[tokio::test]
async fn connections_that_would_take_the_nodes_own_files_are_refused_at_the_start() {
    let cluster = TestCluster::builder().nodes(1).start_only(&[]).launch();
    let started = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 1024 && exec \"$0\" server --config \"$1\"",
            PROGRAM,
        ])
        .arg(&cluster.node(0).config)
        .kill_on_drop(true)
        .output();
    let ended = timeout(PATIENCE, started)
        .await
        .expect("it ends")
        .expect("it ran");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("limits.connections: 4096 connections"), "{said}");
}

const IN_FLIGHT_PER_PRINCIPAL: usize = 2;
const PER_SECOND: usize = 5;
const CONNECTIONS: usize = 6;

#[tokio::test]
async fn each_principal_has_its_limits_and_the_node_one_of_connections() {
    let cluster = TestCluster::builder()
        .nodes(1)
        .production()
        .grant("uri:slow", &["get"], &["size"])
        .grant("uri:quick", &["get"], &["size"])
        .grant("uri:auditor", &["audit"], &[])
        .setting("limits.requests_in_flight", &IN_FLIGHT.to_string())
        .setting(
            "limits.requests_in_flight_per_principal",
            &IN_FLIGHT_PER_PRINCIPAL.to_string(),
        )
        .setting("limits.requests_per_s_per_principal", &PER_SECOND.to_string())
        .setting("limits.connections", &CONNECTIONS.to_string())
        // What is begun here may take its time on a busy machine.
        .setting("limits.body_timeout_ms", "120000")
        .setting("limits.header_timeout_ms", "120000")
        .start()
        .await;
    callers_without_grants_hold_nothing_of_others(&cluster).await;
    requests_in_flight_per_principal(&cluster).await;
    requests_per_second_per_principal(&cluster).await;
    connections(&cluster).await;
}

async fn requests_in_flight_per_principal(cluster: &TestCluster) {
    let slow = cluster.identity("uri:slow");
    let mut busy = Vec::new();
    for _ in 0..IN_FLIGHT_PER_PRINCIPAL {
        let accepted = eventually("it is within its rate", PATIENCE, async || {
            let (raw, answer) = begun(cluster, &slow, 30).await;
            if answer.starts_with("HTTP/1.1 100 ") {
                Ok(raw)
            } else {
                Err(answer)
            }
        });
        let mut accepted = accepted.await;
        accepted.write("{\"Na").await;
        busy.push(accepted);
    }
    let (mut refused, answer) = begun(cluster, &slow, 30).await;
    let answer = refused.on(answer, "too many requests from this caller").await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: 1"), "{answer}");
    let quick = Setec::principal(cluster, "uri:quick");
    eventually("others are unhurt", PATIENCE, async || {
        let answer = quick.json("get", json!({"Name": "size"})).await;
        match answer.status {
            404 => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
    // One less, and there is room again.
    let mut first = busy.remove(0);
    first.write("me\":\"size\"}").await;
    assert!(first.until("\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
    eventually("there is room again", PATIENCE, async || {
        let (_, answer) = begun(cluster, &slow, 30).await;
        if answer.starts_with("HTTP/1.1 100 ") {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

async fn requests_per_second_per_principal(cluster: &TestCluster) {
    let quick = Setec::principal(cluster, "uri:quick");
    let mut refused: Option<Answer> = None;
    for _ in 0..40 * PER_SECOND {
        // What is malformed counts as well, and is answered soon.
        let answer = quick.call("get", "{").await;
        if answer.status != 400 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("more than its rate is refused").expect(429);
    assert_eq!(refused.header("retry-after"), "1");
    assert!(
        refused.text().contains("too many requests from this caller"),
        "{refused:?}"
    );
    eventually("it may come back", PATIENCE, async || {
        let answer = quick.json("get", json!({"Name": "size"})).await;
        match answer.status {
            404 => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
}

async fn connections(cluster: &TestCluster) {
    // Those of before are closed in their own time.
    let mut open = Vec::new();
    for source in 0..CONNECTIONS {
        open.push(Raw::open(cluster, 40 + source as u8).await.expect("a connection"));
    }
    // One more, from wherever, has to wait until another one ends.
    let mut waiting = Box::pin(Raw::open(cluster, 50));
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    drop(open.pop());
    waiting.await.expect("its turn comes");
}

async fn sizes(cluster: &TestCluster) {
    let http = cluster.http(Some(&cluster.administrator()));
    let put = |bytes: usize| json!({"Name": "size", "Value": STANDARD.encode(vec![b'x'; bytes])});
    let (status, text) =
        requests::answer(requests::setec(&http, cluster, 0, "put", put(VALUE_BYTES)).await).await;
    assert_eq!(status, 200, "{text}");
    let too_large = requests::setec(&http, cluster, 0, "put", put(VALUE_BYTES + 1)).await;
    let (status, text) = requests::answer(too_large).await;
    assert_eq!(status, 400);
    assert!(text.contains(&VALUE_BYTES.to_string()), "{text}");

    // A body that says how long it is, and one that does not.
    let too_long = http
        .post(format!("{}/api/list", cluster.api(0)))
        .header("content-type", "application/json")
        .header("sec-x-tailscale-no-browsers", "setec")
        .body(vec![b' '; 131_073])
        .send()
        .await;
    let (status, text) = requests::answer(too_long).await;
    assert_eq!(status, 400);
    assert!(text.contains("131072"), "{text}");
    let mut raw = Raw::open(cluster, 20).await.expect("a connection");
    raw.write(format!("{}transfer-encoding: chunked\r\n\r\n", head("list")))
        .await;
    for _ in 0..32 {
        raw.write(format!("1000\r\n{}\r\n", " ".repeat(0x1000))).await;
    }
    raw.write("1\r\n \r\n").await;
    let answer = raw.until("131072").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    let own = http
        .post(format!("{}/conclave/v1/audit/list", cluster.api(0)))
        .body(vec![b' '; 131_073])
        .send()
        .await;
    let (status, text) = requests::answer(own).await;
    assert_eq!(status, 413);
    assert!(text.contains("131072"), "{text}");

    let mut raw = Raw::open(cluster, 20).await.expect("a connection");
    raw.write(format!(
        "GET /conclave/v1/health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: {}\r\n\r\n",
        "x".repeat(9_000)
    ))
    .await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

async fn both_versions_of_http(cluster: &TestCluster) {
    let http = cluster.http(Some(&cluster.administrator()));
    let second = requests::setec(&http, cluster, 0, "list", json!({}))
        .await
        .expect("an answer");
    assert_eq!(
        (second.version(), second.status().as_u16()),
        (Version::HTTP_2, 200)
    );
    let mut raw = Raw::open(cluster, 21).await.expect("a connection");
    // Twice on one connection.
    for end in ["keep-alive", "close"] {
        raw.write(format!(
            "{}content-length: 2\r\nconnection: {end}\r\n\r\n{{}}",
            head("list")
        ))
        .await;
        let answer = raw.until("]").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

async fn one_source_has_its_share(cluster: &TestCluster) {
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_PER_SOURCE {
        open.push(Raw::open(cluster, 22).await.expect("a connection"));
    }
    assert!(Raw::open(cluster, 22).await.is_err(), "one more than its share");
    // Other sources are unhurt, and a place becomes free when one goes.
    assert!(Raw::open(cluster, 23).await.is_ok());
    assert!(cluster.client().list().await.is_ok());
    drop(open.pop());
    eventually("a place is free", PATIENCE, async || {
        Raw::open(cluster, 22)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await;
}

/// Silent before the handshake, within the headers, within the body.
async fn slow_clients(cluster: &TestCluster) {
    let began = Instant::now();
    let mut silent = connect(cluster, 24).await.expect("a connection");
    let mut headers = Raw::open(cluster, 24).await.expect("a connection");
    headers.write("POST /api/list HTTP/1.1\r\nhost: 127").await;
    let mut body = Raw::open(cluster, 24).await.expect("a connection");
    body.write(format!("{}content-length: 100\r\n\r\n{{\"Na", head("get")))
        .await;
    let mut nothing = Vec::new();
    let closed = timeout(PATIENCE, silent.read_to_end(&mut nothing))
        .await
        .expect("it is closed");
    assert!(closed.is_err() || nothing.is_empty());
    let answer = headers.rest().await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
    let answer = body.until(&format!("{SLOW_MS} ms")).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(SLOW_MS) - Duration::from_millis(200),
        "{took:?}"
    );
    assert!(cluster.client().list().await.is_ok());
}

/// Whoever has a certificate and no grant may begin little, whatever he begins.
async fn callers_without_grants_hold_nothing_of_others(cluster: &TestCluster) {
    let stranger = cluster.identity("uri:stranger");
    let mut first = accepted_in_part(cluster, &stranger, 28, "{\"Na").await;
    let (mut more, answer) = begun(cluster, &stranger, 28).await;
    let answer = more.on(answer, "too many requests").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: 1"), "{answer}");
    // The node has as much room for others as ever.
    let mut others = Vec::new();
    for (principal, count) in [("uri:slow", 2), ("uri:quick", 1)] {
        for _ in 0..count {
            others.push(accepted_in_part(cluster, &cluster.identity(principal), 29, "{\"Na").await);
        }
    }
    assert_eq!(others.len(), IN_FLIGHT);
    drop(others);
    // The one that it has is refused in the end, and recorded with the name.
    first.write("me\":\"size\"}").await;
    let answer = first.until("denied").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let request = AuditListRequest {
        principal: Some("uri:stranger".into()),
        ..AuditListRequest::default()
    };
    let auditor = cluster.client_as(Some(&cluster.identity("uri:auditor")));
    let records = auditor.audit_list(&request).await.expect("a page").records;
    let refused: Vec<_> = records
        .iter()
        .map(|record| (record.secret.as_deref(), record.outcome.as_str()))
        .collect();
    assert_eq!(refused, [(Some("size"), "denied")]);
}

async fn requests_in_flight(cluster: &TestCluster) {
    let administrator = cluster.administrator();
    let mut busy = Vec::new();
    for _ in 0..IN_FLIGHT {
        busy.push(accepted_in_part(cluster, &administrator, 25, "{\"Na").await);
    }
    let http = cluster.http(Some(&administrator));
    let refused = requests::setec(&http, cluster, 0, "list", json!({})).await;
    let refused = refused.expect("an answer");
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    let (status, text) = requests::answer(Ok(refused)).await;
    assert_eq!(status, 503);
    assert!(text.contains("too many requests"), "{text}");
    // A load balancer hears that the node lives.
    let health = format!("{}/conclave/v1/health", cluster.api(0));
    let (status, text) = requests::answer(cluster.http(None).get(&health).send().await).await;
    assert_eq!(status, 200, "{text}");
    // Each of those goes on, and makes room.
    for raw in &mut busy {
        raw.write("me\":\"size\"}").await;
        let answer = raw.until("}").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    eventually("there is room again", PATIENCE, async || {
        let answer = requests::setec(&http, cluster, 0, "list", json!({})).await;
        match requests::answer(answer).await {
            (status, _) if status == 200 => Ok(()),
            (status, text) => Err(format!("{status}: {text}")),
        }
    })
    .await;
}

/// Here not even one is kept; how many are otherwise is shown beside the code.
async fn large_answers(cluster: &TestCluster) {
    const NAME_BYTES: usize = 1_000;
    let http = cluster.http(Some(&cluster.administrator()));
    let listed = async || {
        let answer = requests::setec(&http, cluster, 0, "list", json!({})).await;
        answer.expect("an answer")
    };
    assert_eq!(listed().await.status(), 200);
    for number in 0..=BODY_BYTES / NAME_BYTES {
        let name = format!("{number:0NAME_BYTES$}");
        let put = requests::setec(&http, cluster, 0, "put", json!({"Name": name, "Value": "eA=="})).await;
        assert_eq!(put.expect("an answer").status(), 200);
    }
    let refused = listed().await;
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    let (status, text) = requests::answer(Ok(refused)).await;
    assert_eq!(status, 503);
    assert!(text.contains("limits.large_answer_bytes"), "{text}");
}

async fn a_stop_finishes_what_was_accepted(cluster: &mut TestCluster) {
    let administrator = cluster.administrator();
    let mut accepted = accepted_in_part(cluster, &administrator, 26, "{\"Na").await;
    cluster.signal(0, Signal::TERM);
    // It takes nothing new any more, …
    eventually("the listener is closed", PATIENCE, async || {
        match Raw::open(cluster, 27).await {
            Ok(_) => Err("it still accepts".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    // … and answers what it has.
    accepted.write("me\":\"size\"}").await;
    let answer = accepted.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(cluster.wait_for_end(0).await.success());
}

/// The head of a call of setec's API, without the headers of its body.
fn head(method: &str) -> String {
    format!(
        "POST /api/{method} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         sec-x-tailscale-no-browsers: setec\r\n"
    )
}

/// The head of a call of `get` for the secret `size`, and the head of the answer: 100 when the node
/// begins to read the body, and not before.
async fn begun(cluster: &TestCluster, identity: &Identity, source: u8) -> (Raw, String) {
    let length = "{\"Name\":\"size\"}".len();
    let mut raw = Raw::open_as(cluster, identity, source)
        .await
        .expect("a connection");
    raw.write(format!(
        "{}content-length: {length}\r\nexpect: 100-continue\r\n\r\n",
        head("get")
    ))
    .await;
    let answer = raw.until("\r\n\r\n").await;
    (raw, answer)
}

/// A call of `get` for the secret `size` that the node has begun to read, of which this much of the
/// body is sent.
async fn accepted_in_part(cluster: &TestCluster, identity: &Identity, source: u8, sent: &str) -> Raw {
    let (mut raw, answer) = begun(cluster, identity, source).await;
    assert!(answer.starts_with("HTTP/1.1 100 "), "{answer}");
    raw.write(sent).await;
    raw
}

/// A connection by HTTP/1.1 from 127.0.0.`source`.
struct Raw(TlsStream<TcpStream>);

impl Raw {
    /// With the administrator's certificate.
    async fn open(cluster: &TestCluster, source: u8) -> io::Result<Self> {
        Self::open_as(cluster, &cluster.administrator(), source).await
    }

    async fn open_as(cluster: &TestCluster, identity: &Identity, source: u8) -> io::Result<Self> {
        let settings = Settings {
            addresses: vec![cluster.api(0)],
            authority: cluster.layout().authority(),
            identity: Some((identity.certificate.clone(), identity.key.clone())),
            timeout: PATIENCE,
        };
        let mut config = settings.tls().expect("the client's files are there");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = connect(cluster, source).await?;
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let mut stream = timeout(
            PATIENCE,
            TlsConnector::from(Arc::new(config)).connect(name, stream),
        )
        .await??;
        stream.flush().await?;
        Ok(Self(stream))
    }

    async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.expect("the node reads");
        self.0.flush().await.expect("the node reads");
    }

    /// What comes, up to these characters.
    async fn until(&mut self, end: &str) -> String {
        self.on(String::new(), end).await
    }

    /// What came, and what comes after it, up to these characters.
    async fn on(&mut self, mut text: String, end: &str) -> String {
        while !text.contains(end) {
            let mut bytes = vec![0; 4_096];
            let count = timeout(PATIENCE, self.0.read(&mut bytes))
                .await
                .expect("an answer in time");
            match count {
                Ok(count) if count > 0 => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
                end => panic!("{end:?} after {text:?}"),
            }
        }
        text
    }

    /// What comes until the node closes the connection.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // It may close without TLS's farewell.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut bytes))
            .await
            .expect("an end in time");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

async fn connect(cluster: &TestCluster, source: u8) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, source], 0)))?;
    socket
        .connect(SocketAddr::from(([127, 0, 0, 1], cluster.node(0).ports.api)))
        .await
}
