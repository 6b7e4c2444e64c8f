//! What lies in the folder: CAs, certificates, the seal key, and a folder for each node.
//!
//! ```text
//! DIR/.conclave-dev          our mark
//! DIR/dev.json               what programs read (see `Announcement`)
//! DIR/ca.pem                 the node CA, which also signs the API's certificates
//! DIR/client-ca.pem          the client CA
//! DIR/client.pem, .key       a client with all rights
//! DIR/grants.toml            who may do what; after a change, SIGHUP makes a node read it again
//! DIR/seal.key               one seal key for all nodes
//! DIR/node-1/node.toml       its configuration
//! DIR/node-1/data/           log and state
//! DIR/node-1/node.log        what it said
//! ```

use super::{DevError, Folder, NodeAnnouncement, Ports, ports::NodePorts};
use crate::pki::{Authority, AuthorityKind, ClientName, Issued, NodeName, PkiError, Validity};
use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// What a new cluster looks like.
#[derive(Clone, Debug)]
pub struct LayoutOptions {
    /// How many nodes, 1 to [`Self::MOST_NODES`].
    pub nodes: usize,
    /// Keys that are laid over every node's configuration: (`cluster.snapshot_log_bytes`, `65536`).
    pub settings: Vec<(String, String)>,
    /// Whether callers without a certificate have all rights, as developers like it.
    pub dev: bool,
}

/// A cluster's files.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
    nodes: Vec<NodeLayout>,
}

/// One node's files and addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeLayout {
    pub name: String,
    /// The configuration file.
    pub config: PathBuf,
    pub data_dir: PathBuf,
    /// Its standard output and standard error, appended to.
    pub log: PathBuf,
    pub ports: NodePorts,
}

impl LayoutOptions {
    /// More make no sense on one machine.
    pub const MOST_NODES: usize = 15;
}

impl Layout {
    /// Makes a cluster's files in an empty folder.
    pub fn make(folder: &Folder, ports: &Ports, options: &LayoutOptions) -> Result<Self, DevError> {
        if options.nodes == 0
            || options.nodes > LayoutOptions::MOST_NODES
            || options.nodes != ports.nodes().len()
        {
            return Err(DevError(format!(
                "{} nodes: 1 to {} are possible",
                options.nodes,
                LayoutOptions::MOST_NODES
            )));
        }
        let layout = Self::describe(folder.path(), ports.nodes());
        let authorities = make_shared(folder.path())?;
        for node in &layout.nodes {
            make_node(&layout, node, &authorities, options)?;
        }
        Ok(layout)
    }

    /// Finds the files of a cluster that was made before; `None` where there is none.
    pub fn find(folder: &Folder) -> Result<Option<Self>, DevError> {
        let mut ports = Vec::new();
        loop {
            let config = folder.path().join(node_name(ports.len())).join(CONFIG);
            if !config.exists() {
                break;
            }
            let read = crate::config::load(&config, &[]).map_err(|error| DevError(error.to_string()))?;
            ports.push(NodePorts {
                api: read.api.listen.port(),
                cluster: read.cluster.listen.port(),
                metrics: read.metrics.listen.port(),
            });
        }
        Ok((!ports.is_empty()).then(|| Self::describe(folder.path(), &ports)))
    }

    /// Gives the nodes other ports; none of them may run.
    pub fn move_to(&self, ports: &Ports) -> Result<Self, DevError> {
        let moved = Self::describe(&self.folder, ports.nodes());
        assert_eq!(moved.nodes.len(), self.nodes.len(), "each node gets ports");
        for node in &moved.nodes {
            let wrong = |error: String| DevError::at(&node.config, error);
            let text = fs::read_to_string(&node.config).map_err(|error| wrong(error.to_string()))?;
            let mut config: Table = text.parse().map_err(|error| wrong(format!("{error}")))?;
            let nodes: Vec<Table> = moved.nodes.iter().map(address).collect();
            for (section, key, value) in [
                ("api", "listen", listen(node.ports.api).into()),
                ("cluster", "listen", listen(node.ports.cluster).into()),
                ("cluster", "nodes", nodes.into()),
                ("metrics", "listen", listen(node.ports.metrics).into()),
            ] {
                let section = config
                    .entry(section)
                    .or_insert_with(|| Table::new().into())
                    .as_table_mut();
                let section = section.ok_or_else(|| wrong(format!("{key} has no section")))?;
                section.insert(key.to_owned(), value);
            }
            write_config(&node.config, &config)?;
        }
        Ok(moved)
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[NodeLayout] {
        &self.nodes
    }

    /// The folder that everything lies in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The CA that clients trust.
    pub fn authority(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The certificate and key of a client with all rights.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("client.pem"), self.folder.join("client.key"))
    }

