//! A disk down to its reserve: the leader hands over, the cluster goes on without that node, and the
//! node resumes by itself. With every disk full, writes are refused with the reason, deletions pass,
//! and the cluster can be emptied, also if an entry was left uncommitted that the full disks refuse.

use crate::support::{PATIENCE, TestCluster, eventually, turn};
use conclave::{api::conclave::messages::HealthState, client::ClientError};
use std::{fs, path::PathBuf, time::Duration};

/// The variable by which a node believes a file's figure rather than its file system.
use conclave_raft::storage::space::FIGURE_FILE_VARIABLE;

const PLENTY: u64 = 10 << 30;
/// Below `cluster.reserve_bytes` (64 MiB in test clusters), above the middle between that and
/// `cluster.last_reserve_bytes` (16 MiB).
const BELOW_RESERVE: u64 = 48 << 20;

#[tokio::test]
async fn a_disk_down_to_its_reserve() {
    let _turn = turn().await;
    let figures = Figures::new();
    let mut builder = TestCluster::builder().nodes(3);
    for node in 0..3 {
        builder = builder.environment_of(node, FIGURE_FILE_VARIABLE, figures.file(node));
    }
    let mut cluster = builder.start().await;
    let client = cluster.client();
    assert_eq!(client.put("app/key", b"before").await, Ok(1));

    // The leader's disk.
    let full = cluster.leader().await;
    figures.set(full, BELOW_RESERVE);
    eventually("the node with the full disk hands over", PATIENCE, async || {
        let status = cluster.status(full).await.ok_or("it does not answer")?;
        let other_leads = status.leader_id.is_some() && status.leader_id != status.node_id;
        if other_leads && status.out_of_space {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    let health = cluster.client_of(full).health().await.expect("its health");
    assert_eq!(health.state, HealthState::NoSpace);
    let stays_at = cluster
        .status(full)
        .await
        .and_then(|status| status.last_log_index);
    for number in 0..20_u32 {
        let value = format!("value {number}");
        client
            .put("app/key", value.as_bytes())
            .await
            .expect("the cluster goes on");
    }
    let status = cluster.status(full).await.expect("it answers");
    assert!(status.halted.is_none());
    eprintln!(
        "the full disk's log stayed at {stays_at:?}, it is at {:?}",
        status.last_log_index
    );

    // It resumes by itself.
    figures.set(full, PLENTY);
    eventually("the node resumes", PATIENCE, async || {
        let status = cluster.status(full).await.ok_or("it does not answer")?;
        if status.out_of_space {
            Err(format!("{status:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    cluster.assert_digests_agree().await;

    // All disks, while nothing is under way: a put through each node comes after the records of what
    // was asked of it. From then on health is asked, because a look at the status is a record.
    for node in 0..3 {
        let put = cluster.client_of(node).put("app/last", b"before").await;
        put.expect("there is space");
    }
    (0..3).for_each(|node| figures.set(node, BELOW_RESERVE));
    eventually("every node is out of space", PATIENCE, async || {
        for node in 0..3 {
            let health = cluster.client_of(node).health().await;
            let health = health.map_err(|error| error.to_string())?;
            if health.state != HealthState::NoSpace {
                return Err(format!("{health:?}"));
            }
        }
        Ok(())
    })
    .await;
    let refused = cluster
        .http(Some(&cluster.administrator()))
        .post(format!("{}/api/put", cluster.api((full + 1) % cluster.len())))
        .header("Content-Type", "application/json")
        .header("Sec-X-Tailscale-No-Browsers", "setec")
        .body(r#"{"Name":"app/refused","Value":"dG9vIG11Y2g="}"#)
        .send()
        .await
        .expect("an answer");
    assert_eq!(refused.status().as_u16(), 500);
    assert!(refused.headers().contains_key("Retry-After"));
    let reason = refused.text().await.expect("a reason");
    assert!(reason.contains("no space"), "{reason}");
    client.delete("app/key").await.expect("what frees space passes");
    (0..3).for_each(|node| figures.set(node, PLENTY));
    eventually("the cluster takes writes again", PATIENCE, async || {
        client
            .put("app/after", b"there is space")
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    assert!(matches!(
        client.get("app/key", None).await.err(),
        Some(ClientError::NotFound(_))
    ));
    cluster.assert_digests_agree().await;
    emptied_although_an_entry_waits(&mut cluster, &figures).await;
}

/// A put reaches the leader's log and no other; then all disks are full. It would be refused by the
/// followers, and what frees space would wait behind it.
async fn emptied_although_an_entry_waits(cluster: &mut TestCluster, figures: &Figures) {
    let client = cluster.client();
    client.put("app/goes", b"soon").await.expect("there is space");
    let leader = cluster.leader().await;
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for node in followers {
        cluster.kill(node).await;
    }
    let alone = cluster.client_of(leader).with_timeout(Duration::from_secs(2));
    let unknown = alone.put("app/waits", b"for a majority").await;
    assert!(unknown.is_err(), "{unknown:?}");
    (0..3).for_each(|node| figures.set(node, BELOW_RESERVE));
    for node in followers {
        cluster.spawn(node);
    }
    eventually("what frees space passes", PATIENCE, async || {
        client.delete("app/goes").await.map_err(|error| error.to_string())
    })
    .await;
    // The client tries again until its time is up.
    let hasty = cluster.client().with_timeout(Duration::from_secs(1));
    let refused = hasty.put("app/too-much", b"no space").await;
    assert!(refused.is_err(), "{refused:?}");
    (0..3).for_each(|node| figures.set(node, PLENTY));
    eventually("the cluster takes writes again", PATIENCE, async || {
        client
            .put("app/resumed", b"there is space")
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    assert!(matches!(
        client.get("app/goes", None).await.err(),
        Some(ClientError::NotFound(_))
    ));
    cluster.assert_digests_agree().await;
}

/// A file for each node, with the bytes that it believes to be free.
struct Figures(tempfile::TempDir);

impl Figures {
    fn new() -> Self {
        let figures = Self(tempfile::tempdir().expect("a temporary folder"));
        (0..3).for_each(|node| figures.set(node, PLENTY));
        figures
    }

    fn file(&self, node: usize) -> PathBuf {
        self.0.path().join(format!("free-{node}"))
    }

    fn set(&self, node: usize, free_bytes: u64) {
        let next = self.0.path().join("next");
        fs::write(&next, free_bytes.to_string()).expect("the figure is written");
        // A node never reads a half.
        fs::rename(&next, self.file(node)).expect("the figure is put in its place");
    }
}
