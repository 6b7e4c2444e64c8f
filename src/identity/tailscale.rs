//! Tailnet callers: the local daemon tells who has the address at the connection's other end.
//!
//! The daemon is asked only about connections that came in through the tailnet, which is so when
//! the socket's own address is one of the daemon's. (Otherwise somebody on another network with an
//! address of the tailnet's range would be taken for its owner.) A daemon without a network device
//! passes callers on from loopback; then nobody can be told apart and everybody is refused.
//!
//! The routes are those of the daemon's local API: `/localapi/v0/status`, `/localapi/v0/whois`.

use super::{Identity, Unidentified, as_of, fresh};
use crate::grants::{Grants, Principal, PrincipalKind};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::UnixStream, sync::Mutex, time::timeout};

/// The local daemon.
pub struct Tailscale {
    socket: PathBuf,
    status: Mutex<Option<(Instant, Result<DaemonStatus, Unidentified>)>>,
}

/// The capability whose values are grants, in setec's form.
const CAPABILITY: &str = "tailscale.com/cap/secrets";
/// Its older spelling, used only where the first is absent.
const CAPABILITY_OLDER: &str = "https://tailscale.com/cap/secrets";
/// How long the daemon may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long its addresses are believed.
const STATUS_LIFETIME: Duration = Duration::from_secs(10);
/// The most bytes of an answer: a status lists every peer.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;

