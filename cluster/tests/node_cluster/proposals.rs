//! Proposals: from any node, in shared entries, once each, whatever happens to the leader.

use crate::{
    commands::{disclose, disclosed, made, place, put},
    test_cluster::{TestCluster, soon},
};
use conclave_cluster::{
    audit::AuditFilter,
    command::{Command, Operation, Outcome, Refusal, Step},
    node::ProposeError,
};
use futures::future::join_all;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn every_node_proposes_and_discloses() {
    let cluster = TestCluster::start(3).await;
    for (number, node) in cluster.running() {
        let value = format!("value of node {number}");
        let answer = node
            .propose(put(place(1), value.as_bytes()), soon())
            .await
            .unwrap();
        assert_eq!(made(&answer.outcome), number as u32 + 1);
        let answer = node.propose(disclose(place(1)), soon()).await.unwrap();
        assert_eq!(&disclosed(answer.outcome).value.ciphertext[..], value.as_bytes());
    }
    let missing = cluster.node(0).propose(disclose(place(2)), soon()).await.unwrap();
    assert!(matches!(
        missing.outcome,
        Outcome::Refused {
            refusal: Refusal::NotFound,
            ..
        }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_name_the_node_that_proposed() {
    let cluster = TestCluster::start(3).await;
    let mut proposers = Vec::new();
    for (number, node) in cluster.running() {
        let answer = node.propose(put(place(1), &[7]), soon()).await.unwrap();
        let status = cluster
            .status(number, |status| status.raft.applied_index >= Some(answer.index))
            .await;
        // What the leader wrote, as this node applied it.
        let page = node.view().audit(&AuditFilter::default(), None, 1, true).unwrap();
        let (key, record) = &page.records[0];
        assert_eq!(key.index, answer.index);
        assert_eq!(Some(record.node), status.raft.raft_id);
        proposers.push(record.node);
    }
    proposers.dedup();
    assert_eq!(proposers.len(), 3, "{proposers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_leader_ends_the_window_of_outcomes() {
    let cluster = TestCluster::start(1).await;
    let node = cluster.node(0);
    let answer = node.propose(put(place(1), b"value"), soon()).await.unwrap();
    assert!(node.wait_applied(answer.index, soon()).await);
    assert!(node.view().meta().window.floor_index < answer.index);
    let deadline = soon();
    let retention = cluster.options[0].audit_retention;
    while node.view().meta().retention != retention {
        assert!(
            Instant::now() < deadline,
            "a new cluster's leader sets its retention"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nobody proposes anything from here on.
    cluster.walls[0].suspend(10 * 60 * 1000);
    while node.view().meta().window.floor_index < answer.index {
        assert!(
            Instant::now() < deadline,
            "the window is as it was: {:?}",
            node.view().meta()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_one_answer_is_answered_in_turns() {
    let cluster = TestCluster::start(3).await;
    let value = vec![7; 512 * 1024];
    cluster
        .node(0)
        .propose(put(place(1), &value), soon())
        .await
        .unwrap();
    // 48 MiB, asked for at once: three times what one entry answers.
    for number in [cluster.leader().await, cluster.follower().await] {
        let node = cluster.node(number);
        let answers = join_all((0..96).map(|_| node.propose(disclose(place(1)), soon()))).await;
        for answer in answers {
            assert_eq!(disclosed(answer.unwrap().outcome).value.ciphertext, value);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_own_operations_are_refused_from_other_nodes() {
    let cluster = TestCluster::start(3).await;
    let own = Command {
        guards: vec![],
        steps: vec![Step {
            preconditions: vec![],
            operation: Operation::AllocateRaftId,
            audit: None,
        }],
    };
    loop {
        let leader = cluster.leader().await;
        let asker = cluster.node((leader + 1) % 3);
        let asked = asker
            .propose(own.clone(), Instant::now() + Duration::from_millis(300))
            .await;
        if cluster.leader().await != leader {
            // The asker may have led meanwhile.
            continue;
        }
        assert!(matches!(asked, Err(ProposeError::NoLeader)), "{asked:?}");
        // Of what the same node proposes for a client nothing is refused.
        asker.propose(put(place(1), b"value"), soon()).await.unwrap();
        return;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_proposals_share_entries() {
    let cluster = TestCluster::start(3).await;
    const COMMANDS: u32 = 256;
    for number in [cluster.leader().await, cluster.follower().await] {
        let node = cluster.node(number);
        let answers = join_all((0..COMMANDS).map(|n| node.propose(put(place(n), b"value"), soon()))).await;
        let entries: BTreeSet<u64> = answers
            .iter()
            .map(|answer| answer.as_ref().unwrap().index)
            .collect();
        let positions: BTreeSet<(u64, u32)> = answers
            .iter()
            .map(|answer| answer.as_ref().unwrap())
            .map(|answer| (answer.index, answer.position))
            .collect();
        assert_eq!(
            positions.len(),
            COMMANDS as usize,
            "two commands have one position"
        );
        assert!(
            entries.len() < COMMANDS as usize / 4,
            "{} entries for {COMMANDS} commands",
            entries.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_each_proposal_is_applied_once() {
    let mut cluster = TestCluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let node = cluster.node(follower).clone();
    node.propose(put(place(1), b"first"), soon()).await.unwrap();

    // Sixteen writers go on while the leader dies.
    const WRITERS: u32 = 16;
    const WRITES: u32 = 40;
    let writers = (0..WRITERS).map(|writer| {
        let node = node.clone();
        tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            for write in 0..WRITES {
                let began = Instant::now();
                let answer = node
                    .propose(put(place(100 + writer), &write.to_be_bytes()), soon())
                    .await
                    .unwrap();
                longest = longest.max(began.elapsed());
                // A proposal that was applied twice would have used two numbers.
                assert_eq!(made(&answer.outcome), write + 1);
            }
            longest
        })
    });
    let writers: Vec<_> = writers.collect();
    cluster
        .status(follower, |status| status.raft.applied_index > Some(20))
        .await;
    cluster.kill(leader).await;
    let mut longest = Duration::ZERO;
    for writer in writers {
        longest = longest.max(writer.await.unwrap());
    }
    eprintln!("longest write while the leader was killed: {longest:?}");
    assert_ne!(cluster.leader().await, leader);
    for writer in 0..WRITERS {
        let answer = node.propose(disclose(place(100 + writer)), soon()).await.unwrap();
        assert_eq!(
            &disclosed(answer.outcome).value.ciphertext[..],
            (WRITES - 1).to_be_bytes()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_proposal_are_applied_once_and_answered_alike() {
    let cluster = TestCluster::start(3).await;
    for number in [cluster.leader().await, cluster.follower().await] {
        let node = cluster.node(number);
        let before = made(
            &node
                .propose(put(place(1), b"before"), soon())
                .await
                .unwrap()
                .outcome,
        );
        let answers = node.propose_copies(put(place(1), b"copied"), 8, soon()).await;
        let positions: BTreeSet<(u64, u32)> = answers
            .iter()
            .map(|answer| answer.as_ref().unwrap())
            .map(|answer| (answer.index, answer.position))
            .collect();
        assert_eq!(positions.len(), 8, "not every copy went through the log");
        for answer in answers {
            assert_eq!(made(&answer.unwrap().outcome), before + 1);
        }
        let after = node.propose(put(place(1), b"after"), soon()).await.unwrap();
        assert_eq!(made(&after.outcome), before + 2);
        // A disclosure's value is given again as well.
        for answer in node.propose_copies(disclose(place(1)), 4, soon()).await {
            assert_eq!(&disclosed(answer.unwrap().outcome).value.ciphertext[..], b"after");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_promised() {
    let mut cluster = TestCluster::start(3).await;
    let leader = cluster.leader().await;
    let followers: Vec<_> = cluster
        .running()
        .map(|(number, _)| number)
        .filter(|&n| n != leader)
        .collect();
    for follower in followers {
        cluster.kill(follower).await;
    }
    let error = cluster
        .node(leader)
        .propose(put(place(1), b"value"), Instant::now() + Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ProposeError::OutcomeUnknown | ProposeError::NoLeader),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_refuse_before_proposing() {
    let cluster = TestCluster::start_with(1, |options| {
        options.proposal_queue_bytes = 100_000;
        options.batch_bytes = 50_000;
    })
    .await;
    let node = cluster.node(0);
    let error = node
        .propose(put(place(1), &[1; 60_000]), soon())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ProposeError::TooLarge {
                limit_bytes: 49_936,
                ..
            }
        ),
        "{error:?}"
    );
    let answers = join_all((0..8).map(|n| node.propose(put(place(n), &[1; 30_000]), soon()))).await;
    let overloaded = answers
        .iter()
        .filter(|answer| matches!(answer, Err(ProposeError::Overloaded)))
        .count();
    assert_eq!(overloaded, 5, "{answers:?}");
    assert!(answers.iter().filter_map(|answer| answer.as_ref().ok()).count() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leader_hands_over_and_all_nodes_come_back() {
    let mut cluster = TestCluster::start(3).await;
    let first = cluster.leader().await;
    cluster
        .node(first)
        .propose(put(place(1), b"value"), soon())
        .await
        .unwrap();
    cluster.stop(first).await;
    let second = cluster.leader().await;
    assert_ne!(second, first);
    for number in 0..3 {
        if number != first {
            cluster.kill(number).await;
        }
    }
    for number in 0..3 {
        cluster.run(number).await;
    }
    let leader = cluster.leader().await;
    let answer = cluster
        .node(leader)
        .propose(disclose(place(1)), soon())
        .await
        .unwrap();
    assert_eq!(&disclosed(answer.outcome).value.ciphertext[..], b"value");
}
