//! Whoever takes a disk learns no value, no name, no caller and no caller's address: after a workload
//! with marked ones, no mark lies in any data directory, in clear or in base64, hexadecimal or
//! UTF-16 (an address also as the bytes that codecs make of it), neither in the files as they lie nor
//! in the records as RocksDB's own readers give them (where no block's edge runs through a mark).
//!
//! Whether the search would find a leak is tried in three ways: every mark is planted in every
//! encoding, as a file and in records of both databases; the same nodes go through the same workload
//! with an edge that leaks what it frees; and a real node runs under an edge that forgot to seal, so
//! that the marks take the way into records which a leak in a build would take.

use crate::{
    folders, requests,
    support::{PATIENCE, TestCluster, eventually, lone_node, preload::preloadable},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use conclave_cluster::{
    command::{Activation, Command, Create, NumberChoice, Operation, Outcome, Put, SameValue, Step},
    model::{Action, AuditStub, Place, Sealed, SecretId, SecretSettings, Token, ValueDigest, ValueId},
};
use rocksdb::{DB, IteratorMode, Options};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;

/// No part of them occurs in the product or in random bytes.
const NAME: &str = "qzx-marked-name/alpha";
const REFUSED_NAME: &str = "qzx-marked-name/refused";
const MISSING_NAME: &str = "qzx-marked-name/missing";
const VALUE: &str = "qzx-marked-value-one";
const DESTROYED_VALUE: &str = "qzx-marked-value-two";
const ACTOR: &str = "uri:qzx-marked-actor://app";
const STRANGER: &str = "email:qzx-marked-stranger@example.org";
const ADDRESS: &str = "127.93.82.71";
const MARKS: [&str; 8] = [
    NAME,
    REFUSED_NAME,
    MISSING_NAME,
    VALUE,
    DESTROYED_VALUE,
    // Without the types, which are words of the product.
    "qzx-marked-actor://app",
    "qzx-marked-stranger@example.org",
    ADDRESS,
];

#[tokio::test]
async fn no_mark_lies_on_any_disk() {
    let mut cluster = after_the_workload(None).await;

    // Neither logs nor metrics name secrets or values, and metrics no persons.
    let said = Search::for_marks(&[NAME, REFUSED_NAME, MISSING_NAME, VALUE, DESTROYED_VALUE]);
    for node in 0..cluster.len() {
        assert_eq!(
            said.look_at(requests::log(&cluster, node).as_bytes()),
            BTreeSet::new()
        );
        let shown = requests::metrics(&cluster, node).await;
        assert_eq!(
            Search::for_marks(&MARKS).look_at(shown.as_bytes()),
            BTreeSet::new()
        );
    }

    let scratch = tempfile::tempdir().expect("a temporary folder");
    let search = Search::for_marks(&MARKS);
    for (node, copied) in copies_of_disks(&mut cluster, scratch.path())
        .await
        .iter()
        .enumerate()
    {
        let found = search.through(copied);
        assert_eq!(found.marks, BTreeMap::new(), "node {node} leaks");
        assert!(
            found.files > 8 && found.bytes > 512 << 10,
            "{} files of {} bytes",
            found.files,
            found.bytes
        );
        // It did read the records: what must lie there in clear, nodes' own addresses, is seen.
        let own = format!("127.0.0.1:{}", cluster.node(node).ports.cluster);
        let control = Search::for_marks(&[&own]).through(copied);
        let shown: Vec<&String> = control.marks.keys().collect();
        for database in ["log", "state"] {
            let seen = |place: &&&String| place.starts_with("record of") && place.contains(database);
            assert!(
                shown.iter().any(|place| seen(&place)),
                "no record of {database} in {shown:?}"
            );
        }
    }

    // Planted in every encoding, in a file and in records of both databases, each is found.
    let planted = scratch.path().join("copy-1");
    let encodings: Vec<Needle> = MARKS.iter().flat_map(|mark| encodings_of(mark)).collect();
    let file = planted.join("planted");
    for needle in &encodings {
        fs::write(&file, [&b"before"[..], &needle.bytes, b"after"].concat()).expect("a file");
        let found = search.look_at(&fs::read(&file).expect("a file"));
        assert!(found.contains(&needle.what), "{} in a file", needle.what);
    }
    fs::remove_file(&file).expect("the planted file");
    for database in databases(&planted) {
        plant(&database, &encodings);
        let found = search.through(&database).marks;
        let in_records: BTreeSet<&String> = found
            .iter()
            .filter(|(place, _)| place.starts_with("record of"))
            .flat_map(|(_, marks)| marks)
            .collect();
        let missed: Vec<&String> = encodings
            .iter()
            .map(|needle| &needle.what)
            .filter(|what| !in_records.contains(what))
            .collect();
        assert!(missed.is_empty(), "{}: {missed:?}", database.display());
    }
}

/// The same workload and the same search find every node's leak.
#[tokio::test]
async fn an_edge_that_leaks_what_it_frees_is_found() {
    let mut cluster = after_the_workload(Some(preloadable("leak"))).await;
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let search = Search::for_marks(&MARKS);
    let copies = copies_of_disks(&mut cluster, scratch.path()).await;
    // Callers asked these two.
    for copied in &copies[..2] {
        let marks = search.through(copied).marks;
        let leaked = marks.get(&format!("file {LEAK}"));
        let leaked = leaked.unwrap_or_else(|| panic!("only {marks:#?}"));
        for mark in [NAME, "qzx-marked-actor://app", ADDRESS] {
            assert!(leaked.contains(&format!("{mark} in clear")), "{mark}: {leaked:?}");
        }
    }
}

#[tokio::test]
async fn an_edge_that_forgets_to_seal_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = lone_node::start(folder.path()).await;
    let leaked = |mark: &str| Sealed {
        key_term: 1,
        value_id: ValueId([7; 16]),
        nonce: [7; 24],
        ciphertext: mark.as_bytes().to_vec().into(),
    };
    let token = |byte| Token([byte; 16]);
    let put = Put {
        place: Place {
            namespace: token(1),
            store: token(2),
            name: token(3),
        },
        secret: SecretId([4; 16]),
        create: Some(Create {
            name: leaked(NAME),
            metadata: None,
            settings: SecretSettings::default(),
        }),
        number: NumberChoice::Next,
        activation: Activation::WhenNoneActive,
        same_value: SameValue::Store,
        check_and_set: None,
        value: leaked(&STANDARD.encode(VALUE)),
        digest: ValueDigest { key: 1, mac: [5; 32] },
        metadata: None,
        lifetime_ms: None,
        disclosures: None,
        on_end: None,
    };
    let audit = AuditStub {
        action: Action::Put,
        principal: token(6),
        commitment: [8; 32],
        sealed: leaked(&format!(
            "{{\"principal\":\"{ACTOR}\",\"remote\":\"{ADDRESS}:4711\"}}"
        )),
    };
    let command = Command {
        guards: Vec::new(),
        steps: vec![Step {
            preconditions: Vec::new(),
            operation: Operation::Put(put),
            audit: Some(audit),
        }],
    };
    let deadline = Instant::now() + PATIENCE;
    let answer = cluster.propose(command, deadline).await.expect("an answer");
    assert!(matches!(answer.outcome, Outcome::Done(_)), "{:?}", answer.outcome);
    assert!(cluster.wait_applied(answer.index, deadline).await);
    cluster.shutdown(Duration::from_secs(5)).await;
    drop(cluster);

    let scratch = tempfile::tempdir().expect("a temporary folder");
    let copied = scratch.path().join("copy");
    folders::copy(&folder.path().join("data"), &copied);
    let found = Search::for_marks(&MARKS).through(&copied).marks;
    for database in ["log", "state"] {
        let marks: BTreeSet<&str> = found
            .iter()
            .filter(|(place, _)| place.starts_with("record of") && place.contains(database))
            .flat_map(|(_, marks)| marks.iter().map(String::as_str))
            .collect();
        for expected in [
            format!("{NAME} in clear"),
            format!("{ADDRESS} in clear"),
            "qzx-marked-actor://app in clear".to_owned(),
        ] {
            assert!(
                marks.contains(expected.as_str()),
                "{expected} in {database}: {found:#?}"
            );
        }
        let in_base64 = |mark: &&&str| mark.starts_with(VALUE) && mark.contains("base64");
        assert!(
            marks.iter().any(|mark| in_base64(&mark)),
            "{database}: {found:#?}"
        );
    }
}

