//! The command as people meet it: on a terminal, with prompts that hide and questions before
//! destruction; its messages about configurations; and the lines that `conclave dev` and
//! `conclave pki` are made to be followed by. (What scripts rely on is in `tests/command.rs`, what
//! programs get of `conclave dev` in `tests/dev_mode.rs`.)

use crate::support::{PATIENCE, PROGRAM, TestCluster, eventually, skip};
use conclave::{
    dev::{PortChoice, Ports},
    server::RuntimeFile,
};
use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{LocalModes, tcgetattr},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout},
};

#[tokio::test]
async fn people_at_a_terminal() {
    let cluster = TestCluster::builder()
        .nodes(1)
        .setting("cluster.scrub_bytes_per_s", "1")
        .start()
        .await;
    if Command::new("script").arg("--version").output().is_err() {
        return skip("the program `script` of util-linux is missing: nothing is tried on a terminal");
    }
    // A value is asked for twice and never shown.
    let mut put = Terminal::run(&cluster, &["put", "app/typed"]).await;
    put.answer_hidden("Value: ", "typed secret").await;
    put.answer_hidden("Value again: ", "typed secret").await;
    let (shown, code) = put.end().await;
    assert_eq!(code, 0, "{shown}");
    assert!(!shown.contains("typed secret"), "{shown}");
    let mut differs = Terminal::run(&cluster, &["put", "app/typed"]).await;
    differs.answer_hidden("Value: ", "one").await;
    differs.answer_hidden("Value again: ", "another").await;
    let (shown, code) = differs.end().await;
    assert_eq!(code, 5, "{shown}");
    assert!(shown.contains("differ"), "{shown}");

    // A newline at the end for people; exactly the bytes for a pipe.
    let (shown, code) = Terminal::run(&cluster, &["get", "app/typed"]).await.end().await;
    assert_eq!((shown.as_str(), code), ("typed secret\r\n", 0));
    let piped = cluster
        .command()
        .args(["get", "app/typed"])
        .output()
        .expect("it runs");
    assert_eq!(piped.stdout, b"typed secret");

    // Destruction asks, and anything but yes is no.
    for (destructive, answer, expected) in [
        (&["delete", "app/typed"][..], "no", 1),
        (&["delete", "app/typed"][..], "y", 1),
        (&["cluster", "remove", "node-1"][..], "", 1),
        (&["delete", "app/typed"][..], "yes", 0),
    ] {
        let mut asking = Terminal::run(&cluster, destructive).await;
        asking.answer("Type \"yes\"", answer).await;
        let (shown, code) = asking.end().await;
        assert_eq!(code, expected, "{destructive:?} {answer}: {shown}");
        let found = cluster
            .command()
            .args(["info", "app/typed"])
            .output()
            .expect("it runs");
        assert_eq!(found.status.code(), Some(if expected == 0 { 3 } else { 0 }));
    }

    verified_at_a_terminal(&cluster).await;
}

/// The scrub at this pace would need many minutes; a verification has a pace of its own, and shows
/// that it goes on.
async fn verified_at_a_terminal(cluster: &TestCluster) {
    let client = cluster.client();
    let mut value = vec![0; 1 << 20];
    for number in 0..12 {
        value.fill(number);
        let put = client.put(&format!("large/{number}"), &value).await;
        put.expect("a put");
    }
    let arguments = ["cluster", "verify", "--wait-s", "60"];
    let (shown, code) = Terminal::run(cluster, &arguments).await.end().await;
    assert_eq!(code, 0, "{shown}");
    for expected in ["every node rescans its state", "scanned", "All nodes agree."] {
        assert!(shown.contains(expected), "{expected} is not in:\n{shown}");
    }
}

#[tokio::test]
async fn every_command_speaks_json() {
    let cluster = TestCluster::builder().nodes(1).start().await;
    let folder = cluster.path().to_string_lossy().into_owned();
    let config = cluster.node(0).config.to_string_lossy().into_owned();
    let (pki, key) = (format!("{folder}/pki"), format!("{folder}/made.key"));
    for arguments in [
        &["version"][..],
        &["put", "a"],
        &["put", "a", "--file", "-"],
        &["create-version", "a", "4"],
        &["info", "a"],
        &["list"],
        &["get", "a"],
        &["get", "a", "--unless-version", "4"],
        &["activate", "a", "1"],
        &["delete-version", "a", "4", "--yes"],
        &["delete", "a", "--yes"],
        &["delete", "never-there", "--yes"],
        &["status"],
        &["audit", "list", "--limit", "3"],
        &["cluster", "list"],
        &["cluster", "verify"],
        &["seal", "status"],
        &["seal", "retry"],
        &["seal", "rotate"],
        &["seal", "rekey", &key],
        &["seal", "generate-key", &key],
        &["pki", "init", "--dir", &pki],
        &["pki", "node", "a", "--host", "localhost", "--dir", &pki],
        &["pki", "client", "cn:a", "--dir", &pki],
        &["config", "check", "--config", &config],
    ] {
        let output = run(cluster.command().arg("--json").args(arguments), b"a value");
        let refused = arguments.starts_with(&["seal", "rekey"]);
        let stream = if refused { &output.stderr } else { &output.stdout };
        assert_eq!(output.status.success(), !refused, "{arguments:?}: {output:?}");
        let text = String::from_utf8(stream.clone()).expect("text");
        assert!(!text.is_empty(), "{arguments:?}");
        for line in text.lines() {
            let value: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {line}"));
            assert!(!refused || value["error"]["code"] == "invalid", "{value}");
        }
    }
}

