//! Power cuts and wrong clocks for real processes, by the library `faults.c` (see
//! `docs/decisions/fault-layer.md`), which is preloaded into each node. For the process tests and for
//! `jepsen/`: an instrument, which panics with the path when a file cannot be read or written.

mod compile;

pub use compile::compile;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::{linux::fs::MetadataExt, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

/// One node's faults: the files by which its preloaded library is told what to do, and tells what
/// was synced.
#[derive(Clone, Debug)]
pub struct FaultLayer {
    library: PathBuf,
    synced: PathBuf,
    removed: PathBuf,
    clock_offset: PathBuf,
}

/// What a disk lost when the power was cut. Paths are relative to the data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lost {
    /// The end of a file.
    Bytes { file: PathBuf, bytes: u64 },
    /// A name that was given, or moved there, since its directory was synced.
    Name(PathBuf),
    /// The removal, or replacement, of a name since its directory was synced: it is back.
    Removal(PathBuf),
}

impl FaultLayer {
    /// In the node's own folder, beside its data directory.
    pub fn new(folder: &Path) -> Self {
        Self::with_notes_in(folder, folder)
    }

    /// As [`Self::new`], with what was synced noted in another folder: for nodes whose file system may
    /// become full.
    pub fn with_notes_in(folder: &Path, notes: &Path) -> Self {
        let layer = Self {
            library: folder.join("faults.so"),
            synced: notes.join("synced.records"),
            removed: folder.join("removed"),
            clock_offset: folder.join("clock-offset"),
        };
        fs::create_dir_all(&layer.removed).expect("a folder for removed files");
        fs::write(&layer.library, LIBRARY).expect("the library is written");
        layer.set_clock_offset_ms(0);
        layer
    }

    /// The variables that a node, or any program, must be started with.
    pub fn environment(&self) -> [(OsString, OsString); 4] {
        [
            ("LD_PRELOAD".into(), self.library.clone().into()),
            ("CONCLAVE_TEST_SYNC_LOG".into(), self.synced.clone().into()),
            ("CONCLAVE_TEST_REMOVED".into(), self.removed.clone().into()),
            (
                "CONCLAVE_TEST_CLOCK_OFFSET".into(),
                self.clock_offset.clone().into(),
            ),
        ]
    }

    /// Moves the wall clock of the node, whether it runs or not.
    pub fn set_clock_offset_ms(&self, offset_ms: i64) {
        // Written at once, so that the node never reads a half: longer texts overwrite shorter ones.
        let text = format!("{offset_ms:<20}");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false);
        file.open(&self.clock_offset)
            .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0))
            .expect("the clock's offset is written");
    }

    /// Deletes kept files whose removal is durable: no directory had their names when it was last
    /// synced. For nodes that run long; they may run meanwhile.
    pub fn forget_durable_removals(&self) {
        // Listed before the records are read: what a directory's record names after a file's removal
        // does not name that file.
        let kept = files_below(&self.removed).expect("a folder");
        let synced = Synced::read(&self.synced);
        let named: HashSet<FileIdentity> = synced
            .directories
            .values()
            .flatten()
            .map(|(_, identity)| *identity)
            .collect();
        for file in kept.iter().filter(|file| !named.contains(&identity(file))) {
            fs::remove_file(file).expect("it can be removed");
        }
    }

    /// Makes a data directory what the disk would surely hold after a power cut: each directory
    /// with the names that it had when it was last synced, each file as far as it was synced. The
    /// data directory itself is taken as durable. The node must have been killed.
    pub fn lose_what_was_not_synced(&self, data_dir: &Path) -> Vec<Lost> {
        let synced = Synced::read(&self.synced);
        assert!(
            !synced.files.is_empty(),
            "the library was not preloaded: nothing was ever synced"
        );
        let before = tree(data_dir);
        // Beside the data directory; what is not kept goes with it.
        let aside = self.removed.with_extension("aside");
        fs::create_dir(&aside).expect("a folder");
        for entry in fs::read_dir(data_dir).expect("the data directory can be read") {
            let entry = entry.expect("an entry");
            fs::rename(entry.path(), aside.join(entry.file_name())).expect("it can be moved");
        }
        let mut contents = HashMap::new();
        for file in [&aside, &self.removed]
            .into_iter()
            .flat_map(|folder| files_below(folder).expect("a folder"))
        {
            contents.insert(identity(&file), file);
        }
        synced.restore(identity(data_dir), data_dir, &contents);
        fs::remove_dir_all(&aside).expect("it can be removed");
        fs::remove_dir_all(&self.removed).expect("it can be removed");
        fs::create_dir(&self.removed).expect("a folder");
        self.take_as_durable(data_dir);
        losses(&before, &tree(data_dir))
    }

    /// What is there is durable, and nothing else is known of the disk: after a power cut, or where a
    /// test put other files into the data directory of a node that is down.
    pub fn take_as_durable(&self, data_dir: &Path) {
        let mut lines = String::new();
        for (path, entry) in tree(data_dir) {
            let (device, inode, birth) = entry.identity;
            let line = match entry.bytes {
                Some(bytes) => format!("\nF {device} {inode} {birth} {bytes};"),
                None => format!("\nD {device} {inode} {birth} {};", names_in(&data_dir.join(path))),
            };
            lines += &line;
        }
        fs::write(&self.synced, lines).expect("the records are written");
    }
}

/// What the library noted.
#[derive(Default)]
struct Synced {
    /// The most that was ever covered by a sync of each file, in bytes.
    files: HashMap<FileIdentity, u64>,
    /// The names in each directory when it was last synced.
    directories: HashMap<FileIdentity, Vec<(String, FileIdentity)>>,
}

