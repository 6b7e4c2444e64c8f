//! Real clusters for tests: each node a process of its own, over real TLS, on free ports of loopback.
//!
//! ```ignore
//! let mut cluster = TestCluster::builder().nodes(3).start().await;
//! let leader = cluster.leader().await;
//! cluster.kill(leader).await;
//! cluster.client().put("name", b"value").await.unwrap();
//! cluster.restart(leader).await;
//! ```
//! Nothing here waits for time: [`eventually`] waits for conditions, and gives up loudly. When a
//! test fails, the end of each node's log is shown. The folder is deleted at the end, unless
//! `CONCLAVE_KEEP_TEST_FOLDERS` is set.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod load;
pub mod lone_node;
pub mod network;
pub mod preload;
pub mod setec;

use conclave::{
    api::conclave::messages::Status,
    client::{Client, Settings},
    dev::{Folder, Layout, LayoutOptions, NodeLayout, NodeProcess, PortChoice, Ports, wait_until_serving},
    pki::{Authority, AuthorityKind, ClientName, Validity},
};
use conclave_fault_layer::{FaultLayer, Lost};
use network::Network;
use rustix::process::Signal;
use std::{
    ffi::OsString,
    fmt::Write,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The `conclave` program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_conclave");

/// How long a cluster may take to form, or a node to come back: far more than it does, so that a
/// busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster.
pub struct TestCluster {
    nodes: Vec<TestNode>,
    layout: Layout,
    network: Option<Network>,
    _ports: Ports,
    folder: Option<Folder>,
    directory: Option<tempfile::TempDir>,
}

/// What a cluster is made of.
pub struct Builder {
    options: LayoutOptions,
    grants: String,
    environment: Vec<(Option<usize>, OsString, OsString)>,
    started: Option<Vec<usize>>,
    faults: bool,
    cuttable: bool,
}

/// A client certificate and its key.
#[derive(Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

struct TestNode {
    layout: NodeLayout,
    environment: Vec<(OsString, OsString)>,
    faults: Option<FaultLayer>,
    process: Option<NodeProcess>,
}

impl Builder {
    /// How many nodes. Default 3.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.options.nodes = nodes;
        self
    }

    /// Lays a key over every node's configuration: `("cluster.election_timeout_ms", "500")`.
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.options.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A cluster that is not marked dev: callers without a certificate are nobody.
    pub fn production(mut self) -> Self {
        self.options.dev = false;
        self
    }

    /// Grants actions on secrets (none for `audit` and `operate`) to a principal such as
    /// `uri:app`. See [`TestCluster::identity`].
    pub fn grant(mut self, principal: &str, actions: &[&str], secrets: &[&str]) -> Self {
        let rule = if secrets.is_empty() {
            format!("{{ action = {actions:?} }}")
        } else {
            format!("{{ action = {actions:?}, secret = {secrets:?} }}")
        };
        writeln!(self.grants, "{principal:?} = [{rule}]").expect("writing to a string never fails");
        self
    }

    /// Sets a variable in the environment of every node.
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((None, name.into(), value.into()));
        self
    }

    /// Sets a variable in the environment of one node.
    pub fn environment_of(
        mut self,
        node: usize,
        name: impl Into<OsString>,
        value: impl Into<OsString>,
    ) -> Self {
        self.environment.push((Some(node), name.into(), value.into()));
        self
    }

    /// Makes the files of all nodes, but starts only these; the test waits for what it wants.
    pub fn start_only(mut self, nodes: &[usize]) -> Self {
        self.started = Some(nodes.to_owned());
        self
    }

    /// Preloads the library of faults into every node: [`TestCluster::cut_power`],
    /// [`TestCluster::set_clock_offset_ms`].
    pub fn with_faults(mut self) -> Self {
        self.faults = true;
        self
    }

    /// Puts a network between the nodes that can be cut: [`TestCluster::network`].
    pub fn with_network(mut self) -> Self {
        self.cuttable = true;
        self
    }

    /// Starts the nodes and waits until all of them serve.
    ///
    /// # Panics
    /// With the nodes' logs, when they do not.
    pub async fn start(self) -> TestCluster {
        let cluster = self.launch();
        if cluster.nodes.iter().all(|node| node.process.is_some()) {
            cluster.wait_until_serving().await;
        }
        cluster
    }

    /// Starts the nodes and returns at once.
    pub fn launch(self) -> TestCluster {
        let directory = tempfile::Builder::new()
            .prefix("conclave-test-")
            .tempdir()
            .expect("a temporary folder");
        let folder = Folder::open(directory.path()).expect("a new folder");
        let ports = Ports::choose(PortChoice::Free, self.options.nodes).expect("free ports");
        let layout = Layout::make(&folder, &ports, &self.options).expect("the files of a cluster");
        let mut file = OpenOptions::new()
            .append(true)
            .open(layout.grants())
            .expect("the grants are there");
        file.write_all(self.grants.as_bytes())
            .expect("grants are written");
        let network = self.cuttable.then(|| Network::between(&layout));
        let nodes = layout
            .nodes()
            .iter()
            .enumerate()
            .map(|(position, layout)| {
                let own = layout
                    .config
                    .parent()
                    .expect("a configuration lies in the node's folder");
                let faults = self.faults.then(|| FaultLayer::new(own));
                let environment = self
                    .environment
                    .iter()
                    .filter(|(node, _, _)| node.is_none_or(|node| node == position))
                    .map(|(_, name, value)| (name.clone(), value.clone()))
                    .chain(faults.iter().flat_map(FaultLayer::environment))
                    .collect();
                TestNode {
                    layout: layout.clone(),
                    environment,
                    faults,
                    process: None,
                }
            })
            .collect();
        let mut cluster = TestCluster {
            nodes,
            layout,
            network,
            _ports: ports,
            folder: Some(folder),
            directory: Some(directory),
        };
        for node in self.started.unwrap_or_else(|| (0..cluster.len()).collect()) {
            cluster.spawn(node);
        }
        cluster
    }
}

