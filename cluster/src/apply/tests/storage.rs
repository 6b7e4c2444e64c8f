//! Checkpoints, installation, damage.

use super::fixtures::*;
use crate::{
    command::{Operation, Which},
    model::SecretSettings,
    node::Change,
    state::{DIGEST_INTERVAL, DIGESTS_KEPT, Store, Table},
};
use bytes::Bytes;
use conclave_raft::state_machine::{CommittedPayload, LogPosition, StateMachine};
use std::{fs, io, path::Path};

fn filled() -> Bench {
    let mut bench = Bench::new();
    bench.apply_payload(CommittedPayload::Blank);
    bench.apply_payload(CommittedPayload::Membership(Bytes::from_static(b"members")));
    for value in 1..20 {
        bench.put(put(value % 5, value));
    }
    bench
}

#[test]
fn a_restart_finds_what_was_flushed() {
    let mut bench = filled();
    let applied = bench.store.applied().unwrap();
    assert_eq!(
        applied.position,
        Some(LogPosition {
            term: TERM,
            index: bench.index - 1
        })
    );
    let (position, membership) = applied.membership.clone().unwrap();
    assert_eq!((position.index, membership), (2, Bytes::from_static(b"members")));
    assert_eq!(bench.store.flush().unwrap(), applied.position);
    let pairs = bench.pairs();
    bench.store = {
        let directory = bench.directory.path().join("state");
        drop(std::mem::replace(&mut bench.store, Bench::new().store));
        Store::open(&directory).unwrap()
    };
    assert_eq!(bench.store.applied().unwrap(), applied);
    assert_eq!(bench.pairs(), pairs);
    bench.put(put(1, 99));
    bench.scanned_digest();
}

#[test]
fn what_a_checkpoint_would_write_can_be_written_before() {
    let bench = filled();
    assert!(bench.store.rows_in_memory_for_test() > 0);
    bench.store.prepare_checkpoint().unwrap();
    assert_eq!(bench.store.rows_in_memory_for_test(), 0);
    bench.scanned_digest();
}