impl Synced {
    fn read(records: &Path) -> Self {
        let mut synced = Self::default();
        let records = match fs::read_to_string(records) {
            Ok(records) => records,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("{}: {error}", records.display()),
        };
        // A node that is killed may leave a record without its end; nobody has seen that sync succeed.
        for line in records.lines().filter_map(|line| line.strip_suffix(';')) {
            let mut words = line.splitn(5, ' ');
            let kind = words.next();
            let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
            let identity = (number(), number(), number());
            let rest = words.next().expect("a record has five words");
            if kind == Some("F") {
                let bytes: u64 = rest.parse().expect("a number");
                let most = synced.files.entry(identity).or_default();
                *most = bytes.max(*most);
            } else {
                let parts: Vec<&str> = rest.split('/').skip(1).collect();
                let number = |part: &str| part.parse().expect("a number");
                let names = parts.chunks_exact(4).map(|part| {
                    let identity = (number(part[1]), number(part[2]), number(part[3]));
                    (part[0].to_owned(), identity)
                });
                synced.directories.insert(identity, names.collect());
            }
        }
        synced
    }

    /// Gives a directory the names that it had when it was last synced.
    fn restore(&self, directory: FileIdentity, at: &Path, contents: &HashMap<FileIdentity, PathBuf>) {
        for (name, identity) in self.directories.get(&directory).into_iter().flatten() {
            let path = at.join(name);
            match contents.get(identity) {
                Some(content) => {
                    fs::hard_link(content, &path).expect("the file gets its name");
                    let kept = self.files.get(identity).copied().unwrap_or(0);
                    let file = OpenOptions::new().write(true).open(&path).expect("a file");
                    if kept < file.metadata().expect("its size").len() {
                        file.set_len(kept).expect("the file can be cut");
                    }
                }
                None => {
                    assert!(!self.files.contains_key(identity), "{} is gone", path.display());
                    let mut options = fs::DirBuilder::new();
                    options.mode(0o700).create(&path).expect("a directory");
                    self.restore(*identity, &path, contents);
                }
            }
        }
    }
}

/// What lies below a directory, itself included, by relative path.
fn tree(directory: &Path) -> BTreeMap<PathBuf, Entry> {
    fn walk(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, Entry>) {
        let metadata = fs::metadata(path).expect("it is there");
        let entry = Entry {
            identity: identity(path),
            bytes: metadata.is_file().then_some(metadata.len()),
        };
        let relative = path.strip_prefix(root).expect("it lies below").to_owned();
        found.insert(relative, entry);
        if metadata.is_dir() {
            for entry in fs::read_dir(path).expect("a directory") {
                walk(root, &entry.expect("an entry").path(), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, directory, &mut found);
    found
}

struct Entry {
    identity: FileIdentity,
    /// `None` for a directory.
    bytes: Option<u64>,
}

/// As the library writes them.
fn names_in(directory: &Path) -> String {
    let names = fs::read_dir(directory).expect("a directory").map(|entry| {
        let entry = entry.expect("an entry");
        let (device, inode, birth) = identity(&entry.path());
        let name = entry.file_name().into_string().expect("a plain name");
        format!("/{name}/{device}/{inode}/{birth}")
    });
    names.collect()
}

fn losses(before: &BTreeMap<PathBuf, Entry>, after: &BTreeMap<PathBuf, Entry>) -> Vec<Lost> {
    let mut lost = Vec::new();
    for (path, was) in before {
        match (was.bytes, after.get(path)) {
            (Some(had), Some(now)) if now.identity == was.identity => {
                let bytes = had - now.bytes.unwrap_or(0);
                if bytes > 0 {
                    let file = path.clone();
                    lost.push(Lost::Bytes { file, bytes });
                }
            }
            // Directories are made anew.
            (None, Some(now)) if now.bytes.is_none() => {}
            (_, Some(_)) => lost.push(Lost::Removal(path.clone())),
            (_, None) => lost.push(Lost::Name(path.clone())),
        }
    }
    let back = after.keys().filter(|path| !before.contains_key(*path));
    lost.extend(back.cloned().map(Lost::Removal));
    lost
}

/// Device, inode and birth in nanoseconds.
type FileIdentity = (u64, u64, u64);

fn identity(path: &Path) -> FileIdentity {
    let metadata = fs::metadata(path).expect("it is there");
    let born = metadata.created().ok();
    let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let birth_ns = born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap_or(0));
    (metadata.st_dev(), metadata.st_ino(), birth_ns)
}

/// Every file below a directory.
pub fn files_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Copies a directory with everything in it.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for file in files_below(from).expect("a directory") {
        let target = to.join(file.strip_prefix(from).expect("it lies below"));
        fs::create_dir_all(target.parent().expect("it lies in a directory")).expect("a directory");
        fs::copy(&file, &target).expect("a copy");
    }
}

const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/faults.so"));

#[cfg(test)]
mod tests {
    use super::*;

    /// A kill within a long record tears it, and the restarted node's next record follows.
    #[test]
    fn a_torn_record_hides_no_other() {
        let folder = std::env::temp_dir().join(format!("conclave-torn-record-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let records = folder.join("synced.records");
        let text = "\nF 1 2 3 4096;\nD 1 5 6 /a/1/2/3/b/1/\nF 1 7 8 10;\nF 1 2 3 80";
        fs::write(&records, text).expect("written");
        let synced = Synced::read(&records);
        fs::remove_dir_all(&folder).expect("it can be removed");
        assert_eq!(synced.files, HashMap::from([((1, 2, 3), 4096), ((1, 7, 8), 10)]));
        assert!(synced.directories.is_empty());
    }
}
