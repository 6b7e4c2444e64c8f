//! A follower that falls behind the log's end while it runs and holds its keys: it is sent a snapshot,
//! and what its edge keeps in memory is made anew from that.

use crate::support::{PATIENCE, TestCluster, eventually, turn};
use conclave::client::Client;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_sent_a_snapshot_lists_what_was_put_meanwhile() {
    let _turn = turn().await;
    let cluster = TestCluster::builder()
        .nodes(3)
        .with_network()
        .setting("cluster.snapshot_log_bytes", "262144")
        .setting("cluster.snapshot_keep_log_bytes", "65536")
        .start()
        .await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    let client = cluster.client_of(leader);
    client.put("before", b"value").await.expect("put");
    // Its index of names is there, made with the keys that it goes on to use.
    assert_eq!(listed(&cluster.client_of(behind)).await, ["before"]);

    cluster.network().cut_off(&[behind]);
    let reached = cluster.status(behind).await.expect("it answers").applied_index;
    let mut expected = vec!["before".to_owned()];
    for number in 10..34_u8 {
        let name = format!("meanwhile/{number}");
        client.put(&name, &vec![number; 64 << 10]).await.expect("put");
        expected.push(name);
    }
    eventually("the others' logs begin later", PATIENCE, async || {
        for node in (0..3).filter(|&node| node != behind) {
            let status = cluster.status(node).await.ok_or("it does not answer")?;
            if status.purged_index <= reached {
                return Err(format!("{status:?}"));
            }
        }
        Ok(())
    })
    .await;

    cluster.network().heal();
    eventually("a snapshot is installed", PATIENCE, async || {
        match installed(&cluster, behind).await {
            0.0 => Err("none yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(listed(&cluster.client_of(behind)).await, expected);
}

/// The names that it lists, once it does.
async fn listed(client: &Client) -> Vec<String> {
    let infos = eventually("it lists", PATIENCE, async || {
        client.list().await.map_err(|error| error.to_string())
    })
    .await;
    infos.into_iter().map(|info| info.name).collect()
}

/// Snapshots that a node installed.
async fn installed(cluster: &TestCluster, node: usize) -> f64 {
    let url = format!("http://127.0.0.1:{}/metrics", cluster.node(node).ports.metrics);
    let scraped = cluster.http(None).get(url).send().await.expect("scraped");
    let text = scraped.text().await.expect("a text");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("conclave_raft_snapshots_installed_total "));
    line.and_then(|value| value.parse().ok()).unwrap_or_default()
}
