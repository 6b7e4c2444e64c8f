//! `conclave dev` as programs use it: what it prints, what it starts, how it ends.

mod support;

use conclave::{
    client::{Client, Settings},
    dev::{Announcement, PortChoice, Ports},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command as BlockingCommand, Stdio},
    time::Duration,
};
use support::{PATIENCE, PROGRAM, eventually};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

#[tokio::test]
async fn programs_get_a_cluster_and_leave_nothing_behind() {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let folder = outer.path().join("dev");
    let mut dev = Dev::start(&folder, &["--nodes", "3"]);
    let line = dev.line().await;
    let announcement: Announcement =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(Announcement::read(&folder).expect("dev.json"), announcement);
    assert_eq!(announcement.nodes.len(), 3);
    assert_eq!(
        fs::metadata(&folder).expect("the folder").permissions().mode() & 0o777,
        0o700
    );

    // It serves, with and without the certificate.
    for identity in [
        Some((announcement.client_cert.clone(), announcement.client_key.clone())),
        None,
    ] {
        let client = client(&announcement, identity);
        client.put("dev/name", b"value").await.expect("put");
        assert_eq!(
            client
                .get("dev/name", None)
                .await
                .unwrap_or_else(|error| panic!("get: {error}"))
                .value
                .as_slice(),
            b"value"
        );
        for (position, node) in announcement.nodes.iter().enumerate() {
            let status = client.at(position).status().await.expect("status");
            assert_eq!(
                (status.node_id, status.cluster_id.as_deref()),
                (Some(node.id), Some(&*announcement.cluster_id))
            );
        }
    }

    // A second one in the same folder is refused.
    let second = BlockingCommand::new(PROGRAM)
        .arg("dev")
        .arg("--data-dir")
        .arg(&folder)
        .output()
        .expect("it runs");
    assert!(!second.status.success());
    assert!(
        String::from_utf8_lossy(&second.stderr).contains("another"),
        "{second:?}"
    );

    // A killed node stays down, the message names the command that starts it again, and it does.
    let killed = &announcement.nodes[1];
    kill_process(pid(killed.pid), Signal::KILL).expect("the node runs");
    let message = dev.error_line_with("server --config").await;
    let config = killed.config.to_string_lossy();
    assert!(message.contains(&*config), "{message}");
    // As a person would, from the folder.
    let config = killed.config.strip_prefix(&folder).expect("it lies there");
    let mut restarted = Command::new(PROGRAM)
        .args(["server", "--config"])
        .arg(config)
        .current_dir(&folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the node starts");
    let one = client(&announcement, None).at(1);
    eventually("the node rejoins", PATIENCE, async || {
        let status = one.status().await.map_err(|error| error.to_string())?;
        if status.leader_id.is_some() && !status.sealed {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    assert!(one.get("dev/name", None).await.is_ok());

    // Ctrl-C stops the rest, and that one too.
    dev.interrupt().await;
    let ended = tokio::time::timeout(PATIENCE, restarted.wait())
        .await
        .expect("it ends")
        .expect("it ends");
    assert!(ended.success(), "{ended}");
    for node in &announcement.nodes {
        assert!(
            test_kill_process(pid(node.pid)).is_err(),
            "process {} still runs",
            node.pid
        );
    }
    assert!(
        Announcement::read(&folder).is_err(),
        "dev.json says that something runs"
    );

    // Started again, it is the same cluster, also on other ports; --fresh makes another one.
    let held = Ports::choose(PortChoice::Free, 12).expect("free ports");
    let base = held.nodes()[0].api;
    let mut dev = Dev::start(&folder, &["--port-base", &base.to_string()]);
    let again: Announcement = serde_json::from_str(&dev.line().await).expect("an announcement");
    assert_eq!(again.cluster_id, announcement.cluster_id);
    assert_eq!(again.nodes[2].api, format!("https://127.0.0.1:{}", base + 20));
    drop(held);
    assert!(client(&again, None).get("dev/name", None).await.is_ok());
    dev.interrupt().await;
    let mut dev = Dev::start(&folder, &["--fresh", "--nodes", "1"]);
    let fresh: Announcement = serde_json::from_str(&dev.line().await).expect("an announcement");
    assert_ne!(fresh.cluster_id, announcement.cluster_id);
    assert_eq!(fresh.nodes.len(), 1);
    let environment = BlockingCommand::new(PROGRAM)
        .args(["dev", "env", "--data-dir"])
        .arg(&folder)
        .output()
        .expect("it runs");
    let lines = String::from_utf8(environment.stdout).expect("text");
    assert!(
        lines.contains(&format!("export CONCLAVE_ADDRESSES={}", fresh.nodes[0].api)),
        "{lines}"
    );
    dev.interrupt().await;
}

#[test]
fn a_strange_folder_is_never_touched() {
    let strange = tempfile::tempdir().expect("a temporary folder");
    fs::write(strange.path().join("thesis.txt"), "years of work").expect("a file");
    let output = BlockingCommand::new(PROGRAM)
        .args(["dev", "--fresh", "--port-base", "0", "--data-dir"])
        .arg(strange.path())
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("did not make"),
        "{output:?}"
    );
    assert!(strange.path().join("thesis.txt").exists());
}

struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Dev {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let free: &[&str] = if arguments.contains(&"--port-base") {
            &[]
        } else {
            &["--port-base", "0"]
        };
        let mut child = Command::new(PROGRAM)
            .args(["dev", "--json", "--data-dir"])
            .arg(folder)
            .args(free)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let errors = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { child, lines, errors }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(2 * PATIENCE, self.lines.next_line())
            .await
            .expect("a line in time");
        match line.expect("text") {
            Some(line) => line,
            None => {
                let mut said = String::new();
                while let Ok(Some(line)) = self.errors.next_line().await {
                    said.push_str(&line);
                    said.push('\n');
                }
                panic!("it ended instead: {said}");
            }
        }
    }

    async fn error_line_with(&mut self, part: &str) -> String {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let line = self
                    .errors
                    .next_line()
                    .await
                    .expect("text")
                    .expect("it still runs");
                if line.contains(part) {
                    return line;
                }
            }
        })
        .await
        .expect("the message comes")
    }

    async fn interrupt(mut self) {
        kill_process(pid(self.child.id().expect("it runs")), Signal::INT).expect("it runs");
        let ended = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends")
            .expect("it ends");
        assert!(ended.success(), "{ended}");
    }
}

fn client(announcement: &Announcement, identity: Option<(std::path::PathBuf, std::path::PathBuf)>) -> Client {
    let settings = Settings {
        addresses: announcement.nodes.iter().map(|node| node.api.clone()).collect(),
        authority: announcement.ca.clone(),
        identity,
        timeout: Duration::from_secs(30),
    };
    Client::new(&settings).expect("a client")
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id")
}
