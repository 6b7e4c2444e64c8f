//! Three nodes form a cluster, keep one log, and survive their leaders.

use crate::support::{PATIENCE, TestCluster, soon};
use bytes::Bytes;
use conclave_raft::{
    node::{ProposeError, Role},
    storage::snapshot_policy::SnapshotPolicyOptions,
};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_and_apply_the_same_entries() {
    let cluster = TestCluster::formed(3).await;
    let ids: Vec<_> = ["n1", "n2", "n3"].map(|name| cluster.raft_id(name).0).into();
    assert_eq!(ids, [1, 2, 3]);
    let first = cluster.propose("a").await;
    assert_eq!(first.response, "number 1");
    let second = cluster.propose("b").await;
    assert!(second.position.index > first.position.index);
    cluster.applied_everywhere(second.position.index).await;
    for node in cluster.nodes.values() {
        assert_eq!(node.journal.proposals(), ["a", "b"]);
    }
    let clusters = cluster.nodes.keys().map(|name| cluster.status(name).cluster_id);
    assert!(
        clusters
            .collect::<Vec<_>>()
            .windows(2)
            .all(|pair| pair[0] == pair[1])
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_forms_a_cluster() {
    let cluster = TestCluster::formed(1).await;
    cluster.propose("alone").await;
    let leader = &cluster.node("n1").raft;
    assert!(leader.read_index(soon()).await.unwrap() >= 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_of_the_term_proposes() {
    let cluster = TestCluster::formed(3).await;
    let leader = cluster.leader().await;
    let term = cluster.status(&leader).term;
    let refused = cluster
        .node(&leader)
        .raft
        .propose(term + 1, Bytes::from_static(b"x"))
        .await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    let follower = cluster.nodes.keys().find(|name| **name != leader).unwrap();
    let refused = cluster
        .node(follower)
        .raft
        .propose(term, Bytes::from_static(b"x"))
        .await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    let applied = cluster.propose("y").await;
    cluster.applied_everywhere(applied.position.index).await;
    assert_eq!(cluster.node(follower).journal.proposals(), ["y"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_of_one_caller_keep_their_order() {
    let cluster = TestCluster::formed(3).await;
    // A leader takes proposals once a quorum has acknowledged it.
    cluster.propose("first").await;
    let leader = cluster.leader().await;
    let (node, term) = (&cluster.node(&leader).raft, cluster.status(&leader).term);
    let payloads: Vec<String> = (0..500).map(|number| format!("p{number}")).collect();
    let proposing = payloads
        .iter()
        .map(|payload| node.propose(term, Bytes::from(payload.clone())));
    let applied = futures::future::try_join_all(proposing).await.unwrap();
    assert!(
        applied
            .windows(2)
            .all(|pair| pair[0].position.index < pair[1].position.index)
    );
    cluster
        .applied_everywhere(applied.last().unwrap().position.index)
        .await;
    for node in cluster.nodes.values() {
        assert_eq!(node.journal.proposals()[1..], payloads);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_entries_reach_every_node() {
    let cluster = TestCluster::formed(3).await;
    let large = "x".repeat(6 * 1024 * 1024);
    let mut last = 0;
    for _ in 0..4 {
        last = cluster.propose(&large).await.position.index;
    }
    cluster.applied_everywhere(last).await;
    for node in cluster.nodes.values() {
        assert_eq!(node.journal.proposals().len(), 4);
        assert!(
            node.journal
                .proposals()
                .iter()
                .all(|proposal| proposal.len() == large.len())
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_returns_as_a_follower() {
    let mut cluster = TestCluster::formed(3).await;
    cluster.propose("before").await;
    let leader = cluster.leader().await;
    cluster.kill(&leader).await;
    let after = cluster.propose("after").await;
    cluster.start(&leader).await;
    cluster.applied(&leader, after.position.index).await;
    assert_eq!(cluster.node(&leader).journal.proposals(), ["before", "after"]);
    cluster.leader().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_the_restart_of_all_its_nodes() {
    let mut cluster = TestCluster::formed(3).await;
    let formed = cluster.status("n1").cluster_id;
    for number in 0..20 {
        cluster.propose(&format!("p{number}")).await;
    }
    for name in ["n1", "n2", "n3"] {
        cluster.kill(name).await;
    }
    for name in ["n3", "n1", "n2"] {
        cluster.start(name).await;
    }
    let last = cluster.propose("p20").await;
    cluster.applied_everywhere(last.position.index).await;
    for (name, node) in &cluster.nodes {
        assert_eq!(node.journal.proposals().len(), 21, "{name}");
        assert_eq!(cluster.status(name).cluster_id, formed);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_index_needs_a_quorum() {
    let mut cluster = TestCluster::formed(3).await;
    let applied = cluster.propose("a").await;
    let leader = cluster.leader().await;
    let index = cluster.node(&leader).raft.read_index(soon()).await.unwrap();
    assert!(index >= applied.position.index);
    for name in ["n1", "n2", "n3"] {
        if name != leader {
            let refused = cluster.node(name).raft.read_index(soon()).await;
            assert!(matches!(refused, Err(ProposeError::NotLeader { .. })));
            cluster.kill(name).await;
        }
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    assert!(cluster.node(&leader).raft.read_index(deadline).await.is_err());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first() {
    let mut cluster = TestCluster::formed(3).await;
    let leader = cluster.leader().await;
    let stopping = cluster.nodes.remove(&leader).unwrap();
    let mut own = stopping.raft.status();
    stopping.raft.shutdown(Duration::from_secs(10)).await;
    let last = own.borrow_and_update().clone();
    assert_ne!(last.leader, last.raft_id, "another node led before it stopped");
    assert_ne!(last.role, Role::Leader);
    cluster.propose("on").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_answer_each_others_calls() {
    let cluster = TestCluster::formed(3).await;
    let to = cluster.raft_id("n2");
    let caller = &cluster.node("n1").raft;
    let answer = caller
        .call(to, Bytes::from_static(b"hello"), soon())
        .await
        .unwrap();
    assert_eq!(answer, "n1:hello");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_stop_is_no_halt() {
    let mut cluster = TestCluster::formed(1).await;
    let node = cluster.nodes.remove("n1").unwrap();
    let status = node.raft.status();
    node.raft.shutdown(soon() - tokio::time::Instant::now()).await;
    assert_eq!(status.borrow().halted, None);
    node.raft.halt("too late".into());
    assert_eq!(status.borrow().halted, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whom_nobody_answers_stops_without_waiting() {
    let mut cluster = TestCluster::formed(3).await;
    let applied = cluster.propose("a").await;
    cluster.applied_everywhere(applied.position.index).await;
    let leader = cluster.leader().await;
    for name in ["n1", "n2", "n3"].into_iter().filter(|name| *name != leader) {
        cluster.kill(name).await;
    }
    let own = cluster.status(&leader).raft_id;
    cluster
        .wait(&leader, "silence", |status| {
            let mut others = status.members.iter().filter(|(id, _)| Some(**id) != own);
            others.all(|(_, member)| member.last_acknowledged_ms.is_none_or(|ago_ms| ago_ms > 1000))
        })
        .await;
    let node = cluster.nodes.remove(&leader).unwrap();
    // Trying to hand over until its grace is used up would take far longer.
    let stopped = node.raft.shutdown(PATIENCE * 10);
    assert!(tokio::time::timeout(PATIENCE, stopped).await.is_ok());
}

/// The disk refuses just where openraft calls the log within its own core, and the test's answer to a
/// failed disk is a panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_rafts_core_halts_the_node() {
    let mut cluster = TestCluster::configure(1);
    cluster.snapshots = SnapshotPolicyOptions {
        after_log_bytes: 20_000,
        keep_log_bytes: 2_000,
        check_every: Duration::from_millis(20),
        ..SnapshotPolicyOptions::default()
    };
    cluster.start("n1").await;
    cluster.leader().await;
    // One by the policy, before it asks for a purge; the next by the purge itself.
    *cluster.node("n1").journal.flushes_left.lock().unwrap() = Some(1);
    let payload = "x".repeat(10_000);
    for _ in 0..3 {
        cluster.propose(&payload).await;
    }
    let status = cluster
        .wait("n1", "a halt", |status| status.halted.is_some())
        .await;
    let reason = status.halted.unwrap();
    assert!(reason.contains("panicked"), "{reason}");
    cluster.stop().await;
}
