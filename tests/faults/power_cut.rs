//! The power of one node and of all is cut under load: whatever was not synced is gone from the
//! disks (ends of files, and names of directories), and still nothing acknowledged is lost. With
//! syncing switched off the same check fails.

use crate::support::{
    TestCluster, eventually,
    load::{Ledger, Load},
    turn,
};
use conclave_fault_layer::{FaultLayer, Lost};
use std::{process::Command, time::Duration};

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_power_is_cut() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder().nodes(3).with_faults().start().await;
    let load = Load::start(&cluster, 8);
    load.wait_for_more(200).await;

    for follows in [false, true] {
        let leader = cluster.leader().await;
        let node = if follows {
            (leader + 1) % cluster.len()
        } else {
            leader
        };
        let id = cluster.status(node).await.and_then(|status| status.node_id);
        let lost = cluster.cut_power(&[node]).await;
        assert!(
            !lost.is_empty(),
            "the state is not synced, so that something must be lost"
        );
        load.wait_for_more(200).await;
        cluster.restart(node).await;
        // Its disk holds everything that it acknowledged: it is the same incarnation.
        assert_eq!(cluster.status(node).await.and_then(|status| status.node_id), id);
        load.wait_for_more(100).await;
    }

    // Everybody at once.
    let lost = cluster.cut_power(&[0, 1, 2]).await;
    eprintln!("lost with everybody's power: {} files", lost.len());
    (0..cluster.len()).for_each(|node| cluster.spawn(node));
    cluster.wait_until_serving().await;
    load.wait_for_more(100).await;

    let ledger = load.stop().await;
    assert_eq!(ledger.failed, Vec::<String>::new());
    ledger.assert_kept(&cluster.client()).await;
    cluster.assert_digests_agree().await;
    assert!(cluster.client().verify().await.expect("verified").agreed);
}

#[tokio::test]
async fn without_syncing_a_power_cut_loses_what_was_acknowledged() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder()
        .nodes(3)
        .with_faults()
        .setting("cluster.sync", "false")
        .start()
        .await;
    let load = Load::start(&cluster, 8);
    load.wait_for_more(200).await;
    let ledger = load.stop().await;
    cluster.cut_power(&[0, 1, 2]).await;
    (0..cluster.len()).for_each(|node| cluster.spawn(node));
    let losses = losses_once_decided(&mut cluster, &ledger).await;
    assert!(
        !losses.is_empty(),
        "all puts survived: the power cut cuts nothing"
    );
    eprintln!(
        "without syncing: {} of {} puts lost",
        losses.len(),
        ledger.acknowledged.len()
    );
}

/// A disk may forget each name that was given, moved or removed since its directory was synced.
#[test]
fn the_layer_takes_names_whose_directories_were_not_synced() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let layer = FaultLayer::new(folder.path());
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder");
    let script = "
        mkdir kept; echo 12 > kept/file; echo 12 > replaced; echo 12 > moved; echo 12 > removed
        sync kept/file replaced moved removed kept .
        echo 3 >> kept/file; echo 4567 > next; sync next; mv next replaced; mv moved elsewhere; rm removed
        echo 12 > new; sync new; mkdir unsynced; echo 12 > unsynced/file; sync unsynced/file unsynced
        rm kept/file; echo 8 > kept/other; sync kept/other kept";
    let shell = Command::new("sh")
        .args(["-ec", script])
        .current_dir(&data)
        .envs(layer.environment())
        .status();
    assert!(shell.expect("a shell runs").success());
    let mut lost = layer.lose_what_was_not_synced(&data);
    lost.sort_by_key(|lost| format!("{lost:?}"));
    let [name, removal] = [Lost::Name, Lost::Removal].map(|kind| move |path: &str| kind(path.into()));
    let expected = [
        name("elsewhere"),
        name("new"),
        name("unsynced"),
        name("unsynced/file"),
        removal("moved"),
        removal("removed"),
        removal("replaced"),
    ];
    assert_eq!(lost, expected);
    let read = |path: &str| std::fs::read_to_string(data.join(path)).expect("a file");
    assert_eq!(
        (read("replaced"), read("kept/other")),
        ("12\n".into(), "8\n".into())
    );
    // What the disk held then is durable: another cut takes nothing.
    assert_eq!(layer.lose_what_was_not_synced(&data), []);
}

/// The nodes do rely on what they sync of directories: without it nothing is left of a disk.
#[tokio::test]
async fn without_syncing_directories_a_power_cut_loses_what_was_acknowledged() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder()
        .nodes(1)
        .with_faults()
        .environment("CONCLAVE_TEST_NO_DIRECTORY_SYNC", "1")
        .start()
        .await;
    cluster.client().put("a", b"value").await.expect("a put");
    let lost = cluster.cut_power(&[0]).await;
    assert!(lost.contains(&Lost::Name("log".into())), "{lost:?}");
}

/// What is lost, once the cluster serves again; a cluster that does not come back lost everything.
async fn losses_once_decided(cluster: &mut TestCluster, ledger: &Ledger) -> Vec<String> {
    let client = cluster.client().with_timeout(Duration::from_secs(5));
    let put = eventually(
        "the cluster serves, or a node refuses to",
        Duration::from_secs(30),
        async || {
            if (0..cluster.len()).any(|node| !cluster.runs(node)) {
                return Ok(None);
            }
            client
                .put("after", b"the cut")
                .await
                .map(Some)
                .map_err(|error| error.to_string())
        },
    );
    match put.await {
        Some(_) => ledger.lost(&client).await,
        None => vec!["a node refuses its disk".to_owned()],
    }
}
