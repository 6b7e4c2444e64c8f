//! Which directory holds the state: replaced atomically when a snapshot is installed.
//!
//! The state's directory holds generations (`generation-7`), and the file `current`, which names
//! the one in use. Installing takes a verified checkpoint over as the next generation, syncs it, and
//! then replaces `current` by a rename: a crash leaves the old state or the new one, and the next
//! start removes the other. The checkpoint itself stays as it is: it is a snapshot that others may
//! ask for.

use conclave_raft::storage::durable_directory::make_durable;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const POINTER: &str = "current";
const POINTER_NEXT: &str = "current.next";
const PREFIX: &str = "generation-";

/// The generation in use: one that is there, or the first of an empty directory.
pub fn current(root: &Path) -> io::Result<PathBuf> {
    make_durable(root)?;
    let pointer = root.join(POINTER);
    match fs::read_to_string(&pointer) {
        Ok(name) => {
            let name = name.trim();
            let directory = root.join(name);
            if number(name).is_none() || !directory.is_dir() {
                return Err(damage(&pointer, "it names a generation that is not there"));
            }
            remove_all_but(root, name)?;
            Ok(directory)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => first(root),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{}: {error}", pointer.display()),
        )),
    }
}

/// Makes the files in `directory` the next generation and the one in use; returns where they lie.
/// `directory` must be on the same file system, and stays as it is.
pub fn replace(root: &Path, current: &Path, directory: &Path) -> io::Result<PathBuf> {
    let before = current.file_name().and_then(|name| number(name.to_str()?));
    let before = before.ok_or_else(|| damage(current, "it is no generation"))?;
    let name = format!("{PREFIX}{}", before + 1);
    let next = root.join(&name);
    if next.exists() {
        fs::remove_dir_all(&next)?;
    }
    take_over(directory, &next)?;
    sync_files(&next)?;
    sync_directory(root)?;
    point(root, &name)?;
    Ok(next)
}

/// Table files never change and are shared by links; the few others are copied.
fn take_over(directory: &Path, next: &Path) -> io::Result<()> {
    fs::create_dir(next)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (from, to) = (entry.path(), next.join(entry.file_name()));
        if from.extension().is_some_and(|ending| ending == "sst") {
            fs::hard_link(from, to)?;
        } else {
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

fn first(root: &Path) -> io::Result<PathBuf> {
    let pointer = root.join(POINTER);
    let name = format!("{PREFIX}1");
    let directory = root.join(&name);
    // A crash between making the first generation and its pointer leaves it empty.
    for other in generations(root)? {
        if fs::read_dir(root.join(&other))?.next().is_some() {
            return Err(damage(
                &pointer,
                "it is missing, but there is a generation of the state",
            ));
        }
    }
    fs::create_dir_all(&directory)?;
    point(root, &name)?;
    Ok(directory)
}

fn point(root: &Path, name: &str) -> io::Result<()> {
    let next = root.join(POINTER_NEXT);
    let mut file = File::create(&next)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    fs::rename(&next, root.join(POINTER))?;
    sync_directory(root)
}

fn remove_all_but(root: &Path, name: &str) -> io::Result<()> {
    for other in generations(root)? {
        if other != name {
            fs::remove_dir_all(root.join(other))?;
        }
    }
    Ok(())
}

fn generations(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root)? {
        if let Ok(name) = entry?.file_name().into_string()
            && number(&name).is_some()
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

fn sync_files(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn damage(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_forgets_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        let first = current(root.path()).unwrap();
        assert_eq!(current(root.path()).unwrap(), first);
        let received = root.path().join("received");
        fs::create_dir(&received).unwrap();
        fs::write(received.join("a"), "b").unwrap();
        fs::write(received.join("c.sst"), "d").unwrap();
        let second = replace(root.path(), &first, &received).unwrap();
        assert_eq!(current(root.path()).unwrap(), second);
        assert!(!first.exists());
        for directory in [second, received] {
            assert_eq!(fs::read_to_string(directory.join("a")).unwrap(), "b");
            assert_eq!(fs::read_to_string(directory.join("c.sst")).unwrap(), "d");
        }
    }

    #[test]
    fn a_crash_before_the_pointer_leaves_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        let first = current(root.path()).unwrap();
        fs::create_dir(root.path().join("generation-2")).unwrap();
        assert_eq!(current(root.path()).unwrap(), first);
        assert!(!root.path().join("generation-2").exists());
    }

    #[test]
    fn a_lost_pointer_or_generation_is_damage() {
        let root = tempfile::tempdir().unwrap();
        let first = current(root.path()).unwrap();
        fs::remove_dir(&first).unwrap();
        assert_eq!(
            current(root.path()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        fs::create_dir(&first).unwrap();
        fs::write(first.join("a"), "b").unwrap();
        fs::remove_file(root.path().join(POINTER)).unwrap();
        assert_eq!(
            current(root.path()).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
