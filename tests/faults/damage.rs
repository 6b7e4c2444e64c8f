//! Damaged files. Damage that would take acknowledged writes away is refused or detected, with the
//! file's name; one changed byte in a row that nobody reads is found by `conclave cluster verify`.

use crate::support::{PATIENCE, PROGRAM, TestCluster, eventually, load::Load, turn};
use conclave_fault_layer::{copy_directory, files_below};
use rocksdb::{DB, IteratorMode, Options};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A snapshot is taken after so many bytes of log, so that there are table files and snapshots.
const SNAPSHOT_LOG_BYTES: &str = "1048576";

#[tokio::test]
async fn damaged_files_are_refused_or_detected_by_name() {
    let _turn = turn().await;
    let mut cluster = with_snapshots().await;
    let load = Load::start(&cluster, 4);
    load.wait_for_more(100).await;
    let ledger = load.stop().await;
    let leader = cluster.leader().await;
    let node = (leader + 1) % 3;
    let data_dir = cluster.node(node).data_dir.clone();
    cluster.kill(node).await;
    let whole = cluster.path().join("whole");
    copy_directory(&data_dir, &whole);

    for (what, file, damage) in [
        (
            "a flipped bit in the log",
            largest(&data_dir, "log/", "log"),
            Damage::FlipEarly,
        ),
        (
            "a flipped bit in the log's manifest",
            largest(&data_dir, "log/MANIFEST", ""),
            Damage::FlipEarly,
        ),
        ("a lost log", largest(&data_dir, "log/", "log"), Damage::Remove),
        (
            "a flipped bit in the state's manifest",
            largest(&data_dir, "state/generation", "MANIFEST"),
            Damage::FlipEarly,
        ),
        (
            "a cut table of the state",
            largest(&data_dir, "state/generation", "sst"),
            Damage::CutHalf,
        ),
        (
            "a lost table of the state",
            largest(&data_dir, "state/generation", "sst"),
            Damage::Remove,
        ),
        (
            "a lost pointer to the state",
            data_dir.join("state/current"),
            Damage::Remove,
        ),
    ] {
        damage.inflict(&file);
        let before = log_of(&cluster, node).len();
        cluster.spawn(node);
        let ended = cluster.wait_for_end(node).await;
        assert!(!ended.success(), "{what}: the node ended as if nothing was wrong");
        let said = log_of(&cluster, node).split_off(before);
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        // What is gone may be told by where it should be.
        let lost = matches!(damage, Damage::Remove) && said.contains(&*data_dir.to_string_lossy());
        assert!(said.contains(name) || lost, "{what}: {name} is not named: {said}");
        eprintln!("{what}: refused, naming {name}");
        fs::remove_dir_all(&data_dir).expect("the damaged disk is taken out");
        copy_directory(&whole, &data_dir);
    }

    // A log that ends early looks like a torn tail, and is said to be one. Here the state still has
    // what the log lost; a disk that really forgot is yesterday's disk.
    let file = largest(&data_dir, "log/", "log");
    Damage::CutHalf.inflict(&file);
    cluster.restart(node).await;
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    let said = log_of(&cluster, node);
    let found = said
        .lines()
        .any(|line| line.contains(name) && line.contains("torn tail"));
    assert!(found, "nothing is said of the cut {name}");

    // Nobody was harmed.
    ledger.assert_kept(&cluster.client()).await;
    cluster.assert_digests_agree().await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_never_used() {
    let _turn = turn().await;
    let mut cluster = with_snapshots().await;
    let leader = cluster.leader().await;

    // Its own: named and thrown away; another one will be taken.
    let data_dir = |node: usize| cluster.node(node).data_dir.clone();
    for (node, file, damage, said_of_it) in [
        (
            (leader + 1) % 3,
            data_dir((leader + 1) % 3).join("snapshots/current"),
            Damage::FlipEarly,
            "the record of the snapshot",
        ),
        (
            (leader + 2) % 3,
            // Tables are shared with the state by links; this is the snapshot's alone.
            largest(&data_dir((leader + 2) % 3), "snapshots/", "MANIFEST"),
            Damage::CutHalf,
            "should have",
        ),
    ] {
        cluster.kill(node).await;
        damage.inflict(&file);
        cluster.restart(node).await;
        let said = log_of(&cluster, node);
        let found = said
            .lines()
            .any(|line| line.contains(said_of_it) && line.contains("snapshots"));
        assert!(found, "nothing is said of the damaged {}", file.display());
    }

    // The one that is sent to others. A file that it does not share with the state.
    let leader = cluster.leader().await;
    let node = (leader + 1) % 3;
    let snapshots = cluster.node(leader).data_dir.clone();
    let file = largest(&snapshots, "snapshots/", "MANIFEST");
    Damage::FlipEarly.inflict(&file);
    cluster.kill(node).await;
    fs::remove_dir_all(&cluster.node(node).data_dir).expect("the disk is wiped");
    cluster.restart(node).await;
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    let said = log_of(&cluster, leader);
    let found = said
        .lines()
        .any(|line| line.contains(name) && line.contains("damaged"));
    assert!(found, "the damaged {name} was sent without a word");
    cluster.assert_digests_agree().await;
}

#[tokio::test]
async fn one_changed_byte_in_a_cold_row_is_found_by_verify() {
    let _turn = turn().await;
    let mut cluster = with_snapshots().await;
    assert_eq!(verify(&cluster), Ok(()));
    let leader = cluster.leader().await;

    // As a disk does it: in a table file, in the middle of a value.
    let node = (leader + 1) % 3;
    cluster.kill(node).await;
    let file = change_a_byte_of_a_value(&cluster.node(node).data_dir);
    cluster.restart(node).await;
    let said = verify(&cluster).expect_err("the changed byte is found");
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(said.contains(name), "{name} is not named: {said}");
    assert!(said.contains(&cluster.node(node).name));
    assert!(
        !cluster.wait_for_end(node).await.success(),
        "a damaged node goes on"
    );
    fs::remove_dir_all(&cluster.node(node).data_dir).expect("the damaged disk is taken out");
    cluster.restart(node).await;

    // As a defect does it: through RocksDB, with right checksums.
    let node = (leader + 2) % 3;
    cluster.kill(node).await;
    change_a_value(&cluster.node(node).data_dir);
    cluster.restart(node).await;
    let said = verify(&cluster).expect_err("the changed row is found");
    assert!(said.contains(&cluster.node(node).name), "{said}");
    assert!(
        !cluster.wait_for_end(node).await.success(),
        "a damaged node goes on"
    );
    assert!(log_of(&cluster, node).contains("is not what was written"));
    // Its supervisor starts it again: it stays away, and says how it comes back.
    let before = log_of(&cluster, node).len();
    cluster.spawn(node);
    assert!(
        !cluster.wait_for_end(node).await.success(),
        "it serves what it knows to be damaged"
    );
    let said = log_of(&cluster, node).split_off(before);
    assert!(said.contains("conclave cluster replace"), "{said}");
    // Nor does a look at all of its data bring it back.
    let rescan = Command::new(PROGRAM)
        .args(["server", "--rescan", "--config"])
        .arg(&cluster.node(node).config)
        .output()
        .expect("the command runs");
    let said = String::from_utf8_lossy(&rescan.stderr);
    assert!(
        !rescan.status.success() && said.contains("do not give the digest"),
        "{said}"
    );
    fs::remove_dir_all(&cluster.node(node).data_dir).expect("the damaged disk is taken out");
    cluster.restart(node).await;
    cluster.assert_digests_agree().await;
    // Its predecessor is a member until the change is over, and cannot be scanned.
    eventually("all members are scanned and agree", PATIENCE, async || {
        verify(&cluster)
    })
    .await;
}

/// What happens to a file.
#[derive(Clone, Copy)]
enum Damage {
    FlipEarly,
    CutHalf,
    Remove,
}

impl Damage {
    fn inflict(self, path: &Path) {
        if matches!(self, Self::Remove) {
            return fs::remove_file(path).expect("the file is there");
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("the file is there");
        let length = file.metadata().expect("its length").len();
        let flip = |at: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("the byte is there");
            byte[0] ^= 0x10;
            file.write_all_at(&byte, at).expect("the byte is written");
        };
        match self {
            Self::FlipEarly => flip(length / 8),
            Self::CutHalf => file.set_len(length / 2).expect("the file is cut"),
            Self::Remove => {}
        }
    }
}

/// A cluster with large values, each node of which has taken a snapshot.
async fn with_snapshots() -> TestCluster {
    let cluster = TestCluster::builder()
        .nodes(3)
        .setting("cluster.snapshot_log_bytes", SNAPSHOT_LOG_BYTES)
        .setting("cluster.snapshot_keep_log_bytes", "65536")
        .start()
        .await;
    let client = cluster.client();
    for number in 0..48_u32 {
        let value = vec![u8::try_from(number).expect("few values"); 64 << 10];
        client.put(&format!("cold/{number}"), &value).await.expect("put");
    }
    eventually("every node has taken a snapshot", PATIENCE, async || {
        for node in 0..3 {
            let status = cluster.status(node).await.ok_or("it does not answer")?;
            if status.purged_index.is_none() {
                return Err(format!("{status:?}"));
            }
        }
        Ok(())
    })
    .await;
    cluster
}

/// The largest file whose path within the data directory begins so, and whose name contains this.
fn largest(data_dir: &Path, begins: &str, contains: &str) -> PathBuf {
    let files = files_below(data_dir).expect("the data directory");
    let found = files.into_iter().filter(|file| {
        let within = file
            .strip_prefix(data_dir)
            .expect("it lies below")
            .to_string_lossy();
        let name = file.file_name().expect("a name").to_string_lossy();
        within.starts_with(begins) && (contains != "log" || name.ends_with(".log")) && name.contains(contains)
    });
    let size = |file: &PathBuf| fs::metadata(file).expect("the file is there").len();
    found
        .max_by_key(size)
        .unwrap_or_else(|| panic!("{}: no {begins}…{contains}", data_dir.display()))
}

fn log_of(cluster: &TestCluster, node: usize) -> String {
    fs::read_to_string(&cluster.node(node).log).unwrap_or_default()
}

/// `conclave cluster verify`; what it says when it fails.
fn verify(cluster: &TestCluster) -> Result<(), String> {
    let output = cluster
        .command()
        .args(["cluster", "verify"])
        .output()
        .expect("the command runs");
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&said).into_owned())
}

