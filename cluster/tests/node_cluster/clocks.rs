//! Clocks an hour apart: the one that is wrong does not lead, nothing expires early, writes go on.

use crate::{
    commands::{place, put},
    test_cluster::{TestCluster, soon},
};
use conclave_cluster::time::Clocks;

const HOUR_MS: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_hands_over_and_time_goes_on() {
    let cluster = TestCluster::start(3).await;
    let wrong = cluster.leader().await;
    let before = cluster
        .node(wrong)
        .propose(put(place(1), b"before"), soon())
        .await
        .unwrap();
    cluster.walls[wrong].shift(HOUR_MS);
    let status = cluster
        .status(wrong, |status| {
            status.clock_refuses_lead && status.raft.leader != status.raft.raft_id
        })
        .await;
    assert!(
        status
            .clock_skew_ms
            .is_some_and(|skew_ms| skew_ms > HOUR_MS - 60_000),
        "{status:?}"
    );
    assert_ne!(cluster.leader().await, wrong);
    let after = cluster
        .node(wrong)
        .propose(put(place(1), b"after"), soon())
        .await
        .unwrap();
    assert!(after.time_ms >= before.time_ms);
    // The wrong hour reached no entry.
    let right = (wrong + 1) % 3;
    assert!(after.time_ms < cluster.walls[right].wall_ms() + 60_000);

    cluster.walls[wrong].shift(0);
    cluster.status(wrong, |status| !status.clock_refuses_lead).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_agreement_on_the_time_writes_go_on_from_the_state() {
    let cluster = TestCluster::prepare(3, |_| {});
    let mut cluster = cluster;
    cluster.walls[0].shift(HOUR_MS);
    cluster.walls[1].shift(-HOUR_MS);
    for number in 0..3 {
        cluster.run(number).await;
    }
    let leader = cluster.leader().await;
    let first = cluster
        .node(leader)
        .propose(put(place(1), b"first"), soon())
        .await
        .unwrap();
    let second = cluster
        .node(leader)
        .propose(put(place(1), b"second"), soon())
        .await
        .unwrap();
    assert!(second.time_ms >= first.time_ms);
    // Nobody's hour was taken for the time.
    assert!(second.time_ms < 3_600_000, "{}", second.time_ms);
    assert!(!cluster.node(leader).status().borrow().clock_refuses_lead);
}
