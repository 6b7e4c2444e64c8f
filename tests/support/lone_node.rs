//! A cluster of one node in this process, without an edge.

use conclave::pki::{Authority, AuthorityKind, NodeName, Validity, write_private_key};
use conclave_cluster::{
    command::{AtAuditLimit, AuditRetention},
    node::{Cluster, ClusterOptions, Rejoin},
};
use std::{fs, net::TcpListener, path::Path, time::Duration};

/// Starts it with all its files in this folder, its data in `data`.
pub async fn start(folder: &Path) -> Cluster {
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let validity = Validity::days(1);
    let authority = Authority::generate(AuthorityKind::Nodes, "test", validity).expect("an authority");
    let name = NodeName::new("test", "n1").expect("a name");
    let issued = authority
        .issue_node(&name, &["127.0.0.1".to_owned()], validity)
        .expect("a certificate");
    let path = |file: &str| folder.join(file);
    fs::write(path("ca.pem"), authority.certificate_pem()).expect("a file");
    fs::write(path("node.pem"), &issued.certificate_pem).expect("a file");
    write_private_key(&path("node.key"), &issued.private_key_pem).expect("a file");
    fs::create_dir(path("data")).expect("a folder");
    let options = ClusterOptions {
        cluster_name: "test".to_owned(),
        node_name: "n1".to_owned(),
        listen: address,
        advertise: address.to_string(),
        nodes: vec![("n1".to_owned(), address.to_string())],
        data_dir: path("data"),
        certificate: path("node.pem"),
        private_key: path("node.key"),
        authority: path("ca.pem"),
        dev: false,
        rejoin: Rejoin::Manual,
        staleness_bound: Duration::from_secs(2),
        clock_skew_bound: Duration::from_secs(5),
        election_timeout: Duration::from_millis(300),
        proposal_queue_bytes: 64 << 20,
        batch_bytes: 4 << 20,
        snapshot_log_bytes: 1 << 30,
        snapshot_keep_log_bytes: 1 << 30,
        reserve_bytes: 0,
        last_reserve_bytes: 0,
        sync: true,
        audit_retention: AuditRetention {
            limit_bytes: 1 << 30,
            at_limit: AtAuditLimit::PruneOldest,
        },
        scrub_bytes_per_s: 1 << 20,
    };
    Cluster::start(options).await.expect("a node")
}
