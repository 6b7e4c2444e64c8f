//! A file system of its own for each node, of which a fault may take the free space: ext4 in a file,
//! over a loop device. It is mounted in a mount namespace that only the harness and its nodes see (see
//! [`enter_private_mounts`]), so that it goes with them.

use crate::HarnessError;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// More than a node needs in a run, also with the removed files that the fault layer keeps. Only what is
/// written is really taken.
const DISK_BYTES: u64 = 16 << 30;
const FILLER: &str = "filler";
/// Set once this process has mounts of its own.
const PRIVATE: &str = "CONCLAVE_JEPSEN_PRIVATE_MOUNTS";

/// Starts this program again, as the same process, with mounts of its own. Returns once it has them.
///
/// # Errors
/// When it is not root, or `unshare` (of util-linux) is missing.
pub fn enter_private_mounts() -> Result<(), HarnessError> {
    if std::env::var_os(PRIVATE).is_some() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(HarnessError(
            "network namespaces and mounts need root: run this as root, or with sudo".to_owned(),
        ));
    }
    let program = std::env::current_exe().map_err(|error| HarnessError::about("this program", error))?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(PRIVATE, "1")
        .exec();
    Err(HarnessError::about("unshare", error))
}

/// How many bytes are free where a folder lies.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let figures = statvfs(folder)?;
    Ok(figures.f_bavail * figures.f_frsize)
}

/// A mounted file system. It is unmounted when this is dropped; its file stays.
pub(super) struct Disk {
    mounted_at: PathBuf,
}

impl Disk {
    /// Makes a file system in a new file and mounts it at a new folder.
    pub(super) fn make(image: &Path, at: &Path) -> Result<Self, HarnessError> {
        let about = |error: io::Error| HarnessError::about(image.display(), error);
        fs::create_dir_all(image.parent().unwrap_or(at)).map_err(about)?;
        let file = File::create(image).map_err(about)?;
        file.set_len(DISK_BYTES).map_err(about)?;
        fs::create_dir_all(at).map_err(|error| HarnessError::about(at.display(), error))?;
        // Without blocks for root alone: what is free is free for the node.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?;
        // What is removed there is given back to the disk that the image lies on.
        run(Command::new("mount")
            .args(["-o", "loop,discard"])
            .arg(image)
            .arg(at))?;
        Ok(Self {
            mounted_at: at.to_owned(),
        })
    }

    /// Takes free space until only so many bytes are left. Does nothing where there are fewer.
    pub(super) fn fill(&self, leave_bytes: u64) -> Result<(), HarnessError> {
        let about = |error: io::Error| HarnessError::about(self.mounted_at.display(), error);
        let free_bytes = free_bytes(&self.mounted_at).map_err(about)?;
        if free_bytes > leave_bytes {
            let filler = File::create(self.mounted_at.join(FILLER)).map_err(about)?;
            fallocate(filler, FallocateFlags::empty(), 0, free_bytes - leave_bytes)
                .map_err(|error| about(error.into()))?;
        }
        Ok(())
    }

    /// Gives it back.
    pub(super) fn empty(&self) -> Result<(), HarnessError> {
        match fs::remove_file(self.mounted_at.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(HarnessError::about(self.mounted_at.display(), error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a node that was just killed may not be gone yet.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.mounted_at));
    }
}

fn run(command: &mut Command) -> Result<(), HarnessError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| HarnessError::about(&name, error))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(HarnessError::about(
            name,
            String::from_utf8_lossy(&output.stderr).trim(),
        ))
    }
}
