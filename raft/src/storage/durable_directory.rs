//! Directories whose names survive a power cut: what is synced within one is worth nothing while its
//! own name may be lost.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Makes a directory unless it is there, and syncs the one that it lies in: also where it is there,
/// since a crash may have come between the two. Blocks on the disk.
///
/// # Errors
/// It cannot be made, or the one that it lies in cannot be read or synced.
pub fn make_durable(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}
