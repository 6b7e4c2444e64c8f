//! A data directory is an incarnation: wiped, old and foreign disks never take part as what they
//! were.

use crate::support::{TestCluster, copy_directory, soon};
use conclave_raft::{
    identity::{ClusterId, RaftId},
    node::{Evidence, MembershipChange, Role},
    state_machine::StateMachine,
    storage::{
        fatal::OnFatal,
        identity_store::{Identity, IdentityStore},
        rocks_engine::RocksEngine,
    },
};
use std::{fs, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};

/// Long enough for several elections with the tests' time-out of 250 ms.
const SEVERAL_ELECTIONS: Duration = Duration::from_secs(4);

/// An entry is on nodes 1 and 2 only; 2 is wiped and 1 killed: 2 and 3 must not elect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_never_helps_to_lose_what_it_acknowledged() {
    let mut cluster = TestCluster::formed(3).await;
    // Whoever leads is "node 1", some follower "node 2", the other "node 3".
    let first = cluster.leader().await;
    let mut followers = cluster.nodes.keys().filter(|name| **name != first).cloned();
    let (second, third) = (followers.next().unwrap(), followers.next().unwrap());
    drop(followers);
    let known = cluster.propose("known to all").await;
    cluster.applied_everywhere(known.position.index).await;
    cluster.kill(&third).await;
    let only = cluster.propose("on two nodes only").await;
    cluster.applied(&second, only.position.index).await;
    cluster.wipe(&second).await;
    cluster.kill(&first).await;

    cluster.start(&second).await;
    cluster.start(&third).await;
    let mut status = cluster.node(&third).raft.status();
    let elected = status.wait_for(|status| {
        status.role == Role::Leader || status.leader == status.raft_id && status.raft_id.is_some()
    });
    assert!(
        timeout(SEVERAL_ELECTIONS, elected).await.is_err(),
        "a wiped node voted under its old id"
    );
    assert_eq!(cluster.status(&second).role, Role::Unformed);
    assert_eq!(cluster.status(&second).raft_id, None);

    // With node 1 nothing is lost, and node 2 comes back as another incarnation.
    cluster.admit();
    cluster.start(&first).await;
    let wiped = cluster
        .wait(&second, "a new id", |status| status.raft_id.is_some())
        .await;
    assert!(wiped.raft_id >= Some(RaftId(100)), "{wiped:?}");
    cluster.applied_everywhere(only.position.index).await;
    for node in cluster.nodes.values() {
        assert_eq!(node.journal.proposals(), ["known to all", "on two nodes only"]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_takes_its_predecessors_place() {
    let mut cluster = TestCluster::formed(3).await;
    cluster.admit();
    cluster.propose("a").await;
    let leader = cluster.leader().await;
    let wiped = cluster
        .nodes
        .keys()
        .find(|name| **name != leader)
        .unwrap()
        .clone();
    let predecessor = cluster.raft_id(&wiped);
    cluster.wipe(&wiped).await;
    cluster.start(&wiped).await;
    let successor = cluster
        .wait(&wiped, "a new id", |status| status.raft_id.is_some())
        .await
        .raft_id
        .unwrap();
    let applied = cluster.propose("b").await;
    cluster.applied(&wiped, applied.position.index).await;

    let leader = cluster.leader().await;
    let replace = MembershipChange::Replace {
        predecessor,
        successor,
    };
    cluster
        .node(&leader)
        .raft
        .change_membership(replace.clone(), soon())
        .await
        .unwrap();
    // It votes as soon as the change is joint, with its predecessor still a member.
    let status = cluster
        .wait(&wiped, "its predecessor's vote", |status| {
            status.role == Role::Follower && !status.members.contains_key(&predecessor)
        })
        .await;
    assert_eq!(status.members.values().filter(|member| member.voter).count(), 3);
    // Safe to repeat.
    cluster
        .node(&leader)
        .raft
        .change_membership(replace, soon())
        .await
        .unwrap();
    // The new incarnation carries the cluster.
    let other = cluster
        .nodes
        .keys()
        .find(|name| **name != leader && **name != wiped)
        .unwrap()
        .clone();
    cluster.kill(&other).await;
    cluster.propose("c").await;
    cluster.stop().await;
}

/// The first configured node may have been removed, or be cut off: the next one is asked, and the one
/// that this names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_asks_the_others_in_turn_and_whoever_leads() {
    let mut cluster = TestCluster::formed(3).await;
    cluster.admit();
    let leader = cluster.leader().await;
    let mut followers = cluster.nodes.keys().filter(|name| **name != leader).cloned();
    let (wiped, other) = (followers.next().unwrap(), followers.next().unwrap());
    drop(followers);
    let first_asked = leader.min(other);
    for names_the_leader in [true, false] {
        cluster.close(&first_asked, names_the_leader);
        cluster.wipe(&wiped).await;
        cluster.start(&wiped).await;
        cluster
            .wait(&wiped, "an id", |status| status.raft_id.is_some())
            .await;
    }
    cluster.stop().await;
}

/// Yesterday's disk under a live leader: it is told, marks itself, and rejoins as a new incarnation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_disk_is_treated_as_wiped() {
    let mut cluster = TestCluster::formed(3).await;
    cluster.admit();
    let first = cluster.propose("old").await;
    cluster.applied_everywhere(first.position.index).await;
    let leader = cluster.leader().await;
    let victim = cluster
        .nodes
        .keys()
        .find(|name| **name != leader)
        .unwrap()
        .clone();
    let old_id = cluster.raft_id(&victim);
    cluster.kill(&victim).await;
    let copy = cluster.directory.path().join("copy");
    copy_directory(&cluster.data_dir(&victim), &copy);
    cluster.start(&victim).await;
    let newer = cluster.propose("newer").await;
    cluster.applied_everywhere(newer.position.index).await;
    cluster
        .wait(&leader, "the acknowledgement", |status| {
            status.members[&old_id].matched_index >= Some(newer.position.index)
        })
        .await;
    assert_eq!(cluster.leader().await, leader, "the leader that knows stayed");
    cluster.kill(&victim).await;
    fs::remove_dir_all(cluster.data_dir(&victim)).unwrap();
    copy_directory(&copy, &cluster.data_dir(&victim));

    cluster.start(&victim).await;
    let halted = cluster
        .wait(&victim, "a halt", |status| status.halted.is_some())
        .await;
    assert!(
        halted.halted.as_ref().unwrap().contains("older than"),
        "{halted:?}"
    );
    let proposals = cluster.node(&victim).journal.proposals();
    assert!(!proposals.contains(&"newer".to_owned()), "{proposals:?}");

    cluster.kill(&victim).await;
    cluster.start(&victim).await;
    assert!(
        cluster
            .data_dir(&victim)
            .join(format!("reverted-{old_id}"))
            .is_dir()
    );
    let joined = cluster
        .wait(&victim, "a new id", |status| status.raft_id.is_some())
        .await;
    assert_ne!(joined.raft_id, Some(old_id));
    cluster.applied(&victim, newer.position.index).await;
    assert_eq!(cluster.node(&victim).journal.proposals(), ["old", "newer"]);
    cluster.stop().await;
}