/// Changes one byte of one stored value where it lies in a table file, and returns that file. Not of
/// just any: small rows share a block and its checksum with the large one after them, and a node whose
/// keyring lies in a damaged block stays sealed, so that it never comes to serve.
fn change_a_byte_of_a_value(data_dir: &Path) -> PathBuf {
    let generation = fs::read_to_string(data_dir.join("state/current")).expect("the pointer");
    let directory = data_dir.join("state").join(generation.trim());
    let options = Options::default();
    let families = DB::list_cf(&options, &directory).expect("the column families");
    let database =
        DB::open_cf_for_read_only(&options, &directory, families, false).expect("the state can be read");
    let values = database.cf_handle("value").expect("the values");
    let rows: Vec<_> = database
        .iterator_cf(&values, IteratorMode::Start)
        .map(|pair| pair.expect("a row").1)
        .collect();
    let tables: Vec<_> = files_below(&directory)
        .expect("the state's files")
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "sst"))
        .map(|file| (fs::read(&file).expect("a table"), file))
        .collect();
    let large_among_large = rows
        .windows(3)
        .filter(|rows| rows.iter().all(|row| row.len() > 60 << 10))
        .map(|rows| &rows[1]);
    for row in large_among_large {
        let middle = &row[row.len() / 2..][..64];
        for (table, file) in &tables {
            let Some(at) = table.windows(middle.len()).position(|bytes| bytes == middle) else {
                continue;
            };
            let table = OpenOptions::new().write(true).open(file).expect("the table");
            let at = u64::try_from(at).expect("a file's length");
            table
                .write_all_at(&[middle[0] ^ 0x10], at)
                .expect("the byte is written");
            return file.clone();
        }
    }
    panic!("{}: no large value lies in a table", data_dir.display());
}

/// Changes one byte of one stored value, leaving everything else as it is.
fn change_a_value(data_dir: &Path) {
    let generation = fs::read_to_string(data_dir.join("state/current")).expect("the pointer");
    let directory = data_dir.join("state").join(generation.trim());
    let families = DB::list_cf(&Options::default(), &directory).expect("the column families");
    let database = DB::open_cf(&Options::default(), &directory, families).expect("the state");
    let values = database.cf_handle("value").expect("the values");
    let (key, mut value) = database
        .iterator_cf(&values, IteratorMode::Start)
        .map(|pair| pair.expect("a row"))
        .find(|(_, value)| value.len() > 60 << 10)
        .expect("a large value");
    let middle = value.len() / 2;
    value[middle] ^= 1;
    database.put_cf(&values, key, value).expect("the row is changed");
}
