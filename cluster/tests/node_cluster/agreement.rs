//! Replicas that no longer agree are found, and stop.

use crate::{
    commands::{place, put},
    test_cluster::{TestCluster, soon},
};
use conclave_cluster::{
    command::{Entry, Proposal, Stamp},
    model::ProposalId,
    state::Store,
};
use conclave_raft::{
    codec,
    identity::RaftId,
    state_machine::{CommittedEntry, CommittedPayload, LogPosition, StateMachine},
};
use futures::future::join_all;
use std::{
    fs,
    path::{Path, PathBuf},
};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_agree_verify() {
    let cluster = TestCluster::start(3).await;
    let node = cluster.node(0);
    join_all((0..300).map(|n| node.propose(put(place(n), b"value"), soon()))).await;
    let verification = cluster.node(1).verify(soon()).await.unwrap();
    assert_eq!(verification.nodes.len(), 3);
    for node in verification.nodes {
        let scan = node.result.unwrap();
        assert_eq!(scan.scanned, scan.running);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_stored_byte_in_a_cold_row_is_found_and_halts_the_node() {
    let mut cluster = TestCluster::start(3).await;
    let damaged = cluster.follower().await;
    let node = cluster.node(damaged);
    for n in 0..50 {
        node.propose(put(place(n), &[0xA7; 4_000]), soon()).await.unwrap();
    }
    // Only what lies in table files can be cold; opening a state writes what its log holds into one.
    cluster.stop(damaged).await;
    cluster.run(damaged).await;
    cluster.stop(damaged).await;
    let state = cluster.options[damaged].data_dir.join("state");
    let (file, at) = find_in_a_table(&state, &[0xA7; 64]).expect("the marked bytes lie in a table file");
    flip_a_bit(&file, at);
    cluster.run(damaged).await;
    let asked = (0..3).find(|&number| number != damaged).unwrap();
    let damaged_id = cluster
        .status(damaged, |status| status.raft.leader.is_some())
        .await
        .raft
        .raft_id
        .unwrap();
    let verification = cluster.node(asked).verify(soon()).await.unwrap();
    for node in verification.nodes {
        let sound = node
            .result
            .as_ref()
            .is_ok_and(|scan| scan.scanned == scan.running);
        assert_eq!(sound, node.raft_id != damaged_id, "{node:?}");
    }
    cluster
        .status(damaged, |status| status.raft.halted.is_some())
        .await;
    // Its supervisor starts it again.
    cluster.kill(damaged).await;
    let refusal = cluster.refusal(damaged).await;
    assert!(refusal.contains("conclave server --rescan"), "{refusal}");
    let found = cluster.rescan(damaged).await.unwrap_err();
    assert!(found.contains(".sst"), "the file is not named: {found}");
    // The row is whole again, as after a reading that went wrong.
    flip_a_bit(&file, at);
    let refusal = cluster.refusal(damaged).await;
    assert!(refusal.contains("conclave server --rescan"), "{refusal}");
    cluster.rescan(damaged).await.unwrap();
    cluster.run(damaged).await;
    let status = cluster
        .status(damaged, |status| status.raft.leader.is_some())
        .await;
    assert_eq!(status.raft.raft_id, Some(damaged_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_state_differs_halts() {
    halts_when_its_state_differs(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_state_differs_halts_and_is_replaced() {
    halts_when_its_state_differs(true).await;
}

/// Makes one node apply another entry than the others have at the same place of the log.
async fn halts_when_its_state_differs(leading: bool) {
    let mut cluster = TestCluster::start(3).await;
    let odd = cluster.follower().await;
    let sound = cluster.leader().await;
    let first = cluster
        .node(odd)
        .propose(put(place(1), b"value"), soon())
        .await
        .unwrap();
    cluster
        .status(odd, |status| status.raft.applied_index >= Some(first.index))
        .await;
    cluster.kill(odd).await;
    for n in 0..5 {
        cluster
            .node(sound)
            .propose(put(place(n), b"value"), soon())
            .await
            .unwrap();
    }
    apply_what_nobody_proposed(&cluster.options[odd].data_dir.join("state"));
    cluster.run(odd).await;
    let applied = cluster.node(sound).status().borrow().raft.applied_index;
    let status = cluster
        .status(odd, |status| status.raft.applied_index >= applied)
        .await;
    if leading {
        let record = cluster.record(sound).await;
        cluster
            .node(sound)
            .transfer_leadership(status.raft.raft_id, record, soon())
            .await
            .unwrap();
    }
    // Past the next index at which the digests are kept.
    loop {
        let answers =
            join_all((0..8).map(|n| cluster.node(sound).propose(put(place(n), b"more"), soon()))).await;
        if answers.iter().flatten().any(|answer| answer.index > 2 * 256) {
            break;
        }
    }
    let status = cluster.status(odd, |status| status.raft.halted.is_some()).await;
    let reason = status.raft.halted.unwrap_or_default();
    assert!(reason.contains("differs"), "{reason}");
    cluster
        .node(sound)
        .propose(put(place(1), b"after"), soon())
        .await
        .unwrap();
    assert!(cluster.node(sound).status().borrow().raft.halted.is_none());
    // Its supervisor starts it again.
    cluster.kill(odd).await;
    let refusal = cluster.refusal(odd).await;
    assert!(refusal.contains("differs"), "{refusal}");
    assert!(refusal.contains("conclave cluster replace"), "{refusal}");
    // A look at its own data shows nothing, and does not bring it back.
    cluster.rescan(odd).await.unwrap();
    let refusal = cluster.refusal(odd).await;
    assert!(refusal.contains("differs"), "{refusal}");
}

fn apply_what_nobody_proposed(state: &Path) {
    let store = Store::open(state).unwrap();
    let applied = store.applied().unwrap().position.unwrap();
    let proposal = Proposal {
        id: ProposalId([0xEE; 16]),
        made_at_index: applied.index,
        node: RaftId(1),
        command: codec::encode(&put(place(999), b"of this node alone")).into(),
    };
    let stamp = Stamp {
        term: applied.term,
        time_ms: store.view().time_ms(),
    };
    let entry = CommittedEntry {
        position: LogPosition {
            term: applied.term,
            index: applied.index + 1,
        },
        payload: CommittedPayload::Proposal(
            codec::encode(&Entry {
                stamp,
                proposals: vec![proposal],
            })
            .into(),
        ),
        answered: false,
    };
    store.apply(vec![entry]).unwrap();
    store.flush().unwrap();
}

/// Where the middle of the first run of `marker` lies in a table file below `directory`.
fn find_in_a_table(directory: &Path, marker: &[u8]) -> Option<(PathBuf, usize)> {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let found = find_in_a_table(&path, marker);
            if found.is_some() {
                return found;
            }
        } else if path.extension().is_some_and(|ending| ending == "sst") {
            let bytes = fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(marker.len()).position(|window| window == marker) {
                return Some((path, at + marker.len() / 2));
            }
        }
    }
    None
}

fn flip_a_bit(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}