#[test]
fn configurations_are_judged_line_by_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    let check = |text: &str, more: &[&str]| {
        fs::write(&path, text).expect("a file");
        let mut command = Command::new(PROGRAM);
        command
            .args(["config", "check", "--config"])
            .arg(&path)
            .args(more);
        let output = run(&mut command, b"");
        (
            output.status.code(),
            String::from_utf8(output.stdout).expect("text"),
        )
    };
    let shown = path.display();
    let text = "node_name = \"A\"\ncluster_name = \"c\"\n\n[api]\nlisten = \"127.0.0.1:0\"\n\n[limits]\nheader_bytes = 5\n";
    let (code, said) = check(text, &[]);
    assert_eq!(code, Some(5));
    for expected in [
        format!("{shown}:1: error: node_name: "),
        format!("{shown}: error: data_dir: is required"),
        format!("{shown}:8: error: limits.header_bytes: must be at least 8192"),
        format!("{shown}: error: tls.node_certificate: is required"),
        format!("{shown}: warning: seal.key_file: is missing: the node starts sealed"),
    ] {
        assert!(said.contains(&expected), "{expected} is not in:\n{said}");
    }
    let (code, said) = check(text, &["--json"]);
    assert_eq!(code, Some(5));
    let findings: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of_header = |finding: &&Value| finding["key"] == "limits.header_bytes";
    let finding = findings.iter().find(of_header).expect("a finding");
    assert_eq!(
        (&finding["line"], &finding["severity"]),
        (&json!(8), &json!("error"))
    );

    for (text, expected) in [
        (
            "node_name = \"a\"\nnodename = \"b\"\n",
            ":2: error: unknown field",
        ),
        ("node_name = \"a\"\n[api\n", ":2: error: "),
        ("node_name = 7\n", ":1: error: invalid type"),
        ("[api]\n\nlisten = \"nowhere\"\n", ":3: error: "),
        (
            "node_name = \"a\"\n[cluster]\nrejoin = \"sometimes\"\n",
            ":3: error: ",
        ),
    ] {
        let (code, said) = check(text, &[]);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    // Flags and environment lie over the file.
    let (_, said) = check(text, &["--set", "limits.header_bytes=16384"]);
    assert!(!said.contains("header_bytes"), "{said}");
    let (code, said) = check(text, &["--set", "limits.haeder_bytes=16384"]);
    assert_eq!(code, Some(5));
    assert!(said.contains("haeder_bytes"), "{said}");
}

#[test]
fn shells_get_completions() {
    for (shell, checker) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let output = run(Command::new(PROGRAM).args(["completions", shell]), b"");
        assert!(output.status.success(), "{output:?}");
        let script = String::from_utf8(output.stdout).expect("text");
        for word in ["delete-version", "generate-key", "unless-version"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        if let Some(checker) = checker {
            let checked = run(Command::new(checker).arg("-n"), script.as_bytes());
            assert!(checked.status.success(), "{checked:?}");
        }
    }
    let help = run(Command::new(PROGRAM).arg("--help"), b"");
    let help = String::from_utf8(help.stdout).expect("text");
    assert!(help.contains("3 not found, 4 denied, 5 invalid"), "{help}");
}

