//! The seal: wrong, missing and exposed keys, rotation, another wrapping.

use crate::fixture::{OneNode, deadline, full_name, root};
use conclave::{
    operations::{OperationError, Recording},
    seal::{KeyFile, SealProvider, SealedReason},
};
use conclave_cluster::command::Which;
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_key_is_sealed_until_the_key_comes() {
    let node = OneNode::start().await;
    let path = node.folder.path().join("late.key");
    let edge = node.edge(&path);
    edge.wait(|status| matches!(status.sealed, Some(SealedReason::KeyFile(_))))
        .await;
    let refused = edge.get(&root(), "app", Which::Active).await;
    assert!(matches!(refused, Err(OperationError::Sealed { .. })));
    edge.operations
        .record_operate(&root(), "seal retry", Recording::Required, deadline())
        .await
        .expect("a sealed node can be operated");

    KeyFile::generate(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
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
    let view = node.cluster.view();
    let keyring_place = |record: &conclave_cluster::model::SecretRecord| {
        record
            .place
            .is_some_and(|place| place.namespace == conclave::seal::SYSTEM_NAMESPACE)
    };
    let mut checked = 0;
    for (secret, record) in view.secrets(None, 1000).unwrap() {
        if keyring_place(&record) {
            continue;
        }
        assert_eq!(record.name.key_term, 2);
        for version in view.secret_view(&secret).unwrap().unwrap().versions {
            assert_eq!(
                view.sealed_value(&secret, version.version)
                    .unwrap()
                    .unwrap()
                    .key_term,
                2
            );
            checked += 1;
        }
    }
    assert_eq!(checked, 180);
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

#[tokio::test(flavor = "multi_thread")]
async fn another_wrapping_needs_the_new_file_at_the_next_start_only() {
    let node = OneNode::start().await;
    let edge = node.unsealed().await;
    let old_path = node.folder.path().join("seal.key");
    let other = node.edge(&old_path);
    other.wait(|status| status.sealed.is_none()).await;
    edge.put(&root(), "app", "v").await.unwrap();

    let new_path = node.key_file("new.key");
    let new_id = edge.sealer.rekey(new_path.clone(), deadline()).await.unwrap();
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