#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DaemonStatus {
    #[serde(default)]
    backend_state: String,
    #[serde(rename = "TUN")]
    has_network_device: Option<bool>,
    #[serde(rename = "TailscaleIPs", default)]
    addresses: Option<Vec<IpAddr>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WhoIs {
    node: Option<WhoIsNode>,
    user_profile: Option<WhoIsUser>,
    cap_map: Option<BTreeMap<String, Option<Vec<serde_json::Value>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WhoIsNode {
    #[serde(default)]
    name: String,
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WhoIsUser {
    #[serde(default)]
    login_name: String,
}

impl Tailscale {
    /// The daemon that listens on this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            status: Mutex::new(None),
        }
    }

    /// Who is at the other end of a connection. Both addresses are canonical (IPv4 plainly).
    pub(super) async fn identify(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Identity, Unidentified> {
        let status = self.daemon_status().await?;
        if status.has_network_device == Some(false) {
            return Err(Unidentified::UserspaceNetworking);
        }
        if status.backend_state != "Running" {
            return Err(self.gone(format!("it is in the state {:?}", status.backend_state)));
        }
        let addresses = status.addresses.unwrap_or_default();
        if !addresses
            .iter()
            .any(|address| address.to_canonical() == local.ip())
        {
            return Err(Unidentified::NotOnTailnet);
        }
        identity(self.ask(&format!("/localapi/v0/whois?addr={remote}")).await?)
    }

    async fn daemon_status(&self) -> Result<DaemonStatus, Unidentified> {
        let mut known = self.status.lock().await;
        if let Some(status) = fresh(&known, STATUS_LIFETIME) {
            return status;
        }
        *known = None;
        let asked = Instant::now();
        let status = self.ask("/localapi/v0/status?peers=false").await;
        *known = Some((as_of(asked, &status), status.clone()));
        status
    }

    async fn ask<T: DeserializeOwned>(&self, route: &str) -> Result<T, Unidentified> {
        let answer = timeout(ANSWER_TIMEOUT, self.exchange(route)).await;
        let (status, body) = answer.map_err(|_| self.gone("it does not answer"))??;
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| Unidentified::UnusableAnswer(format!("{:?}", error.classify()))),
            StatusCode::NOT_FOUND => Err(Unidentified::UnknownToDaemon),
            status => Err(self.gone(format!("it answered {status}"))),
        }
    }

    async fn exchange(&self, route: &str) -> Result<(StatusCode, Bytes), Unidentified> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.gone(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.gone(error))?;
        let request = Request::get(route)
            .header("host", "local-tailscaled.sock")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.gone(error))?;
        let exchange = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| self.gone(error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_LIMIT_BYTES)
                .collect()
                .await;
            Ok((status, body.map_err(|error| self.gone(error))?.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // The connection may end with the answer already read from it.
            _ = connection => exchange.await,
        }
    }

    pub(super) fn gone(&self, reason: impl ToString) -> Unidentified {
        Unidentified::DaemonGone {
            socket: self.socket.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

pub(super) fn identity(who: WhoIs) -> Result<Identity, Unidentified> {
    let unusable = |reason: &str| Unidentified::UnusableAnswer(reason.to_owned());
    let node = who.node.ok_or_else(|| unusable("no node"))?;
    let name = match node.tags.filter(|tags| !tags.is_empty()) {
        // A tagged node is nobody's; whoever registered it has no part in its rights.
        Some(mut tags) => {
            tags.sort();
            tags.dedup();
            tags.join(",")
        }
        None => who.user_profile.map(|user| user.login_name).unwrap_or_default(),
    };
    let principal = Principal::new(PrincipalKind::Tailscale, name)
        .map_err(|error| Unidentified::UnusableAnswer(error.to_string()))?;
    let capabilities = who.cap_map.unwrap_or_default();
    let values = match capabilities.get(CAPABILITY) {
        Some(values) => values.as_deref(),
        None => capabilities.get(CAPABILITY_OLDER).and_then(Option::as_deref),
    };
    let grants = Grants::from_capability(values.unwrap_or_default())
        .map_err(|error| Unidentified::UnusableAnswer(error.to_string()))?;
    let node_name = node.name.trim_end_matches('.').to_owned();
    let device = (!node_name.is_empty() && !node_name.chars().any(char::is_control)).then_some(node_name);
    Ok(Identity {
        principal,
        device,
        grants: Arc::new(grants),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        grants::{Action, ConfiguredGrants, GrantsTable},
        identity::{ConnectionIdentity, Development, Identifier},
        name::FullName,
    };
    use http_body_util::Full;
    use hyper::{Response, body::Incoming, service::service_fn};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::Mutex as BlockingMutex;
    use tempfile::TempDir;
    use tokio::{net::UnixListener, task::JoinHandle};

    /// A daemon with given answers, which notes what it was asked.
    struct FakeDaemon {
        folder: TempDir,
        asked: Arc<BlockingMutex<Vec<String>>>,
        task: JoinHandle<()>,
    }

    impl FakeDaemon {
        fn start(status: Value, who: Option<Value>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join("sock")).unwrap();
            let asked = Arc::new(BlockingMutex::new(Vec::new()));
            let noted = asked.clone();
            let task = tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (status, who, noted) = (status.clone(), who.clone(), noted.clone());
                    let service = service_fn(move |request: Request<Incoming>| {
                        assert_eq!(request.headers()["host"], "local-tailscaled.sock");
                        let route = request.uri().to_string();
                        noted.lock().unwrap().push(route.clone());
                        let answer = if route.contains("/status") {
                            Some(status.clone())
                        } else {
                            who.clone()
                        };
                        async move {
                            let body = answer.as_ref().map(Value::to_string).unwrap_or_default();
                            let mut response = Response::new(Full::new(Bytes::from(body)));
                            if answer.is_none() {
                                *response.status_mut() = StatusCode::NOT_FOUND;
                            }
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service),
                    );
                }
            });
            Self { folder, asked, task }
        }

        fn client(&self) -> Tailscale {
            Tailscale::new(self.folder.path().join("sock"))
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    impl Drop for FakeDaemon {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn running() -> Value {
        json!({"BackendState": "Running", "TUN": true, "TailscaleIPs": ["100.64.0.1", "fd7a::1"], "Extra": 1})
    }

    fn alice() -> Value {
        json!({
            "Node": {"Name": "laptop.tail.ts.net.", "Tags": null},
            "UserProfile": {"LoginName": "alice@example.org"},
            "CapMap": {
                "tailscale.com/cap/secrets": [{"action": ["get"], "secret": ["dev/*"]}],
                "https://tailscale.com/cap/secrets": [{"action": ["put"], "secret": ["*"]}],
            },
        })
    }

    fn local() -> SocketAddr {
        "100.64.0.1:8200".parse().unwrap()
    }

    fn remote() -> SocketAddr {
        "100.64.0.2:5".parse().unwrap()
    }

    #[tokio::test]
    async fn a_user_has_the_grants_of_the_capability() {
        let daemon = FakeDaemon::start(running(), Some(alice()));
        let identity = daemon.client().identify(local(), remote()).await.unwrap();
        assert_eq!(identity.principal.to_string(), "tailscale:alice@example.org");
        assert_eq!(identity.device.as_deref(), Some("laptop.tail.ts.net"));
        let name = FullName::setec("dev/x").unwrap();
        assert!(identity.grants.allows(Action::Get, &name));
        assert!(
            !identity.grants.allows(Action::Put, &name),
            "the older spelling counts only alone"
        );
        assert_eq!(
            daemon.asked(),
            [
                "/localapi/v0/status?peers=false",
                "/localapi/v0/whois?addr=100.64.0.2:5"
            ]
        );
    }

    #[tokio::test]
    async fn a_tagged_node_is_its_tags_and_the_older_spelling_counts_alone() {
        let mut who = alice();
        who["Node"]["Tags"] = json!(["tag:web", "tag:prod"]);
        who["CapMap"].as_object_mut().unwrap().remove(CAPABILITY);
        let identity = FakeDaemon::start(running(), Some(who))
            .client()
            .identify(local(), remote())
            .await
            .unwrap();
        assert_eq!(identity.principal.to_string(), "tailscale:tag:prod,tag:web");
        assert!(
            identity
                .grants
                .allows(Action::Put, &FullName::setec("x").unwrap())
        );
    }

    #[tokio::test]
    async fn connections_from_elsewhere_are_never_asked_about() {
        let daemon = FakeDaemon::start(running(), Some(alice()));
        let elsewhere = "192.0.2.1:8200".parse().unwrap();
        let refused = daemon.client().identify(elsewhere, remote()).await;
        assert!(matches!(refused, Err(Unidentified::NotOnTailnet)));
        assert_eq!(daemon.asked(), ["/localapi/v0/status?peers=false"]);
    }

    #[tokio::test]
    async fn without_a_network_device_everybody_is_refused() {
        let status = json!({"BackendState": "Running", "TUN": false, "TailscaleIPs": ["127.0.0.1"]});
        let daemon = FakeDaemon::start(status, Some(alice()));
        let loopback = "127.0.0.1:8200".parse().unwrap();
        let refused = daemon
            .client()
            .identify(loopback, "127.0.0.1:5".parse().unwrap())
            .await;
        assert!(matches!(refused, Err(Unidentified::UserspaceNetworking)));
    }

    #[tokio::test]
    async fn a_daemon_that_is_gone_stopped_or_ignorant_refuses() {
        let nowhere = Tailscale::new("/nonexistent/sock".into());
        assert!(matches!(
            nowhere.identify(local(), remote()).await,
            Err(Unidentified::DaemonGone { .. })
        ));
        let stopped = FakeDaemon::start(json!({"BackendState": "Stopped", "TUN": true}), None);
        assert!(matches!(
            stopped.client().identify(local(), remote()).await,
            Err(Unidentified::DaemonGone { .. })
        ));
        let ignorant = FakeDaemon::start(running(), None);
        assert!(matches!(
            ignorant.client().identify(local(), remote()).await,
            Err(Unidentified::UnknownToDaemon)
        ));
    }

    #[tokio::test]
    async fn unusable_answers_refuse() {
        let mut nobody = alice();
        nobody["UserProfile"] = Value::Null;
        let mut control = alice();
        control["UserProfile"]["LoginName"] = json!("a\nb");
        let mut malformed = alice();
        malformed["CapMap"][CAPABILITY] = json!(["get"]);
        for who in [nobody, control, malformed, json!({}), json!([])] {
            let daemon = FakeDaemon::start(running(), Some(who.clone()));
            let refused = daemon.client().identify(local(), remote()).await;
            assert!(matches!(refused, Err(Unidentified::UnusableAnswer(_))), "{who}");
        }
    }

    #[tokio::test]
    async fn one_question_serves_a_connection_and_mapped_addresses_are_written_plainly() {
        let daemon = FakeDaemon::start(running(), Some(alice()));
        let configured = Arc::new(ConfiguredGrants::new(Ok(GrantsTable::default())));
        let identifier = Identifier::new(configured, Some(daemon.client()), Development::disabled());
        let (local, remote) = ("[::ffff:100.64.0.1]:8200", "[::ffff:100.64.0.2]:5");
        let connection = ConnectionIdentity::new(local.parse().unwrap(), remote.parse().unwrap(), None);
        for _ in 0..3 {
            identifier.identify(&connection).await.unwrap();
        }
        assert_eq!(
            daemon.asked(),
            [
                "/localapi/v0/status?peers=false",
                "/localapi/v0/whois?addr=100.64.0.2:5"
            ]
        );
        let certified = ConnectionIdentity::new(
            local.parse().unwrap(),
            remote.parse().unwrap(),
            Some(crate::identity::tests::shown("cn:a", Duration::from_secs(60))),
        );
        assert_eq!(
            identifier
                .identify(&certified)
                .await
                .unwrap()
                .principal
                .to_string(),
            "cn:a"
        );
        assert_eq!(daemon.asked().len(), 2, "a certificate outranks the tailnet");
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_is_not_waited_for_by_one_caller_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("sock")).unwrap();
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let hanging = {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut open = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    open.push(stream);
                }
            })
        };
        let configured = Arc::new(ConfiguredGrants::new(Ok(GrantsTable::default())));
        let daemon = Tailscale::new(folder.path().join("sock"));
        let identifier = Identifier::new(configured, Some(daemon), Development::disabled());
        let connections: Vec<_> = (1..=2 * super::super::WAITING_FOR_TAILSCALE)
            .map(|port| {
                let remote = SocketAddr::new(remote().ip(), port as u16);
                ConnectionIdentity::new(local(), remote, None)
            })
            .collect();
        let callers = connections
            .iter()
            .map(|connection| identifier.identify(connection));
        let refused = futures::future::join_all(callers).await;
        hanging.abort();
        let too_many = refused
            .iter()
            .filter(|refused| matches!(refused, Err(Unidentified::TooManyWaiting)));
        assert_eq!(too_many.count(), super::super::WAITING_FOR_TAILSCALE);
        assert!(refused.iter().all(Result::is_err));
        // One after the other they would have asked once each.
        let asked = asked.load(std::sync::atomic::Ordering::SeqCst);
        assert!((1..10).contains(&asked), "{asked}");
    }

    proptest! {
        #[test]
        fn garbage_from_the_daemon_never_panics(text: String) {
            if let Ok(who) = serde_json::from_str::<WhoIs>(&text) {
                let _ = identity(who);
            }
        }
    }
}
