//! The seal: wrong, missing and exposed keys, rotation, another wrapping, a keyring that disappears.

use crate::fixture::{Edge, OneNode, caller, deadline, full_name, root};
use conclave::{
    audit::AuditQuery,
    operations::{OperationError, Recording},
    seal::{KeyFile, SYSTEM_NAMESPACE, SealProvider, SealedReason},
};
use conclave_cluster::{
    command::{
        Activation, Command, Expected, NumberChoice, Operation, Outcome, Put, Refusal, SameValue, Step, Which,
    },
    model::{Action, OutcomeKind, Place, SecretSettings},
};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_key_is_sealed_until_the_key_comes() {
    let node = OneNode::start().await;
    let path = node.folder.path().join("late.key");
    let edge = node.edge(&path);
    edge.wait(|status| matches!(status.sealed, Some(SealedReason::SealKey(_))))
        .await;
    let refused = edge.get(&root(), "app", Which::Active).await;
    assert!(matches!(refused, Err(OperationError::Sealed { .. })));

    let exposed = node.key_file("exposed.key");
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(&exposed, &path).unwrap();
    edge.sealer.retry();
    edge.wait(|status| {
        status
            .sealed
            .as_ref()
            .is_some_and(|reason| reason.to_string().contains("0644"))
    })
    .await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    edge.sealer.retry_and_wait(deadline()).await.unwrap();
    edge.put(&root(), "app", "v").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_passes_needs_nobody_to_try_again() {
    let node = OneNode::start().await;
    let path = node.folder.path().join("late.key");
    let edge = node.edge(&path);
    edge.wait(|status| matches!(status.sealed, Some(SealedReason::SealKey(_))))
        .await;
    KeyFile::generate(&path).unwrap();
    edge.wait(|status| status.sealed.is_none()).await;

    // The same where the last attempt was asked for: the one before it had nothing to wait for.
    let missing = node.folder.path().join("missing.key");
    let other = node.edge(&node.key_file("other.key"));
    other
        .wait(|status| matches!(status.sealed, Some(SealedReason::WrongSealKey { .. })))
        .await;
    other.key_files.configure(Some(missing.clone()));
    let hindered = other.sealer.retry_and_wait(deadline()).await;
    assert!(matches!(hindered, Err(SealedReason::SealKey(_))), "{hindered:?}");
    fs::copy(&path, &missing).unwrap();
    other.wait(|status| status.sealed.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_node_is_not_operated_and_what_it_served_is_recorded_once_it_has_keys() {
    let node = OneNode::start().await;
    let path = node.folder.path().join("late.key");
    let edge = node.edge(&path);
    edge.wait(|status| matches!(status.sealed, Some(SealedReason::SealKey(_))))
        .await;
    let operate = async |caller, what, recording| {
        edge.operations
            .record_operate(&caller, what, recording, deadline())
            .await
    };
    match operate(root(), "cluster transfer", Recording::Required).await {
        Err(error @ OperationError::Sealed { .. }) => {
            assert!(error.to_string().contains("ask an unsealed node"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let mallory = caller("cn:mallory", json!([]));
    for recording in [Recording::Required, Recording::WhenPossible] {
        let refused = operate(mallory.clone(), "seal retry", recording).await;
        assert!(matches!(refused, Err(OperationError::Denied)), "{refused:?}");
    }
    for _ in 0..2 {
        operate(root(), "seal retry", Recording::WhenPossible)
            .await
            .expect("trying again goes on");
    }

    KeyFile::generate(&path).unwrap();
    edge.sealer.retry_and_wait(deadline()).await.unwrap();
    edge.operations.shutdown(deadline()).await;
    let query = AuditQuery {
        actions: vec![Action::Operate],
        limit: 100,
        ..AuditQuery::default()
    };
    let patience = deadline();
    let records = loop {
        let page = edge
            .operations
            .audit_list(&root(), &query, deadline())
            .await
            .unwrap();
        if page.entries.len() >= 2 {
            break page.entries;
        }
        assert!(Instant::now() < patience, "what was counted is not recorded");
    };
    let told: Vec<_> = records
        .iter()
        .map(|entry| {
            let plain = entry.plain.as_ref().unwrap().as_ref().unwrap();
            (
                plain.principal.as_str(),
                plain.detail.as_deref().unwrap(),
                entry.outcome,
                entry.attempts,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("cn:mallory", "seal retry", OutcomeKind::Denied, 2),
            ("cn:root", "seal retry", OutcomeKind::Done, 2),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_named_beside_the_right_one() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    let right = edge.sealer.status().borrow().seal_key_id.clone().unwrap();
    let other_path = node.key_file("other.key");
    let other_id = KeyFile::load(&other_path).unwrap().id().to_owned();
    let other = node.edge(&other_path);
    let status = other
        .wait(|status| matches!(status.sealed, Some(SealedReason::WrongSealKey { .. })))
        .await;
    let message = status.sealed.unwrap().to_string();
    assert!(
        message.contains(&right) && message.contains(&other_id),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_that_start_at_once_end_with_one_keyring() {
    let node = OneNode::start().await;
    let key = node.key_file("seal.key");
    let edges = [node.edge(&key), node.edge(&key), node.edge(&key)];
    let mut ids = Vec::new();
    for edge in &edges {
        ids.push(
            edge.wait(|status| status.sealed.is_none())
                .await
                .keyring_id
                .unwrap(),
        );
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
    edges[0].put(&root(), "app", "v").await.unwrap();
    assert_eq!(edges[2].get(&root(), "app", Which::Active).await.unwrap().1, "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_reseals_everything_under_load_and_changes_nothing_else() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    let other = node.edge(&node.folder.path().join("seal.key"));
    other.wait(|status| status.sealed.is_none()).await;
    for number in 0..60 {
        edge.put(&root(), &format!("s{number}"), &format!("one {number}"))
            .await
            .unwrap();
        edge.put(&root(), &format!("s{number}"), &format!("two {number}"))
            .await
            .unwrap();
    }
    assert_eq!(edge.sealer.rotate(deadline()).await.unwrap(), 2);
    let load = async {
        for number in 0..60 {
            other
                .put(&root(), &format!("s{number}"), &format!("three {number}"))
                .await
                .unwrap();
            let value = edge
                .get(&root(), &format!("s{number}"), Which::Active)
                .await
                .unwrap();
            assert_eq!(value, (1, format!("one {number}")));
        }
    };
    load.await;
    edge.wait(|status| status.reseal.is_some_and(|reseal| reseal.finished))
        .await;
    // What the other sealed before it read the new keyring may have come after the last pass; it is
    // found within about a minute.
    let patience = Instant::now() + Duration::from_secs(180);
    while let Some(outdated) = under_an_older_term(&node, 2, 180) {
        assert!(
            Instant::now() < patience,
            "{outdated} parts stay under the old term"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for number in 0..60 {
        let put = edge
            .put(&root(), &format!("s{number}"), &format!("one {number}"))
            .await
            .unwrap();
        assert!(!put.stored, "digests outlive a rotation");
        assert_eq!(
            other
                .get(&root(), &format!("s{number}"), Which::Active)
                .await
                .unwrap()
                .1,
            format!("one {number}")
        );
    }
}

/// How many names and values of callers lie under an older term; `None`: none does.
fn under_an_older_term(node: &OneNode, term: u32, expected_values: usize) -> Option<usize> {
    let view = node.cluster.view();
    let mut terms = Vec::new();
    let mut values = 0;
    for (secret, record) in view.secrets(None, 1000).unwrap() {
        if record
            .place
            .is_some_and(|place| place.namespace == SYSTEM_NAMESPACE)
        {
            continue;
        }
        terms.push(record.name.key_term);
        for version in view.secret_view(&secret).unwrap().unwrap().versions {
            let value = view.sealed_value(&secret, version.version).unwrap().unwrap();
            terms.push(value.key_term);
            values += 1;
        }
    }
    assert_eq!(values, expected_values);
    Some(terms.into_iter().filter(|found| *found != term).count()).filter(|outdated| *outdated > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_wrapping_needs_the_new_file_at_the_next_start_only() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    let old_path = node.folder.path().join("seal.key");
    let other = node.edge(&old_path);
    other.wait(|status| status.sealed.is_none()).await;
    edge.put(&root(), "app", "v").await.unwrap();

    let new_path = node.key_file("new.key");
    let new_id = edge.rekey(new_path.clone()).await.unwrap();
    edge.wait(|status| status.seal_key_id.as_ref() == Some(&new_id))
        .await;
    let status = other.wait(|status| status.warning.is_some()).await;
    assert_eq!(status.sealed, None, "it still holds all keys");
    assert_eq!(other.get(&root(), "app", Which::Active).await.unwrap().1, "v");

    let with_old = node.edge(&old_path);
    with_old
        .wait(|status| matches!(status.sealed, Some(SealedReason::WrongSealKey { .. })))
        .await;
    let with_new = node.edge(&new_path);
    with_new.wait(|status| status.sealed.is_none()).await;
    assert_eq!(with_new.get(&root(), "app", Which::Active).await.unwrap().1, "v");

    // Once keys are added that it cannot read, the node with the old file has to seal itself.
    with_new.sealer.rotate(deadline()).await.unwrap();
    other
        .wait(|status| matches!(status.sealed, Some(SealedReason::WrongSealKey { .. })))
        .await;
    let refused = other
        .operations
        .info(&root(), &full_name("app"), deadline())
        .await;
    assert!(matches!(refused, Err(OperationError::Sealed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_wraps_again_and_again_and_follows_its_configuration() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    edge.put(&root(), "app", "v").await.unwrap();
    let mut id = String::new();
    let mut path = node.folder.path().join("seal.key");
    for number in 0..3 {
        if number == 2 {
            // The keys that are held are wrapped: the key that opens what is stored is not needed.
            fs::remove_file(&path).unwrap();
        }
        path = node.key_file(&format!("{number}.key"));
        id = edge.rekey(path.clone()).await.unwrap();
        edge.wait(|status| {
            status.seal_key_id.as_ref() == Some(&id) && status.sealed.is_none() && status.warning.is_none()
        })
        .await;
    }
    // Still the one that the configuration names.
    let old = node.edge(&node.folder.path().join("seal.key"));
    old.wait(|status| matches!(status.sealed, Some(SealedReason::WrongSealKey { .. })))
        .await;
    // SIGHUP brings the changed configuration.
    old.key_files.configure(Some(path));
    old.sealer.retry();
    let status = old.wait(|status| status.sealed.is_none()).await;
    assert_eq!(status.seal_key_id, Some(id));
    assert_eq!(old.get(&root(), "app", Which::Active).await.unwrap().1, "v");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_that_disappears_is_put_back_by_who_holds_it() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    edge.put(&root(), "app", "v").await.unwrap();
    let keyring = edge.sealer.status().borrow().keyring_id.clone();
    let key = node.folder.path().join("seal.key");

    // By accident it cannot be deleted.
    let place = keyring_place(&node);
    let delete = Operation::Delete {
        at: Expected::At(place),
        recoverable_ms: None,
    };
    let refused = propose(&node, vec![delete.clone()]).await;
    assert!(
        matches!(
            refused,
            Outcome::Refused {
                refusal: Refusal::Protected,
                ..
            }
        ),
        "{refused:?}"
    );

    // Whoever has a node certificate can: for good, and so that it could be restored.
    for recoverable_ms in [None, Some(1_000_000)] {
        let delete = Operation::Delete {
            at: Expected::At(place),
            recoverable_ms,
        };
        let deleted = propose(&node, vec![unprotect(place), delete]).await;
        assert!(matches!(deleted, Outcome::Done(_)), "{deleted:?}");
        // One that starts now makes no other: it has the keys once they are back.
        let fresh = node.edge(&key);
        let status = fresh.wait(|status| status.sealed.is_none()).await;
        assert_eq!(status.keyring_id, keyring);
        assert_eq!(fresh.get(&root(), "app", Which::Active).await.unwrap().1, "v");
        edge.wait(|status| status.warning.is_none()).await;
    }

    // Other bytes over it, under the name of the right seal key or none at all.
    edge.put(&root(), "app", "w").await.unwrap();
    let mut garbage = put_once_more(&node, place);
    garbage.value.ciphertext = b"no keyring"[..].into();
    let written = propose(&node, vec![Operation::Put(garbage)]).await;
    assert!(matches!(written, Outcome::Done(_)), "{written:?}");
    edge.wait(|status| {
        status
            .warning
            .as_ref()
            .is_some_and(|warning| warning.contains("gone"))
    })
    .await;
    assert_eq!(edge.get(&root(), "app", Which::Active).await.unwrap().1, "v");
    let fresh = node.edge(&key);
    let status = fresh.wait(|status| status.sealed.is_none()).await;
    assert_eq!(status.keyring_id, keyring);
    edge.wait(|status| status.warning.is_none()).await;
    edge.sealer.rotate(deadline()).await.expect("it is as it was");
}

/// What a holder of the keys cannot open need not be another holder's: neither another wrapping of the
/// same keys, nor one of more keys.
#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_names_another_seal_key_takes_no_keys_away() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    edge.put(&root(), "app", "v").await.unwrap();
    let place = keyring_place(&node);
    let before = edge.sealer.status().borrow().clone();
    let seal_key = before.seal_key_id.clone().unwrap();
    for generation in [1, 2] {
        let mut forged = put_once_more(&node, place);
        let mut envelope = forged.value.ciphertext.to_vec();
        let at = envelope
            .windows(seal_key.len())
            .position(|bytes| bytes == seal_key.as_bytes())
            .unwrap();
        let (key, after) = envelope[at..].split_at_mut(seal_key.len());
        key.fill(b'0');
        assert_eq!(after[0], 1, "the generation follows the seal key's id");
        after[0] = generation;
        forged.value.ciphertext = envelope.into();
        let written = propose(&node, vec![Operation::Put(forged)]).await;
        assert!(matches!(written, Outcome::Done(_)), "{written:?}");
        let status = edge
            .wait(|status| {
                let warning = status.warning.as_ref();
                status.sealed.is_some()
                    || warning.is_some_and(|warning| warning.contains("puts the keyring back"))
            })
            .await;
        assert_eq!(status.sealed, None);
        assert_eq!(edge.get(&root(), "app", Which::Active).await.unwrap().1, "v");
        edge.wait(|status| status.warning.is_none() && status.seal_key_id == before.seal_key_id)
            .await;
    }
    let fresh = node.edge(&node.folder.path().join("seal.key"));
    let status = fresh.wait(|status| status.sealed.is_none()).await;
    assert_eq!(status.keyring_id, before.keyring_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_that_nobody_holds_is_not_followed_by_another() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    edge.put(&root(), "app", "v").await.unwrap();
    ended(edge).await;
    let place = keyring_place(&node);
    let delete = Operation::Delete {
        at: Expected::At(place),
        recoverable_ms: None,
    };
    let deleted = propose(&node, vec![unprotect(place), delete]).await;
    assert!(matches!(deleted, Outcome::Done(_)), "{deleted:?}");

    let fresh = node.edge(&node.folder.path().join("seal.key"));
    fresh
        .wait(|status| status.sealed == Some(SealedReason::KeyringGone))
        .await;
    let again = fresh.sealer.retry_and_wait(deadline()).await;
    assert_eq!(again, Err(SealedReason::KeyringGone));
    assert_eq!(node.cluster.view().place(&place).unwrap().unwrap().secret, None);
}

fn keyring_place(node: &OneNode) -> Place {
    let secrets = node.cluster.view().secrets(None, 1000).unwrap();
    let mut places = secrets.into_iter().filter_map(|(_, record)| record.place);
    places
        .find(|place| place.namespace == SYSTEM_NAMESPACE)
        .expect("a keyring is stored")
}

/// A write of what lies at the place already, to be changed.
fn put_once_more(node: &OneNode, place: Place) -> Put {
    let view = node.cluster.view();
    let secret = view.place(&place).unwrap().unwrap().secret.unwrap();
    let number = view.secret(&secret).unwrap().unwrap().active.unwrap();
    let version = view.version(&secret, number).unwrap().unwrap();
    Put {
        place,
        secret,
        create: None,
        number: NumberChoice::Next,
        activation: Activation::Always,
        same_value: SameValue::Store,
        check_and_set: None,
        value: view.sealed_value(&secret, number).unwrap().unwrap(),
        digest: version.digest.unwrap(),
        metadata: version.metadata,
        lifetime_ms: None,
        disclosures: None,
        on_end: None,
    }
}

fn unprotect(place: Place) -> Operation {
    Operation::Configure {
        at: Expected::At(place),
        metadata: None,
        settings: Some(SecretSettings::default()),
    }
}

/// As somebody with a node's certificate could.
async fn propose(node: &OneNode, operations: Vec<Operation>) -> Outcome {
    let steps = operations.into_iter().map(|operation| Step {
        preconditions: Vec::new(),
        operation,
        audit: None,
    });
    let command = Command {
        guards: Vec::new(),
        steps: steps.collect(),
    };
    node.cluster.propose(command, deadline()).await.unwrap().outcome
}

/// Ends an edge, its work in the background included.
async fn ended(edge: Edge) {
    let sealer = Arc::downgrade(&edge.sealer);
    drop(edge);
    let patience = deadline();
    while sealer.strong_count() > 0 {
        assert!(Instant::now() < patience, "the edge never ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_keyring_is_opened_by_its_own_key_after_every_kind_of_write() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    for term in 2..5 {
        assert_eq!(edge.sealer.rotate(deadline()).await.unwrap(), term);
    }
    let fresh = node.edge(&node.folder.path().join("seal.key"));
    let status = fresh.wait(|status| status.sealed.is_none()).await;
    assert_eq!(status.key_term, Some(4));
    assert!(
        tokio::time::timeout(Duration::from_secs(60), fresh.put(&root(), "app", "v"))
            .await
            .is_ok()
    );
}
