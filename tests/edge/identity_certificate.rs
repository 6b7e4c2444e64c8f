//! Callers with certificates and without: whom a certificate names, which ones fail the handshake,
//! and who is `dev`.

use crate::{
    folders::{self, section},
    requests,
    support::{Identity, PATIENCE, TestCluster, eventually},
};
use conclave::{
    client::ClientError,
    pki::{write_certificate, write_private_key},
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    fs,
    time::{Duration, SystemTime},
};

#[tokio::test]
async fn a_certificate_names_one_principal() {
    let mut cluster = TestCluster::builder()
        .nodes(1)
        .production()
        .grant("uri:spiffe://prod/app", &["get", "put"], &["uri/*"])
        .grant("email:app@example.org", &["get", "put"], &["email/*"])
        .grant("dns:app.example.org", &["get", "put"], &["dns/*"])
        .grant("cn:app@example.org", &["get", "put"], &["cn/*"])
        .start()
        .await;
    // Principals keep their type: equal names of two types are two callers.
    let principals = [
        ("uri:spiffe://prod/app", "uri/a"),
        ("email:app@example.org", "email/a"),
        ("dns:app.example.org", "dns/a"),
    ];
    for (principal, own) in principals {
        let client = cluster.client_as(Some(&cluster.identity(principal)));
        assert_eq!(client.put(own, b"value").await, Ok(1), "{principal}");
        for other in ["uri/a", "email/a", "dns/a", "cn/a"]
            .into_iter()
            .filter(|name| *name != own)
        {
            let refused = client.put(other, b"value").await;
            assert!(
                matches!(refused, Err(ClientError::Denied(_))),
                "{principal}: {refused:?}"
            );
        }
    }
    let common = made(&cluster, "common", |params| {
        common_name(params, "app@example.org")
    });
    assert_eq!(
        cluster.client_as(Some(&common)).put("cn/a", b"value").await,
        Ok(1)
    );
    // The first type that is there wins, and names of others add nothing.
    let several = made(&cluster, "several", |params| {
        common_name(params, "app@example.org");
        params.subject_alt_names = vec![
            dns("one.example.org"),
            dns("two.example.org"),
            email("app@example.org"),
        ];
    });
    let client = cluster.client_as(Some(&several));
    assert_eq!(client.put("email/b", b"value").await, Ok(1));
    assert!(matches!(
        client.put("cn/b", b"value").await,
        Err(ClientError::Denied(_))
    ));

    // Nothing that a request says of its caller is believed.
    let http = cluster.http(Some(&several));
    let response = http
        .post(format!("{}/api/get", cluster.api(0)))
        .header("content-type", "application/json")
        .header("sec-x-tailscale-no-browsers", "setec")
        .header("x-forwarded-for", "127.0.0.1")
        .header("x-forwarded-client-cert", "URI=spiffe://prod/app")
        .header("tailscale-user-login", "root@example.org")
        .body(json!({"Name": "uri/a"}).to_string())
        .send()
        .await;
    assert_eq!(requests::answer(response).await.0, 403);

    let recorded = requests::audit(&cluster).await;
    for principal in [
        "uri:spiffe://prod/app",
        "email:app@example.org",
        "dns:app.example.org",
        "cn:app@example.org",
    ] {
        let found = recorded
            .iter()
            .any(|record| record.principal.as_deref() == Some(principal));
        assert!(found, "{principal}: {recorded:#?}");
    }
    certificates_that_fail_the_handshake(&cluster).await;
    without_a_certificate(&cluster).await;
    a_client_ca_that_contains_the_nodes_is_not_taken_up(&mut cluster).await;
}

async fn a_client_ca_that_contains_the_nodes_is_not_taken_up(cluster: &mut TestCluster) {
    let (bundle, _) = cluster.layout().client_authority();
    let read = |path| fs::read_to_string(path).expect("a CA");
    let both = format!("{}\n{}", read(&bundle), read(&cluster.layout().authority()));
    fs::write(&bundle, both).expect("written");
    let failed = requests::metric(cluster, 0, "conclave_reload_errors_total").await;
    cluster.signal(0, Signal::HUP);
    eventually("the reload failed", PATIENCE, async || {
        let now = requests::metric(cluster, 0, "conclave_reload_errors_total").await;
        if now > failed {
            Ok(())
        } else {
            Err(format!("{now} failed"))
        }
    })
    .await;
    assert!(requests::log(cluster, 0).contains("CA in common"));
    assert!(cluster.client().list().await.is_ok());
}

