//! Rights, refusals and records.

use crate::fixture::{Edge, OneNode, caller, deadline, full_name, root, version};
use conclave::{
    audit::{AuditEntry, AuditQuery},
    name::StorePath,
    operations::{Caller, OperationError, OperationLimits, Recording},
    plaintext::Plaintext,
};
use conclave_cluster::{
    command::{AtAuditLimit, Which},
    model::{Action, OutcomeKind},
};
use serde_json::json;
use tokio::time::Instant;

async fn audit(edge: &Edge, query: AuditQuery) -> Vec<AuditEntry> {
    let query = AuditQuery { limit: 1000, ..query };
    edge.operations
        .audit_list(&root(), &query, deadline())
        .await
        .unwrap()
        .entries
}

fn denied<T>(result: Result<T, OperationError>) -> bool {
    matches!(result, Err(OperationError::Denied))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_needs_its_own_right() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    edge.put(&root(), "dev/app", "v").await.unwrap();
    edge.put(&root(), "dev/app", "w").await.unwrap();
    let name = full_name("dev/app");
    let rights = ["get", "info", "put", "create-version", "activate", "delete"];
    for right in rights {
        let caller = caller(
            &format!("cn:{right}"),
            json!([{"action": [right], "secret": ["dev/*"]}]),
        );
        let operations = &edge.operations;
        let value = || Plaintext::new(b"x".to_vec());
        let results = [
            (
                "get",
                denied(operations.get(&caller, &name, Which::Latest, deadline()).await),
            ),
            (
                "get",
                denied(operations.poll(&caller, &name, version(1), deadline()).await),
            ),
            ("info", denied(operations.info(&caller, &name, deadline()).await)),
            (
                "put",
                denied(operations.put(&caller, &name, value(), deadline()).await),
            ),
            (
                "create-version",
                denied(
                    operations
                        .create_version(&caller, &name, version(1), value(), deadline())
                        .await,
                ),
            ),
            (
                "activate",
                denied(operations.activate(&caller, &name, version(2), deadline()).await),
            ),
            (
                "delete",
                denied(
                    operations
                        .delete_version(&caller, &name, version(1), deadline())
                        .await,
                ),
            ),
            (
                "none",
                denied(operations.delete(&caller, &full_name("prod"), deadline()).await),
            ),
            (
                "none",
                denied(
                    operations
                        .audit_list(
                            &caller,
                            &AuditQuery {
                                limit: 1,
                                ..Default::default()
                            },
                            deadline(),
                        )
                        .await,
                ),
            ),
            (
                "none",
                denied(
                    operations
                        .record_operate(&caller, "x", Recording::Required, deadline())
                        .await,
                ),
            ),
        ];
        for (needed, denied) in results {
            assert_eq!(denied, needed != right, "{needed} with the right {right}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_what_the_caller_has_info_for() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    for name in ["dev/a", "dev/b", "prod/a"] {
        edge.put(&root(), name, "v").await.unwrap();
    }
    let list = async |caller: &Caller| {
        let listed = edge
            .operations
            .list(caller, &StorePath::setec(), deadline())
            .await
            .unwrap();
        listed
            .iter()
            .map(|info| info.name.name.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    let reader = caller("cn:reader", json!([{"action": ["info"], "secret": ["dev/*"]}]));
    assert_eq!(list(&reader).await, ["dev/a", "dev/b"]);
    let getter = caller("cn:getter", json!([{"action": ["get"], "secret": ["*"]}]));
    assert!(list(&getter).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_who_read_what_and_what_was_refused() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    let alice = caller(
        "email:alice@example.org",
        json!([{"action": ["get"], "secret": ["dev/*"]}]),
    );
    edge.put(&root(), "dev/app", "v").await.unwrap();
    edge.get(&alice, "dev/app", Which::Active).await.unwrap();
    assert!(denied(
        edge.get(&alice, "prod/app", Which::Number(version(3))).await
    ));
    assert!(matches!(
        edge.get(&alice, "dev/none", Which::Active).await,
        Err(OperationError::NotFound)
    ));

    let hers = audit(
        &edge,
        AuditQuery {
            principal: Some(alice.principal.clone()),
            ..Default::default()
        },
    )
    .await;
    let told = hers.iter().map(|entry| {
        let plain = entry.plain.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(plain.principal, "email:alice@example.org");
        assert_eq!(
            (plain.remote.as_str(), plain.api.as_str(), plain.node.as_str()),
            ("192.0.2.7:4711", "setec", "n1")
        );
        (
            plain.name.clone().unwrap(),
            entry.action,
            entry.outcome,
            entry.version.map(|version| version.get()),
        )
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("dev/app".to_owned(), Action::Get, OutcomeKind::Done, Some(1)),
            ("prod/app".to_owned(), Action::Get, OutcomeKind::Denied, Some(3)),
            ("dev/none".to_owned(), Action::Get, OutcomeKind::NotFound, None),
        ]
    );
    let refused = audit(
        &edge,
        AuditQuery {
            outcome: Some(OutcomeKind::Denied),
            ..Default::default()
        },
    )
    .await;
    assert_eq!(refused.len(), 1);
    let about = audit(
        &edge,
        AuditQuery {
            name: Some(full_name("dev/app")),
            ..Default::default()
        },
    )
    .await;
    assert_eq!(about.len(), 2);
    let readings = audit(
        &edge,
        AuditQuery {
            actions: vec![Action::AuditRead],
            ..Default::default()
        },
    )
    .await;
    assert_eq!(
        readings.len(),
        4,
        "every reading of the log is recorded, this one included"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_the_log_once_in_both_directions() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    for number in 0..25 {
        edge.put(&root(), &format!("s{number}"), "v").await.unwrap();
    }
    for newest_first in [false, true] {
        let (mut keys, mut cursor) = (Vec::new(), None);
        loop {
            let query = AuditQuery {
                actions: vec![Action::Put],
                limit: 7,
                cursor,
                newest_first,
                ..Default::default()
            };
            let page = edge
                .operations
                .audit_list(&root(), &query, deadline())
                .await
                .unwrap();
            assert!(page.entries.len() <= 7);
            keys.extend(page.entries.iter().map(|entry| entry.key));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(keys.len(), 25);
        assert!(keys.windows(2).all(|pair| (pair[0] < pair[1]) != newest_first));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_rights_who_hammers_writes_few_entries_with_the_right_count() {
    let node = OneNode::start().await;
    let limits = OperationLimits {
        refusal_records_per_ten_seconds: 3,
        ..OperationLimits::default()
    };
    let edge = node.edge_with(&node.key_file("seal.key"), limits);
    edge.wait(|status| status.sealed.is_none()).await;
    let mallory = caller("cn:mallory", json!([]));
    for _ in 0..500 {
        assert!(denied(edge.get(&mallory, "app", Which::Active).await));
    }
    edge.operations.shutdown(deadline()).await;
    let records = audit(
        &edge,
        AuditQuery {
            outcome: Some(OutcomeKind::Denied),
            ..Default::default()
        },
    )
    .await;
    let attempts: u32 = records.iter().map(|entry| entry.attempts).sum();
    assert_eq!(attempts, 500);
    assert!(records.len() <= 4 * 3, "{} records", records.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_while_the_audit_is_full_is_recorded_once_there_is_room() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    let set_limit = async |limit_bytes, at_limit| {
        edge.operations
            .set_audit_limit(&root(), Some(limit_bytes), Some(at_limit), deadline())
            .await
            .unwrap()
    };
    set_limit(16 << 10, AtAuditLimit::RefuseDisclosures).await;
    let mut puts = 0;
    loop {
        match edge.put(&root(), "app", &format!("value {puts}")).await {
            Ok(_) => puts += 1,
            Err(OperationError::AuditFull) => break,
            Err(other) => panic!("{other}"),
        }
        assert!(puts < 1000, "the audit is never full");
    }
    let mallory = caller("cn:mallory", json!([]));
    for _ in 0..3 {
        assert!(denied(edge.get(&mallory, "app", Which::Active).await));
    }
    set_limit(1 << 30, AtAuditLimit::PruneOldest).await;
    edge.operations.shutdown(deadline()).await;
    let query = AuditQuery {
        outcome: Some(OutcomeKind::Denied),
        ..AuditQuery::default()
    };
    let records = audit(&edge, query).await;
    let attempts: u32 = records.iter().map(|entry| entry.attempts).sum();
    assert_eq!(attempts, 3);
}

/// On one thread, so that nothing is recorded while looks come.
#[tokio::test]
async fn however_many_look_at_the_status_at_once_every_look_is_recorded() {
    const LOOKS: u32 = 400;
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    let root = root();
    for _ in 0..LOOKS {
        let look = edge
            .operations
            .record_operate(&root, "status", Recording::WhenPossible, deadline())
            .await;
        look.unwrap();
    }
    edge.operations.shutdown(deadline()).await;
    let patience = deadline();
    let records = loop {
        let query = AuditQuery {
            actions: vec![Action::Operate],
            ..Default::default()
        };
        let records = audit(&edge, query).await;
        // The last that were recorded alone may still be on their way.
        let looks: u32 = records.iter().map(|entry| entry.attempts).sum();
        assert!(looks <= LOOKS, "{looks} were recorded");
        if looks == LOOKS {
            break records;
        }
        assert!(Instant::now() < patience, "only {looks} were recorded");
    };
    for entry in &records {
        let plain = entry.plain.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(
            (plain.detail.as_deref(), entry.outcome),
            (Some("status"), OutcomeKind::Done)
        );
    }
    assert!(records.iter().any(|entry| entry.attempts == LOOKS - 64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_over_its_limit_is_told_when_to_come_back() {
    let node = OneNode::start().await;
    let limits = OperationLimits {
        in_flight_per_principal: 1,
        ..OperationLimits::default()
    };
    let edge = node.edge_with(&node.key_file("seal.key"), limits);
    edge.wait(|status| status.sealed.is_none()).await;
    let (root, other) = (root(), caller("cn:other", json!([])));
    let permit = edge.operations.admit(&root, Action::Get);
    assert!(permit.is_ok());
    assert!(matches!(
        edge.operations.admit(&root, Action::Get),
        Err(OperationError::RateLimited { retry_after }) if !retry_after.is_zero()
    ));
    assert!(edge.operations.admit(&other, Action::Get).is_ok());
    drop(permit);
    assert!(edge.operations.admit(&root, Action::Get).is_ok());

    // It leaves a trace.
    edge.operations.shutdown(deadline()).await;
    let query = AuditQuery {
        outcome: Some(OutcomeKind::Denied),
        ..AuditQuery::default()
    };
    let records = audit(&edge, query).await;
    let [record] = &records[..] else {
        panic!("{} records", records.len())
    };
    let plain = record.plain.as_ref().unwrap().as_ref().unwrap();
    assert_eq!((record.action, record.attempts), (Action::Get, 1));
    assert_eq!(plain.detail.as_deref(), Some("over the rate"));
}
