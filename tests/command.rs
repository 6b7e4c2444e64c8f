//! The command's contract with people and scripts: bytes in, bytes out, exit codes.

mod support;

use serde_json::{Value, json};
use std::{
    io::Write,
    process::{Command, Output, Stdio},
};
use support::{PATIENCE, TestCluster, eventually, setec::Setec};

/// Each kind of request, in a closed loop and at a rate; what fails is told.
#[tokio::test]
async fn a_cluster_is_measured() {
    let cluster = TestCluster::builder().nodes(1).start().await;
    let measure = |arguments: &[&str]| {
        let common = ["bench", "--json", "--clients", "4", "--duration-s", "1"];
        run(cluster.command(), &[&common, arguments].concat(), b"")
    };
    let warmed = ["mixed", "--secrets", "5", "--warm-up-s", "1"];
    let mixed = json_of(&succeed(measure(&warmed)));
    assert!(mixed["operations"].as_u64() > Some(0), "{mixed}");
    assert_eq!(mixed["errors"], 0, "{mixed}");
    assert!(mixed["latency_ms"]["p99"].as_f64() >= mixed["latency_ms"]["p50"].as_f64());
    let paced = [
        "poll",
        "--secrets",
        "5",
        "--filled",
        "--warm-up-s",
        "0",
        "--rate",
        "20",
    ];
    let paced = json_of(&succeed(measure(&paced)));
    assert_eq!((&paced["operations"], &paced["errors"]), (&json!(20), &json!(0)));
    let made = json_of(&succeed(run(cluster.command(), &["list", "--json"], b"")));
    assert_eq!(made.as_array().map(Vec::len), Some(5), "{made}");

    let nothing_there = ["get", "--prefix", "nothing/", "--filled", "--warm-up-s", "0"];
    let failed = measure(&nothing_there);
    assert_eq!(code(&failed), 1);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("404"), "{said}");
}

