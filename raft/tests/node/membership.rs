//! Members come, vote, hand over and go.

use crate::support::{PATIENCE, TestCluster, soon};
use bytes::Bytes;
use conclave_raft::{
    identity::{NodeRecord, RaftId},
    node::{MemberDisk, MembershipChange, MembershipError, ProposeError, RaftStatus, Role},
    storage::snapshot_policy::SnapshotPolicyOptions,
};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::time::timeout;

/// A formed cluster of three with a fourth configured node that waits with an empty directory.
async fn three_and_a_waiting_one() -> TestCluster {
    let mut cluster = TestCluster::formed(3).await;
    cluster.configure_another("n4");
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_learns_votes_and_leaves() {
    let mut cluster = three_and_a_waiting_one().await;
    cluster.propose("a").await;
    cluster.start("n4").await;
    cluster.admit();
    let joined = cluster
        .wait("n4", "an id", |status| status.raft_id.is_some())
        .await;
    let raft_id = joined.raft_id.unwrap();
    let applied = cluster.propose("b").await;
    cluster.applied("n4", applied.position.index).await;
    assert_eq!(cluster.status("n4").role, Role::Learner);
    assert_eq!(cluster.node("n4").journal.proposals(), ["a", "b"]);

    let leader = cluster.leader().await;
    let node = &cluster.node(&leader).raft;
    node.change_membership(MembershipChange::Promote { raft_id }, soon())
        .await
        .unwrap();
    cluster
        .wait("n4", "a vote", |status| status.role == Role::Follower)
        .await;
    node.change_membership(MembershipChange::Remove { raft_id }, soon())
        .await
        .unwrap();
    let status = cluster
        .wait(&leader, "its removal", |status| {
            !status.members.contains_key(&raft_id)
        })
        .await;
    assert_eq!(status.members.len(), 3);
    cluster.propose("c").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_behind_does_not_vote() {
    let mut cluster = three_and_a_waiting_one().await;
    cluster.admit();
    cluster.start("n4").await;
    let raft_id = cluster
        .wait("n4", "an id", |status| status.raft_id.is_some())
        .await
        .raft_id
        .unwrap();
    cluster.kill("n4").await;
    for number in 0..300 {
        cluster.propose(&format!("p{number}")).await;
    }
    let leader = cluster.leader().await;
    let refused = cluster
        .node(&leader)
        .raft
        .change_membership(MembershipChange::Promote { raft_id }, soon())
        .await;
    assert!(
        matches!(refused, Err(MembershipError::NotCaughtUp { .. })),
        "{refused:?}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_lose_the_quorum_is_refused() {
    let mut cluster = TestCluster::formed(3).await;
    let leader = cluster.leader().await;
    let mut followers = cluster.nodes.keys().filter(|name| **name != leader).cloned();
    let (gone, alive) = (followers.next().unwrap(), followers.next().unwrap());
    drop(followers);
    let alive_id = cluster.raft_id(&alive);
    let gone_id = cluster.raft_id(&gone);
    // One that the leader has not heard of yet would be taken for silent before it is.
    cluster
        .wait(&leader, "a member", |status| {
            status.members[&gone_id].last_acknowledged_ms.is_some()
        })
        .await;
    cluster.kill(&gone).await;
    cluster
        .wait(&leader, "a silent member", |status| {
            status.members[&gone_id]
                .last_acknowledged_ms
                .is_some_and(|ago| ago > 1000)
        })
        .await;
    let node = &cluster.node(&leader).raft;
    let refused = node
        .change_membership(MembershipChange::Remove { raft_id: alive_id }, soon())
        .await;
    assert!(
        matches!(refused, Err(MembershipError::WouldLoseQuorum(_))),
        "{refused:?}"
    );
    node.change_membership(MembershipChange::Remove { raft_id: gone_id }, soon())
        .await
        .unwrap();
    cluster.propose("two are enough").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = TestCluster::formed(3).await;
    for _ in 0..4 {
        let leader = cluster.leader().await;
        let to = cluster.nodes.keys().find(|name| **name != leader).unwrap();
        let raft_id = cluster.raft_id(to);
        let node = &cluster.node(&leader).raft;
        assert_eq!(
            node.transfer_leadership(Some(raft_id), soon()).await.unwrap(),
            raft_id
        );
        assert_eq!(cluster.leader().await, *to);
    }
    cluster.propose("on").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_lead_is_not_elected() {
    let mut cluster = TestCluster::formed(3).await;
    let leader = cluster.leader().await;
    let mut followers = cluster.nodes.keys().filter(|name| **name != leader).cloned();
    let (barred, free) = (followers.next().unwrap(), followers.next().unwrap());
    drop(followers);
    cluster.node(&barred).raft.set_may_lead(false);
    cluster.kill(&leader).await;
    cluster.propose("a").await;
    assert_eq!(cluster.leader().await, free);
    cluster.stop().await;
}

/// Three nodes, one of which was stopped and missed so much that the leader has purged what it needs:
/// its name, the leader's, and the last index.
async fn one_far_behind() -> (TestCluster, String, String, u64) {
    let mut cluster = TestCluster::configure(3);
    cluster.snapshots = SnapshotPolicyOptions {
        after_log_bytes: 200_000,
        keep_log_bytes: 20_000,
        log_limit_bytes: 300_000,
        check_every: Duration::from_millis(20),
        ..SnapshotPolicyOptions::default()
    };
    for name in ["n1", "n2", "n3"] {
        cluster.start(name).await;
    }
    let leader = cluster.leader().await;
    let behind = cluster
        .nodes
        .keys()
        .find(|name| **name != leader)
        .unwrap()
        .clone();
    cluster.kill(&behind).await;
    let payload = "x".repeat(10_000);
    let mut last = 0;
    for _ in 0..100 {
        last = cluster.propose(&payload).await.position.index;
    }
    let leader = cluster.leader().await;
    cluster
        .wait(&leader, "a purged log", |status| {
            status.purged_index > Some(last / 2)
        })
        .await;
    (cluster, behind, leader, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_gets_a_snapshot() {
    let (mut cluster, behind, _, last) = one_far_behind().await;
    cluster.start(&behind).await;
    cluster.applied(&behind, last).await;
    // What is applied is told a little before the status.
    let has_one = |status: &RaftStatus| status.snapshot_index.is_some();
    cluster.wait(&behind, "its snapshot", has_one).await;
    assert_eq!(cluster.node(&behind).journal.proposals().len(), 100);
    let after = cluster.propose("after").await;
    cluster.applied(&behind, after.position.index).await;
    cluster.stop().await;
}

/// A snapshot that is not what it claims to be is refused; its receiver lives, its sender hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_snapshot_is_refused_and_another_taken() {
    for bad_at_its_sender in [true, false] {
        refused_once(bad_at_its_sender).await;
    }
}

/// A follower finds a snapshot to be bad. Only where its sender does too is another taken.
async fn refused_once(bad_at_its_sender: bool) {
    let (mut cluster, behind, leader, last) = one_far_behind().await;
    // What the log grew by since does not make it take another.
    let settled = |status: &RaftStatus| status.snapshot_index.is_some_and(|index| last - index < 20);
    cluster.wait(&leader, "its last snapshot", settled).await;
    let journal = cluster.node(&leader).journal.clone();
    let taken = journal.checkpoints.load(Ordering::SeqCst);
    journal
        .disproves
        .store(u32::from(bad_at_its_sender), Ordering::SeqCst);
    let mut doubts = cluster.node(&leader).raft.doubts();
    let node = cluster.try_start(&behind).await.unwrap();
    node.journal.disproves.store(1, Ordering::SeqCst);
    cluster.nodes.insert(behind.clone(), node);
    let doubted = doubts.wait_for(|doubts| *doubts > 0);
    tokio::time::timeout(PATIENCE, doubted).await.unwrap().unwrap();
    assert_eq!(cluster.status(&behind).halted, None);
    cluster.applied(&behind, last).await;
    assert_eq!(cluster.node(&behind).journal.proposals().len(), 100);
    assert_eq!(cluster.status(&behind).halted, None);
    let taken_since = journal.checkpoints.load(Ordering::SeqCst) - taken;
    assert_eq!(taken_since, u32::from(bad_at_its_sender));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_without_room_is_refused_until_there_is_some() {
    let (mut cluster, behind, _, last) = one_far_behind().await;
    let mut options = cluster.options(&behind);
    // Enough for entries, and not for a snapshot of a hundred proposals.
    options.free_space_file = Some(cluster.free_space(&behind, 500_000));
    let node = cluster.try_start_with(options).await.unwrap();
    cluster.nodes.insert(behind.clone(), node);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    let raft = &cluster.node(&behind).raft;
    assert!(
        !raft.wait_applied(last, deadline).await,
        "{:?}",
        cluster.status(&behind)
    );
    assert_eq!(cluster.status(&behind).halted, None);
    cluster.free_space(&behind, 1_000_000_000);
    cluster.applied(&behind, last).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_hands_over_and_resumes_by_itself() {
    let cluster = TestCluster::formed(3).await;
    cluster.propose("a").await;
    let full = cluster.leader().await;
    cluster.free_space(&full, 1500);
    cluster
        .wait(&full, "another leader", |status| {
            status.out_of_space && status.leader.is_some() && status.leader != status.raft_id
        })
        .await;
    let term = cluster.status(&full).term;
    let refused = cluster
        .node(&full)
        .raft
        .propose(term, Bytes::from_static(b"x"))
        .await;
    assert!(matches!(refused, Err(ProposeError::NoSpace)), "{refused:?}");
    let applied = cluster.propose("goes on").await;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    assert!(
        !cluster
            .node(&full)
            .raft
            .wait_applied(applied.position.index, deadline)
            .await
    );
    // Whoever leads tells whose disk is full, and how much it misses.
    disk_is_known(&cluster, &full, |disk| {
        disk.below_reserve == Some(true) && disk.behind_bytes > Some(0)
    })
    .await;
    cluster.free_space(&full, 1_000_000);
    cluster.applied(&full, applied.position.index).await;
    disk_is_known(&cluster, &full, |disk| {
        disk.below_reserve == Some(false) && disk.behind_bytes == Some(0)
    })
    .await;
    cluster.stop().await;
}

/// Waits until the leader knows such a thing of a member's disk.
async fn disk_is_known(cluster: &TestCluster, name: &str, is: impl Fn(&MemberDisk) -> bool) {
    let raft_id = cluster.status(name).raft_id.expect("a member has an id");
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let leader = cluster.leader().await;
        let disk = cluster.node(&leader).raft.disks().remove(&raft_id);
        if disk.as_ref().is_some_and(&is) {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{disk:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_take_what_frees_them() {
    let cluster = TestCluster::formed(3).await;
    cluster.propose("a").await;
    for name in ["n1", "n2", "n3"] {
        cluster.free_space(name, 1500);
    }
    for name in ["n1", "n2", "n3"] {
        cluster
            .wait(name, "a full disk", |status| status.out_of_space)
            .await;
    }
    let leader = cluster.leader().await;
    let term = cluster.status(&leader).term;
    let refused = cluster
        .node(&leader)
        .raft
        .propose(term, Bytes::from_static(b"x"))
        .await;
    assert!(matches!(refused, Err(ProposeError::NoSpace)), "{refused:?}");
    let freed = cluster.propose("free everything").await;
    cluster.applied_everywhere(freed.position.index).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_its_second_reserve_a_leader_appends_no_membership() {
    let cluster = TestCluster::formed(1).await;
    let applied = cluster.propose("a").await;
    let learner = || MembershipChange::AddLearner {
        raft_id: RaftId(7),
        record: NodeRecord {
            name: "n7".into(),
            address: "127.0.0.1:1".into(),
        },
    };
    let node = &cluster.node("n1").raft;
    let full = |full| move |status: &RaftStatus| status.out_of_space == full;
    cluster.free_space("n1", 999);
    cluster.wait("n1", "a full disk", full(true)).await;
    let refused = node.change_membership(learner(), soon()).await;
    assert!(matches!(refused, Err(MembershipError::NoSpace)), "{refused:?}");
    let status = cluster.status("n1");
    assert_eq!(status.last_log_index, Some(applied.position.index));
    assert_eq!(status.members.len(), 1);
    cluster.free_space("n1", 1_000_000);
    cluster.wait("n1", "some space", full(false)).await;
    node.change_membership(learner(), soon()).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_its_second_reserve_a_node_votes() {
    let mut cluster = TestCluster::formed(3).await;
    let leader = cluster.leader().await;
    let mut followers = cluster.nodes.keys().filter(|name| **name != leader).cloned();
    let (full, next) = (followers.next().unwrap(), followers.next().unwrap());
    drop(followers);
    cluster.free_space(&full, 999);
    cluster
        .wait(&full, "a full disk", |status| status.out_of_space)
        .await;
    cluster.kill(&leader).await;
    // With one's own vote alone nobody is elected; and a full node does not stand.
    let elected = cluster
        .wait(&next, "office", |status| status.role == Role::Leader)
        .await;
    assert_eq!(elected.voter_sets.first().map(|voters| voters.len()), Some(3));
    cluster
        .wait(&full, "the same leader", |status| {
            status.leader == elected.raft_id
        })
        .await;
    assert!(cluster.status(&full).out_of_space);
    cluster.stop().await;
}

/// A leader dies between the two steps of a change: the next one finishes it, by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_left_between_its_steps_is_finished() {
    let mut cluster = three_and_a_waiting_one().await;
    cluster.admit();
    cluster.start("n4").await;
    let joined = cluster
        .wait("n4", "an id", |status| status.raft_id.is_some())
        .await;
    let raft_id = joined.raft_id.unwrap();
    let applied = cluster.propose("a").await;
    cluster.applied("n4", applied.position.index).await;

    // Disks that take nothing at all keep the first step from being committed.
    let leader = cluster.leader().await;
    let mut others = ["n1", "n2", "n3"].to_vec();
    others.retain(|name| *name != leader);
    for name in &others {
        cluster.node(name).raft.set_may_lead(false);
        cluster.free_space(name, 100);
        cluster
            .wait(name, "a full disk", |status| status.out_of_space)
            .await;
    }
    let node = cluster.node(&leader).raft.clone();
    let promoting = tokio::spawn(async move {
        node.change_membership(MembershipChange::Promote { raft_id }, soon())
            .await
    });
    cluster.wait(&leader, "the first step", RaftStatus::joint).await;
    cluster.kill(&leader).await;
    assert!(promoting.await.unwrap().is_err());

    // Only the node that has the first step is elected. Nobody asks it for the second.
    for name in &others {
        cluster.free_space(name, 1_000_000);
        cluster
            .wait(name, "some space", |status| !status.out_of_space)
            .await;
    }
    cluster.start(&leader).await;
    for name in ["n1", "n2", "n3", "n4"] {
        let status = cluster
            .wait(name, "the second step", |status| {
                !status.joint() && status.members.get(&raft_id).is_some_and(|member| member.voter)
            })
            .await;
        assert_eq!(status.voter_sets[0].len(), 4, "{name}");
    }
    cluster.stop().await;
}

/// An ordinary entry is uncommitted when all disks fall below their reserve: it does not hold up what
/// frees them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_entry_does_not_hold_up_what_frees_full_disks() {
    let mut cluster = TestCluster::formed(3).await;
    cluster.propose("a").await;
    let leader = cluster.leader().await;
    let mut others = ["n1", "n2", "n3"].to_vec();
    others.retain(|name| *name != leader);
    for name in &others {
        cluster.kill(name).await;
    }
    // It reaches nobody.
    let before = cluster.status(&leader);
    let node = cluster.node(&leader).raft.clone();
    let ordinary = tokio::spawn(node.propose(before.term, Bytes::from_static(b"ordinary")));
    cluster
        .wait(&leader, "the entry", |status| {
            status.last_log_index > before.last_log_index
        })
        .await;
    // A leader that still believed in them would hand over to one of them.
    cluster
        .wait(&leader, "silent followers", |status| {
            let mut others = status
                .members
                .iter()
                .filter(|(id, _)| Some(**id) != status.raft_id);
            others.all(|(_, member)| member.last_acknowledged_ms.is_none_or(|ago| ago > 1500))
        })
        .await;
    cluster.free_space(&leader, 1900);
    cluster
        .wait(&leader, "a full disk", |status| status.out_of_space)
        .await;
    for name in &others {
        let options = cluster.options(name);
        cluster.free_space(name, 1900);
        let node = cluster.try_start_with(options).await.unwrap();
        // Only the node that has the entry is elected, should there be an election.
        node.raft.set_may_lead(false);
        cluster.nodes.insert((*name).to_owned(), node);
    }
    let freed = cluster.propose("free everything").await;
    cluster.applied_everywhere(freed.position.index).await;
    for node in cluster.nodes.values() {
        let proposals = node.journal.proposals();
        assert_eq!(proposals, ["a", "ordinary", "free everything"]);
    }
    ordinary.abort();
    let term = cluster.status(&leader).term;
    let refused = cluster
        .node(&leader)
        .raft
        .propose(term, Bytes::from_static(b"x"))
        .await;
    assert!(matches!(refused, Err(ProposeError::NoSpace)), "{refused:?}");
    // Once there is space, and the leader has heard of it, everything is taken again.
    for name in ["n1", "n2", "n3"] {
        cluster.node(name).raft.set_may_lead(true);
        cluster.free_space(name, 1_000_000);
    }
    timeout(PATIENCE, async {
        loop {
            let leader = cluster.leader().await;
            let node = &cluster.node(&leader).raft;
            let term = cluster.status(&leader).term;
            match node.propose(term, Bytes::from_static(b"on")).await {
                Ok(_) => break,
                Err(ProposeError::NoSpace | ProposeError::NotLeader { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .expect("the cluster resumes by itself");
    cluster.stop().await;
}

/// A leader with space does not append what its full followers would refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_space_looks_at_its_followers_disks() {
    let cluster = TestCluster::formed(3).await;
    cluster.propose("a").await;
    let leader = cluster.leader().await;
    for name in ["n1", "n2", "n3"].iter().filter(|name| **name != leader) {
        cluster.free_space(name, 1500);
    }
    let node = &cluster.node(&leader).raft;
    timeout(PATIENCE, async {
        while node.takes_ordinary_entries() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the leader hears that its followers are full");
    assert!(!cluster.status(&leader).out_of_space);
    let term = cluster.status(&leader).term;
    let refused = node.propose(term, Bytes::from_static(b"x")).await;
    assert!(matches!(refused, Err(ProposeError::NoSpace)), "{refused:?}");
    let freed = cluster.propose("free everything").await;
    cluster.applied_everywhere(freed.position.index).await;
    cluster.stop().await;
}
