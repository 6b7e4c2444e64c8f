//! A node that somebody started again by hand, as our message tells them, is nobody's child of ours.
//! It is found by the process id that it left in its data directory, and known by its command line:
//! process ids are given out again, and no other process may be hit.

use crate::server::RuntimeFile;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    ffi::OsStr,
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// A running `conclave server` that we did not start.
#[derive(Debug)]
pub struct Stray {
    name: String,
    pid: u32,
    config: PathBuf,
    process: OwnedFd,
}

/// The nodes of a folder that run now, whoever started them.
pub fn find_strays(folder: &Path) -> Vec<Stray> {
    (0..)
        .map(|position| folder.join(super::layout::node_name(position)))
        .take_while(|own| own.is_dir())
        .filter_map(|own| find(&own))
        .collect()
}

fn find(own: &Path) -> Option<Stray> {
    let runtime = RuntimeFile::read(&own.join(super::layout::DATA)).ok()?;
    let pid = Pid::from_raw(i32::try_from(runtime.pid).ok()?)?;
    // From here on this very process is meant, also if its id is given out again.
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let config = own.join(super::layout::CONFIG);
    runs_from(runtime.pid, &config).then_some(Stray {
        name: runtime.node_name,
        pid: runtime.pid,
        config,
        process,
    })
}

/// Whether a process is a `server` with this configuration.
fn runs_from(pid: u32, config: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let Ok(line) = fs::read(process.join("cmdline")) else {
        return false;
    };
    let words: Vec<&OsStr> = line.split(|byte| *byte == 0).map(OsStr::from_bytes).collect();
    let Ok(wanted) = config.canonicalize() else {
        return false;
    };
    let is_config = |word: &OsStr| {
        let word = word
            .as_bytes()
            .strip_prefix(b"--config=")
            .unwrap_or(word.as_bytes());
        let given = process.join("cwd").join(OsStr::from_bytes(word));
        given.canonicalize().is_ok_and(|given| given == wanted)
    };
    words.contains(&OsStr::new("server")) && words.into_iter().any(is_config)
}

impl Stray {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks it to stop (SIGTERM), and kills it when it has not after `grace`.
    pub async fn stop(self, grace: Duration) {
        // One that has just ended is as good as one that got the signal.
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
        if !self.ends_within(grace).await {
            let _ = pidfd_send_signal(&self.process, Signal::KILL);
            self.ends_within(grace).await;
        }
    }

    /// A process that has ended has no command line any more, also before its parent asks after it.
    async fn ends_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while runs_from(self.pid, &self.config) {
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
    use std::process::{Child, Command, Stdio};

    /// A process whose command line is that of a server. It ends when its input does.
    fn pretend(folder: &Path, config: &Path) -> Child {
        let script = folder.join("server");
        fs::write(&script, "read line\n").expect("a file");
        Command::new("sh")
            .current_dir(folder)
            .args(["server", "server", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a process")
    }

    fn announce(own: &Path, pid: u32) {
        let address = "127.0.0.1:1";
        let text = serde_json::json!({
            "node_name": "node-1", "pid": pid, "api": address, "cluster": address, "metrics": address
        });
        fs::create_dir_all(own.join("data")).expect("a folder");
        fs::write(own.join("data/runtime.json"), text.to_string()).expect("a file");
        fs::write(own.join("node.toml"), "").expect("a file");
    }

    #[tokio::test]
    async fn only_a_server_of_that_configuration_is_stopped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = folder.path().join("node-1");
        // A process id that is another's now, and one that is nobody's.
        announce(&own, std::process::id());
        assert!(find_strays(folder.path()).is_empty());
        announce(&own, u32::MAX);
        assert!(find_strays(folder.path()).is_empty());

        // Named by a path relative to its own folder, as a person would.
        let mut server = pretend(folder.path(), Path::new("node-1/node.toml"));
        announce(&own, server.id());
        let mut strays = find_strays(folder.path());
        assert_eq!(strays.len(), 1);
        let stray = strays.remove(0);
        assert_eq!((stray.name(), stray.pid()), ("node-1", server.id()));
        stray.stop(Duration::from_secs(60)).await;
        let ended = server.wait().expect("it ended");
        assert!(!ended.success(), "{ended}");
    }
}
