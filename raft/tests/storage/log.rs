//! What the log promises: nothing acknowledged is lost in a power cut, concurrent appends share a
//! sync, reads are bounded in bytes, and a failed disk ends everything.

use crate::support::{append, open, options, proposal};
use bytes::Bytes;
use conclave_raft::{
    storage::{
        engine::{Batch, Durability, LogEngine, Visit},
        fatal::OnFatal,
        log_store::{LogStore, LogStoreOptions},
        simulated_engine::SimulatedEngine,
    },
    types::{Entry, LogId, Vote},
};
use futures::StreamExt;
use openraft::{RaftLogReader, storage::RaftLogStorage};
use proptest::prelude::*;
use std::{
    io,
    ops::Range,
    sync::{Arc, Condvar, Mutex, mpsc},
};

/// Lets writes through only while its gate is open.
#[derive(Clone, Default)]
struct GatedEngine {
    engine: SimulatedEngine,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Default)]
struct Gate {
    open: bool,
    waiting: bool,
}

impl GatedEngine {
    fn open_gate(&self) {
        self.gate.0.lock().unwrap().open = true;
        self.gate.1.notify_all();
    }

    /// Waits until a write stands before the gate.
    fn wait_for_a_write(&self) {
        let mut gate = self.gate.0.lock().unwrap();
        while !gate.waiting {
            gate = self.gate.1.wait(gate).unwrap();
        }
    }
}

impl LogEngine for GatedEngine {
    fn location(&self) -> String {
        self.engine.location()
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.engine.get(key)
    }

    fn scan(&self, keys: Range<Bytes>, visit: &mut Visit<'_>) -> io::Result<()> {
        self.engine.scan(keys, visit)
    }

    fn write(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        let mut gate = self.gate.0.lock().unwrap();
        gate.waiting = true;
        self.gate.1.notify_all();
        while !gate.open {
            gate = self.gate.1.wait(gate).unwrap();
        }
        drop(gate);
        self.engine.write(batch, durability)
    }

    fn reclaim(&self, keys: Range<Bytes>) {
        self.engine.reclaim(keys);
    }

    fn stop_reclaiming(&self) {
        self.engine.stop_reclaiming();
    }
}

async fn entries(store: &mut LogStore, range: Range<u64>) -> Vec<Entry> {
    store
        .get_log_reader()
        .await
        .try_get_log_entries(range)
        .await
        .unwrap()
}

#[tokio::test]
async fn concurrent_appends_share_one_sync_and_are_readable_before_it() {
    let engine = GatedEngine::default();
    let mut store = open(&engine);
    let mut durable = vec![append(&mut store, vec![proposal(1, 0, "first")]).await];
    engine.wait_for_a_write();
    for index in 1..50 {
        durable.push(append(&mut store, vec![proposal(1, index, "more")]).await);
    }
    assert_eq!(entries(&mut store, 0..100).await.len(), 50);
    assert_eq!(store.durable().last, None);
    assert!(durable.iter_mut().all(|durable| durable.try_recv().is_err()));

    engine.open_gate();
    for durable in durable {
        durable.await.unwrap().unwrap();
    }
    assert_eq!(engine.engine.syncs(), 2);
    assert_eq!(store.durable().last, Some(LogId::new_term_index(1, 49)));
}

#[tokio::test]
async fn a_power_cut_forgets_what_was_not_synced_and_nothing_else() {
    let engine = GatedEngine::default();
    engine.open_gate();
    let mut store = open(&engine);
    append(&mut store, vec![proposal(1, 0, "acknowledged")])
        .await
        .await
        .unwrap()
        .unwrap();
    let vote = Vote::new(3, 1);
    store.save_vote(&vote).await.unwrap();
    engine.gate.0.lock().unwrap().open = false;
    let lost = append(&mut store, vec![proposal(1, 1, "lost")]).await;
    let after = engine.engine.crash();
    engine.open_gate();
    assert!(lost.await.unwrap().is_err());

    let mut store = open(&after);
    assert_eq!(entries(&mut store, 0..10).await, [proposal(1, 0, "acknowledged")]);
    assert_eq!(
        store.get_log_reader().await.read_vote().await.unwrap(),
        Some(vote)
    );
    assert_eq!(store.durable().vote, Some(vote));
}

#[tokio::test]
async fn without_syncing_a_power_cut_loses_what_was_acknowledged() {
    let engine = SimulatedEngine::default();
    let without = LogStoreOptions {
        sync: false,
        ..options()
    };
    let mut store = LogStore::open(Arc::new(engine.clone()), without).unwrap();
    append(&mut store, vec![proposal(1, 0, "acknowledged")])
        .await
        .await
        .unwrap()
        .unwrap();
    assert_eq!(entries(&mut open(&engine.crash()), 0..10).await, []);
}

