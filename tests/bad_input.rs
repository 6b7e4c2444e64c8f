//! What a node answers to requests that are wrong, from bad JSON to bad certificates: the status of
//! the document, a message that names the problem, and a node that is none the worse for it.

mod support;

use base64::{Engine, engine::general_purpose::STANDARD};
use conclave::{
    api::conclave::messages::{AuditEntry, AuditListRequest},
    pki::{Authority, AuthorityKind, ClientName, Issued, Validity},
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls_pki_types::ServerName;
use serde_json::json;
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use support::{
    Identity, PATIENCE, TestCluster, eventually,
    setec::{Answer, Setec, send},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong_and_harm_nothing() {
    let mut cluster = TestCluster::builder()
        .nodes(1)
        .production()
        .setting("limits.handshake_timeout_ms", "1000")
        .setting("limits.header_timeout_ms", "1500")
        .setting("limits.body_timeout_ms", "1000")
        .grant("uri:app", &["get", "put"], &["*"])
        .start()
        .await;
    let setec = Setec::administrator(&cluster);
    setec.put("example", b"value").await;
    let entries = recorded(&cluster).await;

    bodies(&setec).await;
    names(&setec).await;
    sizes(&cluster, &setec).await;
    own_messages(&setec).await;
    slow_and_half_sent_requests(&cluster).await;
    what_is_no_http(&cluster).await;
    what_is_no_tls(&cluster).await;
    certificates(&cluster).await;
    hosts_and_origins(&cluster).await;

    // Nothing of it was worth a record, and the node is as it was.
    let ours = recorded(&cluster).await - entries;
    assert_eq!(ours, 0, "malformed requests are not recorded");
    unharmed(&mut cluster, &setec).await;
}

async fn bodies(setec: &Setec) {
    for (method, body, named) in [
        ("get", "", "empty"),
        ("get", "{", "line 1 column 1"),
        ("get", "{\n\"Name\":\"example\",}", "line 2"),
        ("get", r#"{"Name":"example"} {}"#, "JSON"),
        ("get", r#"{"Name":"example"}x"#, "JSON"),
        ("get", "{'Name':'example'}", "JSON"),
        ("get", "Name=example", "JSON"),
        ("get", "[]", "object"),
        ("get", "7", "object"),
        ("get", r#""example""#, "object"),
        ("list", "[]", "object"),
        ("list", "{", "JSON"),
        ("get", r#"{"Name":7}"#, "Name must be a string"),
        ("get", r#"{"Name":["example"]}"#, "Name must be a string"),
        ("get", r#"{"Name":"\ud800"}"#, "Name must be a string"),
        (
            "get",
            r#"{"Name":"example","Version":-1}"#,
            "Version must be an integer",
        ),
        (
            "get",
            r#"{"Name":"example","Version":4294967296}"#,
            "Version must be",
        ),
        (
            "get",
            r#"{"Name":"example","Version":99999999999999999999999}"#,
            "Version must be",
        ),
        ("get", r#"{"Name":"example","Version":1e400}"#, "Version must be"),
        ("get", r#"{"Name":"example","Version":1.5}"#, "Version must be"),
        ("get", r#"{"Name":"example","Version":"1"}"#, "Version must be"),
        ("get", r#"{"Name":"example","Version":true}"#, "Version must be"),
        (
            "get",
            r#"{"Name":"example","UpdateIfChanged":1}"#,
            "UpdateIfChanged must be",
        ),
        (
            "get",
            r#"{"Name":"example","UpdateIfChanged":"true"}"#,
            "UpdateIfChanged must be",
        ),
        ("put", r#"{"Name":"example","Value":7}"#, "Value must be"),
        ("put", r#"{"Name":"example","Value":[104,105]}"#, "Value must be"),
        ("put", r#"{"Name":"example","Value":"?"}"#, "base64"),
        ("put", r#"{"Name":"example","Value":"aGk"}"#, "base64"),
        ("put", r#"{"Name":"example","Value":"aGk=="}"#, "base64"),
        ("put", r#"{"Name":"example","Value":"a-_="}"#, "base64"),
        ("put", r#"{"Name":"example","Value":"aGl="}"#, "base64"),
        (
            "create-version",
            r#"{"Name":"example","Version":-7,"Value":"aGk="}"#,
            "Version must be",
        ),
        (
            "create-version",
            r#"{"Name":"example","Version":0,"Value":"aGk="}"#,
            "greater than 0",
        ),
        (
            "activate",
            r#"{"Name":"example","Version":-1}"#,
            "Version must be",
        ),
        (
            "activate",
            r#"{"Name":"example","Version":99999999999999999999}"#,
            "Version must be",
        ),
        (
            "delete-version",
            r#"{"Name":"example","Version":-1}"#,
            "Version must be",
        ),
    ] {
        assert_refused(&setec.call(method, body).await, 400, named, body);
    }
    // Bytes that are no UTF-8, in a name, in a field that nobody reads, and alone.
    for body in [
        &b"{\"Name\":\"ex\xff\xfeample\"}"[..],
        b"{\"Name\":\"example\",\"x\":\"\xc3\"}",
        b"\xff",
    ] {
        let answer = setec.call("get", body.to_vec()).await;
        assert_refused(&answer, 400, "UTF-8", "invalid UTF-8");
    }
    // Depth without end, where a careless parser runs out of stack.
    let (open, close) = ("[".repeat(200_000), "]".repeat(200_000));
    let deep = format!(r#"{{"x":{open}1{close},"Name":""}}"#);
    assert_refused(&setec.call("get", deep).await, 400, "Name", "200,000 arrays");
}

async fn names(setec: &Setec) {
    let too_long = "n".repeat(1025);
    let too_many_bytes = "é".repeat(513);
    for (name, named) in [
        ("", "empty"),
        (too_long.as_str(), "1025 bytes; at most 1024"),
        (too_many_bytes.as_str(), "1026 bytes; at most 1024"),
        ("a\nb", "control character"),
        ("a\0b", "control character"),
        ("\u{7f}", "control character"),
        ("a\u{85}b", "control character"),
    ] {
        for method in [
            "get",
            "info",
            "put",
            "create-version",
            "activate",
            "delete-version",
            "delete",
        ] {
            let answer = setec
                .json(method, json!({"Name": name, "Version": 1, "Value": "aGk="}))
                .await;
            assert_refused(&answer, 400, named, method);
        }
    }
}

async fn sizes(cluster: &TestCluster, setec: &Setec) {
    let too_large = STANDARD.encode(vec![0; (1 << 20) + 1]);
    for method in ["put", "create-version"] {
        let body = json!({"Name": "example", "Version": 9, "Value": too_large});
        let answer = setec.json(method, body).await;
        assert_refused(&answer, 400, "1048577 bytes; at most 1048576", method);
    }
    // Beyond the limit of bodies: refused on the announcement, or where the bytes pass it.
    let limit = 2 << 20;
    let announced = post("get", &format!("Content-Length: {}\r\n", limit + 1), b"");
    let (status, _, text) = exchange(cluster, &announced).await;
    assert_eq!((status, text.contains("2097152 bytes")), (400, true), "{text}");
    let mut chunked = post("get", "Transfer-Encoding: chunked\r\n", b"");
    chunked.extend_from_slice(format!("{limit:x}\r\n").as_bytes());
    chunked.extend_from_slice(&vec![b' '; limit]);
    chunked.extend_from_slice(b"\r\n1\r\nx");
    let (status, _, text) = exchange(cluster, &chunked).await;
    assert_eq!((status, text.contains("2097152 bytes")), (400, true), "{text}");
    // Conclave's own API has a status for it.
    let own = b"POST /conclave/v1/audit/list HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n";
    let (status, _, text) = exchange(cluster, own).await;
    assert_eq!((status, text.contains("too_large")), (413, true), "{text}");

    // Headers and paths.
    let header = post("get", &format!("X-Padding: {}\r\n", "x".repeat(64 << 10)), b"");
    assert_eq!(exchange(cluster, &header).await.0, 431);
    let path = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "x".repeat(100 << 10)
    );
    assert!(matches!(exchange(cluster, path.as_bytes()).await.0, 414 | 431));
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    assert_eq!(exchange(cluster, &post("get", &many, b"")).await.0, 431);
}

async fn own_messages(setec: &Setec) {
    for (path, body, named) in [
        ("audit/list", "{", "EOF"),
        ("audit/list", "null", "object"),
        ("audit/list", "[1]", "object"),
        ("audit/list", r#"{"limit":"many"}"#, "invalid type"),
        ("audit/list", r#"{"limit":0}"#, "limit"),
        ("audit/list", r#"{"limit":1001}"#, "limit"),
        ("audit/list", r#"{"limit":-1}"#, "invalid"),
        ("audit/list", r#"{"surprise":1}"#, "surprise"),
        ("audit/list", r#"{"action":"fetch"}"#, "action"),
        ("audit/list", r#"{"outcome":"fine"}"#, "outcome"),
        ("audit/list", r#"{"cursor":"x"}"#, "cursor"),
        ("audit/list", r#"{"secret":""}"#, "secret"),
        ("audit/list", r#"{"principal":"me"}"#, "principal"),
        ("cluster/promote", r#"{"id":-1}"#, "invalid"),
        ("cluster/promote", "{}", "id"),
        ("cluster/add", r#"{"name":"not a name"}"#, "name"),
        ("seal/rekey", "{}", "key_file"),
    ] {
        let request = setec
            .bare(reqwest::Method::POST, &format!("/conclave/v1/{path}"))
            .body(body);
        let answer = send(request).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], "invalid_request");
        let message = error["message"].as_str().expect("a message");
        assert!(
            message.contains(named) && message.len() <= 400,
            "{named}: {message}"
        );
    }
    for (method, path) in [
        (reqwest::Method::POST, "/conclave/v1/status"),
        (reqwest::Method::GET, "/conclave/v1/audit/list"),
        (reqwest::Method::DELETE, "/conclave/v1/health"),
    ] {
        let answer = send(setec.bare(method, path)).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (405, &json!("method_not_allowed"))
        );
    }
    for path in [
        "/conclave/v1/nothing",
        "/conclave/v2/health",
        "/conclave/",
        "/api/../api/get%00",
        "/%2e%2e",
    ] {
        assert_eq!(
            send(setec.bare(reqwest::Method::GET, path)).await.status,
            404,
            "{path}"
        );
    }
}

async fn slow_and_half_sent_requests(cluster: &TestCluster) {
    // A body that stops, and one that comes byte by byte.
    let half = post("get", "Content-Length: 100\r\n", b"{\"Name\":");
    let (status, _, text) = exchange(cluster, &half).await;
    assert_eq!(
        (status, text.contains("not sent within 1000 ms")),
        (408, true),
        "{text}"
    );

    let mut slow = connect(cluster, Some(&cluster.administrator()))
        .await
        .expect("TLS");
    slow.write_all(&post("get", "Content-Length: 1000\r\n", b""))
        .await
        .expect("sent");
    let (mut from, mut to) = tokio::io::split(slow);
    let dripping = async {
        loop {
            if to.write_all(b" ").await.is_err() || to.flush().await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::select! {
        answer = read_answer(&mut from) => answer,
        () = dripping => unreachable!("it never ends"),
    };
    assert_eq!(answer.expect("an answer").0, 408);

    // Headers that stop or drip, and a connection that says nothing after an answer: closed.
    for start in [
        &b"POST /api/get HT"[..],
        b"POST /api/get HTTP/1.1\r\nHost: local",
        b"",
    ] {
        let mut stream = connect(cluster, Some(&cluster.administrator()))
            .await
            .expect("TLS");
        stream.write_all(start).await.expect("sent");
        assert_closes(stream).await;
    }
    let mut idle = connect(cluster, Some(&cluster.administrator()))
        .await
        .expect("TLS");
    idle.write_all(b"GET /conclave/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .expect("sent");
    assert_closes(idle).await;

    // Callers that hang up in the middle.
    for _ in 0..50 {
        let mut stream = connect(cluster, Some(&cluster.administrator()))
            .await
            .expect("TLS");
        stream
            .write_all(&post("put", "Content-Length: 100\r\n", b"{\"Name\":\"half\""))
            .await
            .expect("sent");
    }
}

async fn what_is_no_http(cluster: &TestCluster) {
    for request in [
        &b"NONSENSE\r\n\r\n"[..],
        b"POST /api/get HTTP/7.0\r\n\r\n",
        b"POST /api/get HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/get HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
    ] {
        assert_eq!(
            exchange(cluster, request).await.0,
            400,
            "{}",
            String::from_utf8_lossy(request)
        );
    }
    // Two lengths, as used to smuggle one request within another.
    let two =
        b"POST /api/get HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\n{}{}";
    assert_eq!(exchange(cluster, two).await.0, 400);
    // HTTP/2 that is none.
    let mut tls = cluster
        .settings(None)
        .tls()
        .expect("the client's files are there");
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let mut stream = connect_with(cluster, tls).await.expect("TLS");
    stream.write_all(&[0xff; 500]).await.expect("sent");
    assert_closes(stream).await;
}

async fn what_is_no_tls(cluster: &TestCluster) {
    let port = cluster.node(0).ports.api;
    let tcp = async || {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("a connection")
    };
    // Plain HTTP is told so in plain HTTP.
    let mut plain = tcp().await;
    plain
        .write_all(b"POST /api/get HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        .await
        .expect("sent");
    let (status, _, text) = read_answer(&mut plain).await.expect("an answer");
    assert_eq!((status, text.contains("use https")), (400, true), "{text}");
    // Silence, half a handshake, and bytes of no protocol: closed.
    for start in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00", &[0x7f; 300]] {
        let mut stream = tcp().await;
        stream.write_all(start).await.expect("sent");
        assert_closes(stream).await;
    }
}

async fn certificates(cluster: &TestCluster) {
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let (expired, early) = (
        Validity {
            from: now - 2 * hour,
            until: now - hour,
        },
        Validity {
            from: now + hour,
            until: now + 2 * hour,
        },
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |issued: Issued| write_identity(folder.path(), &issued);
    let (certificate, key) = cluster.layout().client_authority();
    let clients = Authority::load(AuthorityKind::Clients, &certificate, &key).expect("the client CA");
    let other = Authority::generate(AuthorityKind::Clients, "other", Validity::days(1)).expect("a CA");
    let posing_ca = Authority::generate(AuthorityKind::Clients, "dev", Validity::days(1)).expect("a CA");
    let app = ClientName::parse("uri:app").expect("a principal");
    let own = cluster
        .node(0)
        .config
        .parent()
        .expect("the node's folder")
        .to_owned();
    let node = Identity {
        certificate: own.join("node.pem"),
        key: own.join("node.key"),
    };
    let posing = |names: &[&str]| {
        let (pem, key) = (
            std::fs::read_to_string(&certificate).expect("the CA"),
            std::fs::read_to_string(&key).expect("its key"),
        );
        let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key).expect("a key")).expect("a CA");
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| SanType::URI((*name).try_into().expect("ASCII")))
            .collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        write(Issued {
            certificate_pem: params.signed_by(&key, &issuer).expect("signed").pem(),
            private_key_pem: key.serialize_pem().into(),
        })
    };

    let (log, began) = (&cluster.node(0).log, Instant::now());
    let logged = || {
        let log = std::fs::read_to_string(log).expect("the node's log");
        log.matches("a connection was refused").count()
    };
    let logged_before = logged();
    for (what, identity, alert) in [
        (
            "signed by another CA",
            write(other.issue_client(&app, Validity::days(1)).expect("issued")),
            "UnknownCA",
        ),
        (
            "signed by a CA of our CA's name",
            write(posing_ca.issue_client(&app, Validity::days(1)).expect("issued")),
            "DecryptError",
        ),
        (
            "expired",
            write(clients.issue_client(&app, expired).expect("issued")),
            "CertificateExpired",
        ),
        (
            "not yet valid",
            write(clients.issue_client(&app, early).expect("issued")),
            "CertificateExpired",
        ),
        ("a node's", node, "UnknownCA"),
        (
            "a node's name",
            posing(&["conclave://dev/node-1"]),
            "AccessDenied",
        ),
        (
            "a node's name beside another",
            posing(&["app", "conclave://dev/node-1"]),
            "AccessDenied",
        ),
        ("two names", posing(&["app", "administrator"]), "AccessDenied"),
    ] {
        let error = match connect(cluster, Some(&identity)).await {
            Err(error) => error,
            // In TLS 1.3 a client hears of it with the first bytes that it reads.
            Ok(mut stream) => read_answer(&mut stream).await.expect_err(what),
        };
        assert!(error.to_string().contains(alert), "{what}: {error}");
    }
    // A good one beside them.
    let good = write(clients.issue_client(&app, Validity::days(1)).expect("issued"));
    let answer = Setec::new(cluster, Some(&good))
        .json("get", json!({"Name": "example"}))
        .await;
    assert_eq!(answer.status, 200);
    assert!(logged() > 0, "the log says so as well");
    let minutes = usize::try_from(began.elapsed().as_secs() / 60).expect("few");
    assert!(
        logged() <= logged_before + 1 + minutes,
        "strangers do not fill the log"
    );
}

async fn hosts_and_origins(cluster: &TestCluster) {
    let evil_host = "Host: secrets.evil.example\r\n";
    let local = "Host: localhost\r\n";
    for (headers, status, named) in [
        (evil_host.to_owned(), 421, "host"),
        ("Host: 127.0.0.2\r\n".to_owned(), 421, "host"),
        ("Host: localhost.evil.example\r\n".to_owned(), 421, "host"),
        (format!("{local}{evil_host}"), 421, "host"),
        (String::new(), 421, "host"),
        (format!("{local}Origin: https://evil.example\r\n"), 403, "origin"),
        (format!("{local}Origin: https://localhost\r\n"), 403, "origin"),
        (format!("{local}Origin: null\r\n"), 403, "origin"),
        (
            format!("{local}Sec-Fetch-Site: cross-site\r\n"),
            403,
            "across sites",
        ),
    ] {
        // On every route, and before anyone asks who calls.
        for identity in [Some(&cluster.administrator()), None] {
            for start in [
                "POST /api/get",
                "POST /api/list",
                "GET /conclave/v1/health",
                "GET /conclave/v1/status",
                "POST /conclave/v1/seal/retry",
                "GET /",
            ] {
                let request = format!(
                    "{start} HTTP/1.1\r\n{headers}Content-Type: application/json\r\n\
                     Sec-X-Tailscale-No-Browsers: setec\r\nContent-Length: 2\r\n\r\n{{}}"
                );
                let mut stream = connect(cluster, identity).await.expect("TLS");
                stream.write_all(request.as_bytes()).await.expect("sent");
                let (found, _, text) = read_answer(&mut stream).await.expect("an answer");
                assert_eq!(found, status, "{start} with {headers:?}: {text}");
                assert!(text.contains(named), "{start} with {headers:?}: {text}");
            }
        }
        // The listener of metrics is as strict.
        let mut metrics = TcpStream::connect(("127.0.0.1", cluster.node(0).ports.metrics))
            .await
            .expect("a connection");
        let request = format!("GET /metrics HTTP/1.1\r\n{headers}\r\n");
        metrics.write_all(request.as_bytes()).await.expect("sent");
        let (found, _, text) = read_answer(&mut metrics).await.expect("an answer");
        assert_eq!(found, status, "metrics with {headers:?}: {text}");
    }
    // The same site, and hosts that are the node's.
    for headers in [
        format!("{local}Sec-Fetch-Site: same-origin\r\n"),
        "Host: 127.0.0.1:1\r\n".to_owned(),
        "Host: LOCALHOST.\r\n".to_owned(),
    ] {
        let request = format!("GET /conclave/v1/health HTTP/1.1\r\n{headers}\r\n");
        assert_eq!(exchange(cluster, request.as_bytes()).await.0, 200, "{headers:?}");
    }
}

/// It runs, has said nothing of a panic, holds no connection of those that misbehaved, and serves.
async fn unharmed(cluster: &mut TestCluster, setec: &Setec) {
    assert!(cluster.runs(0));
    let log = std::fs::read_to_string(&cluster.node(0).log).expect("the node's log");
    assert!(!log.contains("panicked"), "{log}");
    eventually("the connections are gone", PATIENCE, async || {
        let open = metric(cluster, 0, "conclave_open_connections").await;
        if open <= 4.0 {
            Ok(())
        } else {
            Err(format!("{open} are open"))
        }
    })
    .await;
    assert_eq!(
        setec
            .json("get", json!({"Name": "example"}))
            .await
            .expect(200)
            .value(),
        (b"value".to_vec(), 1)
    );
    assert_eq!(setec.put("example", b"another").await, 2);
    let names = setec.json("list", json!({})).await.expect(200).json();
    assert_eq!(names.as_array().map(Vec::len), Some(1), "{names}");
    let verification = cluster.client().verify().await.expect("verified");
    assert!(verification.agreed, "{verification:?}");
}

/// For how long: `CONCLAVE_HAMMER_SECONDS` (a minute in `.ci/run`), or two windows in which refusals are
/// counted together.
fn hammering_time() -> Duration {
    let seconds = std::env::var("CONCLAVE_HAMMER_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(20))
}

/// Between two calls of the one who may, who stays far below the rate.
const AT_EASE: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_rights_who_hammers_hurts_nobody() {
    let cluster = TestCluster::builder()
        .nodes(3)
        .production()
        // So low that the intruder exceeds it.
        .setting("limits.requests_per_s_per_principal", "200")
        .grant("uri:app", &["get"], &["app/*"])
        .grant("uri:intruder", &["info"], &["elsewhere/*"])
        .start()
        .await;
    let administrator = Setec::administrator(&cluster);
    administrator.put("app/key", b"value").await;
    let app = Setec::principal(&cluster, "uri:app");
    let intruder = Setec::principal(&cluster, "uri:intruder");
    let nobody = Setec::new(&cluster, None);
    let index_before = cluster.status(0).await.expect("a status").last_log_index;

    let stop = Arc::new(AtomicBool::new(false));
    let counter = || Arc::new(AtomicU64::new(0));
    let (denied, limited, unknown) = (counter(), counter(), counter());
    let hammer = |caller: &Setec, count: &Arc<AtomicU64>| {
        let (caller, count, limited, stop) = (caller.clone(), count.clone(), limited.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let request = caller.request("get").body(r#"{"Name":"app/key"}"#);
                // However often: each refusal is answered, on connections that stay.
                let response = request.send().await.expect("an answer");
                let status = response.status().as_u16();
                let text = response.text().await;
                match status {
                    403 => count.fetch_add(1, Ordering::Relaxed),
                    429 => limited.fetch_add(1, Ordering::Relaxed),
                    other => panic!("{other}: {text:?}"),
                };
            }
        })
    };
    let hammering: Vec<_> = (0..8)
        .map(|_| hammer(&intruder, &denied))
        .chain((0..4).map(|_| hammer(&nobody, &unknown)))
        .collect();

    let end = Instant::now() + hammering_time();
    let (mut calls, mut slowest) = (0_u64, Duration::ZERO);
    while Instant::now() < end {
        let began = Instant::now();
        let answer = app.json("get", json!({"Name": "app/key"})).await.expect(200);
        assert_eq!(answer.value(), (b"value".to_vec(), 1));
        slowest = slowest.max(began.elapsed());
        calls += 1;
        tokio::time::sleep(AT_EASE).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in hammering {
        task.await.expect("the hammering went on");
    }
    let [denied, limited, unknown] = [denied, limited, unknown].map(|count| count.load(Ordering::Relaxed));
    eprintln!(
        "{denied} refused, {limited} over the rate, {unknown} unidentified; {calls} served, the slowest in \
         {slowest:?}"
    );
    assert!(denied > 100 && unknown > 100, "{denied} {unknown}");
    assert!(
        calls > 50 && slowest < Duration::from_secs(5),
        "{calls} {slowest:?}"
    );

    // Few entries, with the right count, once the last window has ended.
    let records = eventually("all refusals are in the audit log", PATIENCE, async || {
        let request = AuditListRequest {
            principal: Some("uri:intruder".into()),
            limit: Some(1000),
            ..AuditListRequest::default()
        };
        let page = cluster
            .client()
            .audit_list(&request)
            .await
            .map_err(|error| error.to_string())?;
        let (mut without_right, mut over_the_rate) = (0, 0);
        for record in &page.records {
            let is_over = record.detail.as_deref() == Some("over the rate");
            *(if is_over {
                &mut over_the_rate
            } else {
                &mut without_right
            }) += u64::from(record.attempts);
        }
        let shown = format!("{without_right} of {denied}, {over_the_rate} of {limited}");
        assert!(without_right <= denied && over_the_rate <= limited, "{shown}");
        if without_right == denied && over_the_rate == limited {
            Ok(page.records)
        } else {
            Err(shown)
        }
    })
    .await;
    // Each node records ten, and once what is beyond, and once what is over the rate.
    let windows = hammering_time().as_secs() / 10 + 2;
    let at_most = cluster.len() as u64 * windows * 12;
    assert!(records.len() as u64 <= at_most, "{} records", records.len());
    for record in &records {
        assert_eq!(
            (record.action.as_str(), record.outcome.as_str()),
            ("get", "denied")
        );
        // What is over the rate is not looked at.
        assert!(record.secret.as_deref() == Some("app/key") || record.detail.is_some());
    }
    // Whoever is nobody writes nothing at all.
    let everyone = AuditListRequest {
        outcome: Some("denied".into()),
        limit: Some(1000),
        ..AuditListRequest::default()
    };
    let page = cluster
        .client()
        .audit_list(&everyone)
        .await
        .expect("the audit log");
    let intruder_only = |record: &AuditEntry| record.principal.as_deref() == Some("uri:intruder");
    assert!(page.records.iter().all(intruder_only), "{:#?}", page.records);
    let index_after = cluster.status(0).await.expect("a status").last_log_index;
    let entries = index_after.expect("a log") - index_before.expect("a log");
    // The reads of the one who may, the refusals, our own looks, and the cluster's upkeep.
    let ours = calls + records.len() as u64 + 60 * 50;
    assert!(
        entries <= ours && entries < denied + limited + unknown + calls,
        "{entries} entries, {ours} expected"
    );
    let mut counted = 0.0;
    for node in 0..cluster.len() {
        counted += metric(&cluster, node, "conclave_unidentified_callers_total").await;
    }
    assert!(counted >= unknown as f64, "{counted} of {unknown}");
}

/// Short plain text that names the problem and repeats nothing of the request.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, named: &str, what: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{what}: {text}");
    assert!(text.contains(named), "{what}: {named:?} is not in {text:?}");
    assert!(answer.header("content-type").starts_with("text/plain"), "{what}");
    assert!(
        text.len() <= 200 && text.lines().count() == 1 && !text.contains("example"),
        "{what}: {text}"
    );
}

/// A call's bytes with these headers and this body.
fn post(method: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Sec-X-Tailscale-No-Browsers: setec\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes as the administrator, on a connection of its own, and reads the answer.
async fn exchange(cluster: &TestCluster, request: &[u8]) -> (u16, String, String) {
    let stream = connect(cluster, Some(&cluster.administrator()))
        .await
        .expect("TLS");
    let (mut from, mut to) = tokio::io::split(stream);
    // The node may answer, and close, before it was sent all.
    let sending = async {
        let _ = to.write_all(request).await;
        let _ = to.flush().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = read_answer(&mut from) => answer.expect("an answer"),
        () = sending => unreachable!("it never ends"),
    }
}

async fn connect(cluster: &TestCluster, identity: Option<&Identity>) -> io::Result<TlsStream<TcpStream>> {
    let mut tls = cluster
        .settings(identity)
        .tls()
        .expect("the client's files are there");
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    connect_with(cluster, tls).await
}

async fn connect_with(cluster: &TestCluster, tls: rustls::ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(("127.0.0.1", cluster.node(0).ports.api)).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
}

/// Reads one answer: status, headers in lower case, body.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u16, String, String)> {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_lowercase();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
                    .unwrap_or(0);
                if body.len() >= length {
                    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                    return Ok((status.expect("a status"), head, body.to_owned()));
                }
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::Error::other(format!("closed after {text:?}")));
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer in time")
}

/// Waits until the node closes a connection.
async fn assert_closes(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let closing = async {
        let mut bytes = [0; 1024];
        // A reset closes as well.
        while !matches!(stream.read(&mut bytes).await, Ok(0) | Err(_)) {}
    };
    timeout(Duration::from_secs(20), closing)
        .await
        .expect("the node closes");
}

/// How many records there are of what the administrator did with secrets.
async fn recorded(cluster: &TestCluster) -> usize {
    let request = AuditListRequest {
        principal: Some("uri:conclave-dev://client".into()),
        limit: Some(1000),
        ..AuditListRequest::default()
    };
    let page = cluster
        .client()
        .audit_list(&request)
        .await
        .expect("the audit log");
    page.records
        .iter()
        .filter(|record| !matches!(record.action.as_str(), "audit-read" | "operate"))
        .count()
}

/// The sum of a metric over its labels.
async fn metric(cluster: &TestCluster, node: usize, name: &str) -> f64 {
    let url = format!("http://127.0.0.1:{}/metrics", cluster.node(node).ports.metrics);
    let scraped = cluster.http(None).get(url).send().await;
    let text = scraped.expect("scraped").text().await.expect("a text");
    text.lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn write_identity(folder: &Path, issued: &Issued) -> Identity {
    let number = std::fs::read_dir(folder).expect("the folder").count();
    let identity = Identity {
        certificate: folder.join(format!("{number}.pem")),
        key: folder.join(format!("{number}.key")),
    };
    issued
        .write(&identity.certificate, &identity.key)
        .expect("written");
    identity
}