    /// The CA that signs clients, and its key, for further clients.
    pub fn client_authority(&self) -> (PathBuf, PathBuf) {
        (
            self.folder.join("client-ca.pem"),
            self.folder.join("client-ca.key"),
        )
    }

    /// The seal key that all nodes share.
    pub fn seal_key(&self) -> PathBuf {
        self.folder.join("seal.key")
    }

    /// Who may do what, beside callers without a certificate.
    pub fn grants(&self) -> PathBuf {
        self.folder.join("grants.toml")
    }

    /// What programs read.
    pub fn announcement(&self) -> PathBuf {
        self.folder.join("dev.json")
    }

    fn describe(folder: &Path, ports: &[NodePorts]) -> Self {
        let node = |(position, ports): (usize, &NodePorts)| {
            let name = node_name(position);
            let own = folder.join(&name);
            NodeLayout {
                name,
                config: own.join(CONFIG),
                data_dir: own.join(DATA),
                log: own.join("node.log"),
                ports: *ports,
            }
        };
        Self {
            folder: folder.to_owned(),
            nodes: ports.iter().enumerate().map(node).collect(),
        }
    }
}

impl NodeLayout {
    /// `https://…` of its API.
    pub fn api(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.api)
    }

    /// What is announced of it, once it runs as process `pid` with Raft id `id`.
    pub fn announce(&self, id: u64, pid: u32) -> NodeAnnouncement {
        NodeAnnouncement {
            id,
            api: self.api(),
            cluster: format!("127.0.0.1:{}", self.ports.cluster),
            metrics: format!("http://127.0.0.1:{}/metrics", self.ports.metrics),
            pid,
            data_dir: self.data_dir.clone(),
            config: self.config.clone(),
        }
    }
}

pub(super) const CONFIG: &str = "node.toml";
pub(super) const DATA: &str = "data";
const CLUSTER_NAME: &str = "dev";
const CLIENT: &str = "uri:conclave-dev://client";
const GRANTS: &str = r#"# Principals with their grants, for all nodes. A node reads it again on SIGHUP.
"uri:conclave-dev://client" = [
    { action = ["get", "info", "put", "create-version", "activate", "delete"], secret = ["*"] },
    { action = ["audit", "operate"] },
]
"#;
const VALID_DAYS: u32 = 3_650;

pub(super) fn node_name(position: usize) -> String {
    format!("node-{}", position + 1)
}

fn make_shared(folder: &Path) -> Result<Authority, DevError> {
    let validity = Validity::days(VALID_DAYS);
    let nodes = Authority::generate(AuthorityKind::Nodes, CLUSTER_NAME, validity)?;
    nodes.write(&folder.join("ca.pem"), &folder.join("node-ca.key"))?;
    let clients = Authority::generate(AuthorityKind::Clients, CLUSTER_NAME, validity)?;
    clients.write(&folder.join("client-ca.pem"), &folder.join("client-ca.key"))?;
    let client = ClientName::parse(CLIENT).expect("the name is a URI");
    write(&clients.issue_client(&client, validity)?, folder, "client")?;
    let seal_key = folder.join("seal.key");
    crate::seal::KeyFile::generate(&seal_key).map_err(|error| DevError::at(&seal_key, error))?;
    let grants = folder.join("grants.toml");
    fs::write(&grants, GRANTS).map_err(|error| DevError::at(&grants, error))?;
    Ok(nodes)
}

fn make_node(
    layout: &Layout,
    node: &NodeLayout,
    authority: &Authority,
    options: &LayoutOptions,
) -> Result<(), DevError> {
    let own = node
        .config
        .parent()
        .expect("a configuration file lies in the node's folder");
    DirBuilder::new()
        .mode(0o700)
        .create(own)
        .map_err(|error| DevError::at(own, error))?;
    let (hosts, validity) = (
        ["127.0.0.1".to_owned(), "localhost".to_owned()],
        Validity::days(VALID_DAYS),
    );
    let name = NodeName::new(CLUSTER_NAME, &node.name).map_err(|error| DevError(error.to_string()))?;
    write(&authority.issue_node(&name, &hosts, validity)?, own, "node")?;
    write(&authority.issue_api_server(&hosts, validity)?, own, "api")?;
    let mut config = config(layout, node, own, options.dev);
    for (key, value) in &options.settings {
        lay_over(&mut config, key, value)?;
    }
    write_config(&node.config, &config)
}

