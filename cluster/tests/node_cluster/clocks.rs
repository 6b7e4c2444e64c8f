//! Clocks an hour apart: the one that is wrong does not lead, nothing expires early, writes go on.

use crate::{
    commands::{place, put},
    test_cluster::{PATIENCE, TestCluster, soon},
};
use conclave_cluster::{node::OperateError, time::Clocks};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

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

/// Also the very first one: whoever takes office with a clock that nobody has looked at stamps nothing.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_are_compared_before_the_first_stamp() {
    let cluster = TestCluster::start(3).await;
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        let wrong = cluster.follower().await;
        let id = cluster.node(wrong).status().borrow().raft.raft_id;
        let leader = cluster.leader().await;
        let record = cluster.record(leader).await;
        cluster.walls[wrong].shift(HOUR_MS);
        let shortly = Instant::now() + Duration::from_secs(3);
        // There is always something that waits for its stamp at the node that takes office.
        let writing = async {
            loop {
                let node = cluster.node(wrong);
                join_all((0..20).map(|n| node.propose(put(place(n), b"v"), soon()))).await;
            }
        };
        let led = tokio::select! {
            led = cluster.node(leader).transfer_leadership(id, record, shortly) => led,
            () = writing => unreachable!("it writes until then"),
        };
        let successor = cluster.leader().await;
        let last = cluster
            .node(successor)
            .propose(put(place(1), b"last"), soon())
            .await
            .unwrap();
        let right = (wrong + 1) % 3;
        assert!(last.time_ms < cluster.walls[right].wall_ms() + 60_000);
        cluster.walls[wrong].shift(0);
        cluster.status(wrong, |status| !status.clock_refuses_lead).await;
        if led == id.ok_or(OperateError::NoLeader) {
            return;
        }
        // It looked at its clock just before, and never took office.
        assert!(Instant::now() < deadline, "nobody took office: {led:?}");
    }
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
