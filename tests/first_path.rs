//! The first thing that a user tries: three nodes, a handful of secrets, and the leader killed.

mod support;

use conclave::{api::conclave::messages::AuditListRequest, client::ClientError};
use std::time::Instant;
use support::TestCluster;

#[tokio::test]
async fn secrets_survive_the_leader() {
    let mut cluster = TestCluster::builder().nodes(3).start().await;
    let client = cluster.client();

    // Put, get, list, activate, delete.
    assert_eq!(client.put("app/password", b"first").await, Ok(1));
    assert_eq!(client.put("app/password", b"second").await, Ok(2));
    assert_eq!(client.put("app/gone", b"soon").await, Ok(1));
    assert_eq!(value(&client, "app/password", None).await, (b"first".to_vec(), 1));
    assert_eq!(
        value(&client, "app/password", Some(2)).await,
        (b"second".to_vec(), 2)
    );
    client.activate("app/password", 2).await.expect("activated");
    assert_eq!(
        value(&client, "app/password", None).await,
        (b"second".to_vec(), 2)
    );
    client.delete("app/gone").await.expect("deleted");
    let names: Vec<String> = client
        .list()
        .await
        .expect("listed")
        .into_iter()
        .map(|secret| secret.name)
        .collect();
    assert_eq!(names, ["app/password"]);
    assert!(matches!(
        client.get("app/gone", None).await.err(),
        Some(ClientError::NotFound(_))
    ));

    // The leader dies; the next command works, and nothing is lost.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    let killed = Instant::now();
    assert_eq!(client.put("app/after", b"third").await, Ok(1));
    eprintln!(
        "the first write after the leader's end took {:?}",
        killed.elapsed()
    );
    assert_eq!(
        value(&client, "app/password", None).await,
        (b"second".to_vec(), 2)
    );
    assert_eq!(value(&client, "app/after", None).await, (b"third".to_vec(), 1));

    // It comes back and has everything.
    cluster.restart(leader).await;
    assert_eq!(
        value(&cluster.client_of(leader), "app/after", None).await,
        (b"third".to_vec(), 1)
    );
    cluster.wait_until_equal().await;

    // Who read what, and what was not there.
    let records = client
        .audit_list(&AuditListRequest::default())
        .await
        .expect("the audit log")
        .records;
    let seen: Vec<(&str, &str, &str)> = records
        .iter()
        .map(|record| {
            (
                record.action.as_str(),
                record.secret.as_deref().unwrap_or("-"),
                record.outcome.as_str(),
            )
        })
        .collect();
    for expected in [
        ("put", "app/password", "done"),
        ("get", "app/password", "done"),
        ("activate", "app/password", "done"),
        ("delete", "app/gone", "done"),
        ("get", "app/gone", "not-found"),
        ("put", "app/after", "done"),
    ] {
        assert!(seen.contains(&expected), "{expected:?} is not among {seen:?}");
    }
    let gets = seen
        .iter()
        .filter(|record| **record == ("get", "app/password", "done"))
        .count();
    assert!(gets >= 4, "each disclosure has a record: {seen:?}");
}

async fn value(client: &conclave::client::Client, name: &str, version: Option<u32>) -> (Vec<u8>, u32) {
    match client.get(name, version).await {
        Ok(secret) => (secret.value.to_vec(), secret.version),
        Err(error) => panic!("{error}"),
    }
}
