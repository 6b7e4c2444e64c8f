//! One node as a process of its own.

use super::{DevError, NodeLayout};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::Child;

/// A running `conclave server`. Killed when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    name: String,
    pid: u32,
    log: PathBuf,
    config: PathBuf,
    child: Child,
}

/// How a node ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped(pub ExitStatus);

impl NodeProcess {
    /// Starts a node from its configuration file. It ends with this process, however that ends.
    ///
    /// Must be called on a thread that lives as long as the node should: Linux tells the child of
    /// the thread's end, not of the process's.
    pub fn start(
        program: &Path,
        node: &NodeLayout,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, DevError> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&node.log)
            .map_err(|error| DevError::at(&node.log, error))?;
        let log_again = log.try_clone().map_err(|error| DevError::at(&node.log, error))?;
        let mut command = Command::new(program);
        command
            .arg("server")
            .arg("--config")
            .arg(&node.config)
            .arg("--exit-with-parent")
            .arg(std::process::id().to_string())
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_again)
            // Ctrl-C at the terminal is for us; we stop the nodes in our own way.
            .process_group(0);
        // What the nodes are is in their files, not in the developer's environment.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("CONCLAVE_") {
                command.env_remove(variable);
            }
        }
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| DevError::at(program, error))?;
        let pid = child
            .id()
            .ok_or_else(|| DevError(format!("{} ended at once", node.name)))?;
        Ok(Self {
            name: node.name.clone(),
            pid,
            log: node.log.clone(),
            config: node.config.clone(),
            child,
        })
    }

    /// Waits until it ends by itself or by another's hand. May be dropped and called again.
    pub async fn wait(&mut self) -> Stopped {
        let status = self
            .child
            .wait()
            .await
            .expect("a child of ours can be waited for");
        Stopped(status)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<Stopped> {
        self.child.try_wait().ok().flatten().map(Stopped)
    }

    /// Sends a signal. Does nothing once it has ended.
    pub fn signal(&mut self, signal: Signal) {
        // The process id stays ours until the child was waited for, so nobody else can be hit.
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            // A child that has just ended is as good as one that got the signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to stop (SIGTERM), and kills it when it has not after `grace`.
    pub async fn stop(&mut self, grace: Duration) -> Stopped {
        self.signal(Signal::TERM);
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(stopped) => stopped,
            Err(_) => {
                self.signal(Signal::KILL);
                self.wait().await
            }
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The end of what it said, for people who ask why it ended.
    pub fn last_words(&self) -> String {
        tail(&self.log, 4 << 10).unwrap_or_default()
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "ended with exit code {code}"),
            (None, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}

fn tail(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
