//! setec's API call by call, as a bare HTTP client sees it: status, headers and body as they come.

use super::{Identity, TestCluster};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    RequestBuilder,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::Value;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// One caller, whose calls go to one node after the other, so that leader and followers answer alike.
#[derive(Clone)]
pub struct Setec {
    http: reqwest::Client,
    nodes: Vec<String>,
    calls: Arc<AtomicUsize>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Setec {
    /// A caller with this certificate, or with none.
    pub fn new(cluster: &TestCluster, identity: Option<&Identity>) -> Self {
        Self::with(cluster.http(identity), cluster)
    }

    /// A caller with all rights.
    pub fn administrator(cluster: &TestCluster) -> Self {
        Self::new(cluster, Some(&cluster.administrator()))
    }

    /// A caller with the certificate of a principal such as `uri:app`.
    pub fn principal(cluster: &TestCluster, principal: &str) -> Self {
        Self::new(cluster, Some(&cluster.identity(principal)))
    }

    /// A caller by this client.
    pub fn with(http: reqwest::Client, cluster: &TestCluster) -> Self {
        Self {
            http,
            nodes: (0..cluster.len()).map(|node| cluster.api(node)).collect(),
            calls: Arc::default(),
        }
    }

    /// The same caller, who calls this node only.
    pub fn at(&self, node: usize) -> Self {
        Self {
            nodes: vec![self.nodes[node].clone()],
            ..self.clone()
        }
    }

    /// Calls a method as the official client does.
    pub async fn call(&self, method: &str, body: impl Into<reqwest::Body>) -> Answer {
        send(self.request(method).body(body)).await
    }

    /// Calls a method with a JSON body.
    pub async fn json(&self, method: &str, body: Value) -> Answer {
        self.call(method, body.to_string()).await
    }

    /// Puts a value and returns its version.
    pub async fn put(&self, name: &str, value: &[u8]) -> u64 {
        let answer = self
            .json(
                "put",
                serde_json::json!({"Name": name, "Value": STANDARD.encode(value)}),
            )
            .await;
        answer.expect(200).json().as_u64().expect("a version")
    }

    /// A request with the headers that each must have, and no body.
    pub fn request(&self, method: &str) -> RequestBuilder {
        self.bare(reqwest::Method::POST, &format!("/api/{method}"))
            .header(CONTENT_TYPE, "application/json")
            .header("Sec-X-Tailscale-No-Browsers", "setec")
    }

    /// A request without any headers.
    pub fn bare(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let node = &self.nodes[call % self.nodes.len()];
        self.http.request(method, format!("{node}{path}"))
    }
}

impl Answer {
    /// Itself.
    ///
    /// # Panics
    /// With the body, when the status is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("our headers are ASCII"))
    }

    /// The value in the answer of a `get`, and its version.
    #[track_caller]
    pub fn value(&self) -> (Vec<u8>, u64) {
        let json = self.json();
        let value = json["Value"].as_str().expect("a value in base64");
        (
            STANDARD.decode(value).expect("standard base64"),
            json["Version"].as_u64().expect("a version"),
        )
    }
}

/// Sends a request and reads its answer whole.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("the node answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.expect("the answer is whole").to_vec();
    Answer {
        status,
        headers,
        body,
    }
}
