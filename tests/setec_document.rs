//! setec's document, status by status, against a real cluster. Each request goes to the next node,
//! so that leader and followers answer alike.

mod support;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::{Identity, TestCluster};

const ADMINISTRATOR: Option<&str> = None;

#[tokio::test]
async fn the_whole_document() {
    let cluster = TestCluster::builder()
        .grant("uri:get-only", &["get"], &["app/*"])
        .grant("uri:info-only", &["info"], &["app/*"])
        .grant("uri:put-only", &["put"], &["app/*"])
        .grant("uri:create-only", &["create-version"], &["app/*"])
        .grant("uri:activate-only", &["activate"], &["app/*"])
        .grant("uri:delete-only", &["delete"], &["app/*"])
        .start()
        .await;
    let setec = Setec::new(&cluster);

    listing(&setec).await;
    putting(&setec).await;
    getting(&setec).await;
    polling(&setec).await;
    activating(&setec).await;
    creating_versions(&setec).await;
    deleting(&setec).await;
    rights(&setec).await;
    requests_that_are_wrong(&setec).await;
    names(&setec).await;
    sizes(&setec).await;
}

async fn listing(setec: &Setec<'_>) {
    for body in ["null", "{}", "", " {} "] {
        setec.raw("list", body).await.is(StatusCode::OK, "[]");
    }
    for name in ["app/b", "app/a", "app/a/b", "other"] {
        setec.put(name, b"value").await.is(StatusCode::OK, "1");
    }
    // In order of the names' bytes, in Go's form.
    let expected = r#"[{"Name":"app/a","Versions":[1],"ActiveVersion":1},{"Name":"app/a/b","Versions":[1],"ActiveVersion":1},{"Name":"app/b","Versions":[1],"ActiveVersion":1},{"Name":"other","Versions":[1],"ActiveVersion":1}]"#;
    setec.raw("list", "null").await.is(StatusCode::OK, expected);
    for name in ["app/b", "app/a", "app/a/b", "other"] {
        setec
            .call("delete", json!({"Name": name}))
            .await
            .is(StatusCode::OK, "null");
    }
    setec.raw("list", "{}").await.is(StatusCode::OK, "[]");
}

async fn putting(setec: &Setec<'_>) {
    // The first put activates its version, later ones do not.
    setec.put("app/put", b"one").await.is(StatusCode::OK, "1");
    setec.put("app/put", b"two").await.is(StatusCode::OK, "2");
    let info = r#"{"Name":"app/put","Versions":[1,2],"ActiveVersion":1}"#;
    setec
        .call("info", json!({"Name": "app/put"}))
        .await
        .is(StatusCode::OK, info);
    // Equal to the active one's, else to the latest one's value: that version, and nothing stored.
    setec.put("app/put", b"one").await.is(StatusCode::OK, "1");
    setec.put("app/put", b"two").await.is(StatusCode::OK, "2");
    setec.put("app/put", b"three").await.is(StatusCode::OK, "3");
    setec.put("app/put", b"two").await.is(StatusCode::OK, "4");
    let info = r#"{"Name":"app/put","Versions":[1,2,3,4],"ActiveVersion":1}"#;
    setec
        .call("info", json!({"Name": "app/put"}))
        .await
        .is(StatusCode::OK, info);
    // An empty value is a value.
    setec.put("app/empty", b"").await.is(StatusCode::OK, "1");
    let got = setec.call("get", json!({"Name": "app/empty"})).await;
    assert_eq!(got.status, StatusCode::OK);
    assert!(
        matches!(got.json()["Value"].as_str(), None | Some("")),
        "{}",
        got.body
    );
}

