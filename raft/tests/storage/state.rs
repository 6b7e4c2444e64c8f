//! The state machine behind openraft: applies are bounded in bytes, snapshots name exactly what
//! they contain, and an installation keeps what it installed.

use crate::support::{Journal, proposal};
use conclave_raft::{
    storage::{
        fatal::OnFatal,
        snapshot_store::SnapshotStore,
        state_machine_adapter::{StateMachineAdapter, StateMachineThread},
    },
    types::{Entry, LogId},
};
use futures::stream;
use openraft::{RaftSnapshotBuilder, storage::RaftStateMachine};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
};

fn adapter(
    folder: &Path,
) -> (
    Arc<Journal>,
    SnapshotStore,
    StateMachineThread,
    StateMachineAdapter,
) {
    let journal = Arc::new(Journal::default());
    let thread = StateMachineThread::start(journal.clone(), crate::support::options().on_fatal).unwrap();
    let snapshots = SnapshotStore::open(folder).unwrap();
    let adapter = StateMachineAdapter::new(thread.clone(), snapshots.clone());
    (journal, snapshots, thread, adapter)
}

async fn apply(adapter: &mut StateMachineAdapter, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    adapter.apply(stream::iter(entries)).await.unwrap();
}

#[tokio::test]
async fn applies_are_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _, thread, mut adapter) = adapter(folder.path());
    let each = StateMachineAdapter::APPLY_LIMIT_BYTES / 4;
    apply(
        &mut adapter,
        (0..10).map(|index| proposal(1, index, vec![0; each])).collect(),
    )
    .await;
    assert_eq!(journal.read(|state| state.batches.clone()), [4, 4, 2]);
    assert_eq!(thread.flush().await.unwrap().unwrap().index, 9);
    let reached = journal.read(|state| state.position.unwrap());
    thread.flush_to(reached).await.unwrap();
    let beyond = conclave_raft::state_machine::LogPosition { term: 1, index: 10 };
    assert!(thread.flush_to(beyond).await.is_err());
}

/// The kernel would report success the second time, without having written anything.
#[tokio::test]
async fn a_failed_flush_of_the_state_is_fatal_and_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::default());
    journal.failing_flushes.store(1, Ordering::SeqCst);
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let on_fatal = OnFatal::new(move |reason| telling.lock().unwrap().push(reason.to_owned()));
    let thread = StateMachineThread::start(journal.clone(), on_fatal).unwrap();
    let snapshots = SnapshotStore::open(folder.path()).unwrap();
    let mut adapter = StateMachineAdapter::new(thread.clone(), snapshots);
    apply(&mut adapter, vec![proposal(1, 0, "a")]).await;
    let (first, at_the_same_time) = tokio::join!(thread.flush(), thread.flush());
    first.unwrap_err();
    at_the_same_time.unwrap_err();
    thread.flush().await.unwrap_err();
    assert_eq!(journal.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(
        *told.lock().unwrap(),
        ["the state could not be made durable: the disk refuses"]
    );
    let entry = Ok((proposal(1, 1, "b"), None));
    assert!(adapter.apply(stream::iter([entry])).await.is_err(), "it goes on");
}

#[tokio::test]
async fn a_snapshot_contains_exactly_what_it_names_although_writes_go_on() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, _, _, mut leader) = adapter(from.path());
    apply(&mut leader, vec![proposal(1, 0, "a"), proposal(1, 1, "b")]).await;
    let mut builder = leader.get_snapshot_builder().await;
    apply(&mut leader, vec![proposal(1, 2, "c")]).await;
    let snapshot = builder.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(LogId::new_term_index(1, 1)));

    // As the transport does: the files arrive in a directory of the receiver's.
    let (journal, snapshots, _, mut follower) = adapter(to.path());
    let received = snapshots.incoming().unwrap();
    for file in snapshot.snapshot.files() {
        let from = snapshot.snapshot.directory().join(&file.name);
        fs::copy(from, received.directory().join(&file.name)).unwrap();
    }
    follower.install_snapshot(&snapshot.meta, received).await.unwrap();
    assert_eq!(journal.read(|state| state.proposals.clone()), ["a", "b"]);
    let current = follower.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, snapshot.meta);
    assert_eq!(current.snapshot.files(), snapshot.snapshot.files());
    drop((follower, snapshots));
    let snapshots = SnapshotStore::open(to.path()).unwrap();
    assert_eq!(snapshots.current().unwrap().unwrap().0, snapshot.meta);
}

#[tokio::test]
async fn a_snapshot_that_fails_verification_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, snapshots, _, mut adapter) = adapter(folder.path());
    apply(&mut adapter, vec![proposal(1, 0, "mine")]).await;
    let mine = adapter
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    let received = snapshots.incoming().unwrap();
    fs::write(received.directory().join("journal"), "not a journal").unwrap();
    let mut theirs = mine.meta.clone();
    theirs.last_log_id = Some(LogId::new_term_index(2, 9));
    assert!(adapter.install_snapshot(&theirs, received).await.is_err());
    assert_eq!(journal.read(|state| state.proposals.clone()), ["mine"]);
    assert_eq!(
        adapter.get_current_snapshot().await.unwrap().unwrap().meta,
        mine.meta
    );
}

#[tokio::test]
async fn apply_takes_no_snapshot_in_place_of_a_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, _, mut adapter) = adapter(folder.path());
    apply(&mut adapter, vec![proposal(1, 0, "a")]).await;
    let first = adapter
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    apply(&mut adapter, vec![proposal(1, 1, "b")]).await;
    first.snapshot.report_damage("journal");
    let next = adapter.get_current_snapshot().await.unwrap().unwrap();
    assert!(next.meta == first.meta && next.snapshot.is_damaged());
    let mut builder = adapter.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap();
    let next = adapter.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(next.meta.last_log_id, Some(LogId::new_term_index(1, 1)));
    assert!(!next.snapshot.is_damaged());
}