#[test]
fn a_checkpoint_names_its_index_and_is_installed_whole() {
    let mut source = filled();
    let directory = source.directory.path().join("checkpoint");
    let checkpoint = source.store.checkpoint(directory).unwrap();
    assert_eq!(checkpoint.position.index, source.index - 1);
    assert_eq!(
        checkpoint.membership.as_ref().unwrap().1,
        Bytes::from_static(b"members")
    );
    assert!(checkpoint.size_bytes > 0);
    let pairs = source.pairs();
    source.put(put(1, 99));

    let mut target = Bench::new();
    target.put(put(7, 7));
    let old_view = target.store.view();
    let mut changes = target.store.changes();
    target.store.verify(&checkpoint, &|| true).unwrap();
    target.store.install(checkpoint).unwrap();
    assert_eq!(changes.try_recv().unwrap(), Change::Replaced);
    assert_eq!(target.pairs(), pairs);
    // A view from before still sees what it saw.
    assert!(old_view.secret(&id(7)).unwrap().is_some());
    assert!(old_view.scan_digest(None, || true).unwrap().is_some());
    drop(old_view);
    assert!(target.store.view().secret(&id(7)).unwrap().is_none());
    let generations = fs::read_dir(target.directory.path().join("state"))
        .unwrap()
        .count();
    assert_eq!(generations, 2, "the pointer and one generation");

    // Both go on alike.
    let last = source.log.last().unwrap().clone();
    target.store.apply(vec![last]).unwrap();
    assert_eq!(target.pairs(), source.pairs());
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_state_stays() {
    let source = filled();
    let directory = source.directory.path().join("checkpoint");
    let mut checkpoint = source.store.checkpoint(directory.clone()).unwrap();
    let target = Bench::new();
    checkpoint.position.index += 1;
    assert!(target.store.verify(&checkpoint, &|| true).is_err());
    checkpoint.position.index -= 1;
    flip_a_byte(&directory, b"\x0f\x0f\x0f\x0f\x0f\x0f\x0f\x0f");
    let error = target.store.verify(&checkpoint, &|| true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("checkpoint"), "{error}");
    assert_eq!(target.store.applied().unwrap().position, None);
}

/// RocksDB's own checksums find nothing here: only the digest that the checkpoint carries does.
#[test]
fn a_checkpoint_with_a_changed_pair_is_refused() {
    let source = filled();
    source.store.overwrite_for_test(Table::Value, b"cold", b"changed");
    let directory = source.directory.path().join("checkpoint");
    let checkpoint = source.store.checkpoint(directory).unwrap();
    let error = Bench::new().store.verify(&checkpoint, &|| true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("do not give its digest"), "{error}");
}

#[test]
fn one_changed_pair_is_found_by_a_scan() {
    let bench = filled();
    bench.scanned_digest();
    bench.store.overwrite_for_test(Table::Value, b"cold", b"changed");
    let digest = bench.store.view().scan_digest(None, || true).unwrap().unwrap();
    assert_ne!(digest.scanned, digest.running);
}

#[test]
fn a_scan_can_be_paced_and_stopped() {
    let mut bench = Bench::new();
    let mut large = put(1, 1);
    large.value.ciphertext = vec![1; 256 * 1024].into();
    bench.put(large);
    let started = std::time::Instant::now();
    assert!(
        bench
            .store
            .view()
            .scan_digest(Some(1024 * 1024), || true)
            .unwrap()
            .is_some()
    );
    assert!(started.elapsed().as_millis() >= 200);
    assert!(bench.store.view().scan_digest(None, || false).unwrap().is_none());
}

#[test]
fn a_scan_tells_how_far_it_is() {
    let mut bench = Bench::new();
    let mut large = put(1, 1);
    large.value.ciphertext = vec![1; 256 * 1024].into();
    bench.put(large);
    let told = std::cell::Cell::new(0);
    let view = bench.store.view();
    view.scan_digest_telling(None, |bytes| {
        told.set(bytes);
        true
    })
    .unwrap();
    assert!(told.get() >= 256 * 1024);
    assert!(view.approximate_bytes() >= 256 * 1024);
}

#[test]
fn digests_are_kept_at_intervals() {
    let mut bench = Bench::new();
    for _ in 0..DIGEST_INTERVAL * (DIGESTS_KEPT + 3) + 5 {
        bench.apply_payload(CommittedPayload::Blank);
    }
    let kept = bench.store.view().kept_digests().unwrap();
    assert_eq!(kept.len() as u64, DIGESTS_KEPT);
    assert_eq!(kept.last().unwrap().0, DIGEST_INTERVAL * (DIGESTS_KEPT + 3));
    assert_eq!(kept[0].0, DIGEST_INTERVAL * 4);
    let view = bench.store.view();
    assert_eq!(view.kept_digest(kept[7].0).unwrap(), Some(kept[7].1));
    assert_eq!(view.kept_digest(DIGEST_INTERVAL).unwrap(), None);
}

#[test]
fn an_undecodable_row_names_its_column_family() {
    let mut bench = filled();
    bench.store.overwrite_for_test(Table::Secret, &id(1).0, b"\xff");
    let error = bench.store.view().secret(&id(1)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("column family secret"), "{error}");
    // Apply stops as well: this is damage, not a refusal.
    let proposal = bench.proposal(&steps(vec![disclose(at(1), Which::Active)]));
    let stamp = crate::command::Stamp {
        term: TERM,
        time_ms: bench.time_ms,
    };
    let entry = crate::command::Entry {
        stamp,
        proposals: vec![proposal],
    };
    let payload = CommittedPayload::Proposal(conclave_raft::codec::encode(&entry).into());
    let position = LogPosition {
        term: TERM,
        index: bench.index,
    };
    let entry = conclave_raft::state_machine::CommittedEntry {
        position,
        payload,
        answered: true,
    };
    assert!(
        bench
            .store
            .apply(vec![entry])
            .unwrap_err()
            .to_string()
            .contains("column family secret")
    );
    assert_eq!(
        bench.store.view().applied_index(),
        Some(bench.index - 1),
        "nothing of it was done"
    );
}

#[test]
fn a_torn_tail_of_the_write_ahead_log_is_replayed_from_the_log() {
    let (directory, last) = closed();
    let (path, mut bytes) = write_ahead_log(&directory.path().join("state"));
    bytes.truncate(bytes.len() - 10);
    fs::write(path, bytes).unwrap();
    let store = Store::open(&directory.path().join("state")).unwrap();
    assert_eq!(store.view().applied_index(), Some(last - 1));
    let digest = store.view().scan_digest(None, || true).unwrap().unwrap();
    assert_eq!(digest.scanned, digest.running);
}

#[test]
fn a_tear_in_an_older_write_ahead_log_leaves_no_hole() {
    // Within a write, and between two: RocksDB alone would replay the next file over the gap.
    for torn_bytes in [10, 0] {
        let mut bench = Bench::new();
        for value in 1..8 {
            bench.put(put(value, value));
        }
        let (directory, last) = (bench.directory, bench.index - 1);
        drop(bench.store);
        let state = directory.path().join("state");
        let (path, bytes) = write_ahead_log(&state);
        let writes = whole_writes(&bytes);
        assert!(
            bytes.len() < 32 * 1024,
            "a write may be moved within one block only"
        );
        // The last three lie in a newer file; the one before them is torn, or lost as a whole.
        let (lost, newer) = (writes[writes.len() - 4], writes[writes.len() - 3]);
        let torn_at = if torn_bytes == 0 { lost } else { newer - torn_bytes };
        fs::write(&path, &bytes[..torn_at]).unwrap();
        fs::write(path.with_file_name("000999.log"), &bytes[newer..]).unwrap();
        let store = Store::open(&state).unwrap();
        assert_eq!(store.view().applied_index(), Some(last - 4));
        let digest = store.view().scan_digest(None, || true).unwrap().unwrap();
        assert_eq!(digest.scanned, digest.running);
    }
}

#[test]
fn a_write_ahead_log_that_stayed_behind_takes_no_other_with_it() {
    let mut bench = filled();
    let state = bench.directory.path().join("state");
    let everything_is_in_tables = |bench: &Bench| {
        for table in Table::ALL {
            bench.store.switch_log_for_test(table);
        }
    };
    let (left_behind, bytes) = write_ahead_log(&state);
    everything_is_in_tables(&bench);
    bench.put(put(7, 7));
    everything_is_in_tables(&bench);
    bench.put(put(8, 8));
    let last = bench.index - 1;
    let Bench { directory, store, .. } = bench;
    drop(store);
    assert!(!left_behind.exists(), "RocksDB needs it no more");
    fs::write(left_behind, bytes).unwrap();
    let store = Store::open(&state).unwrap();
    assert_eq!(store.view().applied_index(), Some(last));
    let digest = store.view().scan_digest(None, || true).unwrap().unwrap();
    assert_eq!(digest.scanned, digest.running);
    drop(directory);
}

#[test]
fn a_synced_write_ahead_log_that_lost_its_end_is_refused() {
    let bench = filled();
    bench.store.switch_log_for_test(Table::Value);
    bench.store.flush().unwrap();
    let (directory, store) = (bench.directory, bench.store);
    drop(store);
    let state = directory.path().join("state");
    let (path, bytes) = write_ahead_log(&state);
    fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    let Err(error) = Store::open(&state) else {
        panic!("it opened")
    };
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
}

/// Where each whole write of a single block begins.
fn whole_writes(bytes: &[u8]) -> Vec<usize> {
    let (mut begins, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + 7).filter(|header| header[6] != 0) {
        assert_eq!(header[6], 1, "a full record");
        begins.push(at);
        at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]]));
    }
    begins
}