/// What `conclave dev` prints for people can be pasted as it stands.
#[tokio::test]
async fn the_lines_of_dev_can_be_pasted() {
    let outer = tempfile::tempdir().expect("a temporary folder");
    let folder = outer.path().join("a folder");
    let mut dev = tokio::process::Command::new(PROGRAM)
        .args(["dev", "--nodes", "1", "--port-base", "0", "--data-dir"])
        .arg(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(dev.stdout.take().expect("piped")).lines();
    let mut said = Vec::new();
    while said
        .last()
        .is_none_or(|line: &String| !line.starts_with("Ctrl-C"))
    {
        let line = tokio::time::timeout(2 * PATIENCE, lines.next_line())
            .await
            .expect("a line in time");
        said.push(line.expect("text").expect("it runs on"));
    }
    let announced: Value =
        serde_json::from_slice(&fs::read(folder.join("dev.json")).expect("dev.json")).expect("JSON");
    for path in ["ca", "client_cert", "client_key"] {
        let path = announced[path].as_str().expect("a path");
        assert!(
            Path::new(path).exists() && said.iter().any(|line| line.contains(path)),
            "{path} in {said:#?}"
        );
    }
    let after = said
        .iter()
        .position(|line| line == "In another terminal:")
        .expect("lines to paste");
    let pasted: Vec<&str> = said[after + 1..]
        .iter()
        .filter_map(|line| line.strip_prefix("  "))
        .collect();
    assert!(pasted.len() >= 5, "{said:#?}");
    let script = format!("set -e\n{}\n", pasted.join("\n"));
    let output = run(
        Command::new("sh")
            .arg("-c")
            .arg(script)
            .env_remove("CONCLAVE_ADDRESSES"),
        b"",
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for expected in ["s3cret", "demo/password", "leader", "dev"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    let pid = dev
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
        .expect("it runs");
    kill_process(pid, Signal::TERM).expect("it runs");
    let ended = tokio::time::timeout(PATIENCE, dev.wait())
        .await
        .expect("it ends")
        .expect("it ends");
    assert!(ended.success(), "{ended}");
}

/// What people see of a node that is killed, and Ctrl-C as a terminal gives it: to the whole process
/// group.
#[tokio::test]
async fn dev_at_a_terminal() {
    if Command::new("script").arg("--version").output().is_err() {
        return skip("the program `script` of util-linux is missing: nothing is tried on a terminal");
    }
    let outer = tempfile::tempdir().expect("a temporary folder");
    let folder = outer.path().join("dev");
    let arguments = ["dev", "--nodes", "1", "--port-base", "0", "--data-dir"];
    let mut dev = Terminal::start(
        &Command::new(PROGRAM),
        &[&arguments[..], &[&*folder.to_string_lossy()]].concat(),
    )
    .await;
    dev.wait_for("Ctrl-C stops all nodes.").await;
    assert!(dev.shown.contains("ALL RIGHTS"), "{}", dev.shown);
    let announced: Value =
        serde_json::from_slice(&fs::read(folder.join("dev.json")).expect("dev.json")).expect("JSON");
    let pid = announced["nodes"][0]["pid"].as_i64().expect("a process id");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    kill_process(pid, Signal::KILL).expect("the node runs");
    dev.wait_for("stops that one, too").await;
    let (_, after) = dev.shown.split_once("stays down.").expect("what to do");
    let line = after.lines().nth(1).expect("a command").trim().to_owned();
    assert!(line.contains("server --config"), "{}", dev.shown);
    let mut again = tokio::process::Command::new("sh")
        .args(["-c", &format!("exec {line}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the shown command can be pasted");
    let data_dir = folder.join("node-1/data");
    eventually("the node runs again", PATIENCE, async || {
        let runtime = RuntimeFile::read(&data_dir).map_err(|error| error.to_string())?;
        if Some(runtime.pid) == again.id() {
            Ok(())
        } else {
            Err(format!("{runtime:?}"))
        }
    })
    .await;
    dev.interrupt().await;
    let (shown, code) = dev.end().await;
    assert_eq!(code, 0, "{shown}");
    let ended = tokio::time::timeout(PATIENCE, again.wait())
        .await
        .expect("it is stopped, too")
        .expect("it ends");
    assert!(ended.success(), "{ended}");
    assert!(!data_dir.join("runtime.json").exists(), "it stopped in order");
}

/// With nothing but `conclave pki` and `conclave seal generate-key`, a node that is no dev cluster.
#[tokio::test]
async fn files_of_pki_make_a_node() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ports = Ports::choose(PortChoice::Free, 1).expect("free ports");
    let ports = ports.nodes()[0];
    let here = |arguments: &[&str]| {
        let output = run(
            Command::new(PROGRAM).current_dir(folder.path()).args(arguments),
            b"",
        );
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    here(&["pki", "init"]);
    here(&["pki", "node", "a", "--host", "127.0.0.1"]);
    here(&["pki", "client", "email:alice@example.org", "--file", "alice"]);
    here(&["pki", "client", "cn:bob", "--file", "bob"]);
    here(&["seal", "generate-key", "seal.key"]);
    let config = format!(
        r#"
node_name = "a"
data_dir = "data"
[api]
listen = "127.0.0.1:{api}"
[cluster]
listen = "127.0.0.1:{cluster}"
nodes = [{{ name = "a", address = "127.0.0.1:{cluster}" }}]
reserve_bytes = 67108864
last_reserve_bytes = 16777216
[metrics]
listen = "127.0.0.1:{metrics}"
[tls]
api_certificate = "pki/a-api.pem"
api_private_key = "pki/a-api.key"
client_authority = "pki/client-ca.pem"
node_certificate = "pki/a.pem"
node_private_key = "pki/a.key"
node_authority = "pki/node-ca.pem"
[seal]
key_file = "seal.key"
[grants.principals]
"email:alice@example.org" = [{{ action = ["get", "put"], secret = ["*"] }}]
"#,
        api = ports.api,
        cluster = ports.cluster,
        metrics = ports.metrics,
    );
    fs::write(folder.path().join("node.toml"), config).expect("a file");
    here(&["config", "check", "--config", "node.toml"]);
    let mut node = tokio::process::Command::new(PROGRAM)
        .current_dir(folder.path())
        .args(["server", "--config", "node.toml"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path().join("log")).expect("a file"))
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let by = |who: &str, arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(folder.path())
            .env("CONCLAVE_ADDRESSES", format!("https://127.0.0.1:{}", ports.api))
            .env("CONCLAVE_CA", "pki/node-ca.pem")
            .env("CONCLAVE_CLIENT_CERT", format!("pki/{who}.pem"))
            .env("CONCLAVE_CLIENT_KEY", format!("pki/{who}.key"))
            .args(arguments);
        run(&mut command, b"value")
    };
    eventually("the node serves", PATIENCE, async || {
        let output = by("alice", &["put", "a", "--timeout-s", "5"]);
        if output.status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        Err(format!("{output:?}\n{log}"))
    })
    .await;
    assert_eq!(by("alice", &["get", "a"]).stdout, b"value");
    assert_eq!(by("bob", &["get", "a"]).status.code(), Some(4));
    let pid = node
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
        .expect("it runs");
    kill_process(pid, Signal::TERM).expect("it runs");
    let ended = tokio::time::timeout(PATIENCE, node.wait())
        .await
        .expect("it ends")
        .expect("it ends");
    assert!(ended.success(), "{ended}");
}

/// A command on a terminal of its own, by `script` of util-linux.
struct Terminal {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    device: String,
    shown: String,
}

impl Terminal {
    async fn run(cluster: &TestCluster, arguments: &[&str]) -> Self {
        Self::start(&cluster.command(), arguments).await
    }

    /// With the variables of a command.
    async fn start(environment: &Command, arguments: &[&str]) -> Self {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        let line = format!("tty && exec {} {}", quoted(PROGRAM), words.join(" "));
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]);
        for (name, value) in environment.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .expect("script starts");
        let mut terminal = Self {
            input: child.stdin.take().expect("piped"),
            output: child.stdout.take().expect("piped"),
            child,
            device: String::new(),
            shown: String::new(),
        };
        terminal.wait_for("\n").await;
        let (device, rest) = terminal.shown.split_once('\n').expect("a line");
        (terminal.device, terminal.shown) = (device.trim().to_owned(), rest.to_owned());
        terminal
    }

    async fn wait_for(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(self.read().await, "it ended before {text:?}: {}", self.shown);
        }
    }

    async fn read(&mut self) -> bool {
        let mut bytes = [0; 1024];
        let count = tokio::time::timeout(PATIENCE, self.output.read(&mut bytes))
            .await
            .unwrap_or_else(|_| panic!("nothing comes after {:?}", self.shown))
            .expect("script runs");
        self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count > 0
    }

    /// Types Ctrl-C.
    async fn interrupt(&mut self) {
        self.input.write_all(b"\x03").await.expect("script reads");
        self.input.flush().await.expect("script reads");
    }

    async fn answer(&mut self, question: &str, answer: &str) {
        self.wait_for(question).await;
        self.input
            .write_all(format!("{answer}\n").as_bytes())
            .await
            .expect("script reads");
        self.input.flush().await.expect("script reads");
    }

    /// Answers once the terminal has ceased to show what is typed, as a person does.
    async fn answer_hidden(&mut self, question: &str, answer: &str) {
        self.wait_for(question).await;
        let device = fs::File::open(&self.device).expect("the terminal");
        eventually("the terminal hides what is typed", PATIENCE, async || {
            let modes = tcgetattr(&device).map_err(|error| error.to_string())?;
            if modes.local_modes.contains(LocalModes::ECHO) {
                Err("it shows it".to_owned())
            } else {
                Ok(())
            }
        })
        .await;
        drop(device);
        self.answer(question, answer).await;
    }

    /// All that was shown, and the exit code.
    async fn end(mut self) -> (String, i32) {
        while self.read().await {}
        drop(self.input);
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends")
            .expect("it ends");
        (self.shown, status.code().expect("it ended by itself"))
    }
}

fn run(command: &mut Command, input: &[u8]) -> Output {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // A command that does not read its input closes it.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("the command ends")
}