#[tokio::test]
async fn values_are_exact_and_exit_codes_distinct() {
    let cluster = TestCluster::builder()
        .nodes(3)
        .grant("uri:reader", &["get"], &["shared/*"])
        .start()
        .await;
    let run = |arguments: &[&str], input: &[u8]| run(cluster.command(), arguments, input);
    let value = b"\x00binary\r\nwith a newline at the end\n\xff";

    // In by standard input or file, out into a pipe: the same bytes.
    let put = succeed(run(&["put", "shared/a", "--json"], value));
    assert_eq!(json_of(&put), json!({"name": "shared/a", "version": 1}));
    assert_eq!(succeed(run(&["get", "shared/a"], b"")).stdout, value);
    let file = cluster.path().join("value");
    std::fs::write(&file, b"from a file").expect("a file");
    succeed(run(&["put", "shared/a", "--file", &file.to_string_lossy()], b""));
    succeed(run(&["activate", "shared/a", "2"], b""));
    assert_eq!(succeed(run(&["get", "shared/a"], b"")).stdout, b"from a file");
    assert_eq!(
        succeed(run(&["get", "shared/a", "--version", "1"], b"")).stdout,
        value
    );
    assert_eq!(
        succeed(run(&["get", "shared/a", "--unless-version", "2"], b"")).stdout,
        b""
    );
    succeed(run(&["create-version", "shared/a", "7"], b"seven"));

    let info = json_of(&succeed(run(&["--json", "info", "shared/a"], b"")));
    assert_eq!(
        info,
        json!({"name": "shared/a", "versions": [1, 2, 7], "active_version": 7})
    );
    assert_eq!(json_of(&succeed(run(&["list", "--json"], b""))), json!([info]));
    let get = json_of(&succeed(run(&["get", "shared/a", "--json"], b"")));
    assert_eq!(
        get,
        json!({"name": "shared/a", "version": 7, "value": "c2V2ZW4="})
    );

    // Exit codes.
    assert_eq!(code(&run(&["get", "shared/missing"], b"")), 3);
    assert_eq!(code(&run(&["get", "shared/a", "--version", "5"], b"")), 3);
    let reader = cluster.identity("uri:reader");
    let as_reader = |arguments: &[&str]| crate::run(cluster.command_as(Some(&reader)), arguments, b"value");
    assert_eq!(succeed(as_reader(&["get", "shared/a"])).stdout, b"seven");
    assert_eq!(json_of(&succeed(as_reader(&["list", "--json"]))), json!([]));
    for denied in [
        &["put", "shared/a"][..],
        &["info", "shared/a"],
        &["get", "private/a"],
        &["status"],
        &["audit", "list"],
    ] {
        assert_eq!(code(&as_reader(denied)), 4, "{denied:?}");
    }
    assert_eq!(code(&run(&["put", ""], b"x")), 5);
    assert_eq!(
        code(&run(&["delete-version", "shared/a", "7", "--yes"], b"")),
        5,
        "it is active"
    );
    assert_eq!(code(&run(&["create-version", "shared/a", "7"], b"again")), 5);
    assert_eq!(code(&run(&["get"], b"")), 2);
    let wrong = run(&["--json", "get"], b"");
    assert_eq!(code(&wrong), 2);
    let error: Value = serde_json::from_slice(&wrong.stderr).expect("an error as JSON");
    assert_eq!(error["error"]["code"], "usage", "{error}");
    assert_eq!(
        code(&run(&["seal", "rekey", "/a/key"], b"")),
        2,
        "one of three nodes"
    );
    assert_eq!(code(&run(&["delete", "shared/a"], b"")), 2, "nobody can be asked");
    let mut nowhere = cluster.command();
    nowhere
        .env("CONCLAVE_ADDRESSES", "https://127.0.0.1:9")
        .env("CONCLAVE_TIMEOUT_S", "1");
    let unavailable = crate::run(nowhere, &["get", "shared/a", "--json"], b"");
    assert_eq!(code(&unavailable), 6);
    let error: Value = serde_json::from_slice(&unavailable.stderr).expect("an error as JSON");
    assert_eq!(error["error"]["code"], "unavailable");

    // Each node's line, whether it answers or not; one that answers is enough.
    let status_of = |addresses: &str, timeout_s: &str, more: &[&str]| {
        let mut command = cluster.command();
        command
            .env("CONCLAVE_ADDRESSES", addresses)
            .env("CONCLAVE_TIMEOUT_S", timeout_s);
        crate::run(command, &[&["status"], more].concat(), b"")
    };
    let (dead, alive) = ("https://127.0.0.1:9,https://127.0.0.1:7", cluster.api(0));
    for more in [&[][..], &["--json"]] {
        let none = status_of(dead, "1", more);
        assert_eq!(code(&none), 6, "{none:?}");
        let shown = String::from_utf8_lossy(&none.stdout);
        assert!(
            shown.contains("127.0.0.1:9") && shown.contains("127.0.0.1:7"),
            "{shown}"
        );
    }
    let one = succeed(status_of(&format!("{dead},{alive}"), "5", &[]));
    let shown = String::from_utf8(one.stdout).expect("text");
    assert!(
        shown.matches("no answer").count() == 2 && shown.contains("node-1"),
        "{shown}"
    );

    // Destruction, once it was said aloud.
    succeed(run(&["delete-version", "shared/a", "1", "--yes"], b""));
    succeed(run(&["delete", "shared/a", "--yes"], b""));
    assert_eq!(code(&run(&["get", "shared/a"], b"")), 3);

    // Who did what, and what was refused.
    let records = succeed(run(&["audit", "list", "--json", "--limit", "0"], b"")).stdout;
    let records: Vec<Value> = String::from_utf8(records)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON lines"))
        .collect();
    let has = |principal: &str, action: &str, secret: Option<&str>, outcome: &str| {
        records.iter().any(|record| {
            record["principal"] == principal
                && record["action"] == action
                && record["secret"].as_str() == secret
                && record["outcome"] == outcome
        })
    };
    assert!(has("uri:reader", "get", Some("shared/a"), "done"), "{records:#?}");
    assert!(
        has("uri:reader", "get", Some("private/a"), "denied"),
        "{records:#?}"
    );
    assert!(
        has("uri:reader", "put", Some("shared/a"), "denied"),
        "{records:#?}"
    );
    assert!(
        has(
            "uri:conclave-dev://client",
            "get",
            Some("shared/missing"),
            "not-found"
        ),
        "{records:#?}"
    );
    let denied = succeed(run(
        &[
            "audit",
            "list",
            "--json",
            "--outcome",
            "denied",
            "--principal",
            "uri:reader",
        ],
        b"",
    ));
    let denied = String::from_utf8(denied.stdout).expect("text");
    assert!(
        denied.lines().count() >= 3 && denied.lines().all(|line| line.contains("\"denied\"")),
        "{denied}"
    );
    let table = String::from_utf8(succeed(run(&["audit", "list"], b"")).stdout).expect("text");
    assert!(table.starts_with("TIME"), "{table}");
    // Programs get the next page's cursor as the last line.
    let puts = ["audit", "list", "--action", "put", "--limit", "1"];
    let page = succeed(run(&[&puts[..], &["--json"]].concat(), b""));
    let lines: Vec<&str> = std::str::from_utf8(&page.stdout).expect("text").lines().collect();
    let next: Value = serde_json::from_str(lines[1]).expect("JSON");
    let cursor = next["next"].as_str().expect("a cursor");
    assert_eq!(lines.len(), 2);
    succeed(run(&[&puts[..], &["--cursor", cursor]].concat(), b""));

    // Operators' commands.
    let members = json_of(&succeed(run(&["cluster", "list", "--json"], b"")));
    assert_eq!(members["members"].as_array().map(Vec::len), Some(3), "{members}");
    let verification = json_of(&succeed(run(&["cluster", "verify", "--json"], b"")));
    assert_eq!(verification["agreed"], true, "{verification}");
    let operated = succeed(run(&["audit", "list", "--action", "operate"], b"")).stdout;
    let operated = String::from_utf8(operated).expect("text");
    assert!(
        operated.lines().any(|line| line.ends_with("cluster verify")),
        "it says what was done:\n{operated}"
    );
    let status = succeed(run(&["status", "--json"], b"")).stdout;
    assert_eq!(String::from_utf8(status).expect("text").lines().count(), 3);
    let seal = String::from_utf8(succeed(run(&["seal", "status"], b"")).stdout).expect("text");
    assert_eq!(seal.matches("open").count(), 3, "{seal}");
    let before = cluster.leader().await;
    succeed(run(&["cluster", "transfer"], b""));
    cluster.wait_until_another_leads(before).await;
}

