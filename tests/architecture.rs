//! The workspace keeps its shape: `conclave` → `conclave-cluster` → `conclave-raft`, never back, and
//! no cipher for data below the edge (design, section 1). TLS between nodes is rustls' own matter.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Below the edge no crate of these may be a dependency, directly or through others.
const CIPHERS: [&str; 22] = [
    "aead",
    "aegis",
    "aes",
    "aes-gcm",
    "aes-gcm-siv",
    "aes-siv",
    "age",
    "ascon-aead",
    "chacha20poly1305",
    "cipher",
    "crypto_box",
    "crypto_secretbox",
    "dryoc",
    "libsodium-sys",
    "ocb3",
    "openssl",
    "orion",
    "salsa20",
    "secretbox",
    "sodiumoxide",
    "tink-core",
    "xsalsa20poly1305",
];
/// These hold ciphers and are there for TLS only: through rustls, never directly.
const ONLY_FOR_TLS: [&str; 3] = ["ring", "aws-lc-rs", "aws-lc-sys"];
/// What source below the edge must not say.
const WORDS: [&str; 9] = [
    "conclave::",
    "ring::aead",
    "ring::cipher",
    "crypto::cipher",
    "chacha20poly1305",
    "XChaCha20",
    "aes_gcm",
    "\"../src",
    "\"../../src",
];

#[test]
fn the_core_has_no_cipher_for_data_and_no_import_of_the_edge() {
    let metadata = metadata();
    assert_eq!(dependency_violations(&metadata), Vec::<String>::new());
    let sources = ["raft", "cluster"].map(|folder| root().join(folder));
    assert_eq!(source_violations(&sources), Vec::<String>::new());
}

#[test]
fn a_violation_would_be_seen() {
    for (from, to) in [
        ("conclave-raft", "conclave-cluster"),
        ("conclave-raft", "conclave"),
        ("conclave-cluster", "conclave"),
        ("conclave-cluster", "chacha20poly1305"),
        ("conclave-raft", "ring"),
        ("crc32c", "aes-gcm"),
    ] {
        let mut metadata = metadata();
        add_dependency(&mut metadata, from, to);
        assert!(
            !dependency_violations(&metadata).is_empty(),
            "{from} → {to} was not seen"
        );
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("leak.rs"), "use conclave::seal;").expect("the file is written");
    assert_eq!(source_violations(&[folder.path().to_owned()]).len(), 1);
}

/// Each package's normal and build dependencies (not those of tests), as resolved. Packages are told
/// apart by id, since two versions of a crate may have different dependencies.
struct Dependencies {
    names: BTreeMap<String, String>,
    of: BTreeMap<String, BTreeSet<String>>,
}

impl Dependencies {
    fn read(metadata: &Value) -> Self {
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            names.insert(text(&package["id"]), text(&package["name"]));
        }
        let mut of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let dependencies = list(&node["deps"]).iter().filter(|dependency| {
                let kinds = list(&dependency["dep_kinds"]);
                kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev"))
            });
            let dependencies = dependencies.map(|dependency| text(&dependency["pkg"]));
            of.entry(text(&node["id"])).or_default().extend(dependencies);
        }
        Self { names, of }
    }

    /// The names of a workspace member's own dependencies.
    fn direct(&self, name: &str) -> BTreeSet<&str> {
        let ids = &self.of[self.id(name)];
        ids.iter().map(|id| self.names[id].as_str()).collect()
    }

    /// The names of everything that a workspace member depends on.
    fn all(&self, name: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![self.id(name)];
        while let Some(next) = open.pop() {
            for dependency in self.of.get(next).into_iter().flatten() {
                if seen.insert(dependency) {
                    open.push(dependency);
                }
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }

    fn id(&self, name: &str) -> &str {
        let found = self.names.iter().find(|(_, known)| *known == name);
        found.unwrap_or_else(|| panic!("{name} is no package")).0
    }
}

fn dependency_violations(metadata: &Value) -> Vec<String> {
    let dependencies = Dependencies::read(metadata);
    let mut violations = Vec::new();
    for (name, above) in [
        ("conclave-raft", &["conclave-cluster", "conclave"][..]),
        ("conclave-cluster", &["conclave"][..]),
    ] {
        let all = dependencies.all(name);
        for forbidden in above.iter().chain(&CIPHERS) {
            if all.contains(*forbidden) {
                violations.push(format!("{name} depends on {forbidden}"));
            }
        }
        for forbidden in ONLY_FOR_TLS {
            if dependencies.direct(name).contains(forbidden) {
                violations.push(format!("{name} depends directly on {forbidden}"));
            }
        }
    }
    violations
}

fn source_violations(folders: &[PathBuf]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut files_seen = 0;
    for path in folders.iter().flat_map(|folder| source_files(folder)) {
        files_seen += 1;
        let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (number, line) in source.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in WORDS.iter().filter(|word| code.contains(*word)) {
                violations.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(files_seen > 0, "no source was found");
    violations
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a folder's entry").path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn add_dependency(metadata: &mut Value, from: &str, to: &str) {
    let id_of = |name: &str| {
        let package = list(&metadata["packages"])
            .iter()
            .find(|package| package["name"] == name);
        package.map_or_else(|| format!("{name} (made up)"), |package| text(&package["id"]))
    };
    let (from, to_id) = (id_of(from), id_of(to));
    metadata["packages"]
        .as_array_mut()
        .expect("a list")
        .push(serde_json::json!({"id": to_id, "name": to}));
    let nodes = metadata["resolve"]["nodes"].as_array_mut().expect("a list");
    let node = nodes
        .iter_mut()
        .find(|node| node["id"] == *from)
        .expect("the crate is resolved");
    let dependency = serde_json::json!({"pkg": to_id, "dep_kinds": [{"kind": null}]});
    node["deps"].as_array_mut().expect("a list").push(dependency);
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