/// A supervisor starts a node again that halted because its state differs: that node neither votes nor
/// serves until its directory was emptied, and then it is a new incarnation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_state_was_disproved_does_not_start_on_it_again() {
    let mut cluster = TestCluster::formed(3).await;
    let applied = cluster.propose("a").await;
    cluster.applied_everywhere(applied.position.index).await;
    let leader = cluster.leader().await;
    let mut followers = cluster.nodes.keys().filter(|name| **name != leader).cloned();
    let victim = followers.next().unwrap();
    drop(followers);
    let old_id = cluster.raft_id(&victim);
    cluster
        .node(&victim)
        .raft
        .halt_for_good("it differs".into(), Evidence::OwnLook)
        .await;
    assert_eq!(cluster.status(&victim).halted.as_deref(), Some("it differs"));
    cluster.kill(&victim).await;
    for _ in 0..2 {
        let refused = cluster.try_start(&victim).await.err().expect("it starts");
        assert!(refused.contains("it differs"), "{refused}");
        assert!(
            refused.contains(&format!("conclave cluster replace {old_id}")),
            "{refused}"
        );
        assert!(refused.contains("--rescan"), "{refused}");
    }
    // Nothing was moved: whoever looks for the cause finds it.
    assert!(cluster.data_dir(&victim).join("log").is_dir());
    fs::remove_dir_all(cluster.data_dir(&victim)).unwrap();
    cluster.admit();
    cluster.start(&victim).await;
    let joined = cluster
        .wait(&victim, "a new id", |status| status.raft_id.is_some())
        .await;
    assert_ne!(joined.raft_id, Some(old_id));
    cluster.applied(&victim, applied.position.index).await;
    cluster.stop().await;
}

