//! Real `conclave` processes, each in a network namespace of its own, and what may be done to them.
//!
//! All nodes are started from one thread that lives as long as the run: they end when it does.

mod damage;
mod disk;
mod files;
mod network;
mod slow;

pub use damage::FlippedByte;
pub use disk::{enter_private_mounts, free_bytes};
pub use files::{API_PORT, ClientAccount, ClusterFiles};
pub use network::{Links, Network, sweep_all, watch_and_sweep};
pub use slow::{Pace, SlowLink, slow_links};

use crate::{HarnessError, schedule::Region};
use conclave::{
    api::conclave::messages::{AddMember, ClusterMembers, MemberId, Status},
    client::{Client, Settings},
    dev::NodeProcess,
};
use conclave_fault_layer::{FaultLayer, copy_directory};
use disk::Disk;
use rustix::process::Signal;
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use toml::Value;

/// What a cluster is made of.
pub struct ClusterOptions<'a> {
    /// The `conclave` program.
    pub program: &'a Path,
    /// An empty folder.
    pub folder: &'a Path,
    pub nodes: usize,
    pub accounts: &'a [ClientAccount],
    /// A variable in the environment of every node.
    pub environment: Option<(&'a str, &'a str)>,
    /// Who operates it for the harness; one of `accounts`.
    pub operator: &'a ClientAccount,
}

/// A cluster and its faults.
pub struct Cluster {
    nodes: Vec<Node>,
    files: ClusterFiles,
    network: Network,
    operator: Client,
    environment: Option<(OsString, OsString)>,
}

struct Node {
    program: PathBuf,
    faults: FaultLayer,
    process: Option<NodeProcess>,
    disk: Disk,
}

impl Cluster {
    /// Makes the network and the files, and starts every node. Does not wait until they serve.
    ///
    /// # Errors
    /// When something of it cannot be made.
    pub fn start(options: &ClusterOptions<'_>) -> Result<Self, HarnessError> {
        let network = Network::make(options.nodes)?;
        let mut disks = Vec::new();
        for node in 0..options.nodes {
            let image = options
                .folder
                .join("disks")
                .join(format!("node-{}.ext4", node + 1));
            disks.push(Disk::make(&image, &files::own_folder(options.folder, node))?);
        }
        let addresses: Vec<_> = (0..options.nodes).map(|node| network.address(node)).collect();
        let settings = [
            // Small, so that snapshots are taken, and sent, during a run.
            ("cluster", "snapshot_log_bytes", Value::from(1_i64 << 20)),
            ("cluster", "snapshot_keep_log_bytes", Value::from(4_i64 << 20)),
            ("cluster", "reserve_bytes", Value::from(RESERVE_MIB << 20)),
            (
                "cluster",
                "last_reserve_bytes",
                Value::from(LAST_RESERVE_MIB << 20),
            ),
            // Below the clients' patience: they are told that no majority answers.
            ("limits", "request_timeout_ms", Value::from(1_800)),
            ("log", "format", Value::from("json")),
        ];
        let files = ClusterFiles::make(options.folder, &addresses, options.accounts, &settings)?;
        let operator = Settings {
            addresses: addresses
                .iter()
                .map(|address| format!("https://{address}:{API_PORT}"))
                .collect(),
            authority: files.authority(),
            identity: Some(files.identity(options.operator)),
            timeout: Duration::from_secs(10),
        };
        let operator = Client::new(&operator).map_err(|error| HarnessError(error.to_string()))?;
        let mut nodes = Vec::new();
        for (node, disk) in disks.into_iter().enumerate() {
            let own = files.own_folder(node);
            let notes = files.notes(node);
            fs::create_dir_all(&notes).map_err(|error| HarnessError::about(notes.display(), error))?;
            nodes.push(Node {
                disk,
                program: network.program_within(node, options.program, &own)?,
                faults: FaultLayer::with_notes_in(&own, &notes),
                process: None,
            });
        }
        let mut cluster = Self {
            nodes,
            files,
            network,
            operator,
            environment: options
                .environment
                .map(|(name, value)| (name.into(), value.into())),
        };
        for node in 0..cluster.len() {
            cluster.start_node(node)?;
        }
        Ok(cluster)
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a cluster has nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Its files.
    pub fn files(&self) -> &ClusterFiles {
        &self.files
    }

    /// `https://…` of a node's API.
    pub fn api(&self, node: usize) -> String {
        format!("https://{}:{API_PORT}", self.network.address(node))
    }

    /// A client that may operate the cluster and read its audit, and knows all nodes.
    pub fn operator(&self) -> &Client {
        &self.operator
    }

    /// Starts a node that is down; does nothing where it runs.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_node(&mut self, node: usize) -> Result<(), HarnessError> {
        if self.runs(node) {
            return Ok(());
        }
        let own = &mut self.nodes[node];
        let environment = own
            .faults
            .environment()
            .into_iter()
            .chain(self.environment.clone());
        let process = NodeProcess::start(&own.program, &self.files.nodes[node], environment);
        own.process = Some(process.map_err(|error| HarnessError(error.to_string()))?);
        Ok(())
    }