/// A file of a data directory that only a leaking edge makes.
const LEAK: &str = "leaked";

/// Three nodes that went through everything, under an edge that leaks if a library makes it so.
async fn after_the_workload(leaking: Option<PathBuf>) -> TestCluster {
    let mut cluster = TestCluster::builder()
        .nodes(3)
        .production()
        // So that snapshots are taken and the log is purged.
        .setting("cluster.snapshot_log_bytes", "262144")
        .setting("cluster.snapshot_keep_log_bytes", "262144")
        .grant(
            ACTOR,
            &["get", "info", "put", "create-version", "activate", "delete"],
            &["qzx-marked-name/*"],
        )
        .start_only(&[])
        .launch();
    for node in 0..cluster.len() {
        if let Some(library) = &leaking {
            let leak = cluster.node(node).data_dir.join(LEAK);
            cluster.set_environment(node, "LD_PRELOAD", library);
            cluster.set_environment(node, "CONCLAVE_TEST_LEAK", leak);
        }
        cluster.spawn(node);
    }
    cluster.wait_until_serving().await;
    // One misses most of it, and gets it by another way.
    cluster.kill(2).await;
    workload(&cluster).await;
    cluster.restart(2).await;
    eventually("a snapshot was taken", PATIENCE, async || {
        match cluster.status(0).await.and_then(|status| status.snapshot_index) {
            Some(_) => Ok(()),
            None => Err("none".to_owned()),
        }
    })
    .await;
    cluster.wait_until_equal().await;
    cluster
}

