//! Conclave's own API as operators and their tools see it: health, status, the audit log, members,
//! grants that are reloaded, and the metrics.

mod support;

use conclave::{
    api::conclave::messages::{
        AuditEntry, AuditLimit, AuditListRequest, HealthState, MemberEntry, NodeRole, Status,
        TransferLeadership,
    },
    client::ClientError,
    config::AtAuditLimit,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    time::Duration,
};
use support::{
    PATIENCE, TestCluster, eventually,
    setec::{Setec, send},
};

#[tokio::test]
async fn health_tells_leader_follower_sealed_and_no_quorum_apart() {
    let mut cluster = TestCluster::builder().production().start().await;
    let leader = cluster.leader().await;
    // Load balancers have no certificate.
    let nobody = Setec::new(&cluster, None);
    for node in 0..cluster.len() {
        let (status, state) = if node == leader {
            (200, "leader")
        } else {
            (202, "follower")
        };
        let get = send(nobody.at(node).bare(reqwest::Method::GET, "/conclave/v1/health")).await;
        assert_eq!((get.status, get.json()), (status, json!({"state": state})));
        assert_eq!(get.header("content-type"), "application/json");
        let head = send(nobody.at(node).bare(reqwest::Method::HEAD, "/conclave/v1/health")).await;
        assert_eq!((head.status, head.body.is_empty()), (status, true));
    }
    // Nothing else answers without a certificate.
    for path in ["status", "cluster", "seal"] {
        let answer = send(nobody.bare(reqwest::Method::GET, &format!("/conclave/v1/{path}"))).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (403, &json!("denied")),
            "{path}"
        );
    }

    // A node that finds no seal key at its start.
    let sealed = (leader + 1) % cluster.len();
    let key = cluster.layout().seal_key();
    let elsewhere = cluster.path().join("elsewhere.key");
    cluster.stop(sealed).await;
    cluster.set_environment(sealed, "CONCLAVE_SEAL__KEY_FILE", &elsewhere);
    cluster.spawn(sealed);
    health_becomes(&cluster, sealed, HealthState::Sealed, 503).await;
    let status = cluster
        .status(sealed)
        .await
        .expect("a sealed node shows its status");
    assert!(status.sealed && status.sealed_reason.is_some(), "{status:?}");
    // It votes all the same: the cluster outlives another node.
    let third = (leader + 2) % cluster.len();
    cluster.kill(third).await;
    assert_eq!(
        cluster.client_of(leader).put("while/sealed", b"value").await,
        Ok(1)
    );
    cluster.restart(third).await;
    // The key comes, and SIGHUP tells.
    std::fs::copy(&key, &elsewhere).expect("the key is copied");
    std::fs::set_permissions(&elsewhere, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("its mode is set");
    cluster.signal(sealed, Signal::HUP);
    let leader = cluster.leader().await;
    let (state, code) = if leader == sealed {
        (HealthState::Leader, 200)
    } else {
        (HealthState::Follower, 202)
    };
    health_becomes(&cluster, sealed, state, code).await;

    // Alone.
    let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != sealed).collect();
    for node in others {
        cluster.kill(node).await;
    }
    health_becomes(&cluster, sealed, HealthState::NoQuorum, 504).await;
    // The status is wanted most now, and needs nobody else.
    let status = cluster.status(sealed).await.expect("a status without a majority");
    assert_eq!(status.leader_id, None, "{status:?}");
}