    /// Whether a node's process runs (or is paused).
    pub fn runs(&mut self, node: usize) -> bool {
        self.nodes[node]
            .process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// Describes nodes whose process ended although nobody ended it.
    pub fn ended_by_themselves(&mut self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        for (position, node) in self.nodes.iter_mut().enumerate() {
            if let Some(how) = node.process.as_mut().and_then(NodeProcess::ended) {
                ended.push((position, how.to_string()));
                node.process = None;
            }
        }
        ended
    }

    /// `kill -9`, of all of them before any is waited for.
    pub async fn kill(&mut self, nodes: &[usize]) {
        for node in nodes {
            if let Some(process) = &mut self.nodes[*node].process {
                process.signal(Signal::KILL);
            }
        }
        for node in nodes {
            if let Some(mut process) = self.nodes[*node].process.take() {
                process.wait().await;
            }
        }
    }

    /// Cuts the power: kills them, and takes from their disks what was not synced. Returns how many
    /// files and names were lost.
    pub async fn cut_power(&mut self, nodes: &[usize]) -> usize {
        self.kill(nodes).await;
        let lost = nodes.iter().map(|node| {
            let data_dir = &self.files.nodes[*node].data_dir;
            self.nodes[*node].faults.lose_what_was_not_synced(data_dir).len()
        });
        lost.sum()
    }

    /// Lets the fault layers keep only what a power cut may still bring back.
    pub fn tidy_disks(&self) {
        self.nodes
            .iter()
            .for_each(|node| node.faults.forget_durable_removals());
    }

    /// SIGTERM, and waits until the process is gone. False: it had to be killed.
    pub async fn stop(&mut self, node: usize) -> bool {
        match self.nodes[node].process.take() {
            Some(mut process) => process.stop(STOP_GRACE).await.0.success(),
            None => true,
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) {
        self.signal(node, Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    /// Moves a node's wall clock, whether it runs or not.
    pub fn set_clock_offset_ms(&self, node: usize, offset_ms: i64) {
        self.nodes[node].faults.set_clock_offset_ms(offset_ms);
    }

    /// A node's clock, for who moves it often.
    pub fn clock(&self, node: usize) -> FaultLayer {
        self.nodes[node].faults.clone()
    }

    /// Lets the links between nodes be these from now on.
    ///
    /// # Errors
    /// When iptables refuses.
    pub fn set_links(&mut self, links: Links) -> Result<(), HarnessError> {
        self.network.set_links(links)
    }

    /// Takes a node's seal key away; it is read at a start and on a reload.
    ///
    /// # Errors
    /// When the file cannot be moved.
    pub fn take_seal_key(&self, node: usize) -> Result<(), HarnessError> {
        let key = self.files.seal_key(node);
        move_if_there(&key, &key.with_extension("taken"))
    }

    /// Gives it back, and asks the node to try it. Does nothing where it was not taken.
    ///
    /// # Errors
    /// When the file cannot be moved.
    pub async fn give_seal_key_back(&self, node: usize) -> Result<(), HarnessError> {
        let key = self.files.seal_key(node);
        let taken = key.with_extension("taken");
        if !taken.exists() {
            return Ok(());
        }
        move_if_there(&taken, &key)?;
        // SIGHUP would do as well, but ends a process that has not asked for it yet.
        let operator = self.operator.at(node).with_timeout(ASK_TIMEOUT);
        for _ in 0..SEAL_TRIES {
            if operator.seal_retry().await.is_ok_and(|seal| !seal.sealed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Empties the data directory of a node that is down.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn wipe(&mut self, node: usize) -> Result<(), HarnessError> {
        assert!(!self.runs(node), "a running node's disk is not wiped");
        let data_dir = &self.files.nodes[node].data_dir;
        let wiped =
            fs::remove_dir_all(data_dir).and_then(|()| fs::DirBuilder::new().mode(0o700).create(data_dir));
        wiped.map_err(|error| HarnessError::about(data_dir.display(), error))?;
        self.nodes[node].faults.take_as_durable(data_dir);
        Ok(())
    }

    /// Turns a bit in a file of a node that is down. `None`: it has no such file yet.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn flip_a_byte(
        &mut self,
        node: usize,
        region: Region,
        draw: u64,
    ) -> Result<Option<FlippedByte>, HarnessError> {
        assert!(!self.runs(node), "a running node's files are not changed");
        damage::flip_a_byte(&self.files.nodes[node].data_dir, region, draw)
    }

    /// Whether a node found its disk to be older than it should be, and set it aside.
    pub fn has_set_its_data_aside(&self, node: usize) -> bool {
        self.files.nodes[node].data_dir.join("set-aside").exists()
    }

    /// How much a node has said so far, in bytes.
    pub fn said_bytes(&self, node: usize) -> u64 {
        fs::metadata(&self.files.nodes[node].log).map_or(0, |log| log.len())
    }

    /// What a node has said since.
    pub fn said_since(&self, node: usize, bytes: u64) -> String {
        let said = fs::read(&self.files.nodes[node].log).unwrap_or_default();
        let from = usize::try_from(bytes).unwrap_or(usize::MAX).min(said.len());
        String::from_utf8_lossy(&said[from..]).into_owned()
    }

    /// Where a node stores everything.
    pub fn data_dir(&self, node: usize) -> &Path {
        &self.files.nodes[node].data_dir
    }

    /// Takes a node's free space: below its first reserve, or below the last one too.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn fill_disk(&self, node: usize, below_the_last_reserve: bool) -> Result<(), HarnessError> {
        let reserve_mib = if below_the_last_reserve {
            LAST_RESERVE_MIB
        } else {
            RESERVE_MIB
        };
        let leave_bytes = u64::try_from(reserve_mib).unwrap_or(0) << 19;
        self.nodes[node].disk.fill(leave_bytes)
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn empty_disk(&self, node: usize) -> Result<(), HarnessError> {
        self.nodes[node].disk.empty()
    }

    /// Keeps a copy of the disk of a node that is down.
    pub fn keep_copy_of_disk(&mut self, node: usize) {
        assert!(!self.runs(node), "a running node's disk is not copied");
        copy_directory(&self.files.nodes[node].data_dir, &self.kept_copy(node));
    }

    /// Gives a node that is down the disk that was kept.
    ///
    /// # Errors
    /// When files cannot be moved.
    pub fn put_kept_disk_back(&mut self, node: usize) -> Result<(), HarnessError> {
        assert!(!self.runs(node), "a running node's disk is not replaced");
        let data_dir = &self.files.nodes[node].data_dir;
        let kept = self.kept_copy(node);
        let replaced = fs::remove_dir_all(data_dir)
            .and_then(|()| fs::rename(&kept, data_dir))
            .and_then(|()| fs::set_permissions(data_dir, fs::Permissions::from_mode(0o700)));
        replaced.map_err(|error| HarnessError::about(data_dir.display(), error))?;
        self.nodes[node].faults.take_as_durable(data_dir);
        Ok(())
    }

    /// Whether a node of this name is a member; `None`: nobody says, or the membership is changing. The
    /// others are asked: who was removed may not know it.
    pub async fn is_member(&self, node: usize) -> Option<bool> {
        let mut newest = None;
        for other in (0..self.len()).filter(|other| *other != node) {
            let asked = self.operator.at(other).with_timeout(ASK_TIMEOUT);
            if let Ok(members) = asked.members().await
                && newest
                    .as_ref()
                    .is_none_or(|newest: &ClusterMembers| newest.term < members.term)
            {
                newest = Some(members);
            }
        }
        let members = newest.filter(|members| !members.joint)?;
        let name = &self.files.nodes[node].name;
        Some(members.members.iter().any(|member| member.name == *name))
    }

    /// Whether a node has a vote as the incarnation that it is now, which is another than the one that it
    /// was.
    pub async fn votes_anew(&self, node: usize, former: u64) -> bool {
        let own = self.status(node).await.and_then(|status| status.node_id);
        let own = own.filter(|own| *own != former);
        let Ok(members) = self.operator.members().await else {
            return false;
        };
        let mut voters = members.members.iter().filter(|member| member.voter);
        own.is_some_and(|own| voters.any(|voter| voter.id == own))
    }

    /// Takes a node out of the membership.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub async fn remove_member(&self, node: usize) -> Result<(), String> {
        let request = self.member(node).await?;
        let removed = self.operator.remove_member(&request).await;
        removed.map(drop).map_err(|error| error.to_string())
    }

    /// Gives a member's place to the node of the same name that waits with an empty disk, as an
    /// operator does where it came back by itself not long ago.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub async fn replace_member(&self, node: usize) -> Result<(), String> {
        let request = self.member(node).await?;
        let replaced = self.operator.replace_member(&request).await;
        replaced.map(drop).map_err(|error| error.to_string())
    }

    /// Under which id a node is a member.
    ///
    /// # Errors
    /// It is none, or nobody tells.
    pub async fn member_id(&self, node: usize) -> Result<u64, String> {
        let members = self.operator.members().await.map_err(|error| error.to_string())?;
        let name = &self.files.nodes[node].name;
        let member = members.members.iter().find(|member| member.name == *name);
        Ok(member.ok_or_else(|| format!("{name} is no member"))?.id)
    }

    async fn member(&self, node: usize) -> Result<MemberId, String> {
        Ok(MemberId {
            id: self.member_id(node).await?,
            timeout_ms: Some(MEMBER_PATIENCE_MS),
        })
    }

    /// Lets a node that waits with an empty disk join, without a vote. Returns its id.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub async fn add_learner(&self, node: usize) -> Result<u64, String> {
        let name = self.files.nodes[node].name.clone();
        let members = self.operator.members().await.map_err(|error| error.to_string())?;
        if let Some(member) = members.members.iter().find(|member| member.name == name) {
            return Ok(member.id);
        }
        let request = AddMember {
            name,
            timeout_ms: Some(MEMBER_PATIENCE_MS),
        };
        let added = self.operator.add_member(&request).await;
        added.map(|added| added.id).map_err(|error| error.to_string())
    }

    /// Lets a node that waits with an empty disk, or is a learner, vote.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub async fn add_voter(&self, node: usize) -> Result<(), String> {
        let id = self.add_learner(node).await?;
        let members = self.operator.members().await.map_err(|error| error.to_string())?;
        if members
            .members
            .iter()
            .any(|member| member.id == id && member.voter)
        {
            return Ok(());
        }
        let request = MemberId {
            id,
            timeout_ms: Some(MEMBER_PATIENCE_MS),
        };
        let promoted = self.operator.promote_member(&request).await;
        promoted.map(drop).map_err(|error| error.to_string())
    }

    /// A node's status, now.
    pub async fn status(&self, node: usize) -> Option<Status> {
        self.operator
            .at(node)
            .with_timeout(ASK_TIMEOUT)
            .status()
            .await
            .ok()
    }

    /// Waits until every node runs, is unsealed, follows one leader, votes, and has applied what any
    /// had committed.
    ///
    /// # Errors
    /// What is lacking when it does not come to that in time.
    pub async fn wait_until_whole(&self, time: Duration) -> Result<(), String> {
        let deadline = Instant::now() + time;
        loop {
            let lacking = match self.lacking().await {
                Ok(()) => return Ok(()),
                Err(lacking) => lacking,
            };
            if Instant::now() >= deadline {
                return Err(format!("not within {} s: {lacking}", time.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn lacking(&self) -> Result<(), String> {
        let mut seen = Vec::new();
        for node in 0..self.len() {
            let status = self.status(node).await;
            seen.push(status.ok_or_else(|| format!("node {} does not answer", node + 1))?);
        }
        if let Some(sealed) = seen.iter().find(|status| status.sealed) {
            return Err(format!(
                "{} is sealed: {:?}",
                sealed.node_name, sealed.sealed_reason
            ));
        }
        let leader = seen[0].leader_id;
        if leader.is_none() || seen.iter().any(|status| status.leader_id != leader) {
            return Err("the nodes do not follow one leader".to_owned());
        }
        let committed = seen.iter().filter_map(|status| status.committed_index).max();
        if seen.iter().any(|status| status.applied_index < committed) {
            return Err("a node has not applied everything".to_owned());
        }
        let members = self.operator.with_timeout(ASK_TIMEOUT).members().await;
        let members = members.map_err(|error| error.to_string())?;
        let voters = members.members.iter().filter(|member| member.voter).count();
        if members.joint || voters != self.len() || members.members.len() != self.len() {
            return Err(format!("{voters} voters of {} members", members.members.len()));
        }
        Ok(())
    }

    fn kept_copy(&self, node: usize) -> PathBuf {
        self.files.own_folder(node).join("kept-disk")
    }

    fn signal(&mut self, node: usize, signal: Signal) {
        if let Some(process) = &mut self.nodes[node].process {
            process.signal(signal);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Processes before their namespaces.
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                process.signal(Signal::KILL);
            }
            node.process = None;
        }
    }
}

const ASK_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Above what RocksDB may still write after a file system has become full at once.
const RESERVE_MIB: i64 = 512;
const LAST_RESERVE_MIB: i64 = 256;
/// A node that stays sealed all the same is seen when the cluster does not become whole.
const SEAL_TRIES: usize = 25;
/// For one step of a change of the membership; below the operator's own.
const MEMBER_PATIENCE_MS: u64 = 8_000;
const STOP_GRACE: Duration = Duration::from_secs(30);

fn move_if_there(from: &Path, to: &Path) -> Result<(), HarnessError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HarnessError::about(from.display(), error))
        }
        _ => Ok(()),
    }
}