/// Replaces the file as a whole.
fn write_config(path: &Path, config: &Table) -> Result<(), DevError> {
    let text = format!(
        "# Made by `conclave dev`. Start this node with: conclave server --config {CONFIG}\n\n{config}"
    );
    let new = path.with_extension("toml.new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| DevError::at(path, error))
}

fn listen(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A node in `cluster.nodes`.
fn address(node: &NodeLayout) -> Table {
    table([
        ("name", node.name.clone().into()),
        ("address", listen(node.ports.cluster).into()),
    ])
}

fn config(layout: &Layout, node: &NodeLayout, own: &Path, dev: bool) -> Table {
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let nodes: Vec<Table> = layout.nodes.iter().map(address).collect();
    table([
        ("node_name", node.name.clone().into()),
        ("cluster_name", CLUSTER_NAME.into()),
        ("data_dir", path(node.data_dir.clone()).into()),
        ("dev", dev.into()),
        ("api", table([("listen", listen(node.ports.api).into())]).into()),
        (
            "cluster",
            table([
                ("listen", listen(node.ports.cluster).into()),
                ("nodes", nodes.into()),
                // A developer's disk may be nearly full.
                ("reserve_bytes", (64_i64 << 20).into()),
                ("last_reserve_bytes", (16_i64 << 20).into()),
            ])
            .into(),
        ),
        (
            "metrics",
            table([("listen", listen(node.ports.metrics).into())]).into(),
        ),
        (
            "tls",
            table([
                ("api_certificate", path(own.join("api.pem")).into()),
                ("api_private_key", path(own.join("api.key")).into()),
                ("client_authority", path(layout.client_authority().0).into()),
                ("node_certificate", path(own.join("node.pem")).into()),
                ("node_private_key", path(own.join("node.key")).into()),
                ("node_authority", path(layout.authority()).into()),
            ])
            .into(),
        ),
        (
            "seal",
            table([("key_file", path(layout.seal_key()).into())]).into(),
        ),
        ("grants", table([("file", path(layout.grants()).into())]).into()),
    ])
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Sets a key, as TOML where the text is TOML, else as a string.
fn lay_over(config: &mut Table, key: &str, text: &str) -> Result<(), DevError> {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| text.into());
    let (sections, last) = key
        .rsplit_once('.')
        .map_or((None, key), |(sections, last)| (Some(sections), last));
    let mut section = config;
    for name in sections.into_iter().flat_map(|sections| sections.split('.')) {
        let entry = section.entry(name).or_insert_with(|| Table::new().into());
        section = entry
            .as_table_mut()
            .ok_or_else(|| DevError(format!("{key}: {name} is not a section")))?;
    }
    section.insert(last.to_owned(), value);
    Ok(())
}

fn write(issued: &Issued, folder: &Path, name: &str) -> Result<(), DevError> {
    Ok(issued.write(
        &folder.join(format!("{name}.pem")),
        &folder.join(format!("{name}.key")),
    )?)
}

impl From<PkiError> for DevError {
    fn from(error: PkiError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, dev::PortChoice};

    #[test]
    fn every_node_gets_a_configuration_that_can_be_used() {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(outer.path()).expect("a new folder");
        assert!(Layout::find(&folder).expect("an empty folder").is_none());
        let ports = Ports::choose(PortChoice::Free, 3).expect("free ports");
        let settings = vec![("cluster.election_timeout_ms".to_owned(), "700".to_owned())];
        let options = LayoutOptions {
            nodes: 3,
            settings,
            dev: true,
        };
        let layout = Layout::make(&folder, &ports, &options).expect("a layout");
        for node in layout.nodes() {
            let (read, findings) = config::check(&node.config, &[]);
            let errors: Vec<_> = findings
                .iter()
                .filter(|finding| finding.severity == config::Severity::Error)
                .collect();
            assert!(errors.is_empty(), "{errors:?}");
            let read = read.expect("a configuration");
            assert_eq!((read.cluster.election_timeout_ms, read.dev), (700, true));
            assert_eq!(
                read.own_node().map(|own| own.name.as_str()),
                Some(node.name.as_str())
            );
        }
        let found = Layout::find(&folder).expect("a layout").expect("a layout");
        assert_eq!(found.nodes(), layout.nodes());

        // Elsewhere, and all else as it was.
        let elsewhere = Ports::choose(PortChoice::Free, 3).expect("free ports");
        let moved = found.move_to(&elsewhere).expect("the files are rewritten");
        let found = Layout::find(&folder).expect("a layout").expect("a layout");
        assert_eq!(found.nodes(), moved.nodes());
        for (node, ports) in moved.nodes().iter().zip(elsewhere.nodes()) {
            let read = config::load(&node.config, &[]).expect("a configuration");
            assert_eq!(node.ports, *ports);
            assert_eq!(read.cluster.election_timeout_ms, 700);
            let own = read.own_node().expect("it is there");
            assert_eq!(own.address, read.cluster.listen.to_string());
            assert_eq!(read.cluster.listen.port(), ports.cluster);
        }
    }
}