impl TestCluster {
    /// A cluster of three nodes unless told otherwise.
    pub fn builder() -> Builder {
        Builder {
            options: LayoutOptions {
                nodes: 3,
                settings: Vec::new(),
                dev: true,
            },
            grants: String::new(),
            environment: Vec::new(),
            started: None,
            faults: false,
            cuttable: false,
        }
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        process.signal(Signal::KILL);
        process.wait().await;
    }

    /// Cuts the power of some nodes at once: kills them, and takes from their disks what was not
    /// synced. Returns what each one lost. Needs [`Builder::with_faults`].
    pub async fn cut_power(&mut self, nodes: &[usize]) -> Vec<Lost> {
        for node in nodes {
            self.signal(*node, Signal::KILL);
        }
        let mut lost = Vec::new();
        for node in nodes {
            self.kill(*node).await;
            let data_dir = &self.nodes[*node].layout.data_dir;
            lost.extend(self.faults(*node).lose_what_was_not_synced(data_dir));
        }
        lost
    }

    /// Moves a node's wall clock, whether it runs or not. Needs [`Builder::with_faults`].
    pub fn set_clock_offset_ms(&self, node: usize, offset_ms: i64) {
        self.faults(node).set_clock_offset_ms(offset_ms);
    }

    /// The network between the nodes. Needs [`Builder::with_network`].
    pub fn network(&self) -> &Network {
        self.network
            .as_ref()
            .expect("the cluster was built with a network")
    }

    fn faults(&self, node: usize) -> &FaultLayer {
        let faults = self.nodes[node].faults.as_ref();
        faults.expect("the cluster was built with faults")
    }

    /// SIGTERM, and waits until the process is gone.
    ///
    /// # Panics
    /// When it ends otherwise than with exit code 0, or not in time.
    pub async fn stop(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        let stopped = process.stop(PATIENCE).await;
        assert!(
            stopped.0.success(),
            "node {node} {stopped}:\n{}",
            process.last_words()
        );
    }

