//! The official, unmodified setec client for Go against a real cluster.

mod support;

use std::{path::Path, process::Command};
use support::{TestCluster, skip};

#[tokio::test]
async fn the_upstream_client_works() {
    match go_version() {
        Some(version) if version >= (1, 25) => {}
        Some((major, minor)) => {
            return skip(&format!(
                "the setec client for Go: it needs Go 1.25 or later, here is {major}.{minor}"
            ));
        }
        None => return skip("the setec client for Go: it needs Go 1.25 or later, here is none"),
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

/// Major and minor version.
fn go_version() -> Option<(u32, u32)> {
    let output = Command::new("go").args(["env", "GOVERSION"]).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    let mut numbers = version
        .trim()
        .strip_prefix("go")?
        .split(['.', '-', ' ', 'r', 'b']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
