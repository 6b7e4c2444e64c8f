//! A program that is not `conclave server`, as a process of its own. It ends with us, however we end.

use crate::Failure;
use std::{
    ffi::OsString,
    fs::OpenOptions,
    path::Path,
    process::{Command, Stdio},
};
use tokio::process::Child;

/// Killed when dropped.
pub struct Process {
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts it, with all that it says appended to a file.
    ///
    /// # Errors
    /// When there is no such program, or the file cannot be written.
    pub fn start(program: &Path, arguments: &[OsString], log: &Path) -> Result<Self, Failure> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("setpriv: {error}"))?;
        let pid = child.id().ok_or("it ended at once")?;
        Ok(Self { child, pid })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(mut self) {
        // Only one that is gone already cannot be killed.
        let _ = self.child.kill().await;
    }
}