async fn certificates_that_fail_the_handshake(cluster: &TestCluster) {
    let past = SystemTime::now() - Duration::from_secs(3600);
    let spiffe = || uri("spiffe://prod/app");
    let bad = [
        (
            "two URIs",
            made(cluster, "two", |params| {
                params.subject_alt_names = vec![spiffe(), uri("spiffe://prod/b")]
            }),
        ),
        (
            "a control character",
            made(cluster, "control", |params| {
                common_name(params, "app\n@example.org")
            }),
        ),
        ("no name", made(cluster, "nameless", |_| {})),
        (
            "a node's name from the client CA",
            made(cluster, "posing", |params| {
                params.subject_alt_names = vec![uri("conclave://dev/node-1"), spiffe()];
            }),
        ),
        (
            "expired",
            made(cluster, "expired", |params| {
                params.subject_alt_names = vec![spiffe()];
                params.not_before = (past - Duration::from_secs(3600)).into();
                params.not_after = past.into();
            }),
        ),
        (
            "a server's",
            made(cluster, "server", |params| {
                params.subject_alt_names = vec![spiffe()];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
        ("a node's own", {
            let folder = cluster.node(0).config.with_file_name("");
            Identity {
                certificate: folder.join("node.pem"),
                key: folder.join("node.key"),
            }
        }),
        ("another CA's", {
            let stranger = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let issuer = Issuer::new(params, stranger);
            issued(cluster, "stranger", &issuer, |params| {
                params.subject_alt_names = vec![spiffe()]
            })
        }),
    ];
    let before = requests::metric(cluster, 0, "conclave_refused_connections_total").await;
    for (what, identity) in &bad {
        let http = cluster.http(Some(identity));
        let answer = requests::setec(&http, cluster, 0, "list", json!({})).await;
        assert!(answer.is_err(), "{what}: {answer:?}");
    }
    let refused = requests::metric(cluster, 0, "conclave_refused_connections_total").await - before;
    assert!(refused >= bad.len() as f64, "{refused} were counted");
    assert!(cluster.client().list().await.is_ok(), "the node is unharmed");
}

/// 403, a log line, a metric, and no entry.
async fn without_a_certificate(cluster: &TestCluster) {
    let records = requests::audit(cluster).await.len();
    let entries = cluster.status(0).await.expect("a status").last_log_index;
    let counted = requests::metric(cluster, 0, "conclave_unidentified_callers_total").await;
    let nobody = cluster.http(None);
    for method in ["list", "get", "put", "delete"].into_iter().cycle().take(40) {
        let body = json!({"Name": "uri/a", "Value": "eA=="});
        let (status, text) = requests::answer(requests::setec(&nobody, cluster, 0, method, body).await).await;
        assert_eq!(status, 403, "{text}");
        assert!(text.contains("could not be identified"), "{text}");
    }
    for route in ["status", "cluster", "seal"] {
        let answer = nobody
            .get(format!("{}/conclave/v1/{route}", cluster.api(0)))
            .send()
            .await;
        assert_eq!(requests::answer(answer).await.0, 403, "{route}");
    }
    let health = nobody
        .get(format!("{}/conclave/v1/health", cluster.api(0)))
        .send()
        .await;
    assert_eq!(requests::answer(health).await.0, 200, "health is for everybody");
    let refused = requests::metric(cluster, 0, "conclave_unidentified_callers_total").await - counted;
    assert_eq!(refused, 43.0);
    assert!(requests::log(cluster, 0).contains("no client certificate was shown"));
    // Looks at the status, ticks, and counts of what others were refused before; not 43 refusals.
    let now = cluster.status(0).await.expect("a status").last_log_index;
    assert!(now <= entries.map(|index| index + 20), "{entries:?} to {now:?}");
    let by_nobody: Vec<_> = requests::audit(cluster)
        .await
        .split_off(records)
        .into_iter()
        .filter(|record| record.principal.as_deref() != Some("uri:conclave-dev://client"))
        .collect();
    assert!(by_nobody.is_empty(), "{by_nobody:#?}");
}

#[tokio::test]
async fn dev_is_confined_to_clusters_made_so_on_loopback_without_a_tailnet() {
    // A dev cluster: everybody is `dev`, with all rights, and every start says so.
    let mut cluster = TestCluster::builder().nodes(1).start().await;
    let nobody = cluster.client_as(None);
    assert_eq!(nobody.put("dev/a", b"value").await, Ok(1));
    assert!(nobody.status().await.expect("a status").dev);
    let records = requests::audit(&cluster).await;
    let by_dev = |action: &str| {
        records
            .iter()
            .any(|record| record.action == action && record.principal.as_deref() == Some("dev"))
    };
    assert!(by_dev("put"), "{records:#?}");
    let loud = |cluster: &TestCluster| {
        requests::log(cluster, 0)
            .matches("THIS IS A DEVELOPMENT CLUSTER")
            .count()
    };
    assert_eq!(loud(&cluster), 1);
    cluster.stop(0).await;
    cluster.restart(0).await;
    assert_eq!(loud(&cluster), 2);
    // A certificate still counts, with its own rights only.
    let known = cluster.client_as(Some(&cluster.identity("uri:nobody")));
    assert!(matches!(
        known.get("dev/a", None).await.err(),
        Some(ClientError::Denied(_))
    ));

    // One condition less, and callers without a certificate are nobody: not marked in the
    // configuration any more.
    cluster.stop(0).await;
    folders::configure(&cluster, 0, |config| {
        config.insert("dev".into(), false.into());
    });
    cluster.restart(0).await;
    refuses_nobody(&cluster).await;
    assert_eq!(loud(&cluster), 2);
    // Marked, but in reach of others, or on a tailnet: it does not even start.
    cluster.stop(0).await;
    for (name, key, value) in [
        (
            "metrics",
            "listen",
            toml::Value::from(format!("0.0.0.0:{}", cluster.node(0).ports.metrics)),
        ),
        ("tailscale", "enabled", true.into()),
    ] {
        let config = fs::read_to_string(&cluster.node(0).config).expect("a configuration");
        folders::configure(&cluster, 0, |config| {
            config.insert("dev".into(), true.into());
            section(config, name).insert(key.into(), value);
        });
        cluster.spawn(0);
        assert!(!cluster.wait_for_end(0).await.success(), "{name}.{key}");
        assert!(requests::log(&cluster, 0).contains(&format!("{name}.{key}")));
        fs::write(&cluster.node(0).config, config).expect("a configuration");
    }
    drop(cluster);

    // A cluster that was made without the mark never gets it.
    let mut cluster = TestCluster::builder().nodes(1).production().start().await;
    refuses_nobody(&cluster).await;
    cluster.stop(0).await;
    folders::configure(&cluster, 0, |config| {
        config.insert("dev".into(), true.into());
    });
    cluster.restart(0).await;
    refuses_nobody(&cluster).await;
    assert!(!cluster.client().status().await.expect("a status").dev);
    assert_eq!(loud(&cluster), 0);
}

async fn refuses_nobody(cluster: &TestCluster) {
    let nobody = cluster.client_as(None);
    let refused = eventually("it answers", PATIENCE, async || {
        match nobody.get("dev/a", None).await {
            Err(error @ ClientError::Unavailable(_)) => Err(error.to_string()),
            Err(error) => Ok(error),
            Ok(_) => panic!("nobody was let in"),
        }
    })
    .await;
    assert!(matches!(refused, ClientError::Denied(_)), "{refused:?}");
}

/// A certificate of the client CA, as nobody should make it.
fn made(cluster: &TestCluster, file: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let (certificate, key) = cluster.layout().client_authority();
    let key = KeyPair::from_pem(&fs::read_to_string(key).expect("the CA's key")).expect("a key");
    let certificate = fs::read_to_string(certificate).expect("the CA");
    let issuer = Issuer::from_ca_cert_pem(&certificate, key).expect("the CA");
    issued(cluster, file, &issuer, change)
}

fn issued(
    cluster: &TestCluster,
    file: &str,
    issuer: &Issuer<'_, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + Duration::from_secs(3600)).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let identity = Identity {
        certificate: cluster.path().join(format!("made-{file}.pem")),
        key: cluster.path().join(format!("made-{file}.key")),
    };
    write_certificate(&identity.certificate, &certificate.pem()).expect("a file");
    write_private_key(&identity.key, &key.serialize_pem()).expect("a file");
    identity
}

fn common_name(params: &mut CertificateParams, name: &str) {
    params.distinguished_name.push(DnType::CommonName, name);
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("ASCII"))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}

fn email(name: &str) -> SanType {
    SanType::Rfc822Name(name.try_into().expect("ASCII"))
}
