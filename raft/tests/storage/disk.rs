//! RocksDB's files as a crash or a failing disk leaves them: a torn tail is tolerated, damage before
//! it refuses to start and names the file.

use crate::support::{append, options, proposal};
use conclave_raft::{
    storage::{engine::LogEngine, log_store::LogStore, rocks_engine::RocksEngine},
    types::{Entry, LogId, Vote},
};
use openraft::{RaftLogReader, storage::RaftLogStorage};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

const ENTRIES: u64 = 200;

fn open(directory: &Path) -> io::Result<LogStore> {
    LogStore::open(Arc::new(RocksEngine::open(directory)?), options())
}

/// A log of [`ENTRIES`] entries, each written by a sync of its own.
async fn written(directory: &Path, entry_bytes: usize) {
    let mut store = open(directory).unwrap();
    for index in 0..ENTRIES {
        let entry = proposal(1, index, vec![index as u8; entry_bytes]);
        append(&mut store, vec![entry]).await.await.unwrap().unwrap();
    }
}

async fn entries(store: &mut LogStore) -> Vec<Entry> {
    store
        .get_log_reader()
        .await
        .try_get_log_entries(0..u64::MAX)
        .await
        .unwrap()
}

fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == suffix))
        .collect();
    files.sort();
    files
}

fn write_ahead_log(directory: &Path) -> PathBuf {
    let largest = files(directory, "log")
        .into_iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    largest.expect("RocksDB keeps a write-ahead log")
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 100).await;
    let mut store = open(folder.path()).unwrap();
    store.save_vote(&Vote::new(4, 2)).await.unwrap();
    store.purge(LogId::new_term_index(1, 49)).await.unwrap();
    store
        .truncate_after(Some(LogId::new_term_index(1, 149)))
        .await
        .unwrap();
    drop(store);
    let mut store = open(folder.path()).unwrap();
    let entries = entries(&mut store).await;
    assert_eq!(entries.first(), Some(&proposal(1, 50, vec![50; 100])));
    assert_eq!(entries.last(), Some(&proposal(1, 149, vec![149; 100])));
    assert_eq!(store.durable().vote, Some(Vote::new(4, 2)));
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_the_log_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 1000).await;
    for cut_bytes in [1, 3, 500, 1000, 1100, 5000] {
        let torn = copy(folder.path());
        let path = write_ahead_log(torn.path());
        let length = fs::metadata(&path).unwrap().len();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - cut_bytes)
            .unwrap();
        let mut store = open(torn.path()).unwrap();
        let last = store.last_log_id().unwrap().index;
        let lost = ENTRIES - 1 - last;
        assert!(
            lost >= 1 && lost <= 1 + cut_bytes / 1000,
            "{cut_bytes} bytes cut, {lost} entries lost"
        );
        append(&mut store, vec![proposal(2, last + 1, "goes on")])
            .await
            .await
            .unwrap()
            .unwrap();
        drop(store);
        assert_eq!(
            entries(&mut open(torn.path()).unwrap()).await.len() as u64,
            last + 2
        );
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_last_write_is_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 1000).await;
    let path = write_ahead_log(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 500;
    bytes[at] ^= 4;
    fs::write(&path, bytes).unwrap();
    assert_eq!(
        open(folder.path()).unwrap().last_log_id(),
        Some(LogId::new_term_index(1, ENTRIES - 2))
    );
}

#[tokio::test]
async fn a_flipped_bit_before_the_tail_refuses_to_start_and_names_the_file() {
    for entry_bytes in [10, 1000] {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), entry_bytes).await;
        let length = fs::metadata(write_ahead_log(folder.path())).unwrap().len();
        // Also where a length field is hit, and within the last block of the file.
        for at in [
            0,
            4,
            5,
            6,
            100,
            length / 2,
            length * 3 / 4,
            length - 3 * entry_bytes as u64 - 90,
        ] {
            let damaged = copy(folder.path());
            let path = write_ahead_log(damaged.path());
            let mut bytes = fs::read(&path).unwrap();
            bytes[at as usize] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = open(damaged.path()).err().expect("damage is refused").to_string();
            assert!(error.contains(path.to_str().unwrap()), "byte {at}: {error}");
        }
    }
}

/// Enough to make RocksDB write table files.
async fn with_table_files(directory: &Path) {
    written(directory, 400_000).await;
    assert!(!files(directory, "sst").is_empty());
}

#[tokio::test]
async fn a_damaged_or_missing_file_refuses_to_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    with_table_files(folder.path()).await;
    let flipped = copy(folder.path());
    let path = files(flipped.path(), "sst").remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = open(flipped.path()).err().expect("damage is refused").to_string();
    assert!(
        error.contains(path.file_name().unwrap().to_str().unwrap()),
        "{error}"
    );

    for suffix in ["sst", "log", "manifest"] {
        let missing = copy(folder.path());
        let lost = match suffix {
            "manifest" => vec![manifest(missing.path())],
            suffix => files(missing.path(), suffix),
        };
        lost.iter().for_each(|path| fs::remove_file(path).unwrap());
        let error = open(missing.path())
            .err()
            .unwrap_or_else(|| panic!("{suffix} is missed"))
            .to_string();
        assert!(error.contains(missing.path().to_str().unwrap()), "{error}");
    }

    let flipped = copy(folder.path());
    let path = manifest(flipped.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = open(flipped.path()).err().expect("damage is refused").to_string();
    assert!(error.contains(flipped.path().to_str().unwrap()), "{error}");
}

fn table_bytes(directory: &Path) -> u64 {
    let tables = files(directory, "sst");
    tables.iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

fn manifest(directory: &Path) -> PathBuf {
    let current = fs::read_to_string(directory.join("CURRENT")).unwrap();
    directory.join(current.trim())
}

#[tokio::test]
async fn purged_entries_give_their_space_back() {
    let folder = tempfile::tempdir().unwrap();
    with_table_files(folder.path()).await;
    let before = table_bytes(folder.path());
    let mut store = open(folder.path()).unwrap();
    store.purge(LogId::new_term_index(1, ENTRIES - 2)).await.unwrap();
    store.reclaim().await.unwrap();
    let left = table_bytes(folder.path());
    assert!(left < before / 10, "{left} of {before} bytes are left");
    assert_eq!(entries(&mut store).await.len(), 1);
}

#[tokio::test]
async fn what_a_stopping_node_does_not_give_back_the_next_start_does() {
    let folder = tempfile::tempdir().unwrap();
    with_table_files(folder.path()).await;
    let engine = Arc::new(RocksEngine::open(folder.path()).unwrap());
    let mut store = LogStore::open(engine.clone(), options()).unwrap();
    let before = table_bytes(folder.path());
    store.purge(LogId::new_term_index(1, ENTRIES - 2)).await.unwrap();
    engine.stop_reclaiming();
    store.reclaim().await.unwrap();
    assert_eq!(table_bytes(folder.path()), before);
    drop((store, engine));
    let mut store = open(folder.path()).unwrap();
    store.reclaim().await.unwrap();
    assert!(table_bytes(folder.path()) < before / 10);
    assert_eq!(entries(&mut store).await.len(), 1);
}

#[tokio::test]
async fn a_directory_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    assert!(open(folder.path()).is_err());
    drop(store);
    open(folder.path()).unwrap();
}