#[tokio::test]
async fn status_shows_where_a_node_stands() {
    let cluster = TestCluster::builder()
        .production()
        .grant("uri:operator", &["operate"], &[])
        .grant("uri:app", &["get", "info", "audit"], &["*"])
        .start()
        .await;
    let client = cluster.client();
    assert_eq!(client.put("example", b"value").await, Ok(1));
    let leader = cluster.leader().await;
    let mut statuses: Vec<Status> = Vec::new();
    for node in 0..cluster.len() {
        // A poll makes the node ask for a quorum's word, whose age it shows.
        let unchanged = cluster.client_of(node).get_if_changed("example", 1).await;
        assert!(matches!(unchanged, Ok(None)));
        // Figures are published a moment after they change.
        let status = eventually("the status is of now", PATIENCE, async || {
            let status = cluster.status(node).await.ok_or("no answer")?;
            if status.audit_bytes > 0 && status.staleness_ms.is_some() {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        });
        statuses.push(status.await);
    }
    let ids: BTreeSet<u64> = statuses.iter().filter_map(|status| status.node_id).collect();
    assert_eq!(ids.len(), 3, "each node has an id of its own");
    for (node, status) in statuses.iter().enumerate() {
        let expected = if node == leader {
            NodeRole::Leader
        } else {
            NodeRole::Follower
        };
        assert_eq!(status.role, expected, "{status:?}");
        assert_eq!(status.node_name, cluster.node(node).name);
        assert_eq!(status.cluster_id, statuses[0].cluster_id);
        assert_eq!(status.leader_id, statuses[leader].node_id);
        assert_eq!(status.term, statuses[0].term);
        assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(status.cluster_id.as_ref().map(String::len), Some(32));
        assert!(!status.sealed && !status.dev && status.halted.is_none() && !status.out_of_space);
        assert!(status.applied_index <= status.committed_index, "{status:?}");
        assert!(status.committed_index <= status.last_log_index, "{status:?}");
        assert!(
            status.applied_index.is_some() && status.free_bytes > 0,
            "{status:?}"
        );
        assert!(
            status.staleness_ms.is_some_and(|staleness| staleness < 60_000),
            "{status:?}"
        );
        assert_eq!(status.grants_digest, statuses[0].grants_digest);
        assert_eq!(status.grants_error, None);
    }
    // In JSON, with the names that other programs read.
    let operator = Setec::principal(&cluster, "uri:operator");
    let status = send(operator.bare(reqwest::Method::GET, "/conclave/v1/status"))
        .await
        .expect(200)
        .json();
    for field in [
        "cluster_id",
        "node_id",
        "role",
        "leader_id",
        "term",
        "last_log_index",
        "committed_index",
        "applied_index",
        "sealed",
        "state_digest",
        "state_digest_index",
        "staleness_ms",
        "version",
    ] {
        assert!(status.get(field).is_some(), "{field} is not in {status}");
    }
    // `operate` is a right of its own; neither `audit` nor any on secrets implies it.
    let app = Setec::principal(&cluster, "uri:app");
    for (method, path) in [
        ("GET", "status"),
        ("GET", "cluster"),
        ("GET", "seal"),
        ("POST", "seal/retry"),
        ("POST", "cluster/transfer"),
        ("POST", "cluster/verify"),
        ("POST", "audit/limit"),
    ] {
        let method = method.parse().expect("a method");
        let answer = send(app.bare(method, &format!("/conclave/v1/{path}"))).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (403, &json!("denied")),
            "{path}"
        );
    }
    let request = operator.bare(reqwest::Method::POST, "/conclave/v1/audit/list");
    assert_eq!(send(request).await.status, 403);

    members(&cluster, leader).await;

    // How much audit is kept can be changed, by whoever may operate.
    let operating = cluster.client_as(Some(&cluster.identity("uri:operator")));
    let limit = AuditLimit {
        limit_bytes: Some(1 << 20),
        at_limit: None,
    };
    let now = operating.set_audit_limit(&limit).await.expect("it is set");
    assert_eq!(
        (now.limit_bytes, now.at_limit),
        (Some(1 << 20), Some(AtAuditLimit::PruneOldest))
    );
    for node in 0..cluster.len() {
        eventually("every node knows the limit", PATIENCE, async || {
            match cluster.status(node).await {
                Some(status) if status.audit_limit_bytes == 1 << 20 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    // After enough entries there is a digest, the same on every node.
    let writes = (0..300).map(|number: u32| {
        let client = client.clone();
        async move {
            client
                .put(&format!("filler/{number}"), &number.to_be_bytes())
                .await
        }
    });
    for write in futures::future::join_all(writes).await {
        assert_eq!(write, Ok(1));
    }
    eventually("all nodes show the digest of one index", PATIENCE, async || {
        let mut shown = BTreeSet::new();
        for node in 0..cluster.len() {
            let status = cluster.status(node).await.ok_or("no answer")?;
            shown.insert((status.state_digest_index, status.state_digest));
        }
        match shown.first() {
            Some((Some(index), Some(digest))) if shown.len() == 1 => {
                assert_eq!((index % 256, digest.len()), (0, 64));
                Ok(())
            }
            _ => Err(format!("{shown:?}")),
        }
    })
    .await;
}

async fn members(cluster: &TestCluster, leader: usize) {
    let mut known = BTreeMap::new();
    for node in 0..cluster.len() {
        let status = cluster.status(node).await.expect("a status");
        let listed = cluster.client_of(node).members().await.expect("the members");
        assert_eq!(listed.cluster_id, status.cluster_id);
        assert_eq!(listed.leader_id, status.leader_id);
        assert_eq!(listed.members.len(), 3);
        let plain: Vec<(u64, String, String, bool)> = listed
            .members
            .iter()
            .map(|member: &MemberEntry| {
                (
                    member.id,
                    member.name.clone(),
                    member.address.clone(),
                    member.voter,
                )
            })
            .collect();
        known.insert(node, plain);
        for member in &listed.members {
            assert!(member.voter, "{member:?}");
            let position = (0..cluster.len()).find(|node| cluster.node(*node).name == member.name);
            let port = cluster.node(position.expect("a node of ours")).ports.cluster;
            assert_eq!(member.address, format!("127.0.0.1:{port}"));
            // Only the leader knows how far the others are.
            assert_eq!(member.matched_index.is_some(), node == leader, "{member:?}");
        }
    }
    assert!(known.values().all(|members| *members == known[&0]), "{known:?}");

    // Leadership goes where it is told to.
    let target = (leader + 1) % cluster.len();
    let to = cluster.status(target).await.expect("a status").node_id;
    let request = TransferLeadership {
        to,
        timeout_ms: Some(30_000),
    };
    let moved = cluster
        .client()
        .transfer_leadership(&request)
        .await
        .expect("handed over");
    assert_eq!(Some(moved.id), to);
    cluster.wait_until_leads(target).await;
}

#[tokio::test]
async fn the_audit_log_is_filtered_paged_and_records_its_readers() {
    let cluster = TestCluster::builder()
        .production()
        .grant("uri:app", &["get", "put"], &["app/*"])
        .grant("uri:auditor", &["audit"], &[])
        .start()
        .await;
    let app = Setec::principal(&cluster, "uri:app");
    let administrator = Setec::administrator(&cluster);
    let auditor = cluster.client_as(Some(&cluster.identity("uri:auditor")));
    let list = async |request: AuditListRequest| auditor.audit_list(&request).await.expect("a page");
    let all = || AuditListRequest {
        limit: Some(1000),
        ..AuditListRequest::default()
    };

    app.put("app/key", b"one").await;
    app.put("app/key", b"two").await;
    app.json("get", json!({"Name": "app/key"})).await.expect(200);
    app.json("get", json!({"Name": "app/key", "Version": 2}))
        .await
        .expect(200);
    app.json("get", json!({"Name": "app/missing"})).await.expect(404);
    app.json("get", json!({"Name": "app/key", "Version": 9}))
        .await
        .expect(404);
    app.json("get", json!({"Name": "other"})).await.expect(403);
    app.json("info", json!({"Name": "app/key"})).await.expect(403);
    app.json("list", json!({})).await.expect(200);
    let middle_ms = list(all()).await.records.last().expect("records").time_ms;
    administrator
        .json("info", json!({"Name": "app/key"}))
        .await
        .expect(200);
    administrator
        .json("create-version", json!({"Name": "app/key", "Version": 7}))
        .await
        .expect(200);
    administrator
        .json("create-version", json!({"Name": "app/key", "Version": 7}))
        .await
        .expect(412);
    administrator
        .json("activate", json!({"Name": "app/key", "Version": 1}))
        .await
        .expect(200);
    administrator
        .json("delete-version", json!({"Name": "app/key", "Version": 1}))
        .await
        .expect(400);
    administrator
        .json("delete-version", json!({"Name": "app/key", "Version": 2}))
        .await
        .expect(200);
    administrator
        .json("delete", json!({"Name": "app/key"}))
        .await
        .expect(200);
    administrator
        .json("delete", json!({"Name": "app/key"}))
        .await
        .expect(200);
    // Malformed ones are nobody's business.
    administrator.json("get", json!({"Name": ""})).await.expect(400);
    administrator.call("get", "{").await.expect(400);

    // Everything, in order, with who and whence.
    let records = list(all()).await.records;
    let of_secrets: Vec<(&str, &str, &str, Option<u32>, &str)> = records
        .iter()
        .filter(|record| !matches!(record.action.as_str(), "audit-read" | "operate" | "configure"))
        .map(|record| {
            (
                record.principal.as_deref().unwrap_or("-"),
                record.action.as_str(),
                record.secret.as_deref().unwrap_or("-"),
                record.version,
                record.outcome.as_str(),
            )
        })
        .collect();
    let root = "uri:conclave-dev://client";
    assert_eq!(
        of_secrets,
        [
            ("uri:app", "put", "app/key", Some(1), "done"),
            ("uri:app", "put", "app/key", Some(2), "done"),
            ("uri:app", "get", "app/key", Some(1), "done"),
            ("uri:app", "get", "app/key", Some(2), "done"),
            ("uri:app", "get", "app/missing", None, "not-found"),
            ("uri:app", "get", "app/key", Some(9), "not-found"),
            ("uri:app", "get", "other", None, "denied"),
            ("uri:app", "info", "app/key", None, "denied"),
            ("uri:app", "list", "-", None, "done"),
            (root, "info", "app/key", None, "done"),
            (root, "create-version", "app/key", Some(7), "done"),
            (root, "create-version", "app/key", Some(7), "refused"),
            (root, "activate", "app/key", Some(1), "done"),
            (root, "delete-version", "app/key", Some(1), "refused"),
            (root, "delete-version", "app/key", Some(2), "done"),
            (root, "delete", "app/key", None, "done"),
            (root, "delete", "app/key", None, "not-found"),
        ]
    );
    let mut request_ids = BTreeSet::new();
    for record in &records {
        assert_eq!(
            (record.error.as_deref(), record.attempts),
            (None, 1),
            "{record:?}"
        );
        if let Some(remote) = &record.remote {
            assert!(remote.starts_with("127.0.0.1:"), "{record:?}");
            assert!(
                matches!(record.api.as_deref(), Some("setec" | "conclave")),
                "{record:?}"
            );
            assert!(
                record
                    .node
                    .as_deref()
                    .is_some_and(|node| node.starts_with("node-")),
                "{record:?}"
            );
            assert!(request_ids.insert(record.request_id.clone()), "{record:?}");
        }
    }
    assert!(records.windows(2).all(|pair| pair[0].time_ms <= pair[1].time_ms));

    // The reader's own reading is there, and was there for the reader to see.
    let readings: Vec<&AuditEntry> = records
        .iter()
        .filter(|record| record.action == "audit-read")
        .collect();
    assert_eq!(readings.len(), 2, "{readings:?}");
    assert!(
        readings
            .iter()
            .all(|record| record.principal.as_deref() == Some("uri:auditor"))
    );
    assert_eq!(
        records.last().map(|record| record.action.as_str()),
        Some("audit-read")
    );

    // Filters, alone and together. Each is what filtering everything by hand gives.
    let by_hand = |keep: &dyn Fn(&AuditEntry) -> bool| -> Vec<String> {
        records
            .iter()
            .filter(|record| keep(record))
            .map(|record| record.id.clone())
            .collect()
    };
    let secret = |name: &str| Some(name.to_owned());
    let end_ms = records.last().expect("records").time_ms;
    for (what, request, expected) in [
        (
            "secret",
            AuditListRequest {
                secret: secret("app/key"),
                ..all()
            },
            by_hand(&|record| record.secret.as_deref() == Some("app/key")),
        ),
        (
            "secret that is gone and never was",
            AuditListRequest {
                secret: secret("app/missing"),
                ..all()
            },
            by_hand(&|record| record.secret.as_deref() == Some("app/missing")),
        ),
        (
            "principal",
            AuditListRequest {
                principal: Some("uri:app".into()),
                ..all()
            },
            by_hand(&|record| record.principal.as_deref() == Some("uri:app")),
        ),
        (
            "nobody",
            AuditListRequest {
                principal: Some("cn:app".into()),
                ..all()
            },
            Vec::new(),
        ),
        (
            "action",
            AuditListRequest {
                action: Some("get".into()),
                ..all()
            },
            by_hand(&|record| record.action == "get"),
        ),
        (
            "action with a dash",
            AuditListRequest {
                action: Some("create-version".into()),
                ..all()
            },
            by_hand(&|record| record.action == "create-version"),
        ),
        (
            "outcome",
            AuditListRequest {
                outcome: Some("denied".into()),
                ..all()
            },
            by_hand(&|record| record.outcome == "denied"),
        ),
        (
            "not found",
            AuditListRequest {
                outcome: Some("not-found".into()),
                ..all()
            },
            by_hand(&|record| record.outcome == "not-found"),
        ),
        (
            "time",
            AuditListRequest {
                since_ms: Some(middle_ms + 1),
                until_ms: Some(end_ms),
                ..all()
            },
            by_hand(&|record| record.time_ms > middle_ms && record.time_ms < end_ms),
        ),
        (
            "until",
            AuditListRequest {
                until_ms: Some(middle_ms),
                ..all()
            },
            by_hand(&|record| record.time_ms < middle_ms),
        ),
        (
            "a time to come",
            AuditListRequest {
                since_ms: Some(end_ms + 1_000_000_000),
                ..all()
            },
            Vec::new(),
        ),
        (
            "all at once",
            AuditListRequest {
                secret: secret("app/key"),
                principal: Some("uri:app".into()),
                action: Some("get".into()),
                outcome: Some("done".into()),
                since_ms: Some(records[0].time_ms),
                until_ms: Some(end_ms + 1),
                ..all()
            },
            by_hand(&|record| {
                record.secret.as_deref() == Some("app/key")
                    && record.principal.as_deref() == Some("uri:app")
                    && record.action == "get"
                    && record.outcome == "done"
            }),
        ),
    ] {
        let page = list(request.clone()).await;
        let found: Vec<String> = page.records.into_iter().map(|record| record.id).collect();
        assert_eq!((found, page.next), (expected.clone(), None), "by {what}");
        // The other way round, in pages of two.
        let mut backwards = Vec::new();
        let mut request = AuditListRequest {
            limit: Some(2),
            newest_first: true,
            ..request
        };
        loop {
            let page = list(request.clone()).await;
            assert!(page.records.len() <= 2);
            backwards.extend(page.records.into_iter().map(|record| record.id));
            match page.next {
                Some(next) => request.cursor = Some(next),
                None => break,
            }
        }
        backwards.reverse();
        // Readings that came meanwhile aside.
        backwards.retain(|id| records.iter().any(|record| record.id == *id));
        assert_eq!(backwards, expected, "by {what}, newest first");
    }

    // By every node alike, and only for who may.
    for node in 0..cluster.len() {
        let request = AuditListRequest {
            outcome: Some("denied".into()),
            ..all()
        };
        let page = auditor.at(node).audit_list(&request).await.expect("a page");
        assert_eq!(page.records.len(), 2, "{page:?}");
    }
    let refused = cluster
        .client_as(Some(&cluster.identity("uri:app")))
        .audit_list(&all())
        .await;
    assert!(matches!(refused, Err(ClientError::Denied(_))), "{refused:?}");
    let denied = list(AuditListRequest {
        outcome: Some("denied".into()),
        ..all()
    })
    .await
    .records;
    assert_eq!(
        denied.last().map(|record| record.action.as_str()),
        Some("audit-read"),
        "{denied:?}"
    );
    // Operating is recorded with what was done.
    let operated = list(AuditListRequest {
        action: Some("operate".into()),
        ..all()
    })
    .await
    .records;
    assert!(
        operated
            .iter()
            .any(|record| record.detail.as_deref() == Some("status")),
        "{operated:?}"
    );
}

#[tokio::test]
async fn grants_are_read_again_on_sighup_and_a_broken_file_keeps_the_old_ones() {
    let mut cluster = TestCluster::builder()
        .production()
        .grant("uri:app", &["get"], &["app/*"])
        .start()
        .await;
    let administrator = Setec::administrator(&cluster);
    administrator.put("app/key", b"value").await;
    administrator.put("new/key", b"value").await;
    let app = Setec::principal(&cluster, "uri:app");
    let get = async |node: usize, name: &str| app.at(node).json("get", json!({"Name": name})).await.status;
    let path = cluster.layout().grants();
    let old = std::fs::read_to_string(&path).expect("the grants");
    let digest = cluster.status(0).await.expect("a status").grants_digest;
    assert_eq!((get(0, "app/key").await, get(0, "new/key").await), (200, 403));

    // A change that nobody was told of is no change.
    let new = old.replace("app/*", "new/*");
    std::fs::write(&path, &new).expect("written");
    assert_eq!((get(0, "app/key").await, get(0, "new/key").await), (200, 403));
    // Told, a node follows at once, also on connections that are open; the others are seen to lag.
    cluster.signal(0, Signal::HUP);
    let changed = eventually("node 0 has the new grants", PATIENCE, async || {
        let status = cluster.status(0).await.ok_or("no answer")?;
        if status.grants_digest == digest {
            Err("the old digest".to_owned())
        } else {
            Ok(status)
        }
    })
    .await;
    assert_eq!((get(0, "app/key").await, get(0, "new/key").await), (403, 200));
    assert_eq!((get(1, "app/key").await, get(1, "new/key").await), (200, 403));
    assert_eq!(cluster.status(1).await.expect("a status").grants_digest, digest);
    assert_ne!(
        value(&scrape(&cluster, 0).await, "conclave_grants_digest"),
        value(&scrape(&cluster, 1).await, "conclave_grants_digest")
    );

    // A file that cannot be used: the old grants stay, and the error shows.
    for (broken, named) in [
        ("\"uri:app\" = [\n", "line"),
        (
            "\"uri:other\" = [{ action = [\"fetch\"], secret = [\"*\"] }]\n",
            "\"uri:other\": unknown action",
        ),
        (
            "\"uri:other\" = [{ action = [\"get\"], secret = \"marked/key\" }]\n",
            "invalid type",
        ),
        (
            "\"app\" = [{ action = [\"get\"], secret = [\"*\"] }]\n",
            "not a principal",
        ),
    ] {
        let mut file = std::fs::File::create(&path).expect("opened");
        file.write_all(format!("{new}{broken}").as_bytes())
            .expect("written");
        cluster.signal(0, Signal::HUP);
        eventually("the error shows", PATIENCE, async || {
            let status = cluster.status(0).await.ok_or("no answer")?;
            assert_eq!(status.grants_digest, changed.grants_digest);
            match status.grants_error {
                Some(error) if error.contains(named) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!((get(0, "app/key").await, get(0, "new/key").await), (403, 200));
        assert_eq!(
            value(&scrape(&cluster, 0).await, "conclave_grants_load_error"),
            Some(1.0)
        );
    }

    // The error names no secret, in the status or in the log.
    let log = std::fs::read_to_string(&cluster.node(0).log).expect("the log");
    assert!(log.contains("invalid type") && !log.contains("marked"), "{log}");

    // Mended, all nodes come to the same.
    std::fs::write(&path, &new).expect("written");
    for node in 0..cluster.len() {
        cluster.signal(node, Signal::HUP);
    }
    for node in 0..cluster.len() {
        eventually("the node follows", PATIENCE, async || {
            let status = cluster.status(node).await.ok_or("no answer")?;
            if status.grants_digest == changed.grants_digest && status.grants_error.is_none() {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await;
        assert_eq!(
            (get(node, "app/key").await, get(node, "new/key").await),
            (403, 200)
        );
        let metrics = scrape(&cluster, node).await;
        assert_eq!(value(&metrics, "conclave_grants_load_error"), Some(0.0));
    }
}

#[tokio::test]
async fn every_metric_says_what_it_is_and_none_names_a_secret_or_a_person() {
    let cluster = TestCluster::builder()
        .production()
        .grant("uri:marked-person", &["get", "put", "info"], &["marked-secret/*"])
        .start()
        .await;
    let person = Setec::principal(&cluster, "uri:marked-person");
    for node in 0..cluster.len() {
        let person = person.at(node);
        person
            .put("marked-secret/a", format!("marked-value {node}").as_bytes())
            .await;
        person
            .json("get", json!({"Name": "marked-secret/a"}))
            .await
            .expect(200);
        person
            .json("get", json!({"Name": "marked-secret/none"}))
            .await
            .expect(404);
        person.json("get", json!({"Name": "other"})).await.expect(403);
        person.call("get", "{").await.expect(400);
        let poll = json!({"Name": "marked-secret/a", "Version": 1, "UpdateIfChanged": true});
        person.json("get", poll).await.expect(304);
        person
            .json("info", json!({"Name": "marked-secret/a"}))
            .await
            .expect(200);
        person.json("list", json!({})).await.expect(200);
        let nobody = Setec::new(&cluster, None).at(node);
        nobody
            .json("get", json!({"Name": "marked-secret/a"}))
            .await
            .expect(403);
        send(nobody.bare(reqwest::Method::GET, "/marked-secret/path"))
            .await
            .expect(404);
    }
    let leader = cluster.leader().await;
    for node in 0..cluster.len() {
        let text = scrape(&cluster, node).await;
        assert!(!text.contains("marked"), "{text}");
        let metrics = Metrics::parse(&text);
        for (family, samples) in &metrics.samples {
            assert!(
                metrics.help.get(family).is_some_and(|help| help.len() > 5),
                "{family} has no help"
            );
            let kind = metrics.kind.get(family).map(String::as_str);
            assert!(
                matches!(kind, Some("counter" | "gauge" | "histogram")),
                "{family} is a {kind:?}"
            );
            assert!(family.starts_with("conclave_"), "{family}");
            assert_eq!(kind == Some("counter"), family.ends_with("_total"), "{family}");
            for labels in samples {
                for (label, value) in labels {
                    let allowed: &[&str] = match label.as_str() {
                        "le" => continue,
                        "version" => &[env!("CARGO_PKG_VERSION")],
                        "api" => &["setec", "conclave", "none"],
                        "outcome" | "action" | "reason" => &[],
                        other => panic!("{family} has the label {other}={value}"),
                    };
                    let is_word = value.len() <= 32
                        && value
                            .bytes()
                            .all(|byte| matches!(byte, b'a'..=b'z' | b'_' | b'-' | b'/'));
                    assert!(
                        allowed.contains(&value.as_str()) || (allowed.is_empty() && is_word),
                        "{family} has {label}={value}"
                    );
                }
            }
        }
        // What the issue asks for, by the figures of this workload.
        for family in [
            "conclave_requests_total",
            "conclave_request_seconds",
            "conclave_unidentified_callers_total",
            "conclave_open_connections",
            "conclave_sealed",
            "conclave_grants_digest",
            "conclave_grants_load_error",
            "conclave_leader",
            "conclave_term",
            "conclave_proposals_total",
            "conclave_raft_log_syncs_total",
            "conclave_raft_log_batch_entries",
            "conclave_apply_lag_entries",
            "conclave_raft_space_free_bytes",
            "conclave_raft_snapshots_taken_total",
            "conclave_raft_snapshot_sent_bytes_total",
            "conclave_raft_append_sent_bytes_total",
            "conclave_raft_reconnects_total",
            "conclave_staleness_seconds",
        ] {
            assert!(
                metrics.samples.contains_key(family),
                "node {node} has no {family}"
            );
        }
        assert_eq!(
            value(&text, "conclave_leader"),
            Some(f64::from(u8::from(node == leader)))
        );
        let count = |outcome: &str| {
            let line =
                format!("conclave_requests_total{{api=\"setec\",action=\"get\",outcome=\"{outcome}\"}}");
            value(&text, &line)
        };
        assert_eq!(count("not_found"), Some(1.0));
        assert_eq!(count("denied"), Some(2.0));
        assert_eq!(count("invalid"), Some(1.0));
        assert_eq!(count("not_modified"), Some(1.0));
    }
    // Only that path, and only to be read.
    let port = cluster.node(0).ports.metrics;
    let plain = cluster.http(None);
    let status = async |method: reqwest::Method, path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        plain
            .request(method, url)
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16()
    };
    assert_eq!(status(reqwest::Method::POST, "/metrics").await, 405);
    assert_eq!(status(reqwest::Method::GET, "/").await, 404);
}

/// The text format, taken apart.
#[derive(Default)]
struct Metrics {
    help: BTreeMap<String, String>,
    kind: BTreeMap<String, String>,
    /// Labels of each sample, by family.
    samples: BTreeMap<String, Vec<Vec<(String, String)>>>,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some((family, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
                metrics.help.insert(family.to_owned(), help.to_owned());
            } else if let Some((family, kind)) =
                line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
            {
                metrics.kind.insert(family.to_owned(), kind.to_owned());
            } else {
                let (series, _) = line.rsplit_once(' ').expect("a sample");
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let is_histogram =
                    |family: &&str| metrics.kind.get(*family).is_some_and(|kind| kind == "histogram");
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .filter_map(|ending| name.strip_suffix(ending))
                    .find(is_histogram)
                    .unwrap_or(name);
                let labels = labels
                    .trim_end_matches('}')
                    .split("\",")
                    .filter_map(|label| label.split_once("=\""))
                    .map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()))
                    .collect();
                metrics.samples.entry(family.to_owned()).or_default().push(labels);
            }
        }
        metrics
    }
}

async fn scrape(cluster: &TestCluster, node: usize) -> String {
    let url = format!("http://127.0.0.1:{}/metrics", cluster.node(node).ports.metrics);
    let response = cluster.http(None).get(url).send().await.expect("scraped");
    assert_eq!(response.status(), 200);
    response.text().await.expect("a text")
}

/// The value of a series, by its name with its labels.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

async fn health_becomes(cluster: &TestCluster, node: usize, state: HealthState, status: u16) {
    let nobody = Setec::new(cluster, None).at(node);
    eventually("the health shows", PATIENCE, async || {
        let request = nobody
            .bare(reqwest::Method::GET, "/conclave/v1/health")
            .timeout(Duration::from_secs(5));
        let response = request.send().await.map_err(|error| error.to_string())?;
        let found = response.status().as_u16();
        let body: Value = response.json().await.map_err(|error| error.to_string())?;
        if found == status && body == json!({ "state": state }) {
            Ok(())
        } else {
            Err(format!("{found} {body}"))
        }
    })
    .await;
}
