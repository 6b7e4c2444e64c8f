//! SIGTERM hands leadership over before anything is refused, so that a rolling restart under load
//! fails no write.

use crate::support::{TestCluster, load::Load, turn};
use std::time::{Duration, Instant};

/// Leadership that is handed over costs much less than an election after a crash.
const LONGEST_GAP: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_rolling_restart_fails_no_write() {
    let _turn = turn().await;
    let mut cluster = TestCluster::builder().nodes(3).start().await;
    let load = Load::start(&cluster, 8);
    load.wait_for_more(200).await;
    let mut stopped = Vec::new();
    for node in 0..cluster.len() {
        // Each of them is stopped while it leads.
        let id = cluster.status(node).await.and_then(|status| status.node_id);
        let transfer = conclave::api::conclave::messages::TransferLeadership {
            to: id,
            timeout_ms: Some(10_000),
        };
        let leads = cluster.client().transfer_leadership(&transfer).await;
        assert_eq!(leads.map(|changed| Some(changed.id)), Ok(id));
        let before = Instant::now();
        cluster.stop(node).await;
        let log = std::fs::read_to_string(&cluster.node(node).log).expect("its log");
        assert!(
            !log.contains("leadership was not handed over"),
            "node {node} kept leadership"
        );
        load.wait_for_more(100).await;
        stopped.push((before, Instant::now()));
        cluster.restart(node).await;
        load.wait_for_more(50).await;
    }
    let ledger = load.stop().await;
    assert_eq!(ledger.failed, Vec::<String>::new());
    for (before, after) in stopped {
        let gap = ledger.longest_gap(before, after);
        eprintln!("write gap when the leader is stopped: {} ms", gap.as_millis());
        assert!(gap < LONGEST_GAP, "no write for {gap:?}");
    }
    ledger.assert_kept(&cluster.client()).await;
    cluster.assert_digests_agree().await;

    // The whole cluster, one after the other: the last ones find nobody to hand over to.
    for node in 0..cluster.len() {
        cluster.stop(node).await;
        let log = std::fs::read_to_string(&cluster.node(node).log).expect("its log");
        assert!(log.contains("handed leadership over before stopping"), "{log}");
        assert!(!log.contains("halted"), "node {node} was only stopped:\n{log}");
        // Repeated many times a second while a node is down.
        assert!(!log.contains("sending error to RaftCore"), "{log}");
    }
}