#[test]
fn damage_before_the_tail_refuses_to_open() {
    let (directory, _) = closed();
    let (path, mut bytes) = write_ahead_log(&directory.path().join("state"));
    // Within the first write, so that others surely follow.
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let Err(error) = Store::open(&directory.path().join("state")) else {
        panic!("it opened")
    };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(
        error
            .to_string()
            .contains(path.file_name().unwrap().to_str().unwrap()),
        "{error}"
    );
}

/// A state that nobody has open, and the last index that it applied.
fn closed() -> (tempfile::TempDir, u64) {
    let bench = filled();
    (bench.directory, bench.index - 1)
}

fn write_ahead_log(root: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let files = fs::read_dir(root.join("generation-1"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let longest = logs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let bytes = fs::read(&longest).unwrap();
    (longest, bytes)
}

#[test]
fn an_entry_out_of_order_is_not_applied() {
    let bench = filled();
    let entry = bench.log[3].clone();
    assert!(bench.store.apply(vec![entry]).is_err());
}

#[test]
fn an_empty_state_has_no_checkpoint() {
    let bench = Bench::new();
    assert!(
        bench
            .store
            .checkpoint(bench.directory.path().join("checkpoint"))
            .is_err()
    );
    assert_eq!(bench.store.applied().unwrap().position, None);
    assert_eq!(bench.store.flush().unwrap(), None);
}

#[test]
fn settings_and_listing() {
    let mut bench = Bench::new();
    for secret in 1..6 {
        let settings = SecretSettings {
            keep_versions: Some(u32::from(secret)),
            ..Default::default()
        };
        bench.run(Operation::Create {
            place: place(secret),
            secret: id(secret),
            create: create(settings),
        });
    }
    let view = bench.store.view();
    let first = view.secrets(None, 3).unwrap();
    assert_eq!(
        first.iter().map(|(secret, _)| *secret).collect::<Vec<_>>(),
        [id(1), id(2), id(3)]
    );
    let rest = view.secrets(Some(id(3)), 3).unwrap();
    assert_eq!(
        rest.iter().map(|(secret, _)| *secret).collect::<Vec<_>>(),
        [id(4), id(5)]
    );
    assert_eq!(rest[0].1.settings.keep_versions, Some(4));
    assert_eq!((rest[0].1.revision, rest[0].1.sealed_revision), (1, 1));
}

fn flip_a_byte(directory: &Path, marker: &[u8]) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let is_table = path.extension().is_some_and(|extension| extension == "sst");
        if is_table && let Some(found) = bytes.windows(marker.len()).position(|window| window == marker) {
            bytes[found] ^= 1;
            // The file is a hard link: write another in its place.
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("the marker is in no table file");
}