/// From the configuration to the answer: at the limit of the audit log no value leaves any more, and
/// all else goes on.
#[tokio::test]
async fn a_full_audit_log_refuses_disclosures_where_that_was_chosen() {
    let cluster = TestCluster::builder()
        .nodes(1)
        .setting("audit.limit_bytes", "65536")
        .setting("audit.at_limit", "refuse-disclosures")
        .start()
        .await;
    let caller = Setec::administrator(&cluster);
    caller.put("app/a", b"value").await;
    let refused = eventually("the audit log is full", PATIENCE, async || {
        let answer = caller.json("get", json!({"Name": "app/a"})).await;
        if answer.status == 200 {
            Err(String::from_utf8_lossy(&answer.body).into_owned())
        } else {
            Ok(answer)
        }
    })
    .await;
    assert_eq!(refused.status, 500, "{refused:?}");
    assert_eq!(refused.headers["retry-after"], "30");
    let said = String::from_utf8_lossy(&refused.body);
    assert!(said.contains("audit log is full"), "{said}");
    eventually("the status shows why", PATIENCE, async || {
        let status = cluster.status(0).await.ok_or("it does not answer")?;
        if (65_536, true) == (status.audit_limit_bytes, status.audit_bytes >= 65_536) {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    caller.put("app/b", b"value").await;
    let mut get = cluster.command();
    get.env("CONCLAVE_TIMEOUT_S", "1");
    assert_eq!(code(&run(get, &["get", "app/a"], b"")), 6);
    succeed(run(cluster.command(), &["audit", "list"], b""));
    // An operator raises the limit.
    let raise = ["audit", "limit", "--bytes", "1000000", "--yes"];
    let raised = succeed(run(cluster.command(), &raise, b""));
    assert_eq!(raised.stdout, b"1000000 bytes, then refuse-disclosures\n");
    succeed(run(cluster.command(), &["get", "app/a"], b""));
    assert_eq!(
        code(&run(cluster.command(), &["audit", "limit", "--yes"], b"")),
        2
    );
}

/// JSON into a file, for people on request.
#[tokio::test]
async fn logs_are_json_lines_unless_told_otherwise() {
    for (format, expected) in [("auto", true), ("human", false)] {
        let cluster = TestCluster::builder()
            .nodes(1)
            .setting("log.format", format)
            .start()
            .await;
        let log = std::fs::read_to_string(&cluster.node(0).log).expect("a log");
        let listening = log.lines().find(|line| line.contains("listening"));
        let line = listening.unwrap_or_else(|| panic!("it says that it listens:\n{log}"));
        match serde_json::from_str::<Value>(line) {
            Ok(value) => assert!(
                expected && value["level"] == "INFO" && value["node"] == "node-1",
                "{value}"
            ),
            Err(_) => assert!(!expected && line.contains("INFO"), "{line}"),
        }
    }
}

#[test]
fn files_for_people_without_a_certificate_authority() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let here = |arguments: &[&str]| {
        let mut command = Command::new(support::PROGRAM);
        command.current_dir(folder.path());
        run(command, arguments, b"")
    };
    succeed(here(&["pki", "init"]));
    succeed(here(&["pki", "node", "a", "--host", "127.0.0.1"]));
    succeed(here(&["pki", "client", "email:alice@example.org"]));
    let key = json_of(&succeed(here(&["seal", "generate-key", "seal.key", "--json"])));
    assert_eq!(key["file"], "seal.key");
    for private in [
        "pki/node-ca.key",
        "pki/client-ca.key",
        "pki/a.key",
        "pki/a-api.key",
        "pki/client.key",
        "seal.key",
    ] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path().join(private))
            .expect(private)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{private}");
    }
    assert!(
        !here(&["seal", "generate-key", "seal.key"]).status.success(),
        "a key is never overwritten"
    );
    assert_eq!(code(&here(&["pki", "client", "alice", "--file", "other"])), 5);

    let config = r#"
node_name = "a"
data_dir = "data"
[cluster]
nodes = [{ name = "a", address = "127.0.0.1:8201" }]
[tls]
api_certificate = "pki/a-api.pem"
api_private_key = "pki/a-api.key"
client_authority = "pki/client-ca.pem"
node_certificate = "pki/a.pem"
node_private_key = "pki/a.key"
node_authority = "pki/node-ca.pem"
[seal]
key_file = "seal.key"
"#;
    std::fs::write(folder.path().join("node.toml"), config).expect("a file");
    succeed(here(&["config", "check", "--config", "node.toml"]));
    std::fs::write(folder.path().join("node.toml"), format!("{config}kye_file = 1\n")).expect("a file");
    let refused = here(&["config", "check", "--config", "node.toml"]);
    assert_eq!(code(&refused), 5);
    assert!(
        String::from_utf8_lossy(&refused.stdout).contains("node.toml:15:"),
        "{refused:?}"
    );
}

fn run(mut command: Command, arguments: &[&str], input: &[u8]) -> Output {
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    // A command that does not read its input closes it.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("the command ends")
}

fn succeed(output: Output) -> Output {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the command ended by itself")
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one JSON value")
}