/// As a power cut between installing a snapshot and purging the log leaves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_the_state_is_no_reverted_disk() {
    let mut cluster = TestCluster::formed(3).await;
    let first = cluster.propose("in the log").await;
    cluster.applied_everywhere(first.position.index).await;
    let leader = cluster.leader().await;
    let victim = cluster
        .nodes
        .keys()
        .find(|name| **name != leader)
        .unwrap()
        .clone();
    let raft_id = cluster.raft_id(&victim);
    cluster.kill(&victim).await;
    let (log, copy) = (
        cluster.data_dir(&victim).join("log"),
        cluster.directory.path().join("copy"),
    );
    copy_directory(&log, &copy);
    cluster.start(&victim).await;
    let newer = cluster.propose("in the state").await;
    cluster.applied_everywhere(newer.position.index).await;
    cluster
        .wait(&leader, "the acknowledgement", |status| {
            status.members[&raft_id].matched_index >= Some(newer.position.index)
        })
        .await;
    cluster.node(&victim).journal.flush().unwrap();
    cluster.kill(&victim).await;
    fs::remove_dir_all(&log).unwrap();
    copy_directory(&copy, &log);

    cluster.start(&victim).await;
    let last = cluster.propose("last").await;
    cluster.applied(&victim, last.position.index).await;
    let status = cluster.status(&victim);
    assert_eq!((status.raft_id, status.halted), (Some(raft_id), None));
    cluster.stop().await;
}

