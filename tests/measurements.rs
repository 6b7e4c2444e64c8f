//! Figures, not promises: run by hand with `make measure`, alone on the machine, and written down with
//! the command beside them. Ignored by default, because a figure cannot fail.

mod support;

use hdrhistogram::Histogram;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use support::TestCluster;

const CLIENTS: usize = 64;
const RUN: Duration = Duration::from_secs(10);
const VALUE_BYTES: usize = 256;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn puts_and_gets_of_64_clients() {
    let cluster = TestCluster::builder().nodes(3).start().await;
    cluster.wait_until_serving().await;
    let leader = cluster.leader().await;
    for (what, node) in [("leader", leader), ("a follower", (leader + 1) % 3)] {
        for kind in ["put", "get", "poll"] {
            let syncs_before = syncs(&cluster).await;
            let (operations, elapsed, latencies) = load(&cluster, node, kind).await;
            let syncs_after = syncs(&cluster).await;
            println!(
                "{kind} through {what}: {:.0}/s by {CLIENTS} clients; latency ms p50 {:.1} p99 {:.1} p99.9 {:.1}; \
                 {operations} operations, log syncs by node {:?}",
                operations as f64 / elapsed.as_secs_f64(),
                latencies.value_at_quantile(0.5) as f64 / 1000.0,
                latencies.value_at_quantile(0.99) as f64 / 1000.0,
                latencies.value_at_quantile(0.999) as f64 / 1000.0,
                syncs_after
                    .iter()
                    .zip(&syncs_before)
                    .map(|(after, before)| after - before)
                    .collect::<Vec<_>>(),
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn start_and_write_gap() {
    let started = Instant::now();
    let mut cluster = TestCluster::builder().nodes(3).start().await;
    cluster.wait_until_serving().await;
    println!("start to serving: {} ms", started.elapsed().as_millis());
    let mut gaps_ms = Vec::new();
    for attempt in 0..10 {
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        let killed = Instant::now();
        let value = format!("after kill {attempt}");
        cluster
            .client()
            .put(&format!("gap/{attempt}"), value.as_bytes())
            .await
            .expect("the put succeeds");
        gaps_ms.push(killed.elapsed().as_millis());
        cluster.restart(leader).await;
    }
    println!("write gap when the leader is killed, ten tries, ms: {gaps_ms:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn memory_and_disk_at_100_000_secrets() {
    const SECRETS: u64 = 100_000;
    let cluster = TestCluster::builder().nodes(3).start().await;
    cluster.wait_until_serving().await;
    let empty = footprint(&cluster);
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let leader = cluster.leader().await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (client, next) = (cluster.client_of(leader), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SECRETS {
                        return;
                    }
                    client
                        .put(&format!("measured/{number:06}"), &value(number))
                        .await
                        .expect("the put succeeds");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("the client ends");
    }
    println!("{SECRETS} puts in {:.1} s", started.elapsed().as_secs_f64());
    cluster.wait_until_equal().await;
    let listed = Instant::now();
    let count = cluster
        .client_of(leader)
        .list()
        .await
        .expect("the list is served")
        .len();
    println!("list of {count}: {} ms", listed.elapsed().as_millis());
    println!("by node (resident MiB, data directory MiB), empty: {empty:?}");
    println!(
        "by node (resident MiB, data directory MiB), full: {:?}",
        footprint(&cluster)
    );
}

async fn load(cluster: &TestCluster, node: usize, kind: &'static str) -> (u64, Duration, Histogram<u64>) {
    let setup = cluster.client_of(node);
    for number in 0..CLIENTS {
        setup
            .put(&format!("load/{number}"), b"first")
            .await
            .expect("the put succeeds");
    }
    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = cluster.client_of(node);
            tokio::spawn(async move {
                let name = format!("load/{number}");
                let active = client.get(&name, None).await.expect("the get succeeds").version;
                let mut latencies = Histogram::<u64>::new(3).expect("three digits are allowed");
                let mut counter = number as u64;
                while started.elapsed() < RUN {
                    let sent = Instant::now();
                    match kind {
                        "put" => {
                            counter += CLIENTS as u64;
                            client
                                .put(&name, &value(counter))
                                .await
                                .expect("the put succeeds");
                        }
                        "get" => drop(client.get(&name, None).await.expect("the get succeeds")),
                        _ => drop(
                            client
                                .get_if_changed(&name, active)
                                .await
                                .expect("the poll succeeds"),
                        ),
                    }
                    latencies
                        .record(sent.elapsed().as_micros() as u64)
                        .expect("the latency is in range");
                }
                latencies
            })
        })
        .collect();
    let mut all = Histogram::<u64>::new(3).expect("three digits are allowed");
    for client in clients {
        all.add(client.await.expect("the client ends"))
            .expect("the histograms are alike");
    }
    (all.len(), started.elapsed(), all)
}

/// Differs for each number, so that no put is answered from what is stored.
fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_string().into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

async fn syncs(cluster: &TestCluster) -> Vec<u64> {
    // Plain HTTP, but this client does not start without one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut all = Vec::new();
    for node in 0..cluster.len() {
        let url = format!("http://127.0.0.1:{}/metrics", cluster.node(node).ports.metrics);
        let response = reqwest::get(&url).await.expect("the metrics are served");
        let text = response.text().await.expect("the metrics are text");
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("conclave_raft_log_syncs_total "))
            .expect("syncs are counted");
        all.push(count.parse().expect("a counter is a number"));
    }
    all
}

fn footprint(cluster: &TestCluster) -> Vec<(u64, u64)> {
    (0..cluster.len())
        .map(|node| {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(node))).unwrap_or_default();
            let resident_kib: u64 = status
                .lines()
                .find_map(|line| {
                    line.strip_prefix("VmRSS:")?
                        .trim()
                        .strip_suffix(" kB")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            (
                resident_kib / 1024,
                size_bytes(&cluster.node(node).data_dir) / (1024 * 1024),
            )
        })
        .collect()
}

fn size_bytes(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return std::fs::metadata(path).map_or(0, |file| file.len());
    };
    entries.flatten().map(|entry| size_bytes(&entry.path())).sum()
}
