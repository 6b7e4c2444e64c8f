//! A cluster's files as in production: not made for development, every client by its certificate.
//!
//! ```text
//! DIR/ca.pem, client-ca.pem     the two authorities
//! DIR/clients/NAME.pem, .key    a certificate for each client
//! DIR/grants.toml               who may do what
//! DIR/node-K/                   a file system of its own
//! DIR/node-K/node.toml          its configuration
//! DIR/node-K/seal.key           its copy of the seal key, which a fault may take away
//! DIR/node-K/data/              what it stores
//! DIR/notes/node-K/             what it synced; not on its own file system, which may be full
//! DIR/logs/node-K.log           what it says
//! ```

use crate::HarnessError;
use conclave::{
    dev::{NodeLayout, NodePorts},
    pki::{Authority, AuthorityKind, ClientName, Issued, NodeName, Validity},
    seal::KeyFile,
};
use std::{
    fmt::Write,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use toml::{Table, Value};

/// One caller and what it may do.
#[derive(Clone, Debug)]
pub struct ClientAccount {
    /// Its file's name, and the end of its principal.
    pub name: String,
    /// A pattern of the secrets that it may do everything with; `None`: none at all.
    pub secrets: Option<String>,
    /// Whether it may read the audit and operate the cluster.
    pub operates: bool,
}

/// Where a cluster's files lie.
#[derive(Clone, Debug)]
pub struct ClusterFiles {
    folder: PathBuf,
    pub nodes: Vec<NodeLayout>,
}

impl ClientAccount {
    /// As grants and audit records name it.
    pub fn principal(&self) -> String {
        format!("uri:jepsen://{}", self.name)
    }
}

impl ClusterFiles {
    /// Makes them in an empty folder, for nodes at these addresses.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(
        folder: &Path,
        addresses: &[Ipv4Addr],
        accounts: &[ClientAccount],
        settings: &[(&str, &str, Value)],
    ) -> Result<Self, HarnessError> {
        let files = Self {
            folder: folder.to_owned(),
            nodes: (0..addresses.len()).map(|node| layout(folder, node)).collect(),
        };
        files
            .make_authorities(addresses, settings, accounts)
            .map_err(|error| HarnessError::about(folder.display(), error))?;
        Ok(files)
    }

    /// The CA that clients trust.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A client's certificate and key.
    pub fn identity(&self, account: &ClientAccount) -> (PathBuf, PathBuf) {
        let file = |ending: &str| {
            self.folder
                .join("clients")
                .join(format!("{}.{ending}", account.name))
        };
        (file("pem"), file("key"))
    }

    /// A node's copy of the seal key.
    pub fn seal_key(&self, node: usize) -> PathBuf {
        self.own_folder(node).join("seal.key")
    }

    /// The folder of everything that is one node's.
    pub fn own_folder(&self, node: usize) -> PathBuf {
        own_folder(&self.folder, node)
    }

    /// Where it is noted what one node synced.
    pub fn notes(&self, node: usize) -> PathBuf {
        self.folder.join("notes").join(&self.nodes[node].name)
    }

    fn make_authorities(
        &self,
        addresses: &[Ipv4Addr],
        settings: &[(&str, &str, Value)],
        accounts: &[ClientAccount],
    ) -> Result<(), Box<dyn std::error::Error>> {
        let folder = &self.folder;
        let valid = validity();
        let nodes = Authority::generate(AuthorityKind::Nodes, CLUSTER_NAME, valid)?;
        nodes.write(&self.authority(), &folder.join("node-ca.key"))?;
        let clients = Authority::generate(AuthorityKind::Clients, CLUSTER_NAME, valid)?;
        clients.write(&folder.join("client-ca.pem"), &folder.join("client-ca.key"))?;
        fs::create_dir(folder.join("clients"))?;
        fs::create_dir(folder.join("logs"))?;
        let mut grants = String::new();
        for account in accounts {
            let principal = account.principal();
            let name = ClientName::parse(&principal).ok_or("a principal is no URI")?;
            let (certificate, key) = self.identity(account);
            fs::create_dir_all(certificate.parent().ok_or("a certificate lies in a folder")?)?;
            clients.issue_client(&name, valid)?.write(&certificate, &key)?;
            let mut rules = Vec::new();
            if let Some(secrets) = &account.secrets {
                rules.push(format!("{{ action = {ALL_OF_SECRETS}, secret = [{secrets:?}] }}"));
            }
            if account.operates {
                rules.push("{ action = [\"audit\", \"operate\"] }".to_owned());
            }
            writeln!(grants, "{principal:?} = [{}]", rules.join(", "))?;
        }
        fs::write(folder.join("grants.toml"), grants)?;
        let seal_key = folder.join("seal.key");
        KeyFile::generate(&seal_key)?;
        for (node, address) in addresses.iter().enumerate() {
            let own = self.own_folder(node);
            fs::create_dir_all(&own)?;
            fs::copy(&seal_key, self.seal_key(node))?;
            let hosts = [address.to_string()];
            let name = NodeName::new(CLUSTER_NAME, &self.nodes[node].name)?;
            write(&nodes.issue_node(&name, &hosts, valid)?, &own, "node")?;
            write(&nodes.issue_api_server(&hosts, valid)?, &own, "api")?;
            let mut config = self.config(node, addresses);
            for (section, key, value) in settings {
                let section = config.entry(*section).or_insert_with(|| Table::new().into());
                let section = section.as_table_mut().ok_or("a section is a table")?;
                section.insert((*key).to_owned(), value.clone());
            }
            fs::write(&self.nodes[node].config, config.to_string())?;
        }
        Ok(())
    }

    fn config(&self, node: usize, addresses: &[Ipv4Addr]) -> Table {
        let own = self.own_folder(node);
        let path = |path: PathBuf| Value::from(path.to_string_lossy().into_owned());
        let listen = |port: u16| Value::from(format!("{}:{port}", addresses[node]));
        let peers = self.nodes.iter().zip(addresses).map(|(peer, address)| {
            let address = format!("{address}:{CLUSTER_PORT}");
            Value::from(table([
                ("name", peer.name.clone().into()),
                ("address", address.into()),
            ]))
        });
        let cluster = table([
            ("listen", listen(CLUSTER_PORT)),
            ("nodes", peers.collect::<Vec<_>>().into()),
        ]);
        let tls = table([
            ("api_certificate", path(own.join("api.pem"))),
            ("api_private_key", path(own.join("api.key"))),
            ("client_authority", path(self.folder.join("client-ca.pem"))),
            ("node_certificate", path(own.join("node.pem"))),
            ("node_private_key", path(own.join("node.key"))),
            ("node_authority", path(self.authority())),
        ]);
        table([
            ("node_name", self.nodes[node].name.clone().into()),
            ("cluster_name", CLUSTER_NAME.into()),
            ("data_dir", path(self.nodes[node].data_dir.clone())),
            ("api", table([("listen", listen(API_PORT))]).into()),
            ("cluster", cluster.into()),
            (
                "metrics",
                table([("listen", format!("127.0.0.1:{METRICS_PORT}").into())]).into(),
            ),
            ("tls", tls.into()),
            ("seal", table([("key_file", path(self.seal_key(node)))]).into()),
            (
                "grants",
                table([("file", path(self.folder.join("grants.toml")))]).into(),
            ),
        ])
    }
}

