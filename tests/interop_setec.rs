//! The official, unmodified setec client for Go against a real cluster.

mod support;

use std::{
    path::Path,
    process::{Command, Output},
};
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
        let mut environment = cluster.command();
        environment
            .env("CONCLAVE_ADDRESSES", cluster.api(node))
            // Numbers are never used twice at a name, so each run has names of its own.
            .env("CONCLAVE_INTEROP_PREFIX", format!("node-{node}/"));
        let tested = go(&environment, &["test", "-count=1", "-v", "./..."]).await;
        assert!(
            tested.status.success(),
            "node {node}:\n{}{}",
            String::from_utf8_lossy(&tested.stdout),
            String::from_utf8_lossy(&tested.stderr)
        );
    }

    // The program of the README's tour.
    let value = b"s3cret".as_slice();
    cluster.client().put("tour", value).await.expect("a put");
    let tour = go(&cluster.command(), &["run", "./tour", "tour"]).await;
    assert!(tour.status.success(), "{tour:?}");
    assert_eq!(String::from_utf8_lossy(&tour.stdout), "version 1: s3cret\n");
}

/// Runs `go` in the client's module, with the variables of a command.
async fn go(environment: &Command, arguments: &[&str]) -> Output {
    let mut command = Command::new("go");
    command
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/setec-go"));
    for (name, value) in environment.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("the task ends")
        .expect("go runs")
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