/// Copies of all data directories. One node dies as it is, the others end in order.
async fn copies_of_disks(cluster: &mut TestCluster, scratch: &Path) -> Vec<PathBuf> {
    cluster.kill(0).await;
    cluster.stop(1).await;
    cluster.stop(2).await;
    let copy = |node: usize| {
        let copied = scratch.join(format!("copy-{node}"));
        folders::copy(&cluster.node(node).data_dir, &copied);
        copied
    };
    (0..cluster.len()).map(copy).collect()
}

/// Everything that a caller can do with a marked secret, also without success.
async fn workload(cluster: &TestCluster) {
    let address = ADDRESS.parse().expect("an address of loopback");
    let actor = requests::http_from(cluster, &cluster.identity(ACTOR), address);
    let stranger = requests::http_from(cluster, &cluster.identity(STRANGER), address);
    let value = |text: &str| STANDARD.encode(text);
    let calls = [
        ("put", json!({"Name": NAME, "Value": value(VALUE)}), 200),
        ("put", json!({"Name": NAME, "Value": value(DESTROYED_VALUE)}), 200),
        (
            "create-version",
            json!({"Name": NAME, "Version": 9, "Value": value(VALUE)}),
            200,
        ),
        ("get", json!({"Name": NAME}), 200),
        ("get", json!({"Name": NAME, "Version": 2}), 200),
        (
            "get",
            json!({"Name": NAME, "Version": 9, "UpdateIfChanged": true}),
            304,
        ),
        ("info", json!({"Name": NAME}), 200),
        ("list", json!({}), 200),
        ("activate", json!({"Name": NAME, "Version": 1}), 200),
        ("delete-version", json!({"Name": NAME, "Version": 2}), 200),
        ("get", json!({"Name": MISSING_NAME}), 404),
        ("put", json!({"Name": "elsewhere", "Value": value(VALUE)}), 403),
    ];
    for (method, body, expected) in calls {
        let node = usize::from(method.len() % 2 == 0);
        let (status, text) =
            requests::answer(requests::setec(&actor, cluster, node, method, body).await).await;
        assert_eq!(status.as_u16(), expected, "{method}: {text}");
    }
    for (method, body) in [
        ("get", json!({"Name": REFUSED_NAME})),
        ("put", json!({"Name": REFUSED_NAME, "Value": value(VALUE)})),
    ] {
        let (status, _) = requests::answer(requests::setec(&stranger, cluster, 0, method, body).await).await;
        assert_eq!(status.as_u16(), 403);
    }
    // Enough of it that files are written and the log is purged; one value crosses blocks.
    for round in 0..40 {
        let text = VALUE.repeat(if round == 0 { 20_000 } else { 1_000 }) + &round.to_string();
        let body = json!({"Name": format!("{NAME}/{round}"), "Value": value(&text)});
        let (status, text) = requests::answer(requests::setec(&actor, cluster, 0, "put", body).await).await;
        assert_eq!(status.as_u16(), 200, "{text}");
    }
    let (status, _) = requests::answer(
        requests::setec(&actor, cluster, 1, "delete", json!({"Name": format!("{NAME}/1")})).await,
    )
    .await;
    assert_eq!(status.as_u16(), 200);
    // The marks did get where they could leak: an auditor reads them all.
    let records = requests::audit(cluster).await;
    let seen = |secret: &str, principal: &str| {
        records.iter().any(|record| {
            record.secret.as_deref() == Some(secret)
                && record.principal.as_deref() == Some(principal)
                && record
                    .remote
                    .as_deref()
                    .is_some_and(|remote| remote.starts_with(ADDRESS))
        })
    };
    assert!(seen(NAME, ACTOR) && seen(MISSING_NAME, ACTOR), "{records:#?}");
    assert!(seen(REFUSED_NAME, STRANGER), "{records:#?}");
}

