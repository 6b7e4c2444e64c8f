//! The official, unmodified setec client for Go against a real cluster.

mod support;

use std::{path::Path, process::Command};
use support::{TestCluster, skip};

#[tokio::test]
async fn the_upstream_client_works() {
    // An older Go would fetch the one that the module asks for, and there may be no network.
    let wanted = version_in(
        GO_MODULE
            .lines()
            .find(|line| line.starts_with("go "))
            .unwrap_or_default(),
    );
    let wanted = wanted.expect("go.mod names a version of Go");
    let needs = format!("the setec client for Go: it needs Go {}", written(wanted));
    match go_version() {
        Some(version) if version >= wanted => {}
        Some(version) => return skip(&format!("{needs} or later, here is {}", written(version))),
        None => return skip(&format!("{needs} or later, here is none")),
    }
    let cluster = TestCluster::builder().nodes(3).start().await;
    // Whichever node the Go client talks to, the leader included.
    for node in 0..cluster.len() {
        let administrator = cluster.administrator();
        let mut command = Command::new("go");
        command
            .args(["test", "-count=1", "-v", "./..."])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/setec-go"))
            .env("CONCLAVE_ADDRESSES", cluster.api(node))
            // Numbers are never used twice at a name, so each run has names of its own.
            .env("CONCLAVE_INTEROP_PREFIX", format!("node-{node}/"))
            .env("CONCLAVE_CA", cluster.layout().authority())
            .env("CONCLAVE_CLIENT_CERT", administrator.certificate)
            .env("CONCLAVE_CLIENT_KEY", administrator.key);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("the task ends")
            .expect("go runs");
        assert!(
            output.status.success(),
            "node {node}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

const GO_MODULE: &str = include_str!("interop/setec-go/go.mod");

/// Major, minor and patch version.
type GoVersion = [u32; 3];

fn go_version() -> Option<GoVersion> {
    let output = Command::new("go").args(["env", "GOVERSION"]).output().ok()?;
    version_in(&String::from_utf8(output.stdout).ok()?)
}

/// Reads `go1.25.5`, `go 1.25.5`, `go1.26rc1` and the like.
fn version_in(text: &str) -> Option<GoVersion> {
    let text = text.trim().strip_prefix("go")?.trim_start();
    let digits = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    let mut parts = text.split('.');
    Some([
        digits(parts.next()?)?,
        digits(parts.next()?)?,
        parts.next().and_then(digits).unwrap_or(0),
    ])
}

fn written([major, minor, patch]: GoVersion) -> String {
    format!("{major}.{minor}.{patch}")
}

#[test]
fn versions_of_go_are_compared_to_the_patch() {
    assert_eq!(version_in("go1.25.5\n"), Some([1, 25, 5]));
    assert_eq!(version_in("go1.26rc1"), Some([1, 26, 0]));
    assert_eq!(version_in("go1.25.4 X:nothing"), Some([1, 25, 4]));
    assert_eq!(version_in("devel"), None);
    assert!(version_in("go1.25.4") < version_in("go 1.25.5"));
}
