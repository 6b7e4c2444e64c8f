//! The seal: a node without the right key serves no client, says why, and still votes; what it is
//! asked to serve, the others serve, even while it leads. Keys are rotated under load, through the
//! death of the node that re-seals, and wrapped anew without a pause.

use crate::{
    folders::{self, section},
    requests,
    support::{PATIENCE, TestCluster, eventually},
};
use conclave::{
    api::conclave::messages::{
        AuditListRequest, Health, HealthState, NodeRole, Rekey, SealStatus, TransferLeadership,
    },
    client::{Client, ClientError},
    seal::{KeyFile, SYSTEM_NAMESPACE},
};
use conclave_cluster::state::Store;
use rustix::process::Signal;
use serde_json::json;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[tokio::test]
async fn keys_that_are_missing_wrong_exposed_or_replaced() {
    let mut cluster = with_keys_of_their_own().await;
    cluster.client().put("app/password", b"first").await.expect("put");
    plaintext_stays_in_memory_and_is_never_compressed(&cluster).await;
    a_sealed_node_says_why_and_votes(&mut cluster).await;
    a_sealed_leader_with_unsealed_followers(&mut cluster).await;
    another_wrapping(&mut cluster).await;
}

/// No core dumps, memory locked where it is allowed or else a warning, and values that are sent at
/// their length, so that what surrounds them tells nothing of them.
async fn plaintext_stays_in_memory_and_is_never_compressed(cluster: &TestCluster) {
    let process = format!("/proc/{}", cluster.pid(0));
    let limits = fs::read_to_string(format!("{process}/limits")).expect("the process's limits");
    let core_files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"));
    let core_files: Vec<&str> = core_files.expect("a limit").split_whitespace().collect();
    assert_eq!(core_files[..2], ["0", "0"]);
    let status = fs::read_to_string(format!("{process}/status")).expect("the process's status");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let is_locked = locked.is_some_and(|size| !size.trim().starts_with("0 "));
    let warns = requests::log(cluster, 0).contains("memory is not locked");
    assert!(is_locked != warns, "{locked:?} is locked, and a warning: {warns}");

    let long = vec![b'x'; 100_000];
    cluster.client().put("app/long", &long).await.expect("put");
    let response = cluster
        .http(Some(&cluster.administrator()))
        .post(format!("{}/api/get", cluster.api(0)))
        .header("content-type", "application/json")
        .header("sec-x-tailscale-no-browsers", "setec")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .body(json!({"Name": "app/long"}).to_string())
        .send()
        .await
        .expect("an answer");
    assert!(
        !response.headers().contains_key("content-encoding"),
        "{response:?}"
    );
    let body = response.bytes().await.expect("a body");
    assert!(body.len() > long.len(), "{} bytes", body.len());
}

