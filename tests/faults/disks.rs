//! Disks that are not what the cluster remembers: wiped, of yesterday, another cluster's. A data
//! directory is an incarnation; its Raft id is never used again.

use crate::support::{PATIENCE, TestCluster, eventually, load::Load, turn};
use conclave::api::conclave::messages::{HealthState, NodeRole};
use conclave_fault_layer::copy_directory;
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

/// Longer than several elections take.
const OBSERVED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_wiped_disk_and_yesterdays_rejoin_as_new_incarnations() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder().nodes(3).start().await;
    let load = Load::start(&cluster, 4);
    load.wait_for_more(50).await;
    let mut used = ids(&cluster).await;

    // Wiped.
    let leader = cluster.leader().await;
    let (wiped, old) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.kill(wiped).await;
    fs::remove_dir_all(&cluster.node(wiped).data_dir).expect("the disk is wiped");
    cluster.spawn(wiped);
    takes_its_place(&cluster, wiped, &mut used).await;

    // Of yesterday: a copy from before much was written.
    let yesterday = cluster.path().join("yesterday");
    cluster.kill(old).await;
    copy_directory(&cluster.node(old).data_dir, &yesterday);
    cluster.restart(old).await;
    load.wait_for_more(100).await;
    let index = cluster
        .status(leader)
        .await
        .and_then(|status| status.committed_index);
    // Known to the leader, not only done: what nobody heard of cannot be missed.
    let name = cluster.node(old).name.clone();
    eventually("the node has acknowledged more", PATIENCE, async || {
        let known = cluster.client_of(leader).members().await;
        let members = known.map_err(|error| error.to_string())?.members;
        let member = members.iter().find(|member| member.name == name);
        match member.and_then(|member| member.matched_index) {
            Some(matched) if Some(matched) >= index => Ok(()),
            other => Err(format!("{other:?} of {index:?}")),
        }
    })
    .await;
    cluster.kill(old).await;
    let data_dir = cluster.node(old).data_dir.clone();
    fs::remove_dir_all(&data_dir).expect("the disk is taken out");
    copy_directory(&yesterday, &data_dir);
    cluster.spawn(old);
    takes_its_place(&cluster, old, &mut used).await;
    let log = fs::read_to_string(&cluster.node(old).log).expect("its log");
    assert!(log.contains("older than what node"), "it does not say why");

    let ledger = load.stop().await;
    assert_eq!(ledger.failed, Vec::<String>::new());
    ledger.assert_kept(&cluster.client()).await;
    cluster.assert_digests_agree().await;
}

#[tokio::test]
async fn another_clusters_disk_is_refused() {
    let _turn = turn().await;
    // Every test cluster has the same name and the same names of nodes: only the disk is foreign.
    let mut other = TestCluster::builder().nodes(3).start().await;
    for node in 0..3 {
        other.kill(node).await;
    }
    let mut cluster = TestCluster::builder().nodes(3).start().await;
    let client = cluster.client();
    assert_eq!(client.put("app/key", b"ours").await, Ok(1));
    let follower = (cluster.leader().await + 1) % 3;
    let id = cluster.status(follower).await.and_then(|status| status.node_id);
    let data_dir = cluster.node(follower).data_dir.clone();
    let aside = cluster.path().join("aside");
    cluster.kill(follower).await;
    fs::rename(&data_dir, &aside).expect("its own disk is taken out");
    copy_directory(&other.node(follower).data_dir, &data_dir);
    cluster.spawn(follower);
    eventually("the foreign disk is refused", PATIENCE, async || {
        let log = fs::read_to_string(&cluster.node(follower).log).unwrap_or_default();
        if log.contains("a disk of another cluster") {
            Ok(())
        } else {
            Err("its log says nothing of it".to_owned())
        }
    })
    .await;
    // It serves nobody, and harms nobody.
    let foreign = cluster.client_of(follower).with_timeout(Duration::from_secs(1));
    assert!(foreign.get("app/key", None).await.is_err());
    assert_eq!(client.put("app/key", b"ours again").await, Ok(2));

    // With its own disk it is what it was.
    cluster.kill(follower).await;
    fs::remove_dir_all(&data_dir).expect("the foreign disk is taken out");
    fs::rename(&aside, &data_dir).expect("its own disk is put back");
    cluster.restart(follower).await;
    assert_eq!(
        cluster.status(follower).await.and_then(|status| status.node_id),
        id
    );

    // A disk that bears another name is refused at once.
    cluster.kill(follower).await;
    let neighbour = cluster.node((follower + 1) % 3).data_dir.clone();
    cluster.kill((follower + 1) % 3).await;
    fs::remove_dir_all(&data_dir).expect("its own disk is taken out");
    copy_directory(&neighbour, &data_dir);
    cluster.spawn(follower);
    assert!(!cluster.wait_for_end(follower).await.success());
    let log = fs::read_to_string(&cluster.node(follower).log).expect("its log");
    assert!(
        log.contains("refusing another's disk"),
        "it does not say why it ended"
    );
}