/// Disks that were found to be reverted are set aside one by one, until none is left: no new, empty
/// cluster may come of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_data_was_set_aside_form_no_new_cluster() {
    let mut cluster = TestCluster::formed(3).await;
    let names = ["n1", "n2", "n3"];
    for name in names {
        cluster.kill(name).await;
        let engine = RocksEngine::open(&cluster.data_dir(name).join("log")).unwrap();
        let store = IdentityStore::new(Arc::new(engine), OnFatal::new(|reason| panic!("{reason}")));
        let was = store.load().unwrap().formation().unwrap().clone();
        let reason = "older than acknowledged".into();
        store.save(&Identity::Reverted { was, reason }).unwrap();
    }
    for first_is_wiped in [false, true] {
        if first_is_wiped {
            // It is the one to propose a cluster, and knows nothing of the others' past.
            fs::remove_dir_all(cluster.data_dir("n1")).unwrap();
        }
        for name in names {
            cluster.start(name).await;
        }
        // Empty directories form a cluster within this time.
        let deadline = Instant::now() + SEVERAL_ELECTIONS / 2;
        for name in names {
            let mut status = cluster.node(name).raft.status();
            let formed = status.wait_for(|status| status.raft_id.is_some());
            let formed = tokio::time::timeout_at(deadline, formed).await;
            assert!(formed.is_err(), "{name} {first_is_wiped}");
        }
        for name in names {
            cluster.kill(name).await;
        }
    }
    assert!(cluster.data_dir("n2").join("reverted-2").is_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_disk_is_refused() {
    let ours = TestCluster::formed(3).await;
    let mut theirs = TestCluster::formed(1).await;
    theirs.propose("theirs").await;
    theirs.kill("n1").await;

    // The same names and an own CA: only the cluster's id tells them apart.
    let mut ours = ours;
    ours.kill("n1").await;
    fs::remove_dir_all(ours.data_dir("n1")).unwrap();
    copy_directory(&theirs.data_dir("n1"), &ours.data_dir("n1"));
    let foreign = ours.try_start("n1").await.unwrap();
    let before = ours.propose("ours").await;
    ours.applied("n2", before.position.index).await;
    ours.applied("n3", before.position.index).await;
    assert!(!foreign.journal.proposals().contains(&"ours".to_owned()));
    assert_ne!(
        foreign.raft.status().borrow().cluster_id,
        ours.status("n2").cluster_id
    );
    foreign.raft.shutdown(Duration::ZERO).await;
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nodes_disk_is_refused_at_start() {
    let mut cluster = TestCluster::formed(1).await;
    cluster.kill("n1").await;
    let mut options = cluster.options("n1");
    options.cluster_name = "other".into();
    options.tls = cluster
        .authority
        .issue(&cluster.directory.path().join("other"), &["conclave://other/n1"]);
    let refused = cluster.try_start_with(options).await.err().unwrap();
    assert!(refused.contains("belongs to cluster \"test\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_without_its_log_is_refused_at_start() {
    let mut cluster = TestCluster::formed(1).await;
    cluster.propose("a").await;
    cluster.node("n1").journal.flush().unwrap();
    cluster.kill("n1").await;
    fs::remove_dir_all(cluster.data_dir("n1").join("log")).unwrap();
    let refused = cluster.try_start("n1").await.err().unwrap();
    assert!(refused.contains("has no identity"), "{refused}");
}

/// Two nodes are stopped while the third is missing and nothing is proposed, and the first again and again
/// once the cluster stands. Stops between a proposal and the end of formation are tried below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn formation_goes_on_after_crashes_at_any_step() {
    let mut cluster = TestCluster::configure(3);
    cluster.start("n1").await;
    cluster.start("n2").await;
    // The third is missing: nothing is proposed.
    let deadline = Instant::now() + Duration::from_millis(700);
    let mut status = cluster.node("n2").raft.status();
    let accepted = status.wait_for(|status| status.raft_id.is_some());
    assert!(tokio::time::timeout_at(deadline, accepted).await.is_err());
    cluster.kill("n1").await;
    cluster.start("n3").await;
    cluster.kill("n2").await;
    cluster.start("n1").await;
    cluster.start("n2").await;
    cluster.leader().await;
    for round in 0..3 {
        cluster.kill("n1").await;
        cluster.start("n1").await;
        cluster.propose(&format!("round {round}")).await;
    }
    let ids: Vec<_> = ["n1", "n2", "n3"].map(|name| cluster.raft_id(name).0).into();
    assert_eq!(ids, [1, 2, 3]);
    cluster.stop().await;
}

/// The first node has proposed a cluster and the second has accepted it; the third accepts nothing,
/// because it is configured otherwise, so that formation stands there.
async fn standing_between_accepting_and_initialising() -> (TestCluster, ClusterId) {
    let mut cluster = TestCluster::configure(3);
    cluster.start("n1").await;
    cluster.start("n2").await;
    let mut options = cluster.options("n3");
    options.nodes.push(("n4".into(), "127.0.0.1:9".into()));
    let third = cluster.try_start_with(options).await.unwrap();
    cluster.nodes.insert("n3".into(), third);
    let accepted = cluster
        .wait("n2", "its acceptance", |status| status.raft_id.is_some())
        .await;
    assert!(accepted.members.is_empty(), "{accepted:?}");
    (cluster, accepted.cluster_id.unwrap())
}

/// The third node, configured as the others are.
async fn correct_the_third(cluster: &mut TestCluster) {
    cluster.kill("n3").await;
    cluster.start("n3").await;
}

fn cluster_ids(cluster: &TestCluster) -> Vec<Option<ClusterId>> {
    ["n1", "n2", "n3"]
        .map(|name| cluster.status(name).cluster_id)
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_killed_between_accepting_and_initialising_go_on() {
    let (mut cluster, id) = standing_between_accepting_and_initialising().await;
    cluster.kill("n2").await;
    cluster.start("n2").await;
    let again = cluster
        .wait("n2", "its acceptance", |status| status.raft_id.is_some())
        .await;
    assert_eq!((again.cluster_id, again.raft_id), (Some(id), Some(RaftId(2))));
    assert!(again.members.is_empty() && again.leader.is_none(), "{again:?}");
    // The proposer comes back with the same proposal, and goes on asking.
    cluster.kill("n1").await;
    cluster.start("n1").await;
    correct_the_third(&mut cluster).await;
    cluster.leader().await;
    cluster.propose("formed").await;
    assert_eq!(cluster_ids(&cluster), [Some(id); 3]);
    let ids = ["n1", "n2", "n3"].map(|name| cluster.raft_id(name));
    assert_eq!(ids, [RaftId(1), RaftId(2), RaftId(3)]);
    cluster.stop().await;
}

/// Its acceptance counted, and nothing else of it remains: it comes back as another incarnation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_wiped_between_accepting_and_initialising_joins() {
    let (mut cluster, id) = standing_between_accepting_and_initialising().await;
    cluster.admit();
    // The answer is on its way to the proposer; nothing shows when it is there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.wipe("n2").await;
    cluster.start("n2").await;
    correct_the_third(&mut cluster).await;
    let joined = cluster
        .wait("n2", "a new id", |status| status.raft_id.is_some())
        .await;
    assert_eq!(joined.cluster_id, Some(id));
    assert!(joined.raft_id >= Some(RaftId(100)), "{joined:?}");
    let applied = cluster.propose("formed").await;
    cluster.applied_everywhere(applied.position.index).await;
    cluster.stop().await;
}

/// The proposal is gone, and another node is bound to it: nothing is proposed again until an operator
/// empties that node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposer_wiped_before_initialising_proposes_nothing_else() {
    let (mut cluster, id) = standing_between_accepting_and_initialising().await;
    cluster.wipe("n1").await;
    correct_the_third(&mut cluster).await;
    cluster.start("n1").await;
    let mut status = cluster.node("n1").raft.status();
    let proposed = status.wait_for(|status| status.raft_id.is_some());
    assert!(timeout(Duration::from_secs(2), proposed).await.is_err());
    assert_eq!(cluster_ids(&cluster), [None, Some(id), None]);

    cluster.wipe("n2").await;
    cluster.start("n2").await;
    cluster.leader().await;
    cluster.propose("another cluster").await;
    let ids = cluster_ids(&cluster);
    assert!(ids[0].is_some() && ids[0] != Some(id), "{ids:?}");
    assert_eq!(ids, [ids[0]; 3]);
    cluster.stop().await;
}
