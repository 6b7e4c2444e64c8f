//! The members, by the command, against real processes: a node is added and promoted while writes go
//! on, leadership is handed to it, a wiped one is replaced, one is removed, all are verified; and a
//! removal that would lose the quorum is refused.

use crate::{
    folders::{self, section},
    support::{PATIENCE, TestCluster, eventually},
};
use conclave::{api::conclave::messages::HealthState, client::Client};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[tokio::test]
async fn members_come_go_and_are_replaced() {
    let mut cluster = three_and_one_to_come().await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(keep_writing(cluster.client(), stop.clone()));

    // A table for people, JSON for programs.
    let table = text(&done(run(&cluster, &["cluster", "list"]).await));
    assert!(table.starts_with("ID"), "{table}");
    assert_eq!(table.matches("node-").count(), 3, "{table}");
    assert_eq!(table.matches("leader").count(), 1, "{table}");
    wait_for_voters(&cluster, &["node-1", "node-2", "node-3"]).await;

    // The fourth one waits; an operator lets it in, and it catches up before it votes.
    cluster.spawn(3);
    let added = json_of(done(run(&cluster, &["cluster", "add", "node-4", "--json"]).await));
    assert_eq!(added, json!({"id": 4}));
    let again = run(&cluster, &["cluster", "add", "node-4"]).await;
    assert_eq!(again.status.code(), Some(5), "{again:?}");
    assert!(complaint(&again).contains("is a member already"), "{again:?}");
    wait_for_voters(&cluster, &["node-1", "node-2", "node-3"]).await;
    done(run(&cluster, &["cluster", "promote", "node-4"]).await);
    wait_for_voters(&cluster, &["node-1", "node-2", "node-3", "node-4"]).await;
    cluster.wait_until_serving().await;
    assert!(cluster.client_of(3).put("by/the-fourth", b"value").await.is_ok());

    // It leads, then hands over to whoever is furthest.
    let transferred = json_of(done(
        run(&cluster, &["cluster", "transfer", "node-4", "--json"]).await,
    ));
    assert_eq!(transferred, json!({"id": 4}));
    cluster.wait_until_leads(3).await;
    done(run(&cluster, &["cluster", "transfer"]).await);
    cluster.wait_until_another_leads(3).await;

    // A wiped disk is another member; `rejoin = "manual"` makes it wait.
    let wiped = 1;
    cluster.kill(wiped).await;
    fs::remove_dir_all(&cluster.node(wiped).data_dir).expect("the disk is wiped");
    cluster.spawn(wiped);
    let replaced = json_of(done(
        run(&cluster, &["cluster", "replace", "node-2", "--yes", "--json"]).await,
    ));
    let successor = replaced["id"].as_u64().expect("an id");
    assert!(successor > 4, "an id is never used twice");
    eventually(
        "the successor has its predecessor's place",
        PATIENCE,
        async || {
            let listed = members(&cluster).await;
            let ids: BTreeSet<u64> = listed.iter().filter_map(|member| member["id"].as_u64()).collect();
            if ids == BTreeSet::from([1, 3, 4, successor]) {
                Ok(())
            } else {
                Err(format!("{listed:?}"))
            }
        },
    )
    .await;
    wait_for_voters(&cluster, &["node-1", "node-2", "node-3", "node-4"]).await;

    // The fourth goes again, also if it is asked itself; it takes part in nothing any more.
    let refused = run(&cluster, &["cluster", "remove", "node-4"]).await;
    assert_eq!(refused.status.code(), Some(2), "nobody can be asked: {refused:?}");
    done(run(&cluster, &["cluster", "remove", "node-4", "--yes"]).await);
    wait_for_voters(&cluster, &["node-1", "node-2", "node-3"]).await;
    eventually("nobody knows the removed one", PATIENCE, async || {
        let unknown = run(&cluster, &["cluster", "remove", "node-4", "--yes"]).await;
        match unknown.status.code() {
            Some(3) => Ok(()),
            _ => Err(format!("{unknown:?}")),
        }
    })
    .await;
    eventually("the removed one says so itself", PATIENCE, async || {
        let health = cluster
            .client_of(3)
            .health()
            .await
            .map_err(|error| error.to_string())?;
        let status = cluster
            .client_of(3)
            .status()
            .await
            .map_err(|error| error.to_string())?;
        if health.state == HealthState::Removed && status.removed {
            Ok(())
        } else {
            Err(format!("{health:?} {status:?}"))
        }
    })
    .await;
    cluster.kill(3).await;

    // Nothing that was acknowledged meanwhile is missing, and all hold the same.
    stop.store(true, Ordering::Relaxed);
    let written = load.await.expect("the load ends");
    // How many is a matter of the machine; what matters is below.
    assert!(written > 0, "no write went on");
    for node in 0..3 {
        eventually("the node has everything", PATIENCE, async || {
            match cluster
                .client_of(node)
                .get(&format!("load/{}", written - 1), None)
                .await
            {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        let secrets = cluster.client_of(node).list().await.expect("the list");
        let names: BTreeSet<String> = secrets.into_iter().map(|secret| secret.name).collect();
        for number in 0..written {
            assert!(
                names.contains(&format!("load/{number}")),
                "load/{number} is lost on node {node}"
            );
        }
    }
    let verified = json_of(done(run(&cluster, &["cluster", "verify", "--json"]).await));
    assert_eq!(verified["agreed"], true, "{verified}");
    assert_eq!(verified["nodes"].as_array().map(Vec::len), Some(3), "{verified}");

    // With one of three down, the removal of another would lose the quorum.
    cluster.kill(2).await;
    let healthy = if cluster.leader().await == 0 {
        "node-2"
    } else {
        "node-1"
    };
    eventually("the leader misses the one that is down", PATIENCE, async || {
        let listed = members(&cluster).await;
        let down = listed
            .iter()
            .find(|member| member["name"] == "node-3")
            .expect("a member");
        match down["last_acknowledged_ms"].as_u64() {
            Some(ago_ms) if ago_ms < 5_000 => Err(format!("{ago_ms} ms ago")),
            _ => Ok(()),
        }
    })
    .await;
    let lost = run(&cluster, &["cluster", "remove", healthy, "--yes"]).await;
    assert_eq!(lost.status.code(), Some(5), "{lost:?}");
    assert!(
        complaint(&lost).contains("quorum") || complaint(&lost).contains("majority"),
        "{lost:?}"
    );
    wait_for_voters(&cluster, &["node-1", "node-2", "node-3"]).await;
    assert!(cluster.client().put("after/the-refusal", b"value").await.is_ok());
    // The one that is down may go: what remains has its quorum.
    done(run(&cluster, &["cluster", "remove", "node-3", "--yes"]).await);
    wait_for_voters(&cluster, &["node-1", "node-2"]).await;
    assert!(cluster.client().put("after/the-removal", b"value").await.is_ok());
}

/// Three nodes form the cluster and know nothing of the fourth, which does not run yet.
async fn three_and_one_to_come() -> TestCluster {
    let mut cluster = TestCluster::builder()
        .nodes(4)
        .setting("cluster.rejoin", "manual")
        .start_only(&[])
        .launch();
    for node in 0..3 {
        folders::configure(&cluster, node, |config| {
            let nodes = section(config, "cluster").get_mut("nodes").expect("the nodes");
            nodes.as_array_mut().expect("a list").truncate(3);
        });
        cluster.spawn(node);
    }
    for node in 0..3 {
        eventually("the three serve", PATIENCE, async || {
            match cluster.status(node).await {
                Some(status) if status.leader_id.is_some() && !status.sealed => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    cluster
}

/// Writes new secrets until told to stop; returns how many.
async fn keep_writing(client: Client, stop: Arc<AtomicBool>) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("load/{written}");
        client.put(&name, name.as_bytes()).await.expect("writes go on");
        written += 1;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    written
}

/// Runs the command without holding up the test's own tasks.
async fn run(cluster: &TestCluster, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(cluster.command());
    command.args(arguments).stdin(std::process::Stdio::null());
    tokio::time::timeout(2 * PATIENCE, command.output())
        .await
        .expect("the command ends")
        .expect("the command starts")
}

fn done(output: Output) -> Output {
    assert!(output.status.success(), "{output:?}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON value")
}

async fn members(cluster: &TestCluster) -> Vec<Value> {
    let list = json_of(done(run(cluster, &["cluster", "list", "--json"]).await));
    list["members"].as_array().expect("members").clone()
}

/// Whoever is asked may be a moment behind.
async fn wait_for_voters(cluster: &TestCluster, expected: &[&str]) {
    eventually("the voters are known", PATIENCE, async || {
        let mut names: Vec<String> = members(cluster)
            .await
            .iter()
            .filter(|member| member["voter"] == true)
            .filter_map(|member| member["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        if names == expected {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;
}
