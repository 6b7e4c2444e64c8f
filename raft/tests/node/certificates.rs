//! Who may speak to a node: only nodes of this cluster, under their own names.

use crate::support::{Authority, TestCluster};
use conclave_raft::node::{RaftOptions, Role};
use std::{fs, time::Duration};

/// Long enough for a node to be refused a few times.
const A_WHILE: Duration = Duration::from_millis(1500);

/// Starts `n3` beside a formed pair of three with the given change; it must stay out.
async fn stays_out(change: impl FnOnce(&TestCluster, &mut RaftOptions)) {
    let mut cluster = TestCluster::formed(3).await;
    cluster.admit();
    cluster.kill("n3").await;
    let mut options = cluster.options("n3");
    change(&cluster, &mut options);
    let node = cluster.try_start_with(options).await.unwrap();
    let applied = cluster.propose("without it").await;
    let deadline = tokio::time::Instant::now() + A_WHILE;
    assert!(!node.raft.wait_applied(applied.position.index, deadline).await);
    assert_ne!(node.raft.status().borrow().role, Role::Leader);
    node.raft.shutdown(Duration::ZERO).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_authority_stays_out() {
    stays_out(|cluster, options| {
        options.tls =
            Authority::new().issue(&cluster.directory.path().join("alien"), &["conclave://test/n3"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_must_prove_the_configured_node() {
    let cluster = TestCluster::configure(3);
    let pki = cluster.directory.path().join("bad");
    let cases: [(&[&str], &str); 5] = [
        (&["conclave://test/n2"], "names conclave://test/n2"),
        (&["conclave://other/n1"], "names conclave://other/n1"),
        (&["https://n1.example"], "no name"),
        (&["conclave://test/n1", "conclave://test/n2"], "more than one"),
        (&["conclave://test"], "not of the form"),
    ];
    for (uris, reason) in cases {
        let mut options = cluster.options("n1");
        options.tls = cluster.authority.issue(&pki, uris);
        let refused = cluster.try_start_with(options).await.err().unwrap();
        assert!(refused.contains(reason), "{uris:?}: {refused}");
    }
    let mut options = cluster.options("n1");
    options.tls = cluster
        .authority
        .issue_with(&pki, &["conclave://test/n1"], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
    let refused = cluster.try_start_with(options).await.err().unwrap();
    assert!(refused.to_lowercase().contains("expired"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_reloaded_and_a_bad_file_keeps_the_old() {
    let mut cluster = TestCluster::formed(3).await;
    let files = cluster.options("n1").tls;
    cluster.node("n1").raft.reload_certificates().unwrap();
    fs::write(&files.certificate, "nonsense").unwrap();
    let refused = cluster.node("n1").raft.reload_certificates().unwrap_err();
    assert!(refused.contains("node.pem"), "{refused}");
    // The old certificate still opens new connections.
    cluster.kill("n2").await;
    cluster.start("n2").await;
    let applied = cluster.propose("a").await;
    cluster.applied_everywhere(applied.position.index).await;
    cluster.stop().await;
}

/// A CA is replaced while the cluster runs: first both are trusted, then new certificates are
/// taken up, then the old CA is withdrawn. Whoever still proves the old one is cut off, although it
/// was connected before, until it takes up a new certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_authority_is_taken_up_and_the_old_one_withdrawn() {
    let cluster = TestCluster::formed(3).await;
    let leader = cluster.leader().await;
    let (old, new) = (&cluster.authority, Authority::new());
    let both = format!("{}{}", old.pem(), new.pem());
    let files = |name: &str| {
        let pki = cluster.directory.path().join("pki").join(name);
        (pki.clone(), pki.join("ca.pem"))
    };
    let names: Vec<String> = cluster.nodes.keys().cloned().collect();
    let reload = |name: &str| cluster.node(name).raft.reload_certificates().unwrap();
    for name in &names {
        fs::write(files(name).1, &both).unwrap();
        reload(name);
    }
    let applied = cluster.propose("both are trusted").await;
    cluster.applied_everywhere(applied.position.index).await;

    let behind = names.iter().find(|name| **name != leader).unwrap();
    for name in names.iter().filter(|name| *name != behind) {
        let (pki, authority) = files(name);
        new.issue(&pki, &[&format!("conclave://test/{name}")]);
        fs::write(authority, &both).unwrap();
        reload(name);
    }
    let applied = cluster.propose("two have new certificates").await;
    cluster.applied_everywhere(applied.position.index).await;

    for name in names.iter().filter(|name| *name != behind) {
        fs::write(files(name).1, new.pem()).unwrap();
        reload(name);
    }
    let rest: Vec<&String> = names.iter().filter(|name| *name != behind).collect();
    let applied = propose_among(&cluster, &rest).await;
    for name in rest {
        cluster.applied(name, applied).await;
    }
    let deadline = tokio::time::Instant::now() + A_WHILE;
    assert!(!cluster.node(behind).raft.wait_applied(applied, deadline).await);

    new.issue(&files(behind).0, &[&format!("conclave://test/{behind}")]);
    reload(behind);
    cluster.applied_everywhere(applied).await;
    cluster.stop().await;
}

/// Proposes at whichever of these nodes leads; returns the index.
async fn propose_among(cluster: &TestCluster, names: &[&String]) -> u64 {
    let deadline = crate::support::soon();
    for name in names.iter().cycle() {
        let status = cluster.status(name);
        if status.role == Role::Leader
            && let Ok(applied) = cluster.node(name).raft.propose(status.term, "x".into()).await
        {
            return applied.position.index;
        }
        assert!(tokio::time::Instant::now() < deadline, "none of {names:?} leads");
        tokio::task::yield_now().await;
    }
    unreachable!("a cycle does not end")
}

/// A certificate that proves no node of this cluster is refused by the other side's handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_in_the_handshake() {
    use rustls::{ClientConfig, version::TLS13};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    use std::sync::Arc;
    use tokio::{io::AsyncReadExt, net::TcpStream};

    let cluster = TestCluster::formed(1).await;
    let directory = cluster.directory.path().join("strangers");
    let named: &[&str] = &["conclave://test/n1"];
    type Case<'a> = (&'a str, &'a [&'a str], fn(&mut rcgen::CertificateParams));
    let cases: [Case<'_>; 4] = [
        ("expired", named, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }),
        ("nameless", &["https://someone.example"], |_| {}),
        ("of another cluster", &["conclave://other/n1"], |_| {}),
        ("two-named", &["conclave://test/n1", "conclave://test/n2"], |_| {}),
    ];
    for (what, uris, change) in cases {
        let files = cluster.authority.issue_with(&directory, uris, change);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = crate::support::AnyServer::new(&provider);
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&files.certificate).unwrap()],
                PrivateKeyDer::from_pem_file(&files.private_key).unwrap(),
            )
            .unwrap();
        let tcp = TcpStream::connect(cluster.address("n1")).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("node.invalid").unwrap();
        // In TLS 1.3 the server's refusal arrives with the first read.
        let refused = match connector.connect(name, tcp).await {
            Ok(mut tls) => tls.read_u8().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(refused.to_string().contains("alert"), "{what}: {refused}");
    }
    cluster.stop().await;
}
