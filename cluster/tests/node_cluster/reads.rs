//! Barriers: linearizable reads, and polls within the staleness bound.

use crate::{
    commands::{made, place, put},
    test_cluster::{TestCluster, soon},
};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_read_sees_every_write_that_was_answered_before() {
    let cluster = TestCluster::start(3).await;
    for round in 0..30 {
        let writer = cluster.node(round % 3);
        let reader = cluster.node((round + 1) % 3);
        let answer = writer
            .propose(put(place(1), &round.to_be_bytes()), soon())
            .await
            .unwrap();
        let freshness = reader.read_barrier(soon()).await.unwrap();
        assert!(freshness.index >= answer.index);
        assert!(freshness.time_ms >= answer.time_ms);
        let view = reader.view();
        let secret = view
            .place(&place(1))
            .unwrap()
            .and_then(|record| record.secret)
            .unwrap();
        let active = view
            .secret(&secret)
            .unwrap()
            .and_then(|record| record.active)
            .unwrap();
        assert_eq!(active.get(), made(&answer.outcome));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_sees_every_change_that_its_node_answered() {
    let cluster = TestCluster::start(3).await;
    let follower = cluster.follower().await;
    let node = cluster.node(follower);
    for round in 0..200_u32 {
        let answer = node
            .propose(put(place(1), &round.to_be_bytes()), soon())
            .await
            .unwrap();
        let freshness = node.poll_barrier(soon()).await.unwrap();
        assert!(freshness.age_ms <= 2_000);
        let view = node.view();
        assert!(view.applied_index() >= Some(answer.index), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_confirmation_serves_every_poll_within_the_bound() {
    let cluster = TestCluster::start(3).await;
    for (_, node) in cluster.running() {
        let first = node.poll_barrier(soon()).await.unwrap();
        assert!(first.age_ms <= 2_000);
        let began = Instant::now();
        for _ in 0..1_000 {
            assert!(node.poll_barrier(soon()).await.unwrap().age_ms <= 2_000);
        }
        // A thousand rounds through a quorum would take far longer.
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_leader_and_its_follower_cut_off_answer_no_more_polls() {
    let bound = Duration::from_millis(1_000);
    let mut cluster = TestCluster::start_with(5, |options| options.staleness_bound = bound).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    for number in [leader, follower] {
        cluster.node(number).poll_barrier(soon()).await.unwrap();
    }
    // The other three are gone for these two: nobody is left to confirm that the leader leads.
    for number in (0..5).filter(|&number| number != leader && number != follower) {
        cluster.kill(number).await;
    }
    let cut_off = Instant::now();
    for number in [leader, follower] {
        let mut last_answer = None;
        while cut_off.elapsed() < bound * 3 {
            let asked = Instant::now();
            if cluster
                .node(number)
                .poll_barrier(asked + Duration::from_millis(50))
                .await
                .is_ok()
            {
                last_answer = Some(cut_off.elapsed());
            }
        }
        assert!(
            last_answer.is_none_or(|last| last <= bound + Duration::from_millis(100)),
            "{last_answer:?}"
        );
        assert!(
            cluster
                .node(number)
                .read_barrier(Instant::now() + bound)
                .await
                .is_err()
        );
    }
}