/// An entry on nodes 1 and 2 only; 2 is wiped, and 1 is killed: 2 and 3 must not elect.
#[tokio::test]
async fn two_wipes_lose_nothing() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder().nodes(3).start().await;
    assert_eq!(cluster.client().put("app/before", b"first").await, Ok(1));
    let mut used = ids(&cluster).await;
    let first = cluster.leader().await;
    let term = cluster.status(first).await.expect("it answers").term;
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    cluster.kill(third).await;
    assert_eq!(cluster.client().put("app/key", b"on two").await, Ok(1));
    cluster.kill(second).await;
    cluster.kill(first).await;
    fs::remove_dir_all(&cluster.node(second).data_dir).expect("the disk is wiped");
    cluster.spawn(second);
    cluster.spawn(third);

    let client = cluster.client().with_timeout(Duration::from_secs(1));
    eventually("both run again", PATIENCE, async || {
        let both = (cluster.status(second).await, cluster.status(third).await);
        match both {
            (Some(_), Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let from = Instant::now();
    while from.elapsed() < OBSERVED {
        for node in [second, third] {
            let status = cluster.status(node).await.expect("it answers");
            // The one that has the entry may still be known as the leader of its term.
            assert!(status.term <= term, "an election without the entry: {status:?}");
            assert_ne!(status.role, NodeRole::Leader);
        }
        assert!(client.put("app/after", b"by whom?").await.is_err());
    }
    let health = cluster.client_of(third).health().await.expect("its health");
    assert_eq!(health.state, HealthState::NoQuorum);

    // The only node that has the entry comes back, and with it the cluster.
    cluster.spawn(first);
    takes_its_place(&cluster, second, &mut used).await;
    let client = cluster.client();
    for (name, value) in [("app/before", &b"first"[..]), ("app/key", b"on two")] {
        let got = client.get(name, None).await.expect("it is there");
        assert_eq!(got.value.as_slice(), value);
    }
    cluster.assert_digests_agree().await;
}

async fn ids(cluster: &TestCluster) -> BTreeSet<u64> {
    let members = cluster.client().members().await.expect("the members").members;
    members.iter().map(|member| member.id).collect()
}

/// Waits until a node votes under an id that was never used before, in its predecessor's place.
async fn takes_its_place(cluster: &TestCluster, node: usize, used: &mut BTreeSet<u64>) {
    let name = &cluster.node(node).name;
    let id = eventually("the node takes its predecessor's place", PATIENCE, async || {
        let members = cluster
            .client()
            .members()
            .await
            .map_err(|error| error.to_string())?;
        let same: Vec<_> = members
            .members
            .iter()
            .filter(|member| &member.name == name)
            .collect();
        match same[..] {
            [member] if member.voter && !used.contains(&member.id) => Ok(member.id),
            _ => Err(format!("{same:?}")),
        }
    })
    .await;
    assert!(used.iter().all(|used| *used < id), "{id} after {used:?}");
    used.insert(id);
    eventually("it serves", PATIENCE, async || match cluster.status(node).await {
        Some(status) if status.node_id == Some(id) && status.leader_id.is_some() && !status.sealed => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
