//! A leader that is cut off from the majority: it discloses nothing and acknowledges nothing, polls
//! are answered only within the staleness bound, it is replaced, and its return deposes nobody.

use crate::support::{PATIENCE, TestCluster, eventually, turn};
use conclave::{api::conclave::messages::HealthState, client::Client};
use std::time::{Duration, Instant};

const NAME: &str = "app/key";
/// `cluster.staleness_bound_ms`'s default.
const BOUND: Duration = Duration::from_secs(2);
/// An answer that was decided within the bound needs to travel.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// Longer than several elections take.
const OBSERVED: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_both_followers() {
    a_leader_is_cut_off(3, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_and_one_follower_cut_off_from_three() {
    a_leader_is_cut_off(5, 1).await;
}

async fn a_leader_is_cut_off(nodes: usize, followers: usize) {
    let _turn = turn().await;
    let cluster = TestCluster::builder().nodes(nodes).with_network().start().await;
    assert_eq!(cluster.client().put(NAME, b"first").await, Ok(1));
    let leader = cluster.leader().await;
    let minority: Vec<usize> = (0..=followers).map(|step| (leader + step) % nodes).collect();
    let majority: Vec<usize> = (0..nodes).filter(|node| !minority.contains(node)).collect();
    let term = cluster.status(leader).await.expect("it answers").term;
    for node in &minority {
        // A fresh confirmation, which may serve polls for a while.
        assert!(unchanged(&cluster.client_of(*node)).await);
    }

    cluster.network().cut_off(&minority);
    let cut = Instant::now();
    let watched = minority
        .iter()
        .map(|node| watch_cut_off(cluster.client_of(*node), cut));
    let watched = futures::future::join_all(watched);
    let outside = async {
        let (next, next_term) = leader_among(&cluster, &majority).await;
        assert!(next_term > term);
        eprintln!("replaced after {:?}", cut.elapsed());
        let client = cluster.client_of(next);
        assert_eq!(client.put(NAME, b"second").await, Ok(2));
        client.activate(NAME, 2).await.expect("activated");
        (next, next_term)
    };
    let (answered, (next, next_term)) = tokio::join!(watched, outside);
    eprintln!("polls answered by nodes that were cut off: {answered:?}");

    // Its return deposes nobody.
    cluster.network().heal();
    let returned = Instant::now();
    eventually("those cut off follow the new leader", PATIENCE, async || {
        let new = cluster.status(next).await.and_then(|status| status.node_id);
        for node in &minority {
            let status = cluster.status(*node).await.ok_or("it does not answer")?;
            if status.leader_id != new || new.is_none() {
                return Err(format!("{status:?}"));
            }
        }
        Ok(())
    })
    .await;
    while returned.elapsed() < OBSERVED {
        for node in 0..nodes {
            let status = cluster.status(node).await.expect("it answers");
            assert_eq!(status.term, next_term, "an election was held after the return");
        }
    }
    for node in 0..nodes {
        let got = cluster.client_of(node).get(NAME, None).await.expect("served");
        assert_eq!((got.value.as_slice(), got.version), (&b"second"[..], 2));
    }
    cluster.assert_digests_agree().await;
}

/// Asks a node that is cut off for everything, for as long as it takes to be sure. Returns how many
/// polls it answered.
async fn watch_cut_off(client: Client, cut: Instant) -> usize {
    let patient = client.with_timeout(BOUND * 3);
    let disclosure = patient.get(NAME, None);
    let write = patient.put("app/cut-off", b"never acknowledged");
    let polls = async {
        let impatient = client.with_timeout(Duration::from_millis(500));
        let mut answered = 0;
        while cut.elapsed() < BOUND * 2 {
            if unchanged(&impatient).await {
                let after = cut.elapsed();
                assert!(after <= BOUND + ON_ITS_WAY, "a poll was answered after {after:?}");
                answered += 1;
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        answered
    };
    let (disclosure, write, answered) = tokio::join!(disclosure, write, polls);
    let health = client.health().await.expect("its health");
    assert_eq!(health.state, HealthState::NoQuorum);
    assert!(disclosure.is_err(), "it disclosed a value");
    assert!(write.is_err(), "it acknowledged a write: {write:?}");
    answered
}

/// Whether a poll was answered, and with "not modified".
async fn unchanged(client: &Client) -> bool {
    match client.get_if_changed(NAME, 1).await {
        Ok(None) => true,
        Ok(Some(_)) => panic!("a changed value was disclosed"),
        Err(_) => false,
    }
}

async fn leader_among(cluster: &TestCluster, nodes: &[usize]) -> (usize, u64) {
    eventually("the majority has a leader", PATIENCE, async || {
        for node in nodes {
            let status = cluster.status(*node).await.ok_or("it does not answer")?;
            if status.leader_id.is_some() && status.leader_id == status.node_id {
                return Ok((*node, status.term));
            }
        }
        Err("nobody leads".to_owned())
    })
    .await
}
