//! Requests as no good client makes them, and what the node's metrics and logs say of them.

use crate::support::{Identity, TestCluster};
use conclave::{
    api::conclave::messages::{AuditEntry, AuditListRequest},
    client::Settings,
};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use std::{net::IpAddr, time::Duration};

/// One call of setec's API at one node.
pub async fn setec(
    http: &reqwest::Client,
    cluster: &TestCluster,
    node: usize,
    method: &str,
    body: Value,
) -> reqwest::Result<Response> {
    http.post(format!("{}/api/{method}", cluster.api(node)))
        .header("content-type", "application/json")
        .header("sec-x-tailscale-no-browsers", "setec")
        .body(body.to_string())
        .send()
        .await
}

/// Its status and body.
pub async fn answer(response: reqwest::Result<Response>) -> (StatusCode, String) {
    let response = response.expect("an answer");
    (response.status(), response.text().await.expect("a body"))
}

/// A caller from another address of loopback.
pub fn http_from(cluster: &TestCluster, identity: &Identity, address: IpAddr) -> reqwest::Client {
    let settings = Settings {
        addresses: vec![cluster.api(0)],
        authority: cluster.layout().authority(),
        identity: Some((identity.certificate.clone(), identity.key.clone())),
        timeout: Duration::from_secs(30),
    };
    reqwest::Client::builder()
        .tls_backend_preconfigured(settings.tls().expect("the client's files are there"))
        .no_proxy()
        .local_address(address)
        .timeout(Duration::from_secs(30))
        .build()
        .expect("an HTTP client")
}

/// A node's metrics.
pub async fn metrics(cluster: &TestCluster, node: usize) -> String {
    let port = cluster.node(node).ports.metrics;
    let answer = cluster
        .http(None)
        .get(format!("http://127.0.0.1:{port}/metrics"))
        .send()
        .await;
    answer.expect("an answer").text().await.expect("a body")
}

/// The sum of a metric over all its labels.
pub async fn metric(cluster: &TestCluster, node: usize, name: &str) -> f64 {
    let of_name = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let value = |line: &str| {
        line.rsplit_once(' ')
            .and_then(|(_, value)| value.parse::<f64>().ok())
    };
    metrics(cluster, node)
        .await
        .lines()
        .filter(of_name)
        .filter_map(value)
        .sum()
}

/// Every audit record, oldest first.
pub async fn audit(cluster: &TestCluster) -> Vec<AuditEntry> {
    let client = cluster.client();
    let mut records = Vec::new();
    let mut request = AuditListRequest {
        limit: Some(1_000),
        ..AuditListRequest::default()
    };
    loop {
        let page = client.audit_list(&request).await.expect("a page of records");
        records.extend(page.records);
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => return records,
        }
    }
}

/// All that a node has logged.
pub fn log(cluster: &TestCluster, node: usize) -> String {
    std::fs::read_to_string(&cluster.node(node).log).expect("the node's log")
}
