//! Callers on a tailnet, as the local daemon names them: a scripted daemon on a unix socket, a real
//! node that believes it. The node's own address (of loopback) counts as one of the daemon's.

use crate::{
    folders::{self, section},
    requests,
    support::{PATIENCE, TestCluster, eventually, skip},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{net::UnixListener, task::JoinHandle};

const CAPABILITY: &str = "tailscale.com/cap/secrets";
const CAPABILITY_OLDER: &str = "https://tailscale.com/cap/secrets";
/// How long an answer about a connection, and about the daemon itself, may be believed.
const BELIEVED: Duration = Duration::from_secs(10);

#[tokio::test]
async fn callers_are_whom_the_daemon_names() {
    let daemon = Daemon::start();
    let cluster = node_with(&daemon).await;
    users_and_tags(&cluster, &daemon).await;
    both_spellings(&cluster, &daemon).await;
    a_certificate_outranks(&cluster, &daemon).await;
    answers_are_believed_for_ten_seconds(&cluster, &daemon).await;
    nobody_is_known(&cluster, daemon).await;
}

async fn users_and_tags(cluster: &TestCluster, daemon: &Daemon) {
    // Addresses mapped into IPv6 are asked about plainly.
    daemon.names(
        alice(),
        &[(
            CAPABILITY,
            json!([{"action": ["get", "put"], "secret": ["dev/*"]}]),
        )],
    );
    let alice = caller(cluster);
    says(
        cluster,
        &alice,
        "put",
        json!({"Name": "dev/a", "Value": "eA=="}),
        200,
    )
    .await;
    says(cluster, &alice, "get", json!({"Name": "dev/a"}), 200).await;
    says(cluster, &alice, "info", json!({"Name": "dev/a"}), 403).await;
    says(cluster, &alice, "get", json!({"Name": "prod/a"}), 403).await;
    let asked = daemon.asked();
    let who: Vec<&String> = asked.iter().filter(|route| route.contains("/whois")).collect();
    assert_eq!(who.len(), 1, "one connection is asked about once: {asked:?}");
    assert!(
        who[0].starts_with("/localapi/v0/whois?addr=127.0.0.1:"),
        "{asked:?}"
    );

    // What the configuration grants to a certificate of that name is not hers, and what a tagged
    // node may do is not its registrant's.
    daemon.names(
        tagged(),
        &[(CAPABILITY, json!([{"action": ["info"], "secret": ["*"]}]))],
    );
    let tagged = caller(cluster);
    says(cluster, &tagged, "info", json!({"Name": "dev/a"}), 200).await;
    says(cluster, &tagged, "get", json!({"Name": "dev/a"}), 403).await;
    // Whoever is known and has no capability has no rights.
    daemon.names(bob(), &[]);
    let bob = caller(cluster);
    says(cluster, &bob, "get", json!({"Name": "dev/a"}), 403).await;

    let records = requests::audit(cluster).await;
    for (action, outcome, principal, device) in [
        (
            "put",
            "done",
            "tailscale:alice@example.org",
            "laptop.tail0.ts.net",
        ),
        (
            "get",
            "denied",
            "tailscale:alice@example.org",
            "laptop.tail0.ts.net",
        ),
        ("info", "done", "tailscale:tag:ci,tag:prod", "runner.tail0.ts.net"),
        ("get", "denied", "tailscale:bob@example.org", "phone.tail0.ts.net"),
    ] {
        let found = records.iter().any(|record| {
            record.action == action
                && record.outcome == outcome
                && record.principal.as_deref() == Some(principal)
                && record.device.as_deref() == Some(device)
                && record
                    .remote
                    .as_deref()
                    .is_some_and(|remote| remote.starts_with("127.0.0.1:"))
        });
        assert!(
            found,
            "{action} {outcome} by {principal} on {device}: {records:#?}"
        );
    }
}

async fn both_spellings(cluster: &TestCluster, daemon: &Daemon) {
    let rule = |action: &str| json!([{"action": [action], "secret": ["*"]}]);
    daemon.names(alice(), &[(CAPABILITY_OLDER, rule("get"))]);
    let older = caller(cluster);
    says(cluster, &older, "get", json!({"Name": "dev/a"}), 200).await;
    // Where the newer one is there, the older adds nothing.
    daemon.names(
        alice(),
        &[(CAPABILITY, rule("info")), (CAPABILITY_OLDER, rule("get"))],
    );
    let both = caller(cluster);
    says(cluster, &both, "info", json!({"Name": "dev/a"}), 200).await;
    says(cluster, &both, "get", json!({"Name": "dev/a"}), 403).await;
}

async fn a_certificate_outranks(cluster: &TestCluster, daemon: &Daemon) {
    daemon.names(
        alice(),
        &[(CAPABILITY, json!([{"action": ["get"], "secret": ["*"]}]))],
    );
    let asked_before = daemon.asked().len();
    let reader = cluster.http(Some(&cluster.identity("uri:looker")));
    says(cluster, &reader, "info", json!({"Name": "dev/a"}), 200).await;
    says(cluster, &reader, "get", json!({"Name": "dev/a"}), 403).await;
    assert_eq!(daemon.asked().len(), asked_before, "nobody needed to be asked");
}

async fn answers_are_believed_for_ten_seconds(cluster: &TestCluster, daemon: &Daemon) {
    daemon.names(
        alice(),
        &[(CAPABILITY, json!([{"action": ["get"], "secret": ["*"]}]))],
    );
    let alice = caller(cluster);
    let began = Instant::now();
    says(cluster, &alice, "get", json!({"Name": "dev/a"}), 200).await;
    let asked_before = daemon.asked().len();
    // Withdrawn: on the open connection it holds within ten seconds.
    daemon.names(bob(), &[]);
    says(cluster, &alice, "get", json!({"Name": "dev/a"}), 200).await;
    assert_eq!(daemon.asked().len(), asked_before, "the answer was believed");
    eventually("the withdrawal holds", PATIENCE, async || {
        match status_of(cluster, &alice, "get", json!({"Name": "dev/a"})).await {
            403 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    let took = began.elapsed();
    assert!(
        took >= BELIEVED - Duration::from_secs(1),
        "it was asked again after {took:?}"
    );
    assert!(
        took < BELIEVED + Duration::from_secs(4),
        "it was believed for {took:?}"
    );
}

/// Each of these hears 403, is logged with the reason, is counted, and writes nothing into the log.
async fn nobody_is_known(cluster: &TestCluster, daemon: Daemon) {
    let unidentified = "conclave_unidentified_callers_total";
    let counted = requests::metric(cluster, 0, unidentified).await;
    let entries = audit_records(cluster).await;

    daemon.knows_nobody();
    let unknown = caller(cluster);
    says(cluster, &unknown, "list", json!({}), 403).await;
    assert!(requests::log(cluster, 0).contains("the Tailscale daemon does not know the caller"));
    daemon.names(
        json!({"Node": {"Name": "x."}, "UserProfile": {"LoginName": "a\nb"}}),
        &[],
    );
    let control = caller(cluster);
    says(cluster, &control, "list", json!({}), 403).await;
    assert!(requests::log(cluster, 0).contains("the Tailscale daemon's answer cannot be used"));

    // What the daemon says of itself may be ten seconds old.
    daemon.names(
        alice(),
        &[(CAPABILITY, json!([{"action": ["get"], "secret": ["*"]}]))],
    );
    for (status, reason) in [
        (
            running(&["100.64.0.1"], true),
            "did not come in through the tailnet",
        ),
        (running(&["127.0.0.1"], false), "userspace networking"),
        (
            json!({"BackendState": "Stopped", "TUN": true, "TailscaleIPs": ["127.0.0.1"]}),
            "Stopped",
        ),
    ] {
        daemon.stands(status);
        let text = eventually("the daemon's new state holds", PATIENCE, async || {
            let response =
                requests::setec(&caller(cluster), cluster, 0, "get", json!({"Name": "dev/a"})).await;
            let (status, text) = requests::answer(response).await;
            if status == 403 && requests::log(cluster, 0).contains(reason) {
                Ok(text)
            } else {
                Err(format!("{status}: {text}"))
            }
        })
        .await;
        assert!(text.contains("could not be identified"), "{text}");
        // The caller is not told how the node looks at its network.
        assert!(!text.to_lowercase().contains("tailscale"), "{text}");
    }

    daemon.stands(running(&["127.0.0.1"], true));
    eventually(
        "the daemon is believed again",
        PATIENCE,
        async || match status_of(cluster, &caller(cluster), "get", json!({"Name": "dev/a"})).await {
            200 => Ok(()),
            other => Err(other.to_string()),
        },
    )
    .await;
    drop(daemon);
    let gone = caller(cluster);
    says(cluster, &gone, "get", json!({"Name": "dev/a"}), 403).await;
    let log = requests::log(cluster, 0);
    assert!(log.contains("tailscaled.sock cannot be asked"), "{log}");
    // Certificates need no daemon.
    assert!(cluster.client().info("dev/a").await.is_ok());

    let refused = requests::metric(cluster, 0, unidentified).await - counted;
    assert!(refused >= 6.0, "{refused}");
    let since: Vec<String> = audit_records(cluster).await.split_off(entries.len());
    assert!(
        since.iter().all(|record| !record.contains("denied")),
        "an unidentified caller wrote into the log: {since:?}"
    );
}

/// A cluster of one node that listens on all addresses of both families.
async fn node_with(daemon: &Daemon) -> TestCluster {
    let mut cluster = TestCluster::builder()
        .nodes(1)
        .production()
        .grant("uri:looker", &["info"], &["*"])
        .start_only(&[])
        .launch();
    let port = cluster.node(0).ports.api;
    let socket = daemon.socket();
    let listen = if std::net::TcpListener::bind("[::]:0").is_ok() {
        format!("[::]:{port}")
    } else {
        skip("no IPv6 here: addresses mapped into it are not tried");
        format!("0.0.0.0:{port}")
    };
    folders::configure(&cluster, 0, |config| {
        section(config, "api").insert("listen".into(), listen.into());
        let tailscale = section(config, "tailscale");
        tailscale.insert("enabled".into(), true.into());
        tailscale.insert("socket".into(), socket.to_string_lossy().into_owned().into());
    });
    cluster.spawn(0);
    cluster.wait_until_serving().await;
    cluster
}

/// Action, outcome and principal of every record, oldest first.
async fn audit_records(cluster: &TestCluster) -> Vec<String> {
    requests::audit(cluster)
        .await
        .iter()
        .map(|record| format!("{} {} {:?}", record.action, record.outcome, record.principal))
        .collect()
}

/// A caller without a certificate, on a connection of its own.
fn caller(cluster: &TestCluster) -> reqwest::Client {
    cluster.http(None)
}

async fn status_of(cluster: &TestCluster, http: &reqwest::Client, method: &str, body: Value) -> u16 {
    let response = requests::setec(http, cluster, 0, method, body).await;
    requests::answer(response).await.0.as_u16()
}

async fn says(cluster: &TestCluster, http: &reqwest::Client, method: &str, body: Value, expected: u16) {
    let shown = body.to_string();
    let (status, text) = requests::answer(requests::setec(http, cluster, 0, method, body).await).await;
    assert_eq!(status.as_u16(), expected, "{method} {shown}: {text}");
}

fn alice() -> Value {
    json!({
        "Node": {"Name": "laptop.tail0.ts.net.", "Tags": null},
        "UserProfile": {"LoginName": "alice@example.org"},
    })
}

fn bob() -> Value {
    json!({"Node": {"Name": "phone.tail0.ts.net."}, "UserProfile": {"LoginName": "bob@example.org"}})
}

fn tagged() -> Value {
    json!({
        "Node": {"Name": "runner.tail0.ts.net.", "Tags": ["tag:prod", "tag:ci"]},
        "UserProfile": {"LoginName": "tagged-devices"},
    })
}

fn running(addresses: &[&str], has_network_device: bool) -> Value {
    json!({"BackendState": "Running", "TUN": has_network_device, "TailscaleIPs": addresses})
}

/// A daemon that answers what it was told to.
struct Daemon {
    folder: tempfile::TempDir,
    script: Arc<Mutex<Script>>,
    serving: JoinHandle<()>,
}

struct Script {
    status: Value,
    who: Option<Value>,
    asked: Vec<String>,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = Arc::new(Mutex::new(Script {
            status: running(&["127.0.0.1"], true),
            who: None,
            asked: Vec::new(),
        }));
        let listener = UnixListener::bind(socket_in(folder.path())).expect("a socket");
        let serving = tokio::spawn(serve(listener, script.clone()));
        Self {
            folder,
            script,
            serving,
        }
    }

    fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// Whoever is asked about is this one, with these capabilities.
    fn names(&self, mut who: Value, capabilities: &[(&str, Value)]) {
        let capabilities: serde_json::Map<String, Value> = capabilities
            .iter()
            .map(|(name, rules)| ((*name).to_owned(), rules.clone()))
            .collect();
        who["CapMap"] = capabilities.into();
        self.script.lock().expect("no panic").who = Some(who);
    }

    fn knows_nobody(&self) {
        self.script.lock().expect("no panic").who = None;
    }

    fn stands(&self, status: Value) {
        self.script.lock().expect("no panic").status = status;
    }

    fn asked(&self) -> Vec<String> {
        self.script.lock().expect("no panic").asked.clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serving.abort();
        let _ = std::fs::remove_file(self.socket());
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("tailscaled.sock")
}

async fn serve(listener: UnixListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let script = script.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let route = request.uri().to_string();
            let mut script = script.lock().expect("no panic");
            let answer = if route.starts_with("/localapi/v0/status") {
                Some(script.status.clone())
            } else {
                script.who.clone()
            };
            script.asked.push(route);
            let mut response = Response::new(Full::new(Bytes::from(
                answer.as_ref().map(Value::to_string).unwrap_or_default(),
            )));
            if answer.is_none() {
                *response.status_mut() = hyper::StatusCode::NOT_FOUND;
            }
            async move { Ok::<_, Infallible>(response) }
        });
        let io = TokioIo::new(stream);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
    }
}