    /// Waits until the process ends by itself, and says how it ended.
    pub async fn wait_for_end(&mut self, node: usize) -> std::process::ExitStatus {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        tokio::time::timeout(PATIENCE, process.wait())
            .await
            .expect("the node ends")
            .0
    }

    /// Sends a signal, such as `Signal::HUP`, `Signal::STOP`, `Signal::CONT`.
    pub fn signal(&mut self, node: usize, signal: Signal) {
        self.nodes[node]
            .process
            .as_mut()
            .expect("the node runs")
            .signal(signal);
    }

    /// Starts a node that is down and returns at once.
    pub fn spawn(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        assert!(node.process.is_none(), "{} runs already", node.layout.name);
        let process = NodeProcess::start(Path::new(PROGRAM), &node.layout, node.environment.clone());
        node.process = Some(process.expect("the node starts"));
    }

    /// Starts a node that is down and waits until it serves.
    pub async fn restart(&mut self, node: usize) {
        self.spawn(node);
        let client = self.client_of(node);
        eventually("the node serves again", PATIENCE, async || {
            let status = client.status().await.map_err(|error| error.to_string())?;
            if status.leader_id.is_some() && !status.sealed {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await;
    }

    /// Changes the environment of a node's next start.
    pub fn set_environment(&mut self, node: usize, name: impl Into<OsString>, value: impl Into<OsString>) {
        let (name, value) = (name.into(), value.into());
        let environment = &mut self.nodes[node].environment;
        environment.retain(|(known, _)| *known != name);
        environment.push((name, value));
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node's process id.
    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].process.as_ref().expect("the node runs").pid()
    }

    /// Whether a node's process runs.
    pub fn runs(&mut self, node: usize) -> bool {
        self.nodes[node]
            .process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// A node's files and ports.
    pub fn node(&self, node: usize) -> &NodeLayout {
        &self.nodes[node].layout
    }

    /// The cluster's files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The folder of all files.
    pub fn path(&self) -> &Path {
        self.folder
            .as_ref()
            .expect("the folder is there until the end")
            .path()
    }

    /// `https://127.0.0.1:…` of a node's API.
    pub fn api(&self, node: usize) -> String {
        self.nodes[node].layout.api()
    }

    /// The client that has all rights.
    pub fn administrator(&self) -> Identity {
        let (certificate, key) = self.layout.client();
        Identity { certificate, key }
    }

    /// A new client certificate for a principal such as `uri:app`.
    pub fn identity(&self, principal: &str) -> Identity {
        let (certificate, key) = self.layout.client_authority();
        let authority = Authority::load(AuthorityKind::Clients, &certificate, &key).expect("the client CA");
        let name = ClientName::parse(principal).expect("a principal such as uri:app");
        let issued = authority
            .issue_client(&name, Validity::days(1))
            .expect("a client certificate");
        let file = |ending: &str| {
            let plain: String = principal
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .collect();
            self.path().join(format!("principal-{plain}.{ending}"))
        };
        let identity = Identity {
            certificate: file("pem"),
            key: file("key"),
        };
        if !identity.key.exists() {
            issued
                .write(&identity.certificate, &identity.key)
                .expect("the certificate is written");
        }
        identity
    }

    /// A client with all rights that knows all nodes.
    pub fn client(&self) -> Client {
        self.client_as(Some(&self.administrator()))
    }

    /// A client with this certificate (or none) that knows all nodes.
    pub fn client_as(&self, identity: Option<&Identity>) -> Client {
        Client::new(&self.settings(identity)).expect("the client's files are there")
    }

    /// A client with all rights that knows one node only.
    pub fn client_of(&self, node: usize) -> Client {
        self.client().at(node)
    }

    /// Plain HTTP over the cluster's TLS, for requests that no good client makes.
    pub fn http(&self, identity: Option<&Identity>) -> reqwest::Client {
        reqwest::Client::builder()
            .tls_backend_preconfigured(
                self.settings(identity)
                    .tls()
                    .expect("the client's files are there"),
            )
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .expect("an HTTP client")
    }

    /// The `conclave` command with the variables of an administrator.
    pub fn command(&self) -> Command {
        self.command_as(Some(&self.administrator()))
    }

    /// The `conclave` command with the variables of a client.
    pub fn command_as(&self, identity: Option<&Identity>) -> Command {
        let mut command = Command::new(PROGRAM);
        let addresses: Vec<String> = (0..self.len()).map(|node| self.api(node)).collect();
        command
            .env("CONCLAVE_ADDRESSES", addresses.join(","))
            .env("CONCLAVE_CA", self.layout.authority());
        command
            .env_remove("CONCLAVE_CLIENT_CERT")
            .env_remove("CONCLAVE_CLIENT_KEY");
        if let Some(identity) = identity {
            command
                .env("CONCLAVE_CLIENT_CERT", &identity.certificate)
                .env("CONCLAVE_CLIENT_KEY", &identity.key);
        }
        command
    }

    /// A node's status, now.
    pub async fn status(&self, node: usize) -> Option<Status> {
        self.client_of(node)
            .with_timeout(Duration::from_secs(2))
            .status()
            .await
            .ok()
    }

    /// The position of the node that leads: the one that does in the highest term, once all others
    /// that answer follow it. Only a leader that was cut off may still believe in its older term.
    ///
    /// A node shows what happened a moment later. So after leadership was moved this may still be the
    /// old leader: then [`Self::wait_until_leads`] or [`Self::wait_until_another_leads`].
    pub async fn leader(&self) -> usize {
        eventually("a leader is known", PATIENCE, async || self.leader_now().await).await
    }

    /// Waits until this node leads.
    pub async fn wait_until_leads(&self, node: usize) {
        eventually("the node leads", PATIENCE, async || {
            match self.leader_now().await? {
                leader if leader == node => Ok(()),
                other => Err(format!("{other} leads, not {node}")),
            }
        })
        .await;
    }

    /// Waits until another node than this one leads, and returns which.
    pub async fn wait_until_another_leads(&self, node: usize) -> usize {
        eventually("another node leads", PATIENCE, async || {
            match self.leader_now().await? {
                leader if leader == node => Err(format!("{node} still leads")),
                other => Ok(other),
            }
        })
        .await
    }

    async fn leader_now(&self) -> Result<usize, String> {
        let mut said = Vec::new();
        for node in (0..self.len()).filter(|node| self.nodes[*node].process.is_some()) {
            if let Some(status) = self.status(node).await {
                let leads = status.leader_id.is_some() && status.leader_id == status.node_id;
                said.push((status.term, status.leader_id, leads, node));
            }
        }
        let term = said.iter().map(|(term, ..)| *term).max();
        let newest: Vec<_> = said.iter().filter(|(of, ..)| Some(*of) == term).collect();
        let follow = |leader| newest.iter().all(|(_, followed, ..)| *followed == leader);
        let others_were_cut_off = said.iter().all(|(of, _, leads, _)| Some(*of) == term || *leads);
        match newest.iter().find(|(.., leads, _)| *leads) {
            Some((_, id, _, leader)) if follow(*id) && others_were_cut_off => Ok(*leader),
            _ => Err(format!("(term, leader, leads, node): {said:?}")),
        }
    }

    /// Waits until all nodes serve.
    pub async fn wait_until_serving(&self) {
        if let Err(error) = wait_until_serving(&self.layout, PATIENCE).await {
            panic!("{error}");
        }
    }

    /// Waits until all running nodes have applied what any of them has, and show equal digests.
    pub async fn wait_until_equal(&self) {
        eventually("all nodes have the same state", PATIENCE, async || {
            let mut seen = Vec::new();
            for node in (0..self.len()).filter(|node| self.nodes[*node].process.is_some()) {
                let status = self.status(node).await.ok_or("a node does not answer")?;
                seen.push((
                    status.applied_index,
                    status.state_digest_index,
                    status.state_digest,
                ));
            }
            if seen.windows(2).all(|pair| pair[0] == pair[1]) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await;
    }

    /// Writes until all running nodes have kept a digest of a state that contains everything that
    /// is committed now, and asserts that those at the same index are equal.
    pub async fn assert_digests_agree(&self) {
        let client = self.client();
        let running: Vec<usize> = (0..self.len())
            .filter(|node| self.nodes[*node].process.is_some())
            .collect();
        let from = eventually("all running nodes answer", PATIENCE, async || {
            let mut from = 0;
            for node in &running {
                let status = self.status(*node).await.ok_or("a node does not answer")?;
                from = from.max(status.committed_index.unwrap_or(0));
            }
            Ok(from)
        })
        .await;
        let mut puts = 0;
        eventually(
            "all nodes kept a digest at the same index",
            PATIENCE,
            async || {
                let mut seen = Vec::new();
                for node in &running {
                    let status = self.status(*node).await.ok_or("a node does not answer")?;
                    seen.push((status.state_digest_index, status.state_digest));
                }
                if seen
                    .iter()
                    .all(|(index, _)| *index >= Some(from) && *index == seen[0].0)
                {
                    assert!(
                        seen.windows(2).all(|pair| pair[0] == pair[1]),
                        "digests differ: {seen:?}"
                    );
                    return Ok(());
                }
                for _ in 0..32 {
                    puts += 1;
                    let value = format!("digest {puts}");
                    let put = client.put("support/digest", value.as_bytes()).await;
                    put.map_err(|error| error.to_string())?;
                }
                Err(format!("from {from}: {seen:?}"))
            },
        )
        .await;
    }

    /// The end of each node's log.
    pub fn logs(&self) -> String {
        self.nodes
            .iter()
            .map(|node| {
                let log = std::fs::read_to_string(&node.layout.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..];
                format!("--- {} ---\n{}\n", node.layout.name, last.join("\n"))
            })
            .collect()
    }

    /// What a client with this certificate (or none) is made from.
    pub fn settings(&self, identity: Option<&Identity>) -> Settings {
        Settings {
            addresses: (0..self.len()).map(|node| self.api(node)).collect(),
            authority: self.layout.authority(),
            identity: identity.map(|identity| (identity.certificate.clone(), identity.key.clone())),
            timeout: Duration::from_secs(30),
        }
    }
}

const SHOWN_LOG_LINES: usize = 60;

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // Processes first, so that none writes into a folder that is being deleted.
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                process.signal(Signal::KILL);
            }
            node.process = None;
        }
        self.folder = None;
        if std::env::var_os("CONCLAVE_KEEP_TEST_FOLDERS").is_some() {
            let kept = self.directory.take().map(tempfile::TempDir::keep);
            eprintln!("kept: {}", kept.unwrap_or_default().display());
        }
    }
}

/// Waits until a condition holds, and returns what it gives.
///
/// # Panics
/// With the last reason, when it does not hold within `time`.
pub async fn eventually<T>(
    what: &str,
    time: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + time;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => panic!("not within {time:?}: {what}: {reason}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits for the turn of a test that needs the machine's processors for itself: elections and
/// bounds in real time are at stake. The next one waits until the turn is dropped.
pub async fn turn() -> tokio::sync::MutexGuard<'static, ()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    TURN.lock().await
}

/// Says that a test cannot run here, and why. `make test` lists these; with `CONCLAVE_NO_SKIPS=1`, as
/// in `.ci/run`, they fail.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("CONCLAVE_NO_SKIPS").is_none_or(|value| value != "1"),
        "must not be skipped: {reason}"
    );
    eprintln!("skipped: {reason}");
    if let Some(path) = std::env::var_os("CONCLAVE_SKIPPED_FILE") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{reason}"))
            .expect("the list of skipped tests can be written");
    }
}