#[tokio::test]
async fn a_failed_sync_is_fatal_and_never_retried() {
    let engine = SimulatedEngine::default();
    let (said, heard) = mpsc::channel();
    let on_fatal = OnFatal::new(move |reason| said.send(reason.to_owned()).unwrap());
    let failing = LogStoreOptions {
        on_fatal,
        ..options()
    };
    let mut store = LogStore::open(Arc::new(engine.clone()), failing).unwrap();
    engine.fail_next_sync();
    assert!(
        append(&mut store, vec![proposal(1, 0, "x")])
            .await
            .await
            .unwrap()
            .is_err()
    );
    assert!(heard.recv().unwrap().contains("could not be written"));
    assert!(store.save_vote(&Vote::new(1, 1)).await.is_err());
    assert!(
        store
            .get_log_reader()
            .await
            .try_get_log_entries(0..10)
            .await
            .is_err()
    );
    assert!(heard.try_recv().is_err(), "it is said once");
    assert_eq!(engine.syncs(), 0);
}

#[tokio::test]
async fn reads_are_bounded_in_bytes_from_memory_and_from_disk() {
    let engine = SimulatedEngine::default();
    let sized: Vec<_> = (0..100)
        .map(|index| proposal(1, index, vec![index as u8; 1000]))
        .collect();
    for memory_limit_bytes in [0, 20_000, usize::MAX >> 1] {
        let bounded = LogStoreOptions {
            memory_limit_bytes,
            read_limit_bytes: 5_500,
            ..options()
        };
        let engine = engine.crash();
        let mut store = LogStore::open(Arc::new(engine), bounded).unwrap();
        for entry in sized.iter().cloned() {
            append(&mut store, vec![entry]).await.await.unwrap().unwrap();
        }
        let mut reader = store.get_log_reader().await;
        let limited = reader.limited_get_log_entries(10, 100).await.unwrap();
        assert_eq!(limited, sized[10..15]);
        assert_eq!(reader.try_get_log_entries(0..100).await.unwrap(), sized);
        let streamed: Vec<_> = reader
            .entries_stream(3..97)
            .await
            .map(Result::unwrap)
            .collect()
            .await;
        assert_eq!(streamed, sized[3..97]);
    }
}

#[tokio::test]
async fn one_entry_larger_than_every_limit_still_passes() {
    let engine = SimulatedEngine::default();
    let tight = LogStoreOptions {
        memory_limit_bytes: 10,
        queue_limit_bytes: 10,
        read_limit_bytes: 10,
        ..options()
    };
    let mut store = LogStore::open(Arc::new(engine), tight).unwrap();
    let large = proposal(1, 0, vec![7; 100_000]);
    append(&mut store, vec![large.clone()])
        .await
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        store
            .get_log_reader()
            .await
            .limited_get_log_entries(0, 1)
            .await
            .unwrap(),
        [large]
    );
}

#[tokio::test]
async fn sizes_say_what_can_be_purged() {
    let mut store = open(&SimulatedEngine::default());
    let sized = (0..10).map(|index| proposal(1, index, vec![0; 100])).collect();
    append(&mut store, sized).await.await.unwrap().unwrap();
    let each = store.log_bytes() / 10;
    assert_eq!(store.bytes_after(Some(6)), 3 * each);
    assert_eq!(store.bytes_after(None), 10 * each);
    assert_eq!(store.purgeable_keeping(3 * each), Some(6));
    assert_eq!(store.purgeable_keeping(10 * each), None);
    store.purge(LogId::new_term_index(1, 6)).await.unwrap();
    assert_eq!(
        (store.log_bytes(), store.purgeable_keeping(0)),
        (3 * each, Some(9))
    );
}

#[tokio::test]
async fn nothing_is_purged_before_the_state_is_durable() {
    let engine = SimulatedEngine::default();
    let unready = LogStoreOptions {
        before_purge: Arc::new(|_| Box::pin(async { Err(io::Error::other("not yet")) })),
        ..options()
    };
    let mut store = LogStore::open(Arc::new(engine.clone()), unready).unwrap();
    append(&mut store, vec![proposal(1, 0, "a"), proposal(1, 1, "b")])
        .await
        .await
        .unwrap()
        .unwrap();
    assert!(store.purge(LogId::new_term_index(1, 0)).await.is_err());
    assert_eq!(entries(&mut open(&engine.crash()), 0..10).await.len(), 2);
}

/// What a snapshot that was installed leaves of the log: nothing, and the place where it goes on.
#[tokio::test]
async fn where_the_log_goes_on_after_a_snapshot_survives_a_power_cut() {
    let engine = SimulatedEngine::default();
    let mut store = open(&engine);
    append(&mut store, vec![proposal(1, 0, "a"), proposal(1, 1, "b")])
        .await
        .await
        .unwrap()
        .unwrap();
    let before = engine.syncs();
    store.purge(LogId::new_term_index(1, 0)).await.unwrap();
    assert_eq!(engine.syncs(), before, "this one may be forgotten");
    let installed = LogId::new_term_index(2, 9);
    store.purge(installed).await.unwrap();
    assert_eq!(store.durable().last, Some(installed));
    let store = open(&engine.crash());
    assert_eq!(store.durable().last, Some(installed));
    assert_eq!(store.last_log_id(), Some(installed));
}