/// Missing at the start, then another key, then the right one but readable by others, then right.
async fn a_sealed_node_says_why_and_votes(cluster: &mut TestCluster) {
    let leader = cluster.leader().await;
    let (sealed, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let key = key_of(cluster, sealed);
    let right = fs::read(&key).expect("a key");
    let right_id = cluster
        .client_of(sealed)
        .seal_status()
        .await
        .expect("an unsealed node")
        .seal_key_id
        .expect("a key's id");
    cluster.stop(sealed).await;
    fs::remove_file(&key).expect("the key goes");
    cluster.spawn(sealed);
    let reason = sealed_for(cluster, sealed, |reason| reason.contains("seal.key")).await;
    assert!(reason.contains("No such file"), "{reason}");
    tells_clients_that_it_is_sealed(cluster, sealed).await;

    // Without its vote and its copy of the log there would be no majority.
    cluster.kill(third).await;
    let serving = cluster.client_of(leader);
    assert_eq!(
        serving.put("app/other", b"with a sealed node's copy").await,
        Ok(1)
    );
    cluster.restart(third).await;
    cluster.kill(leader).await;
    let survivor = cluster.client_of(third);
    assert_eq!(
        survivor.put("app/password", b"with a sealed node's vote").await,
        Ok(2)
    );
    cluster.restart(leader).await;

    // Another key: both ids are named, and SIGHUP tries again.
    fs::write(&key, [7; 32]).expect("another key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
    let wrong_id = id_of(&key);
    cluster.signal(sealed, Signal::HUP);
    let reason = sealed_for(cluster, sealed, |reason| reason.contains("wrong seal key")).await;
    assert!(
        reason.contains(&right_id) && reason.contains(&wrong_id),
        "{reason}"
    );
    tells_clients_that_it_is_sealed(cluster, sealed).await;

    // The right one, which others can read: refused at the start too, and the node runs.
    fs::write(&key, &right).expect("the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("its mode");
    let retried = cluster.client_of(sealed).seal_retry().await.expect("an answer");
    let reason = retried.reason.expect("a reason");
    assert!(retried.sealed && reason.contains("0644"), "{reason}");
    let output = cluster
        .command()
        .args(["seal", "retry"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown.matches("open").count(), 2, "{shown}");
    assert!(shown.contains("0644"), "{shown}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("stays sealed") && said.contains("0644"), "{said}");
    cluster.stop(sealed).await;
    cluster.spawn(sealed);
    let reason = sealed_for(cluster, sealed, |reason| reason.contains("0644")).await;
    assert!(reason.contains("must be 0600"), "{reason}");

    // At last: by the command.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
    let output = cluster
        .command()
        .args(["seal", "retry"])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).matches("open").count(),
        3,
        "{output:?}"
    );
    assert_eq!(
        value_at(cluster, sealed, "app/password", Some(2)).await,
        b"with a sealed node's vote"
    );
}

/// It leads and cannot open anything; the others ask it for order only.
async fn a_sealed_leader_with_unsealed_followers(cluster: &mut TestCluster) {
    let leader = 0;
    let key = key_of(cluster, leader);
    let right = fs::read(&key).expect("a key");
    cluster.stop(leader).await;
    fs::remove_file(&key).expect("the key goes");
    cluster.spawn(leader);
    sealed_for(cluster, leader, |reason| reason.contains("seal.key")).await;
    let id = cluster
        .status(leader)
        .await
        .expect("a status")
        .node_id
        .expect("an id");
    eventually("the sealed node leads", PATIENCE, async || {
        let to = TransferLeadership {
            to: Some(id),
            timeout_ms: Some(5_000),
        };
        let _ = cluster.client().transfer_leadership(&to).await;
        match cluster.status(leader).await {
            Some(status) if status.role == NodeRole::Leader && status.sealed => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    tells_clients_that_it_is_sealed(cluster, leader).await;

    for follower in [1, 2] {
        let client = cluster.client_of(follower);
        let name = format!("led/by-a-sealed-node-{follower}");
        assert_eq!(client.put(&name, b"one").await, Ok(1));
        assert_eq!(client.put(&name, b"two").await, Ok(2));
        assert_eq!(client.create_version(&name, 7, b"seven").await, Ok(()));
        assert_eq!(value_at(cluster, follower, &name, None).await, b"seven");
        assert_eq!(client.activate(&name, 2).await, Ok(()));
        assert_eq!(value_at(cluster, follower, &name, None).await, b"two");
        assert_eq!(value_at(cluster, follower, &name, Some(1)).await, b"one");
        assert!(matches!(client.get_if_changed(&name, 2).await, Ok(None)));
        let info = client.info(&name).await.expect("info");
        assert_eq!((info.versions, info.active_version), (vec![1, 2, 7], 2));
        let names: Vec<String> = client
            .list()
            .await
            .expect("list")
            .into_iter()
            .map(|secret| secret.name)
            .collect();
        assert!(
            names.contains(&name) && names.contains(&"app/password".to_owned()),
            "{names:?}"
        );
        assert_eq!(client.delete_version(&name, 1).await, Ok(()));
        assert!(matches!(
            client.get(&name, Some(1)).await.err(),
            Some(ClientError::NotFound(_))
        ));
        let gone = format!("{name}/gone");
        assert_eq!(client.put(&gone, b"soon").await, Ok(1));
        assert_eq!(client.delete(&gone).await, Ok(()));
        assert!(matches!(
            client.info(&gone).await.err(),
            Some(ClientError::NotFound(_))
        ));
        let records = client
            .audit_list(&AuditListRequest {
                secret: Some(name.clone()),
                limit: Some(100),
                ..AuditListRequest::default()
            })
            .await
            .expect("the records");
        assert!(records.records.len() >= 9, "{records:#?}");
        assert_eq!(client.members().await.expect("members").leader_id, Some(id));
    }
    // A client that knows all nodes does not notice.
    assert_eq!(cluster.client().put("led/anywhere", b"one").await, Ok(1));
    let status = cluster.status(leader).await.expect("a status");
    assert!(
        status.sealed && status.role == NodeRole::Leader,
        "it led all the time: {status:?}"
    );

    fs::write(&key, right).expect("the key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
    cluster.signal(leader, Signal::HUP);
    unsealed(cluster, leader).await;
    assert_eq!(value_at(cluster, leader, "led/anywhere", None).await, b"one");
}

/// The keyring under another key file: nothing stops, and who will stop at its next start says so.
async fn another_wrapping(cluster: &mut TestCluster) {
    let old_id = id_of(&key_of(cluster, 1));
    let new_key = cluster.path().join("new.key");
    let new_id = KeyFile::generate(&new_key).expect("a new key");
    let rekeyed = cluster
        .client_of(1)
        .seal_rekey(&Rekey {
            key_file: new_key.to_string_lossy().into_owned(),
        })
        .await
        .expect("rekeyed");
    assert_eq!(
        (rekeyed.sealed, rekeyed.seal_key_id.as_deref()),
        (false, Some(new_id.as_str()))
    );
    for node in 0..3 {
        let status = eventually("each node knows the new key's id", PATIENCE, async || {
            let status = seal(cluster, node).await?;
            let knows = status.seal_key_id.as_deref() == Some(new_id.as_str());
            // The node that was asked holds the new file.
            if knows && (node == 1 || status.warning.is_some()) {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await;
        assert!(!status.sealed, "{status:?}");
        if let Some(warning) = status.warning {
            assert!(
                warning.contains(&new_id) && warning.contains(&old_id),
                "{warning}"
            );
        }
        let name = format!("rekeyed/{node}");
        assert_eq!(cluster.client_of(node).put(&name, b"one").await, Ok(1));
    }
    // With the old file a node starts sealed and names both; with the new one it starts.
    cluster.stop(2).await;
    cluster.spawn(2);
    let reason = sealed_for(cluster, 2, |reason| reason.contains("wrong seal key")).await;
    assert!(reason.contains(&new_id) && reason.contains(&old_id), "{reason}");
    for node in 0..3 {
        // One has the new key in the old place, the others hear of another place: SIGHUP takes up both.
        if node == 0 {
            fs::copy(&new_key, key_of(cluster, node)).expect("the new key");
        } else {
            folders::configure(cluster, node, |config| {
                let path = new_key.to_string_lossy().into_owned();
                section(config, "seal").insert("key_file".into(), path.into());
            });
        }
        cluster.signal(node, Signal::HUP);
        eventually("no warning is left", PATIENCE, async || {
            let status = seal(cluster, node).await?;
            if !status.sealed && status.warning.is_none() {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await;
    }
    for node in 0..3 {
        cluster.stop(node).await;
        cluster.restart(node).await;
    }
    assert_eq!(value_at(cluster, 0, "rekeyed/2", None).await, b"one");
    assert_eq!(value_at(cluster, 1, "app/password", Some(1)).await, b"first");
}

#[tokio::test]
async fn a_rotation_survives_load_and_the_death_of_the_node_that_reseals() {
    const SECRETS: usize = 120;
    let mut cluster = TestCluster::builder()
        .nodes(3)
        // Slow enough to be caught in the middle.
        .setting("seal.reseal_bytes_per_s", "32768")
        .start()
        .await;
    let client = cluster.client();
    let value = |number: usize| format!("{number}:").repeat(400).into_bytes();
    for number in 0..SECRETS {
        client
            .put(&format!("old/{number}"), &value(number))
            .await
            .expect("put");
    }

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(keep_writing(cluster.client(), stop.clone()));
    let leader = cluster.leader().await;
    let rotated = cluster.client_of(leader).seal_rotate().await.expect("rotated");
    assert_eq!(rotated.key_term, Some(2));
    let in_the_middle = eventually("some is sealed again", PATIENCE, async || {
        let progress = seal(&cluster, leader).await?.reseal.ok_or("nothing yet")?;
        if progress.parts_resealed > 20 {
            Ok(progress)
        } else {
            Err(format!("{progress:?}"))
        }
    })
    .await;
    assert!(
        !in_the_middle.finished,
        "it is too quick to be interrupted: {in_the_middle:?}"
    );
    cluster.kill(leader).await;

    // Whoever leads now goes on by itself.
    let successor = cluster.leader().await;
    let finished = eventually("everything is sealed again", 3 * PATIENCE, async || {
        let progress = seal(&cluster, successor).await?.reseal.ok_or("nothing yet")?;
        if progress.finished {
            Ok(progress)
        } else {
            Err(format!("{progress:?}"))
        }
    })
    .await;
    assert!(
        finished.parts_resealed > 0,
        "there was something left: {finished:?}"
    );
    stop.store(true, Ordering::Relaxed);
    let written = load.await.expect("the load ends");
    assert!(written > 20, "only {written} writes went on meanwhile");

    cluster.restart(leader).await;
    for number in 0..SECRETS {
        assert_eq!(
            value_at(&cluster, leader, &format!("old/{number}"), None).await,
            value(number)
        );
    }
    cluster.wait_until_equal().await;
    for node in 0..3 {
        cluster.stop(node).await;
        let terms = terms_of(&cluster.node(node).data_dir);
        assert!(terms.len() >= 2 * SECRETS, "{} sealed parts", terms.len());
        assert!(terms.iter().all(|term| *term == 2), "node {node}: {terms:?}");
    }
}

/// Three nodes, each with a copy of the key in its own folder.
async fn with_keys_of_their_own() -> TestCluster {
    let mut cluster = TestCluster::builder().nodes(3).start_only(&[]).launch();
    for node in 0..3 {
        let key = key_of(&cluster, node);
        fs::copy(cluster.layout().seal_key(), &key).expect("a copy of the key");
        folders::configure(&cluster, node, |config| {
            section(config, "seal").insert("key_file".into(), key.to_string_lossy().into_owned().into());
        });
        cluster.spawn(node);
    }
    cluster.wait_until_serving().await;
    cluster
}

fn key_of(cluster: &TestCluster, node: usize) -> PathBuf {
    cluster.node(node).config.with_file_name("seal.key")
}

fn id_of(key: &Path) -> String {
    use conclave::seal::SealProvider;
    KeyFile::load(key).expect("a key file").id().to_owned()
}

async fn seal(cluster: &TestCluster, node: usize) -> Result<SealStatus, String> {
    let client = cluster.client_of(node).with_timeout(Duration::from_secs(2));
    client.seal_status().await.map_err(|error| error.to_string())
}

/// Waits until a node is sealed for such a reason, and returns it as status and seal give it.
async fn sealed_for(cluster: &TestCluster, node: usize, expected: impl Fn(&str) -> bool) -> String {
    let reason = eventually("the node says why it is sealed", PATIENCE, async || {
        let status = seal(cluster, node).await?;
        match status.reason {
            Some(reason) if status.sealed && expected(&reason) => Ok(reason),
            reason => Err(format!("{reason:?}")),
        }
    })
    .await;
    let status = cluster
        .status(node)
        .await
        .expect("a sealed node shows its status");
    assert_eq!(
        (status.sealed, status.sealed_reason.as_deref()),
        (true, Some(reason.as_str()))
    );
    reason
}

async fn unsealed(cluster: &TestCluster, node: usize) {
    eventually("the node is unsealed", PATIENCE, async || {
        let status = seal(cluster, node).await?;
        if status.sealed {
            Err(format!("{status:?}"))
        } else {
            Ok(())
        }
    })
    .await;
}

/// As setec's API says it, as the health does, and as our client understands it.
async fn tells_clients_that_it_is_sealed(cluster: &TestCluster, node: usize) {
    let http = cluster.http(Some(&cluster.administrator()));
    for (method, body) in [
        ("get", json!({"Name": "app/password"})),
        ("list", json!({})),
        ("put", json!({"Name": "app/password", "Value": "eA=="})),
    ] {
        let response = requests::setec(&http, cluster, node, method, body)
            .await
            .expect("an answer");
        assert!(response.headers().contains_key("retry-after"), "{response:?}");
        let (status, text) = requests::answer(Ok(response)).await;
        assert_eq!(status.as_u16(), 500, "{text}");
        assert!(text.contains("sealed"), "{text}");
    }
    let response = http
        .get(format!("{}/conclave/v1/health", cluster.api(node)))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status().as_u16(), 503);
    let health: Health = response.json().await.expect("a health");
    assert_eq!(health.state, HealthState::Sealed);
    // It could not record who operated the cluster.
    let response = http
        .post(format!("{}/conclave/v1/cluster/transfer", cluster.api(node)))
        .send()
        .await;
    let (status, text) = requests::answer(response).await;
    assert_eq!(status.as_u16(), 503, "{text}");
    assert!(text.contains("ask an unsealed node"), "{text}");
    let client = cluster.client_of(node).with_timeout(Duration::from_millis(500));
    match client.get("app/password", None).await {
        Err(ClientError::Unavailable(message)) => assert!(message.contains("sealed"), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a sealed node disclosed a value"),
    }
}

async fn value_at(cluster: &TestCluster, node: usize, name: &str, version: Option<u32>) -> Vec<u8> {
    match cluster.client_of(node).get(name, version).await {
        Ok(secret) => secret.value.to_vec(),
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Writes, old names and new, until told to stop; returns how often.
async fn keep_writing(client: Client, stop: Arc<AtomicBool>) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("load/{}", written % 25);
        let value = format!("value {written}");
        let version = client.put(&name, value.as_bytes()).await.expect("writes go on");
        let read = client.get(&name, Some(version)).await.expect("reads go on");
        assert_eq!(read.value.as_slice(), value.as_bytes());
        written += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    written
}

/// The key terms of all that callers stored, in the state of a node that is down.
fn terms_of(data_dir: &Path) -> Vec<u32> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let copied = scratch.path().join("state");
    folders::copy(&data_dir.join("state"), &copied);
    let view = Store::open(&copied).expect("the state").view();
    let secrets = view.secrets(None, usize::MAX).expect("secrets");
    let mut terms = Vec::new();
    for (id, _) in secrets {
        let secret = view.secret_view(&id).expect("a secret").expect("a secret");
        if secret
            .place
            .is_some_and(|place| place.namespace == SYSTEM_NAMESPACE)
        {
            continue;
        }
        terms.extend(secret.metadata.map(|metadata| metadata.key_term));
        terms.push(secret.name.key_term);
        for version in secret.versions {
            terms.extend(version.metadata.map(|metadata| metadata.key_term));
            let value = view.sealed_value(&id, version.version).expect("a value");
            terms.extend(value.map(|value| value.key_term));
        }
    }
    terms
}
