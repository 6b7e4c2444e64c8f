//! Members come, go and are replaced.

use crate::{
    commands::{disclose, disclosed, place, put},
    test_cluster::{TestCluster, soon},
};
use conclave_cluster::{
    model::AuditKey,
    node::{Change, OperateError, Rejoin},
};
use conclave_raft::node::Role;
use futures::future::join_all;
use std::time::Duration;
use tokio::{sync::broadcast::error::RecvError, time::Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_as_a_new_incarnation() {
    let mut cluster = TestCluster::start(3).await;
    let wiped = cluster.follower().await;
    cluster
        .node(wiped)
        .propose(put(place(1), b"value"), soon())
        .await
        .unwrap();
    let old_id = cluster.node(wiped).status().borrow().raft.raft_id.unwrap();
    cluster.kill(wiped).await;
    cluster.wipe(wiped);
    cluster.run(wiped).await;
    let status = cluster
        .status(wiped, |status| {
            let me = status.raft.raft_id;
            me.is_some_and(|me| status.raft.members.get(&me).is_some_and(|member| member.voter))
                && !status.raft.members.contains_key(&old_id)
        })
        .await;
    assert!(status.raft.raft_id.unwrap() > old_id);
    assert_eq!(status.raft.members.len(), 3);
    let answer = cluster
        .node(wiped)
        .propose(disclose(place(1)), soon())
        .await
        .unwrap();
    assert_eq!(&disclosed(answer.outcome).value.ciphertext[..], b"value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_gets_a_snapshot_when_the_log_no_longer_reaches_back() {
    let mut cluster = TestCluster::start_with(3, |options| {
        options.snapshot_log_bytes = 64 * 1024;
        options.snapshot_keep_log_bytes = 16 * 1024;
    })
    .await;
    let wiped = cluster.follower().await;
    cluster.kill(wiped).await;
    cluster.wipe(wiped);
    let leader = cluster.leader().await;
    while cluster.node(leader).status().borrow().raft.purged_index.is_none() {
        let node = cluster.node(leader);
        join_all((0..50).map(|n| node.propose(put(place(n), &[n as u8; 1_000]), soon()))).await;
    }
    cluster.run(wiped).await;
    let mut changes = cluster.node(wiped).changes();
    let replaced = async {
        while !matches!(
            changes.recv().await,
            Ok(Change::Replaced) | Err(RecvError::Lagged(_))
        ) {}
    };
    tokio::time::timeout_at(soon(), replaced)
        .await
        .expect("a snapshot replaces the empty state");
    cluster
        .status(wiped, |status| {
            let me = status.raft.raft_id.and_then(|me| status.raft.members.get(&me));
            me.is_some_and(|member| member.voter)
        })
        .await;
    let answer = cluster
        .node(wiped)
        .propose(disclose(place(7)), soon())
        .await
        .unwrap();
    assert_eq!(disclosed(answer.outcome).value.ciphertext[..], [7; 1_000]);
    for node in cluster.node(wiped).verify(soon()).await.unwrap().nodes {
        let sound = node
            .result
            .as_ref()
            .is_ok_and(|scan| scan.scanned == scan.running);
        assert!(sound, "{node:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_hand_a_wiped_node_waits_for_the_operator() {
    let mut cluster = TestCluster::start_with(3, |options| options.rejoin = Rejoin::Manual).await;
    let wiped = cluster.follower().await;
    let old_id = cluster.node(wiped).status().borrow().raft.raft_id.unwrap();
    cluster.kill(wiped).await;
    cluster.wipe(wiped);
    cluster.run(wiped).await;
    cluster
        .status(wiped, |status| status.raft.raft_id.is_some())
        .await;
    let asked = cluster.follower().await;
    let record = cluster.record(asked).await;
    let new_id = cluster
        .node(asked)
        .replace_member(old_id, record, soon())
        .await
        .unwrap();
    // The membership with both is in effect for a moment.
    cluster
        .status(wiped, |status| {
            let members = &status.raft.members;
            members.get(&new_id).is_some_and(|member| member.voter) && !members.contains_key(&old_id)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_added_promoted_and_removed_from_any_node() {
    let mut cluster = TestCluster::start(3).await;
    let fourth = cluster.add();
    cluster.run(fourth).await;
    let asked = cluster.running().map(|(n, _)| n).find(|&n| n != fourth).unwrap();
    let record = cluster.record(asked).await;
    let raft_id = cluster
        .node(asked)
        .add_member("node-3", record, soon())
        .await
        .unwrap();
    let record = cluster.record(asked).await;
    cluster
        .node(asked)
        .promote_member(raft_id, record, soon())
        .await
        .unwrap();
    cluster
        .status(fourth, |status| {
            status.raft.members.get(&raft_id).is_some_and(|m| m.voter)
        })
        .await;
    let record = cluster.record(asked).await;
    cluster
        .node(asked)
        .remove_member(raft_id, record, soon())
        .await
        .unwrap();
    assert!(cluster.status(fourth, |status| status.removed).await.removed);
    let record = cluster.record(asked).await;
    let again = cluster
        .node(asked)
        .add_member("node-0", record, soon())
        .await
        .unwrap_err();
    assert!(matches!(again, OperateError::Refused(_)), "{again:?}");
}

/// The leader obeys no member's word that its edge wrote a record, nor its own edge's.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_without_a_record_of_its_own() {
    let cluster = TestCluster::start(3).await;
    let (leader, asked) = (cluster.leader().await, cluster.follower().await);
    let id = |number: usize| cluster.node(number).status().borrow().raft.raft_id.unwrap();
    let other = (0..3)
        .find(|&number| number != leader && number != asked)
        .unwrap();
    let refused = async |by: usize, record: AuditKey| {
        let removed = cluster.node(by).remove_member(id(other), record, soon()).await;
        assert!(matches!(removed, Err(OperateError::Refused(_))), "{removed:?}");
    };
    let of_the_leader = cluster.record(leader).await;
    let nowhere = AuditKey {
        position: of_the_leader.position + 1,
        ..of_the_leader
    };
    let put = cluster.node(asked).propose(put(place(1), b"v"), soon()).await;
    let of_a_put = AuditKey {
        index: put.unwrap().index,
        position: 0,
        step: 0,
    };
    for record in [of_the_leader, nowhere, of_a_put] {
        refused(asked, record).await;
    }
    let used = cluster.record(asked).await;
    cluster
        .node(asked)
        .promote_member(id(other), used, soon())
        .await
        .unwrap();
    refused(asked, used).await;
    refused(leader, cluster.record(asked).await).await;
    let members = cluster.status(leader, |status| !status.raft.joint()).await;
    assert_eq!(members.raft.members.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_where_it_is_asked_to() {
    let cluster = TestCluster::start(3).await;
    let to = cluster.follower().await;
    let raft_id = cluster.node(to).status().borrow().raft.raft_id.unwrap();
    let asked = (to + 1) % 3;
    let record = cluster.record(asked).await;
    let leads = cluster
        .node(asked)
        .transfer_leadership(Some(raft_id), record, soon())
        .await
        .unwrap();
    assert_eq!(leads, raft_id);
    cluster
        .status(to, |status| status.raft.role == Role::Leader)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut cluster = TestCluster::start(3).await;
    let leader = cluster.leader().await;
    let down = cluster.follower().await;
    let up = (0..3).find(|&number| number != leader && number != down).unwrap();
    let id =
        |cluster: &TestCluster, number: usize| cluster.node(number).status().borrow().raft.raft_id.unwrap();
    let (up_id, down_id) = (id(&cluster, up), id(&cluster, down));
    cluster.kill(down).await;
    let until_seen = soon();
    loop {
        // Until the leader has noticed that the node does not answer, the removal could go through.
        let members = cluster.node(leader).status().borrow().raft.members.clone();
        if members[&down_id].last_acknowledged_ms.is_none_or(|ms| ms > 2_000) || Instant::now() > until_seen {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let record = cluster.record(leader).await;
    let refused = cluster
        .node(leader)
        .remove_member(up_id, record, soon())
        .await
        .unwrap_err();
    assert!(matches!(refused, OperateError::Refused(_)), "{refused:?}");
    cluster
        .node(leader)
        .propose(put(place(1), b"still"), soon())
        .await
        .unwrap();
}

/// What a member may ask of the leader, a node that was removed may not, although its certificate is
/// as good as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_has_no_powers() {
    let mut cluster = TestCluster::start(3).await;
    let removed = cluster.follower().await;
    let id = |cluster: &TestCluster, number: usize| cluster.node(number).status().borrow().raft.raft_id;
    let removed_id = id(&cluster, removed).unwrap();
    let leader = cluster.leader().await;
    cluster
        .node(removed)
        .propose(put(place(1), b"as a member"), soon())
        .await
        .unwrap();
    let as_a_member = cluster.record(removed).await;
    let record = cluster.record(leader).await;
    cluster
        .node(leader)
        .remove_member(removed_id, record, soon())
        .await
        .unwrap();

    let shortly = || Instant::now() + Duration::from_secs(2);
    let proposed = cluster
        .node(removed)
        .propose(put(place(2), b"as a stranger"), shortly())
        .await;
    assert!(proposed.is_err(), "{proposed:?}");
    let other = id(&cluster, leader).unwrap();
    let operated = cluster
        .node(removed)
        .remove_member(other, as_a_member, shortly())
        .await;
    assert!(operated.is_err(), "{operated:?}");
    assert!(cluster.status(removed, |status| status.removed).await.removed);

    // Its name is a member's no more: emptied, it waits for an operator.
    cluster.kill(removed).await;
    cluster.wipe(removed);
    cluster.run(removed).await;
    assert!(!joins_within(&cluster, removed, Duration::from_secs(3)).await);
    let name = format!("node-{removed}");
    let record = cluster.record(leader).await;
    let again = cluster
        .node(leader)
        .add_member(&name, record, soon())
        .await
        .unwrap();
    assert!(again > removed_id);
    let answer = cluster
        .node(leader)
        .propose(disclose(place(2)), soon())
        .await
        .unwrap();
    assert!(
        matches!(answer.outcome, conclave_cluster::command::Outcome::Refused { .. }),
        "{answer:?}"
    );
}

/// A disk that fails again and again cannot fill the membership, also if all nodes are restarted.
#[tokio::test(flavor = "multi_thread")]
async fn how_often_a_name_joins_by_itself_survives_a_restart_of_all() {
    let mut cluster = TestCluster::start(3).await;
    let wiped = cluster.follower().await;
    let old_id = cluster.node(wiped).status().borrow().raft.raft_id.unwrap();
    cluster.kill(wiped).await;
    cluster.wipe(wiped);
    cluster.run(wiped).await;
    let status = cluster
        .status(wiped, |status| {
            let me = status.raft.raft_id;
            me.is_some_and(|me| status.raft.members.get(&me).is_some_and(|member| member.voter))
                && !status.raft.joint()
                && !status.raft.members.contains_key(&old_id)
        })
        .await;
    let id = status.raft.raft_id.unwrap();
    for number in 0..3 {
        cluster.kill(number).await;
    }
    cluster.wipe(wiped);
    for number in 0..3 {
        cluster.run(number).await;
    }
    let asked = (wiped + 1) % 3;
    cluster.status(asked, |status| status.raft.leader.is_some()).await;
    assert!(!joins_within(&cluster, wiped, Duration::from_secs(4)).await);
    // An operator may let it in.
    let record = cluster.record(asked).await;
    let successor = cluster
        .node(asked)
        .replace_member(id, record, soon())
        .await
        .unwrap();
    assert!(successor > id);
}

/// Whether a node with an empty directory is let in.
async fn joins_within(cluster: &TestCluster, number: usize, time: Duration) -> bool {
    let mut status = cluster.node(number).status();
    let joined = status.wait_for(|status| status.raft.raft_id.is_some());
    tokio::time::timeout(time, joined).await.is_ok()
}