/// Looks for marks in many encodings at once.
struct Search {
    needles: Vec<Needle>,
    /// Needles by their first two bytes.
    by_start: BTreeMap<[u8; 2], Vec<usize>>,
    starts: Vec<bool>,
}

/// A mark in one encoding.
struct Needle {
    what: String,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Found {
    /// Where, and what.
    marks: BTreeMap<String, BTreeSet<String>>,
    files: usize,
    bytes: u64,
}

impl Search {
    fn for_marks(marks: &[&str]) -> Self {
        let needles: Vec<Needle> = marks.iter().flat_map(|mark| encodings_of(mark)).collect();
        let mut by_start: BTreeMap<[u8; 2], Vec<usize>> = BTreeMap::new();
        let mut starts = vec![false; 1 << 16];
        for (position, needle) in needles.iter().enumerate() {
            let start = [needle.bytes[0], needle.bytes[1]];
            starts[usize::from(u16::from_be_bytes(start))] = true;
            by_start.entry(start).or_default().push(position);
        }
        Self {
            needles,
            by_start,
            starts,
        }
    }

    fn look_at(&self, bytes: &[u8]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (position, pair) in bytes.windows(2).enumerate() {
            let start = [pair[0], pair[1]];
            if self.starts[usize::from(u16::from_be_bytes(start))] {
                for &needle in &self.by_start[&start] {
                    if bytes[position..].starts_with(&self.needles[needle].bytes) {
                        found.insert(self.needles[needle].what.clone());
                    }
                }
            }
        }
        found
    }

