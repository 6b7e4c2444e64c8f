//! On SIGHUP running nodes take up new certificates and new CAs, of the API, of clients and of nodes;
//! what proves itself by the old ones is cut off, although it was connected before.

use crate::{
    requests,
    support::{Identity, PATIENCE, TestCluster, eventually},
};
use conclave::{
    api::conclave::messages::Status,
    client::{Client, Settings},
    pki::{Authority, AuthorityKind, ClientName, Issued, NodeName, Validity},
};
use rustix::process::Signal;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A client that is refused tries so long.
const BRIEFLY: Duration = Duration::from_secs(1);

#[tokio::test]
async fn running_nodes_take_up_new_authorities_and_withdraw_the_old() {
    let mut cluster = TestCluster::builder().nodes(3).start().await;
    cluster.client().put("a", b"before").await.expect("a put");
    let renewed = Renewed::make(&cluster);
    let (old_authority, old_client) = (renewed.old_authority.clone(), cluster.administrator());
    let client = |node: usize, authority: &Path, identity: &Identity| {
        Client::new(&Settings {
            addresses: vec![cluster.api(node)],
            authority: authority.to_owned(),
            identity: Some((identity.certificate.clone(), identity.key.clone())),
            timeout: Duration::from_secs(10),
        })
        .expect("the client's files are there")
    };
    // Connected by the old certificate of the API, and by the client's.
    let mut held: Vec<Client> = (0..2)
        .map(|node| client(node, &old_authority, &old_client))
        .collect();
    for client in &held {
        client.get("a", None).await.expect("the secret");
    }
    let new = |node| client(node, &renewed.authority, &renewed.client);
    let (first, second, third) = (new(0), new(1), new(2));
    let third_by_old_client = client(2, &renewed.authority, &old_client);

    // Both authorities of nodes are trusted.
    fs::write(cluster.layout().authority(), renewed.both()).expect("the node CAs");
    reload(&mut cluster, &[0, 1, 2], 1).await;

    // All get new certificates for the API, two of them also as nodes.
    for node in 0..3 {
        renewed.give_api_certificate(&cluster, node);
    }
    renewed.give_node_certificate(&cluster, 0);
    renewed.give_node_certificate(&cluster, 1);
    reload(&mut cluster, &[0, 1, 2], 2).await;
    for client in [&first, &second, &third] {
        let refused = client.with_timeout(BRIEFLY).get("a", None).await.map(drop);
        assert!(
            refused.is_err(),
            "a client of a CA that is not trusted yet: {refused:?}"
        );
    }

    // The old authorities, of nodes and of clients, are withdrawn where new certificates are.
    fs::write(cluster.layout().authority(), renewed.nodes.certificate_pem()).expect("the node CA");
    let clients = cluster.layout().client_authority().0;
    fs::write(clients, renewed.clients.certificate_pem()).expect("the client CA");
    reload(&mut cluster, &[0, 1], 3).await;
    eventually("two nodes serve by the new certificates", PATIENCE, async || {
        first
            .put("a", b"between")
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    second.get("a", Some(2)).await.expect("the new version");
    for client in held.drain(..) {
        let refused = client.with_timeout(BRIEFLY).get("a", None).await.map(drop);
        assert!(refused.is_err(), "an old connection still serves: {refused:?}");
    }

    // The third proves itself by the old authority: nobody hears it, and it hears nobody.
    let written = status(&first).await.expect("a status").applied_index;
    let alone = eventually("the third is cut off", PATIENCE, async || {
        let status = status(&third_by_old_client).await?;
        if status.staleness_ms.is_none_or(|ms| ms > 3_000) {
            Ok(status)
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    assert!(alone.applied_index < written, "{alone:?}, {written:?}");
    renewed.give_node_certificate(&cluster, 2);
    reload(&mut cluster, &[2], 3).await;
    eventually("the third has caught up", PATIENCE, async || {
        let status = status(&third).await?;
        if status.applied_index >= written && status.staleness_ms.is_some_and(|ms| ms < 3_000) {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    third.get("a", Some(2)).await.expect("the new version");
}

async fn status(client: &Client) -> Result<Status, String> {
    client.status().await.map_err(|error| error.to_string())
}

/// SIGHUP, and waits until each of these nodes has reloaded so often, without an error.
async fn reload(cluster: &mut TestCluster, nodes: &[usize], times: u32) {
    for node in nodes {
        cluster.signal(*node, Signal::HUP);
    }
    for node in nodes {
        eventually(
            "the node has reloaded",
            PATIENCE,
            async || match requests::metric(cluster, *node, "conclave_reloads_total").await {
                reloads if reloads >= f64::from(times) => Ok(()),
                reloads => Err(format!("{reloads} of {times}")),
            },
        )
        .await;
        let errors = requests::metric(cluster, *node, "conclave_reload_errors_total").await;
        assert!(
            errors == 0.0,
            "{errors} errors: {}",
            requests::log(cluster, *node)
        );
    }
}

/// New authorities, and what they issue.
struct Renewed {
    nodes: Authority,
    clients: Authority,
    /// The new node CA, and a copy of the old, as clients trust them.
    authority: PathBuf,
    old_authority: PathBuf,
    /// The administrator, of the new client CA.
    client: Identity,
}

impl Renewed {
    fn make(cluster: &TestCluster) -> Self {
        let make = |kind| Authority::generate(kind, "dev", Validity::days(1)).expect("an authority");
        let (nodes, clients) = (make(AuthorityKind::Nodes), make(AuthorityKind::Clients));
        let path = |file: &str| cluster.path().join(file);
        let (authority, old_authority) = (path("new-ca.pem"), path("old-ca.pem"));
        fs::write(&authority, nodes.certificate_pem()).expect("the new CA");
        fs::copy(cluster.layout().authority(), &old_authority).expect("a copy of the old CA");
        let name = ClientName::parse("uri:conclave-dev://client").expect("the administrator's name");
        let issued = clients.issue_client(&name, Validity::days(1)).expect("a client");
        let client = Identity {
            certificate: path("new-client.pem"),
            key: path("new-client.key"),
        };
        issued
            .write(&client.certificate, &client.key)
            .expect("the client");
        Self {
            nodes,
            clients,
            authority,
            old_authority,
            client,
        }
    }

    /// The node CAs, old and new.
    fn both(&self) -> String {
        let old = fs::read_to_string(&self.old_authority).expect("the old CA");
        old + self.nodes.certificate_pem()
    }

    fn give_api_certificate(&self, cluster: &TestCluster, node: usize) {
        let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let issued = self.nodes.issue_api_server(&hosts, Validity::days(1));
        replace(cluster, node, "api", &issued.expect("a certificate"));
    }

    fn give_node_certificate(&self, cluster: &TestCluster, node: usize) {
        let name = NodeName::new("dev", &cluster.node(node).name).expect("the node's name");
        let issued = self
            .nodes
            .issue_node(&name, &["127.0.0.1".to_owned()], Validity::days(1));
        replace(cluster, node, "node", &issued.expect("a certificate"));
    }
}

fn replace(cluster: &TestCluster, node: usize, name: &str, issued: &Issued) {
    let folder = cluster.node(node).config.parent().expect("the node's folder");
    let path = |ending: &str| folder.join(format!("{name}.{ending}"));
    fs::remove_file(path("pem")).expect("the old certificate");
    fs::remove_file(path("key")).expect("the old key");
    issued.write(&path("pem"), &path("key")).expect("the certificate");
}
