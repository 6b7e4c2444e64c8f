//! A node that somebody started again by hand, as our message tells them, is nobody's child of ours.
//! It is found by the lock that RocksDB holds on the node's log: the system tells which process has it,
//! however that was started, and no other process can be hit.

use rustix::process::{
    Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal,
};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// A running `conclave server` that we did not start.
#[derive(Debug)]
pub struct Stray {
    name: String,
    pid: Pid,
    lock: PathBuf,
    process: OwnedFd,
}

/// The nodes of a folder that run now, whoever started them.
pub fn find_strays(folder: &Path) -> Vec<Stray> {
    (0..)
        .map(super::layout::node_name)
        .take_while(|name| folder.join(name).is_dir())
        .filter_map(|name| find(folder, name))
        .collect()
}

fn find(folder: &Path, name: String) -> Option<Stray> {
    let lock = folder.join(&name).join(super::layout::DATA).join(LOCK);
    let pid = holder(&lock)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Process ids are given out again: what was opened is the node only if it holds the lock still.
    (holder(&lock) == Some(pid)).then_some(Stray {
        name,
        pid,
        lock,
        process,
    })
}

/// The lock of the log, in a data directory.
const LOCK: &str = "log/LOCK";

/// The process that holds a lock, if one does.
fn holder(lock: &Path) -> Option<Pid> {
    let lock = File::open(lock).ok()?;
    fcntl_getlk(&lock, &Flock::from(FlockType::WriteLock)).ok()??.pid
}

impl Stray {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks it to stop (SIGTERM), and kills it when it has not after `grace`.
    pub async fn stop(self, grace: Duration) {
        // One that has just ended is as good as one that got the signal.
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
        if !self.lets_go_within(grace).await {
            let _ = pidfd_send_signal(&self.process, Signal::KILL);
            self.lets_go_within(grace).await;
        }
    }

    /// The log is the last thing that a node closes, or the system for it.
    async fn lets_go_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while holder(&self.lock) == Some(self.pid) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_raft::storage::{engine::LogDisk, rocks_engine::RocksDisk};
    use std::{
        fs,
        io::{BufRead, BufReader, stdin},
        os::unix::process::ExitStatusExt,
        process::{Child, Command, Stdio},
    };

    /// The variable that makes a process of the test below hold a log.
    const DATA: &str = "CONCLAVE_TEST_STRAY_DATA";
    const HELD: &str = "THE LOG IS OPEN";

    /// Nothing, unless another test runs it in a process of its own. That ends when its input does.
    #[test]
    fn hold_a_log() {
        if let Some(data) = std::env::var_os(DATA) {
            let _log = RocksDisk::within(Path::new(&data)).open().unwrap();
            println!("{HELD}");
            let _ = stdin().read_line(&mut String::new());
        }
    }

    fn hold(data: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "dev::stray::tests::hold_a_log", "--nocapture"])
            .env(DATA, data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains(HELD)));
        child
    }

    #[tokio::test]
    async fn whoever_holds_a_nodes_log_is_stopped_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("node-1/data");
        fs::create_dir_all(&data).unwrap();
        assert!(find_strays(folder.path()).is_empty());
        drop(RocksDisk::within(&data).open().unwrap());
        assert!(data.join(LOCK).is_file());
        assert!(find_strays(folder.path()).is_empty(), "the lock is nobody's");

        let mut node = hold(&data);
        let mut strays = find_strays(folder.path());
        assert_eq!(strays.len(), 1);
        let stray = strays.remove(0);
        assert_eq!((stray.name(), stray.pid()), ("node-1", node.id()));
        stray.stop(Duration::from_secs(60)).await;
        assert_eq!(node.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
        assert!(find_strays(folder.path()).is_empty());
    }
}