async fn getting(setec: &Setec<'_>) {
    let get = |body: Value| setec.call("get", body);
    let expected = r#"{"Value":"b25l","Version":1}"#;
    get(json!({"Name": "app/put"})).await.is(StatusCode::OK, expected);
    get(json!({"Name": "app/put", "Version": 0}))
        .await
        .is(StatusCode::OK, expected);
    get(json!({"Name": "app/put", "Version": 2}))
        .await
        .is(StatusCode::OK, r#"{"Value":"dHdv","Version":2}"#);
    get(json!({"Name": "app/put", "Version": 9}))
        .await
        .says(StatusCode::NOT_FOUND);
    get(json!({"Name": "app/nothing"}))
        .await
        .says(StatusCode::NOT_FOUND);
    setec
        .call("info", json!({"Name": "app/nothing"}))
        .await
        .says(StatusCode::NOT_FOUND);
}

async fn polling(setec: &Setec<'_>) {
    let poll = |version: u64| {
        setec.call(
            "get",
            json!({"Name": "app/put", "Version": version, "UpdateIfChanged": true}),
        )
    };
    for _ in 0..3 {
        poll(1).await.is(StatusCode::NOT_MODIFIED, "");
    }
    let active = r#"{"Value":"b25l","Version":1}"#;
    poll(0).await.is(StatusCode::OK, active);
    poll(2).await.is(StatusCode::OK, active);
    poll(99).await.is(StatusCode::OK, active);
    let missing = json!({"Name": "app/nothing", "Version": 1, "UpdateIfChanged": true});
    setec.call("get", missing).await.says(StatusCode::NOT_FOUND);
}

async fn activating(setec: &Setec<'_>) {
    let activate = |version: Value| setec.call("activate", json!({"Name": "app/put", "Version": version}));
    activate(json!(2)).await.is(StatusCode::OK, "null");
    activate(json!(2)).await.is(StatusCode::OK, "null");
    setec
        .call("get", json!({"Name": "app/put"}))
        .await
        .is(StatusCode::OK, r#"{"Value":"dHdv","Version":2}"#);
    activate(json!(9)).await.says(StatusCode::NOT_FOUND);
    activate(json!(0)).await.says(StatusCode::BAD_REQUEST);
    setec
        .call("activate", json!({"Name": "app/nothing", "Version": 1}))
        .await
        .says(StatusCode::NOT_FOUND);
}

async fn creating_versions(setec: &Setec<'_>) {
    let create = |version: Value, value: &[u8]| {
        let value = STANDARD.encode(value);
        setec.call(
            "create-version",
            json!({"Name": "app/created", "Version": version, "Value": value}),
        )
    };
    create(json!(7), b"seven").await.is(StatusCode::OK, "null");
    setec
        .call("get", json!({"Name": "app/created"}))
        .await
        .is(StatusCode::OK, r#"{"Value":"c2V2ZW4=","Version":7}"#);
    create(json!(7), b"seven")
        .await
        .says(StatusCode::PRECONDITION_FAILED);
    create(json!(3), b"three").await.is(StatusCode::OK, "null");
    let info = r#"{"Name":"app/created","Versions":[3,7],"ActiveVersion":3}"#;
    setec
        .call("info", json!({"Name": "app/created"}))
        .await
        .is(StatusCode::OK, info);
    setec.put("app/created", b"next").await.is(StatusCode::OK, "8");
    create(json!(0), b"zero").await.says(StatusCode::BAD_REQUEST);
    // Used once is used for ever, also after the version and the secret are gone.
    setec
        .call("delete-version", json!({"Name": "app/created", "Version": 7}))
        .await
        .is(StatusCode::OK, "null");
    create(json!(7), b"again")
        .await
        .says(StatusCode::PRECONDITION_FAILED);
    setec
        .call("delete", json!({"Name": "app/created"}))
        .await
        .is(StatusCode::OK, "null");
    create(json!(8), b"again")
        .await
        .says(StatusCode::PRECONDITION_FAILED);
    setec.put("app/created", b"reborn").await.is(StatusCode::OK, "9");
    // A poller that still has an old number never hears "not modified" about the new value.
    let poll = json!({"Name": "app/created", "Version": 8, "UpdateIfChanged": true});
    setec
        .call("get", poll)
        .await
        .is(StatusCode::OK, r#"{"Value":"cmVib3Ju","Version":9}"#);
    // Beyond the last number there is none.
    create(json!(u32::MAX), b"last").await.is(StatusCode::OK, "null");
    setec
        .put("app/created", b"one too many")
        .await
        .says(StatusCode::BAD_REQUEST);
}

async fn deleting(setec: &Setec<'_>) {
    let delete_version =
        |version: Value| setec.call("delete-version", json!({"Name": "app/put", "Version": version}));
    delete_version(json!(2)).await.says(StatusCode::BAD_REQUEST);
    delete_version(json!(0)).await.says(StatusCode::BAD_REQUEST);
    delete_version(json!(1)).await.is(StatusCode::OK, "null");
    delete_version(json!(1)).await.says(StatusCode::NOT_FOUND);
    setec
        .call("get", json!({"Name": "app/put", "Version": 1}))
        .await
        .says(StatusCode::NOT_FOUND);
    let info = r#"{"Name":"app/put","Versions":[2,3,4],"ActiveVersion":2}"#;
    setec
        .call("info", json!({"Name": "app/put"}))
        .await
        .is(StatusCode::OK, info);
    setec
        .call("delete-version", json!({"Name": "app/nothing", "Version": 1}))
        .await
        .says(StatusCode::NOT_FOUND);
    setec
        .call("delete", json!({"Name": "app/put"}))
        .await
        .is(StatusCode::OK, "null");
    setec
        .call("delete", json!({"Name": "app/put"}))
        .await
        .is(StatusCode::OK, "null");
    setec
        .call("delete", json!({"Name": "app/nothing"}))
        .await
        .is(StatusCode::OK, "null");
    setec
        .call("get", json!({"Name": "app/put"}))
        .await
        .says(StatusCode::NOT_FOUND);
}

async fn rights(setec: &Setec<'_>) {
    let name = "app/rights";
    setec.put(name, b"one").await.is(StatusCode::OK, "1");
    setec.put(name, b"two").await.is(StatusCode::OK, "2");
    let requests = [
        ("get", json!({"Name": name})),
        ("info", json!({"Name": name})),
        ("put", json!({"Name": name, "Value": STANDARD.encode("two")})),
        (
            "create",
            json!({"Name": name, "Version": 50, "Value": STANDARD.encode("fifty")}),
        ),
        ("activate", json!({"Name": name, "Version": 1})),
        ("delete", json!({"Name": "app/rights-elsewhere"})),
    ];
    for holder in ["get", "info", "put", "create", "activate", "delete"] {
        for (action, body) in &requests {
            let method = if *action == "create" {
                "create-version"
            } else {
                action
            };
            let answer = setec
                .call_as(Some(&format!("uri:{holder}-only")), method, body.clone())
                .await;
            let allowed = holder == *action;
            assert_eq!(
                answer.status == StatusCode::OK,
                allowed,
                "{holder} did {action}: {} {}",
                answer.status,
                answer.body
            );
            if !allowed {
                answer.says(StatusCode::FORBIDDEN);
            }
        }
    }
    // Outside of the pattern nothing is allowed, whether it is there or not.
    setec.put("other", b"value").await.is(StatusCode::OK, "1");
    for there in ["other", "elsewhere"] {
        setec
            .call_as(Some("uri:get-only"), "get", json!({"Name": there}))
            .await
            .says(StatusCode::FORBIDDEN);
    }
    // A list shows what one has `info` for.
    setec
        .raw_as(Some("uri:get-only"), "list", "null")
        .await
        .is(StatusCode::OK, "[]");
    let seen = setec.raw_as(Some("uri:info-only"), "list", "null").await.json();
    let seen: Vec<&str> = seen
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|secret| secret["Name"].as_str())
        .collect();
    assert_eq!(seen, ["app/created", "app/empty", name]);
    // Somebody with a certificate, but without any grant.
    setec
        .raw_as(Some("uri:nobody"), "list", "null")
        .await
        .says(StatusCode::FORBIDDEN);
    setec
        .call_as(Some("uri:nobody"), "get", json!({"Name": name}))
        .await
        .says(StatusCode::FORBIDDEN);
}

async fn requests_that_are_wrong(setec: &Setec<'_>) {
    let good = r#"{"Name":"app/rights"}"#;
    // The method, the content type and the header, in this order.
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
        setec
            .send(ADMINISTRATOR, method, "get", JSON, GUARD, good)
            .await
            .says(StatusCode::BAD_REQUEST);
    }
    setec
        .send(ADMINISTRATOR, Method::HEAD, "get", JSON, GUARD, good)
        .await
        .has(StatusCode::BAD_REQUEST);
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
    ] {
        setec
            .send(ADMINISTRATOR, Method::POST, "get", content_type, GUARD, good)
            .await
            .says(StatusCode::BAD_REQUEST);
    }
    let parameters = Some("application/json; charset=utf-8");
    setec
        .send(ADMINISTRATOR, Method::POST, "get", parameters, GUARD, good)
        .await
        .has(StatusCode::OK);
    for guard in [None, Some("1"), Some("")] {
        setec
            .send(ADMINISTRATOR, Method::POST, "get", JSON, guard, good)
            .await
            .says(StatusCode::FORBIDDEN);
    }
    // The body.
    for (method, body) in [
        ("get", ""),
        ("get", "null"),
        ("get", "{}"),
        ("get", "[]"),
        ("get", "{"),
        ("get", r#"{"Name":"app/rights"} x"#),
        ("get", r#"{"Name":7}"#),
        ("get", r#"{"Name":""}"#),
        ("get", r#"{"Name":"app/rights","Version":-1}"#),
        ("get", r#"{"Name":"app/rights","Version":4294967296}"#),
        ("get", r#"{"Name":"app/rights","Version":1.5}"#),
        ("get", r#"{"Name":"app/rights","Version":"1"}"#),
        ("get", r#"{"Name":"app/rights","UpdateIfChanged":"yes"}"#),
        ("put", r#"{"Name":"app/rights","Value":"not base64!"}"#),
        ("put", r#"{"Name":"app/rights","Value":"YQ"}"#),
        ("put", r#"{"Name":"app/rights","Value":7}"#),
        (
            "create-version",
            r#"{"Name":"app/rights","Version":-7,"Value":"YQ=="}"#,
        ),
        (
            "activate",
            r#"{"Name":"app/rights","Version":99999999999999999999}"#,
        ),
        ("list", "["),
    ] {
        setec.raw(method, body).await.says(StatusCode::BAD_REQUEST);
    }
    setec
        .send_bytes("get", b"{\"Name\":\"\xff\xfe\"}")
        .await
        .says(StatusCode::BAD_REQUEST);
    // Unknown fields are ignored; known ones are found whatever their case, as Go does.
    setec
        .raw("get", r#"{"Surprise":[1,{"a":2}],"Name":"app/rights"}"#)
        .await
        .has(StatusCode::OK);
    setec
        .raw("get", r#"{"name":"app/rights","VERSION":1}"#)
        .await
        .has(StatusCode::OK);
    // A method that is not there.
    let unknown = setec.raw("steal", "{}").await;
    assert!(unknown.status.is_client_error(), "{}", unknown.status);
}

async fn names(setec: &Setec<'_>) {
    let longest = "n".repeat(1_024);
    for good in [
        longest.as_str(),
        "a b",
        "näme/空白/🗝",
        "../..",
        "a\\b",
        "\"quoted\"",
        "%2e",
        "*",
    ] {
        setec.put(good, b"value").await.is(StatusCode::OK, "1");
        let got = setec.call("info", json!({"Name": good})).await;
        assert_eq!(got.json()["Name"], good);
        setec
            .call("delete", json!({"Name": good}))
            .await
            .is(StatusCode::OK, "null");
    }
    let too_long = "n".repeat(1_025);
    for bad in ["", too_long.as_str(), "a\nb", "a\u{0}b", "a\u{7f}b", "a\u{85}b"] {
        setec.put(bad, b"value").await.says(StatusCode::BAD_REQUEST);
        setec
            .call("get", json!({"Name": bad}))
            .await
            .says(StatusCode::BAD_REQUEST);
    }
}

async fn sizes(setec: &Setec<'_>) {
    let largest = vec![b'x'; 1 << 20];
    setec.put("app/large", &largest).await.is(StatusCode::OK, "1");
    let got = setec.call("get", json!({"Name": "app/large"})).await.json();
    assert_eq!(
        got["Value"].as_str().map(str::len),
        Some(STANDARD.encode(&largest).len())
    );
    let too_large = vec![b'x'; (1 << 20) + 1];
    setec
        .put("app/large", &too_large)
        .await
        .says(StatusCode::BAD_REQUEST);
    let body = format!(r#"{{"Name":"app/large","Value":"{}"}}"#, "A".repeat(8 << 20));
    setec.raw("put", &body).await.says(StatusCode::BAD_REQUEST);
}

const JSON: Option<&str> = Some("application/json");
const GUARD: Option<&str> = Some("setec");

/// A client that sends whatever it is told to.
struct Setec<'a> {
    cluster: &'a TestCluster,
    next_node: AtomicUsize,
}

struct Answer {
    request: String,
    status: StatusCode,
    content_type: Option<String>,
    body: String,
}

impl<'a> Setec<'a> {
    fn new(cluster: &'a TestCluster) -> Self {
        Self {
            cluster,
            next_node: AtomicUsize::new(0),
        }
    }

    async fn put(&self, name: &str, value: &[u8]) -> Answer {
        self.call("put", json!({"Name": name, "Value": STANDARD.encode(value)}))
            .await
    }

    async fn call(&self, method: &str, body: Value) -> Answer {
        self.call_as(ADMINISTRATOR, method, body).await
    }

    async fn call_as(&self, principal: Option<&str>, method: &str, body: Value) -> Answer {
        self.raw_as(principal, method, &body.to_string()).await
    }

    async fn raw(&self, method: &str, body: &str) -> Answer {
        self.raw_as(ADMINISTRATOR, method, body).await
    }

    async fn raw_as(&self, principal: Option<&str>, method: &str, body: &str) -> Answer {
        self.send(principal, Method::POST, method, JSON, GUARD, body)
            .await
    }

    async fn send_bytes(&self, method: &str, body: &'static [u8]) -> Answer {
        self.exchange(ADMINISTRATOR, Method::POST, method, JSON, GUARD, body.to_vec())
            .await
    }

    async fn send(
        &self,
        principal: Option<&str>,
        http_method: Method,
        method: &str,
        content_type: Option<&str>,
        guard: Option<&str>,
        body: &str,
    ) -> Answer {
        self.exchange(
            principal,
            http_method,
            method,
            content_type,
            guard,
            body.as_bytes().to_vec(),
        )
        .await
    }

    async fn exchange(
        &self,
        principal: Option<&str>,
        http_method: Method,
        method: &str,
        content_type: Option<&str>,
        guard: Option<&str>,
        body: Vec<u8>,
    ) -> Answer {
        let identity: Identity = match principal {
            None => self.cluster.administrator(),
            Some(principal) => self.cluster.identity(principal),
        };
        let node = self.next_node.fetch_add(1, Ordering::Relaxed) % self.cluster.len();
        let shown: String = String::from_utf8_lossy(&body).chars().take(120).collect();
        let request = format!("{http_method} {method} of node {node} by {principal:?} with {shown}");
        let url = format!("{}/api/{method}", self.cluster.api(node));
        let mut builder = self
            .cluster
            .http(Some(&identity))
            .request(http_method, url)
            .body(body);
        if let Some(content_type) = content_type {
            builder = builder.header("content-type", content_type);
        }
        if let Some(guard) = guard {
            builder = builder.header("Sec-X-Tailscale-No-Browsers", guard);
        }
        let response = builder
            .send()
            .await
            .unwrap_or_else(|error| panic!("{request}: {error:?}"));
        let status = response.status();
        let content_type = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = response
            .text()
            .await
            .unwrap_or_else(|error| panic!("{request}: {error:?}"));
        Answer {
            request,
            status,
            content_type,
            body,
        }
    }
}

impl Answer {
    fn has(&self, status: StatusCode) {
        assert_eq!(self.status, status, "{}: {}", self.request, self.body);
    }

    /// Exactly this status and body (a newline at its end aside).
    fn is(&self, status: StatusCode, body: &str) {
        self.has(status);
        assert_eq!(self.body.trim_end_matches('\n'), body, "{}", self.request);
    }

    /// This status, with a short plain text.
    fn says(&self, status: StatusCode) {
        self.has(status);
        let text = self.body.trim();
        assert!(
            !text.is_empty() && text.len() < 300 && !text.starts_with('{'),
            "{}: {text:?}",
            self.request
        );
        let plain = self
            .content_type
            .as_deref()
            .is_some_and(|kind| kind.starts_with("text/plain"));
        assert!(plain, "{}: {:?}", self.request, self.content_type);
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.request, self.body))
    }
}