#[tokio::test]
async fn a_hole_is_never_made() {
    let mut store = open(&SimulatedEngine::default());
    append(&mut store, vec![proposal(1, 0, "a")])
        .await
        .await
        .unwrap()
        .unwrap();
    let flushed = openraft::storage::IOFlushed::noop();
    assert!(store.append(vec![proposal(1, 2, "c")], flushed).await.is_err());
    assert_eq!(store.last_log_id(), Some(LogId::new_term_index(1, 0)));
}

#[tokio::test]
async fn a_damaged_or_missing_entry_refuses_to_start_and_is_named() {
    let engine = SimulatedEngine::default();
    let mut store = open(&engine);
    let all = (0..5).map(|index| proposal(1, index, "x")).collect();
    append(&mut store, all).await.await.unwrap().unwrap();
    drop(store);
    let refused = |engine: &SimulatedEngine| {
        LogStore::open(Arc::new(engine.clone()), options())
            .err()
            .unwrap()
            .to_string()
    };

    let missing = engine.crash();
    let key = |index: u64| Bytes::from([&b"entry/"[..], &index.to_be_bytes()].concat());
    let mut batch = Batch::default();
    batch.delete_range(key(2)..key(3));
    missing.write(batch, Durability::Synced).unwrap();
    assert!(refused(&missing).contains("log entry 2"));

    let damaged = missing.crash();
    let mut batch = Batch::default();
    batch.delete_range(key(2)..key(9));
    damaged.write(batch, Durability::Synced).unwrap();
    assert!(damaged.damage(&key(1)));
    assert!(refused(&damaged).contains("log entry 1 in simulated is damaged"));
}

/// What openraft may ask of the log.
#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, acknowledged: bool },
    Vote,
    TruncateTo { share: prop::sample::Index },
    PurgeTo { share: prop::sample::Index },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u64..4, any::<bool>()).prop_map(|(count, acknowledged)| Step::Append { count, acknowledged }),
        1 => Just(Step::Vote),
        1 => any::<prop::sample::Index>().prop_map(|share| Step::TruncateTo { share }),
        1 => any::<prop::sample::Index>().prop_map(|share| Step::PurgeTo { share }),
    ];
    prop::collection::vec(step, 1..40)
}

/// The log as one should find it: the first index, the terms from there on, the vote's term.
type Found = (u64, Vec<u64>, Option<u64>);

async fn found(store: &mut LogStore) -> Found {
    let purged = store.get_log_state().await.unwrap().last_purged_log_id;
    let terms = entries(store, 0..u64::MAX)
        .await
        .iter()
        .map(|entry| entry.log_id.leader_id.term)
        .collect();
    let vote = store.get_log_reader().await.read_vote().await.unwrap();
    (
        purged.map_or(0, |purged| purged.index + 1),
        terms,
        vote.map(|vote| vote.leader_id.term),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After a power cut the log is what it was after some step that is not before the last
    /// acknowledged one.
    #[test]
    fn a_power_cut_leaves_a_prefix_of_the_steps_with_all_acknowledged(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let engine = SimulatedEngine::default();
            let mut store = open(&engine);
            let (mut first, mut terms, mut vote): Found = (0, Vec::new(), None);
            let mut possible: Vec<Found> = vec![(first, terms.clone(), vote)];
            for (term, step) in (1..).zip(steps) {
                let end = first + terms.len() as u64;
                match step {
                    Step::Append { count, acknowledged } => {
                        let new = (end..end + count).map(|index| proposal(term, index, "x")).collect();
                        terms.extend((0..count).map(|_| term));
                        let durable = append(&mut store, new).await;
                        if acknowledged {
                            durable.await.unwrap().unwrap();
                            possible.clear();
                        }
                    }
                    Step::Vote => {
                        store.save_vote(&Vote::new(term, 1)).await.unwrap();
                        vote = Some(term);
                        possible.clear();
                    }
                    Step::TruncateTo { share } if terms.len() > 1 => {
                        let kept = share.index(terms.len() - 1) + 1;
                        let last = LogId::new_term_index(terms[kept - 1], first + kept as u64 - 1);
                        store.truncate_after(Some(last)).await.unwrap();
                        terms.truncate(kept);
                        possible.clear();
                    }
                    // Keeps one entry, so that the next append has a predecessor.
                    Step::PurgeTo { share } if terms.len() > 1 => {
                        let purged = share.index(terms.len() - 1) + 1;
                        let upto = LogId::new_term_index(terms[purged - 1], first + purged as u64 - 1);
                        store.purge(upto).await.unwrap();
                        terms.drain(..purged);
                        first += purged as u64;
                    }
                    Step::TruncateTo { .. } | Step::PurgeTo { .. } => {}
                }
                possible.push((first, terms.clone(), vote));
            }
            prop_assert_eq!(found(&mut store).await, (first, terms, vote));
            let after = found(&mut open(&engine.crash())).await;
            prop_assert!(possible.contains(&after), "{:?} is none of {:?}", after, possible);
            Ok(())
        })?;
    }
}
