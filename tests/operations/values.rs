//! Values: setec's rules for put, activate and delete; polls; listings.

use crate::fixture::{OneNode, caller, deadline, full_name, root, version};
use conclave::{
    audit::AuditQuery,
    name::StorePath,
    operations::{Caller, OperationError, Polled},
    plaintext::Plaintext,
};
use conclave_cluster::{
    command::{Command, Expected, Operation, Outcome, Step, VersionChange, Which},
    model::{Action, AuditStub, OutcomeKind, Place, Sealed, Token},
};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn puts_number_and_activate_as_setec_does() {
    let node = OneNode::start().await;
    let (edge, root) = (node.unsealed().await, root());
    let put = async |value: &str| {
        let put = edge.put(&root, "app", value).await.unwrap();
        (put.version.get(), put.stored, put.active)
    };
    assert_eq!(put("one").await, (1, true, true), "the first put activates");
    assert_eq!(put("two").await, (2, true, false), "later ones do not");
    assert_eq!(
        put("one").await,
        (1, false, true),
        "the active version has it already"
    );
    assert_eq!(put("two").await, (2, false, false), "the latest has it already");
    assert_eq!(
        edge.get(&root, "app", Which::Active).await.unwrap(),
        (1, "one".to_owned())
    );
    assert_eq!(
        edge.get(&root, "app", Which::Number(version(2))).await.unwrap(),
        (2, "two".to_owned())
    );
    let missing = edge.get(&root, "app", Which::Number(version(3))).await;
    assert!(matches!(missing, Err(OperationError::VersionNotFound)));

    let (operations, app) = (&edge.operations, full_name("app"));
    operations
        .activate(&root, &app, version(2), deadline())
        .await
        .unwrap();
    let info = operations.info(&root, &app, deadline()).await.unwrap();
    assert_eq!(info.active, Some(version(2)));
    assert_eq!(info.held_versions().collect::<Vec<_>>(), [version(1), version(2)]);

    let active = operations
        .delete_version(&root, &app, version(2), deadline())
        .await;
    assert!(matches!(active, Err(OperationError::ActiveVersion)));
    operations
        .delete_version(&root, &app, version(1), deadline())
        .await
        .unwrap();
    let destroyed = edge.get(&root, "app", Which::Number(version(1))).await;
    assert!(matches!(destroyed, Err(OperationError::VersionNotFound)));

    operations.delete(&root, &app, deadline()).await.unwrap();
    assert!(matches!(
        edge.get(&root, "app", Which::Active).await,
        Err(OperationError::NotFound)
    ));
    operations
        .delete(&root, &app, deadline())
        .await
        .expect("deleting what isn't there succeeds");
    assert_eq!(
        put("three").await,
        (3, true, true),
        "numbers are never used twice at a place"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_version_is_made_and_activated_once() {
    let node = OneNode::start().await;
    let (edge, root, app) = (node.unsealed().await, root(), full_name("app"));
    let create = async |number: u32, value: &str| {
        let value = Plaintext::new(value.as_bytes().to_vec());
        edge.operations
            .create_version(&root, &app, version(number), value, deadline())
            .await
    };
    assert!(create(10, "ten").await.unwrap().active);
    assert!(create(4, "four").await.unwrap().active);
    assert_eq!(
        edge.get(&root, "app", Which::Active).await.unwrap(),
        (4, "four".to_owned())
    );
    assert!(matches!(
        create(10, "ten").await,
        Err(OperationError::VersionUsed)
    ));
    edge.operations.delete(&root, &app, deadline()).await.unwrap();
    assert!(
        matches!(create(4, "four").await, Err(OperationError::VersionUsed)),
        "also after a deletion"
    );
    assert_eq!(edge.put(&root, "app", "next").await.unwrap().version.get(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_discloses_only_what_changed_and_records_only_what_it_discloses() {
    let node = OneNode::start().await;
    let (edge, root, app) = (node.unsealed().await, root(), full_name("app"));
    edge.put(&root, "app", "one").await.unwrap();
    edge.put(&root, "app", "two").await.unwrap();
    let poll = async |have: u32| {
        edge.operations
            .poll(&root, &app, version(have), deadline())
            .await
            .unwrap()
    };
    let records = async || {
        let query = AuditQuery {
            name: Some(app.clone()),
            limit: 1000,
            ..Default::default()
        };
        edge.operations
            .audit_list(&root, &query, deadline())
            .await
            .unwrap()
            .entries
            .len()
    };
    let before = records().await;
    for _ in 0..10 {
        assert!(matches!(poll(1).await, Polled::NotModified));
    }
    assert_eq!(records().await, before);
    assert!(matches!(poll(2).await, Polled::Changed(value) if value.version == version(1)));
    assert_eq!(records().await, before + 1);
}

/// The sealed name of some secret of a client; the keyring's is empty.
fn stored_name(node: &OneNode) -> Sealed {
    let secrets = node.cluster.view().secrets(None, 100).unwrap();
    let mut names = secrets.into_iter().map(|(_, secret)| secret.name);
    names.find(|name| !name.ciphertext.is_empty()).expect("a secret")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_is_unchanged_only_while_the_version_is_available_and_the_caller_may_have_it() {
    let node = OneNode::start().await;
    let (edge, root) = (node.unsealed().await, root());
    let poll = async |caller: &Caller, name: &str| {
        edge.operations
            .poll(caller, &full_name(name), version(1), deadline())
            .await
    };
    let keyring = edge.sealer.keyring().unwrap();
    let at = |name: &str| Expected::At(keyring.place(&full_name(name)));
    // setec's API can neither disable nor let expire, so this goes beneath the edge.
    let change = async |operation: Operation| {
        let sealed = stored_name(&node);
        let step = Step {
            preconditions: Vec::new(),
            operation,
            audit: Some(AuditStub {
                action: Action::Activate,
                principal: Token([7; 16]),
                commitment: [0; 32],
                sealed,
            }),
        };
        let command = Command {
            guards: Vec::new(),
            steps: vec![step],
        };
        let answer = node.cluster.propose(command, deadline()).await.unwrap();
        assert!(matches!(answer.outcome, Outcome::Done(_)), "{:?}", answer.outcome);
    };
    for name in ["disabled", "expired", "withdrawn"] {
        edge.put(&root, name, "v").await.unwrap();
        assert!(matches!(poll(&root, name).await, Ok(Polled::NotModified)));
    }

    change(Operation::ChangeVersions {
        at: at("disabled"),
        versions: vec![version(1)],
        change: VersionChange::Disable,
        spare_active: false,
        refuse_destroyed: true,
    })
    .await;
    assert!(matches!(
        poll(&root, "disabled").await,
        Err(OperationError::NotAvailable)
    ));

    change(Operation::ConfigureVersion {
        at: at("expired"),
        version: version(1),
        metadata: None,
        lifetime_ms: Some(Some(50)),
        disclosures_left: None,
        on_end: None,
    })
    .await;
    // The state's time is as old as the staleness bound at most, and nothing is written meanwhile.
    let patience = deadline();
    loop {
        match poll(&root, "expired").await {
            Err(OperationError::NotAvailable) => break,
            Ok(Polled::NotModified) => assert!(Instant::now() < patience, "it never expires"),
            Ok(Polled::Changed(_)) => panic!("it was disclosed"),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let poller = |right: &str| caller("cn:poller", json!([{"action": [right], "secret": ["*"]}]));
    assert!(matches!(
        poll(&poller("get"), "withdrawn").await,
        Ok(Polled::NotModified)
    ));
    assert!(matches!(
        poll(&poller("info"), "withdrawn").await,
        Err(OperationError::Denied)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_ordered_and_follow_every_change() {
    let node = OneNode::start().await;
    let (edge, root) = (node.unsealed().await, root());
    let listed = async || {
        let listed = edge
            .operations
            .list(&root, &StorePath::setec(), deadline())
            .await
            .unwrap();
        listed
            .iter()
            .map(|info| info.name.name.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(listed().await.is_empty(), "the keyring is nobody's secret");
    for name in ["b", "a/z", "ä", "a"] {
        edge.put(&root, name, "v").await.unwrap();
        assert!(
            listed().await.contains(&name.to_owned()),
            "a listing sees what was put before it"
        );
    }
    assert_eq!(listed().await, ["a", "a/z", "b", "ä"]);
    edge.operations
        .delete(&root, &full_name("a/z"), deadline())
        .await
        .unwrap();
    assert_eq!(listed().await, ["a", "b", "ä"]);
    // An edge that starts later reads what is there.
    let later = node.edge(&node.folder.path().join("seal.key"));
    later.wait(|status| status.sealed.is_none()).await;
    let infos = later
        .operations
        .list(&root, &StorePath::setec(), deadline())
        .await
        .unwrap();
    assert_eq!(infos.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_moved_without_keys_is_not_served_under_another_name() {
    let node = OneNode::start().await;
    let (edge, root) = (node.unsealed().await, root());
    edge.put(&root, "high", "treasure").await.unwrap();
    edge.put(&root, "low", "pebble").await.unwrap();
    let keyring = edge.sealer.keyring().unwrap();
    let (high, low) = (
        keyring.place(&full_name("high")),
        keyring.place(&full_name("low")),
    );
    let name = stored_name(&node);
    // What a stolen node certificate can do: propose anything about the places that it saw.
    let propose = async |operation: Operation| {
        let step = Step {
            preconditions: Vec::new(),
            operation,
            audit: Some(AuditStub {
                action: Action::Move,
                principal: Token([7; 16]),
                commitment: [0; 32],
                sealed: name.clone(),
            }),
        };
        let command = Command {
            guards: Vec::new(),
            steps: vec![step],
        };
        let answer = node.cluster.propose(command, deadline()).await.unwrap();
        assert!(matches!(answer.outcome, Outcome::Done(_)), "{:?}", answer.outcome);
    };
    let unused = keyring.place(&full_name("unused"));
    for (from, to) in [
        (
            low,
            Place {
                name: Token([9; 16]),
                ..low
            },
        ),
        (high, unused),
    ] {
        propose(Operation::Move {
            at: Expected::At(from),
            to,
            name: name.clone(),
        })
        .await;
    }
    let asked = edge.get(&root, "unused", Which::Active).await;
    assert!(matches!(asked, Err(OperationError::Damaged(_))));
    let asked = edge
        .operations
        .info(&root, &full_name("unused"), deadline())
        .await;
    assert!(matches!(asked, Err(OperationError::Damaged(_))));
    let listed = edge
        .operations
        .list(&root, &StorePath::setec(), deadline())
        .await
        .unwrap();
    assert!(
        listed.is_empty(),
        "names that do not open at their place are left out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_edges_that_put_at_once_agree() {
    let node = OneNode::start().await;
    let (edge, root) = (node.unsealed().await, root());
    let other = node.edge(&node.folder.path().join("seal.key"));
    other.wait(|status| status.sealed.is_none()).await;
    let puts = (0..40).map(|number| {
        let (edge, root) = (if number % 2 == 0 { &edge } else { &other }, root.clone());
        async move {
            edge.put(&root, "app", &format!("value {number}"))
                .await
                .unwrap()
                .version
                .get()
        }
    });
    let mut versions = futures::future::join_all(puts).await;
    versions.sort_unstable();
    assert_eq!(versions, (1..=40).collect::<Vec<_>>());
    let query = AuditQuery {
        name: Some(full_name("app")),
        limit: 1000,
        ..Default::default()
    };
    let records = edge
        .operations
        .audit_list(&root, &query, deadline())
        .await
        .unwrap();
    let outcomes: Vec<_> = records.entries.iter().map(|entry| entry.outcome).collect();
    assert_eq!(
        outcomes,
        [OutcomeKind::Done; 40],
        "what was sealed again is no refusal"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_over_the_limit_is_refused_without_a_record() {
    let node = OneNode::start().await;
    let (edge, root) = (node.unsealed().await, root());
    let value = Plaintext::new(vec![7; (1 << 20) + 1]);
    let refused = edge
        .operations
        .put(&root, &full_name("app"), value, deadline())
        .await;
    assert!(matches!(refused, Err(OperationError::TooLarge { .. })));
    let value = Plaintext::new(vec![7; 1 << 20]);
    edge.operations
        .put(&root, &full_name("app"), value, deadline())
        .await
        .unwrap();
    let got = edge
        .operations
        .get(&root, &full_name("app"), Which::Active, deadline())
        .await
        .unwrap();
    assert!(got.value == Plaintext::new(vec![7; 1 << 20]));
}
