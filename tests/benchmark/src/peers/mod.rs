//! The programs that are compared: three nodes of Conclave, three of etcd, and one bare handler.
//!
//! Certificates, keys and ports of all of them are made by the same code, Conclave's (`site`): the same
//! kinds of keys, TLS 1.3, and clients that show a certificate. Each client has one connection.
//!
//! | file       | idea                                                              |
//! |------------|-------------------------------------------------------------------|
//! | `site`     | certificates, ports and folders of a program's nodes               |
//! | `process`  | a program that is not `conclave server`, as a process of its own   |
//! | `conclave` | three nodes as in production                                       |
//! | `etcd`     | three nodes with TLS for clients and peers                         |
//! | `grpc`     | one connection that speaks gRPC                                    |
//! | `protobuf` | the little of Protocol Buffers that etcd's messages need          |
//! | `bare`     | an axum handler that parses setec's get and answers 304            |

mod bare;
mod conclave;
mod etcd;
mod grpc;
mod process;
mod protobuf;
mod site;

pub use self::conclave::Conclave;
pub use bare::{Bare, BareHandler};
pub use etcd::Etcd;

use crate::Failure;
use ::conclave::bench::{Driver, Kind, Secrets};
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A cluster of three nodes that can be filled, driven and hurt.
pub trait Cluster {
    /// One of its clients.
    type Caller: Driver;

    /// As tables show it.
    fn name(&self) -> &'static str;

    /// A node's process.
    fn pid(&self, node: usize) -> u32;

    /// What a node stores.
    fn data_dir(&self, node: usize) -> &Path;

    /// Which node leads.
    ///
    /// # Errors
    /// When none does, or they do not agree, after a minute.
    async fn leader(&self) -> Result<usize, Failure>;

    /// A client of one node that makes each secret once.
    fn filling(&self, node: usize, secrets: &Secrets) -> Self::Caller;

    /// A client of one node that works on secrets which are there.
    fn working(&self, node: usize, secrets: &Secrets, kind: Kind) -> Self::Caller;

    /// `kill -9`.
    async fn kill(&mut self, node: usize);

    /// Starts a node that is down.
    ///
    /// # Errors
    /// When the process cannot be started.
    fn start_node(&mut self, node: usize) -> Result<(), Failure>;

    /// Waits until every node serves and follows one leader.
    ///
    /// # Errors
    /// When they do not within [`PATIENCE`].
    async fn wait_until_serving(&self) -> Result<(), Failure>;

    /// How many nodes it has.
    fn len(&self) -> usize {
        NODES
    }

    /// All processes, the leader's first.
    ///
    /// # Errors
    /// When none leads.
    async fn pids_from_leader(&self) -> Result<Vec<u32>, Failure> {
        let leader = self.leader().await?;
        let nodes = (0..self.len()).map(|offset| (leader + offset) % self.len());
        Ok(nodes.map(|node| self.pid(node)).collect())
    }
}

/// Nodes of each cluster.
const NODES: usize = 3;
/// For a cluster to form, or a node to come back.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Nodes in turn, as many as there are clients.
pub fn spread_over(nodes: &[usize], clients: u32) -> impl Iterator<Item = usize> {
    nodes.iter().copied().cycle().take(clients as usize)
}

/// A number that tells a run's values from another's.
pub fn run_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// Asks until there is an answer.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(reason) if tokio::time::Instant::now() >= deadline => {
                return Err(format!("{what}: not within {} s: {reason}", PATIENCE.as_secs()).into());
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// A script that starts a program, as the same process, and has each of its syncs written as a line into
/// `FOLDER/syncs.PID`. Other system calls are not stopped for.
///
/// # Errors
/// When it cannot be written.
pub fn counting_syncs(program: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let script = folder.join("counting-syncs");
    let text = format!(
        "#!/bin/sh\nexec strace -D -f -qq --seccomp-bpf -e trace=fsync,fdatasync,sync_file_range,msync \
         -o '{}'/syncs.$$ '{}' \"$@\"\n",
        folder.display(),
        program.display()
    );
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700))?;
    Ok(script)
}

/// How many syncs a process has made, that was started so.
///
/// # Errors
/// When nothing was written about it.
pub fn syncs(folder: &Path, pid: u32) -> Result<usize, Failure> {
    let path = folder.join(format!("syncs.{pid}"));
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    // One that is interrupted by another thread's has two lines; the second is not its beginning.
    Ok(text.lines().filter(|line| !line.contains("resumed>")).count())
}
