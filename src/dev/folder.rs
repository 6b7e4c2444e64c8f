//! The folder of a development cluster: ours by its mark, private, used by one process at a time.

use super::DevError;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A marked folder, locked for as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

/// Where `conclave dev` keeps its cluster unless told otherwise.
pub fn default_folder() -> Option<PathBuf> {
    let absolute = |variable: &str| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("conclave").join("dev"))
}

impl Folder {
    /// Opens a folder of ours, or makes one (mode 0700) where there is none or an empty one.
    pub fn open(path: &Path) -> Result<Self, DevError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| DevError::at(path, error))?;
        let path = path.canonicalize().map_err(|error| DevError::at(path, error))?;
        let mark = path.join(MARK);
        if !is_marked(&mark)? {
            if !is_empty(&path).map_err(|error| DevError::at(&path, error))? {
                return Err(DevError::at(
                    &path,
                    "holds something that `conclave dev` did not make; nothing was touched",
                ));
            }
            write_mark(&mark).map_err(|error| DevError::at(&mark, error))?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(|error| DevError::at(&path, error))?;
        let lock = File::open(&mark).map_err(|error| DevError::at(&mark, error))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => DevError::at(&path, "another `conclave dev` runs this cluster"),
            fs::TryLockError::Error(error) => DevError::at(&mark, error),
        })?;
        Ok(Self { path, _lock: lock })
    }

    /// Deletes what is in it. Only a folder with our mark was ever opened.
    pub fn empty(&self) -> Result<(), DevError> {
        delete_all_but_mark(&self.path).map_err(|error| DevError::at(&self.path, error))
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

const MARK: &str = ".conclave-dev";
const MARK_TEXT: &str = "This folder was made by `conclave dev`, which may delete everything in it.\n";

fn is_marked(mark: &Path) -> Result<bool, DevError> {
    match fs::symlink_metadata(mark) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(DevError::at(mark, error)),
        // A link could point to a mark elsewhere.
        Ok(metadata) if !metadata.is_file() => Ok(false),
        Ok(_) => Ok(fs::read_to_string(mark).map_err(|error| DevError::at(mark, error))? == MARK_TEXT),
    }
}

fn write_mark(mark: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(mark)?
        .write_all(MARK_TEXT.as_bytes())
}

fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

fn delete_all_but_mark(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == MARK {
            continue;
        }
        // Links are removed, never followed.
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marked_folder_is_emptied() {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let strange = outer.path().join("strange");
        fs::create_dir(&strange).expect("a folder");
        fs::write(strange.join("thesis.txt"), "years of work").expect("a file");
        assert!(Folder::open(&strange).is_err());
        assert!(strange.join("thesis.txt").exists());

        let ours = outer.path().join("ours");
        drop(Folder::open(&ours).expect("a new folder"));
        fs::create_dir(ours.join("node-1")).expect("a folder");
        std::os::unix::fs::symlink(&strange, ours.join("link")).expect("a link");
        drop(Folder::open(&ours).expect("our folder"));
        assert!(ours.join("node-1").exists());
        let opened = Folder::open(&ours).expect("our folder");
        opened.empty().expect("our folder is emptied");
        assert!(!ours.join("node-1").exists() && !ours.join("link").exists());
        assert!(strange.join("thesis.txt").exists());
        assert_eq!(
            fs::metadata(opened.path())
                .expect("metadata")
                .permissions()
                .mode()
                & 0o777,
            0o700
        );
    }

    #[test]
    fn one_process_at_a_time() {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let first = Folder::open(outer.path()).expect("a new folder");
        let second = Folder::open(outer.path());
        assert!(second.is_err_and(|error| error.0.contains("another")));
        drop(first);
        assert!(Folder::open(outer.path()).is_ok());
    }

    #[test]
    fn a_mark_with_another_text_is_no_mark() {
        let outer = tempfile::tempdir().expect("a temporary folder");
        fs::write(outer.path().join(MARK), "").expect("a file");
        assert!(Folder::open(outer.path()).is_err());
    }
}