/// Where every node's API listens.
pub const API_PORT: u16 = 8200;
/// Where every node listens for the others.
pub(super) const CLUSTER_PORT: u16 = 8201;
const METRICS_PORT: u16 = 8202;
const CLUSTER_NAME: &str = "jepsen";
const ALL_OF_SECRETS: &str = r#"["get", "info", "put", "create-version", "activate", "delete"]"#;

/// Long before and after any time to which a clock is set.
fn validity() -> Validity {
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    Validity {
        from: SystemTime::now() - year,
        until: SystemTime::now() + year,
    }
}

pub(super) fn own_folder(folder: &Path, node: usize) -> PathBuf {
    folder.join(format!("node-{}", node + 1))
}

fn layout(folder: &Path, node: usize) -> NodeLayout {
    let own = own_folder(folder, node);
    NodeLayout {
        name: format!("node-{}", node + 1),
        config: own.join("node.toml"),
        data_dir: own.join("data"),
        log: folder.join("logs").join(format!("node-{}.log", node + 1)),
        ports: NodePorts {
            api: API_PORT,
            cluster: CLUSTER_PORT,
            metrics: METRICS_PORT,
        },
    }
}

fn write(issued: &Issued, folder: &Path, name: &str) -> Result<(), conclave::pki::PkiError> {
    issued.write(
        &folder.join(format!("{name}.pem")),
        &folder.join(format!("{name}.key")),
    )
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave::config;

    #[test]
    fn every_node_gets_a_configuration_that_can_be_used() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let addresses = [1, 2, 3].map(|last| Ipv4Addr::new(10, 213, 0, last));
        let account = ClientAccount {
            name: "registers-1".to_owned(),
            secrets: Some("registers/*".to_owned()),
            operates: true,
        };
        let settings = [("cluster", "snapshot_log_bytes", Value::from(1_000_000))];
        let files = ClusterFiles::make(folder.path(), &addresses, &[account], &settings).expect("files");
        for node in &files.nodes {
            let (read, findings) = config::check(&node.config, &[]);
            let errors: Vec<_> = findings
                .iter()
                .filter(|finding| finding.severity == config::Severity::Error)
                .collect();
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(
                read.expect("a configuration").cluster.snapshot_log_bytes,
                1_000_000
            );
        }
    }
}