    /// Every file below a folder, its name too, and every record of every database.
    fn through(&self, folder: &Path) -> Found {
        let mut found = Found::default();
        let note = |found: &mut Found, place: String, marks: BTreeSet<String>| {
            if !marks.is_empty() {
                found.marks.entry(place).or_default().extend(marks);
            }
        };
        for path in files(folder) {
            let bytes = fs::read(&path).expect("a file");
            found.files += 1;
            found.bytes += bytes.len() as u64;
            let relative = path.strip_prefix(folder).expect("below the folder");
            let name = relative.to_string_lossy();
            note(
                &mut found,
                format!("name of {name}"),
                self.look_at(name.as_bytes()),
            );
            note(&mut found, format!("file {name}"), self.look_at(&bytes));
        }
        for database in databases(folder) {
            let (options, families) = (Options::default(), families(&database));
            let open = DB::open_cf_for_read_only(&options, &database, &families, false).expect("a database");
            for family in &families {
                let handle = open.cf_handle(family).expect("a column family");
                for record in open.iterator_cf(handle, IteratorMode::Start) {
                    let (key, value) = record.expect("a record");
                    for part in [key, value] {
                        let place = format!("record of {} in {family}", database.display());
                        note(&mut found, place, self.look_at(&part));
                    }
                }
            }
        }
        found
    }
}

fn encodings_of(mark: &str) -> Vec<Needle> {
    let mut needles = Vec::new();
    let mut add = |how: &str, bytes: Vec<u8>| {
        needles.push(Needle {
            what: format!("{mark} {how}"),
            bytes,
        });
    };
    add("in clear", mark.as_bytes().to_vec());
    add(
        "in UTF-16LE",
        mark.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    );
    add(
        "in UTF-16BE",
        mark.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    );
    if let Ok(address) = mark.parse::<Ipv4Addr>() {
        // Four bytes alone occur by chance: each codec puts something of its own before them.
        let bytes = address.octets();
        let number = u32::from_be_bytes(bytes).to_le_bytes();
        for (how, before, bytes) in [
            ("as serde writes an address", vec![0], bytes),
            ("with its length", vec![4], bytes),
            ("as bincode writes a number", vec![0xfc], number),
            ("mapped to IPv6", vec![0xff, 0xff], bytes),
        ] {
            add(how, [before, bytes.to_vec()].concat());
        }
    }
    let hex: String = mark.bytes().map(|byte| format!("{byte:02x}")).collect();
    add("in hex", hex.clone().into_bytes());
    add("in upper-case hex", hex.to_uppercase().into_bytes());
    // Within a longer text a mark may begin at any of three positions of a group; what its
    // neighbours decide is cut off.
    for before in 0..3 {
        for (how, engine) in [("base64", &STANDARD), ("URL-safe base64", &URL_SAFE)] {
            let text = [vec![0; before], mark.as_bytes().to_vec()].concat();
            let whole = (text.len() - text.len() % 3) / 3 * 4;
            let first = [0, 2, 3][before];
            let encoded = engine.encode(&text).into_bytes();
            add(&format!("in {how} at {before}"), encoded[first..whole].to_vec());
        }
    }
    needles
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all
}

fn databases(folder: &Path) -> Vec<PathBuf> {
    files(folder)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "CURRENT"))
        .map(|path| path.parent().expect("a file lies in a folder").to_owned())
        .collect()
}

fn families(database: &Path) -> Vec<String> {
    DB::list_cf(&Options::default(), database).expect("column families")
}

/// Puts each needle into records: of each column family one, as key and as value.
fn plant(database: &Path, needles: &[Needle]) {
    let families = families(database);
    let open = DB::open_cf(&Options::default(), database, &families).expect("a database");
    for (position, needle) in needles.iter().enumerate() {
        let family = &families[position % families.len()];
        let handle = open.cf_handle(family).expect("a column family");
        let record = [&b"planted"[..], &needle.bytes, b"here"].concat();
        let (key, value) = if position % 2 == 0 {
            (record, Vec::new())
        } else {
            (format!("planted {position}").into_bytes(), record)
        };
        open.put_cf(handle, key, value).expect("a planted record");
    }
}
