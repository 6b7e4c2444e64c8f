//! Power cuts and wrong clocks, by the library `tests/preload/faults.c` (see
//! `docs/decisions/fault-layer.md`): compiled once a test program, preloaded into each node.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::UNIX_EPOCH,
};

/// One node's faults: the files by which its preloaded library is told what to do, and tells what
/// was synced.
#[derive(Clone, Debug)]
pub struct FaultLayer {
    synced: PathBuf,
    clock_offset: PathBuf,
}

/// A file that lost something when the power was cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    pub file: PathBuf,
    pub bytes: u64,
}

impl FaultLayer {
    /// In the node's own folder, beside its data directory.
    pub fn new(folder: &Path) -> Self {
        let layer = Self {
            synced: folder.join("synced.records"),
            clock_offset: folder.join("clock-offset"),
        };
        layer.set_clock_offset_ms(0);
        layer
    }

    /// The variables that a node must be started with.
    pub fn environment(&self) -> [(OsString, OsString); 3] {
        [
            ("LD_PRELOAD".into(), library().into()),
            ("CONCLAVE_TEST_SYNC_LOG".into(), self.synced.clone().into()),
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

    /// Takes from every file in a directory what was not synced. The node must have been killed.
    pub fn lose_what_was_not_synced(&self, data_dir: &Path) -> Vec<Lost> {
        let synced = self.synced_bytes();
        assert!(
            !synced.is_empty(),
            "the library was not preloaded: nothing was ever synced"
        );
        let mut lost = Vec::new();
        for file in files_below(data_dir).expect("the data directory can be read") {
            let metadata = fs::metadata(&file).expect("the file is there");
            let kept = synced.get(&identity(&metadata)).copied().unwrap_or(0);
            if kept < metadata.len() {
                let opened = OpenOptions::new().write(true).open(&file);
                opened
                    .and_then(|opened| opened.set_len(kept))
                    .expect("the file can be cut");
                lost.push(Lost {
                    file,
                    bytes: metadata.len() - kept,
                });
            }
        }
        lost
    }

    /// The most that was ever covered by a sync of each file.
    fn synced_bytes(&self) -> HashMap<FileIdentity, u64> {
        let mut synced = HashMap::new();
        let records = fs::read(&self.synced).unwrap_or_default();
        for record in records.chunks_exact(32) {
            let number = |position: usize| {
                let bytes = record[position * 8..][..8].try_into().expect("8 bytes");
                u64::from_ne_bytes(bytes)
            };
            let most = synced.entry((number(0), number(1), number(2))).or_default();
            *most = number(3).max(*most);
        }
        synced
    }
}

/// Device, inode and birth in nanoseconds.
type FileIdentity = (u64, u64, u64);

fn identity(metadata: &fs::Metadata) -> FileIdentity {
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

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload/faults.c");
        let library = folder.join("faults.so");
        let made = folder.join(format!("faults.so.{}", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&made, &source])
            .arg("-ldl")
            .status()
            .expect("a C compiler is there: RocksDB was built with it");
        assert!(compiled.success(), "{} does not compile", source.display());
        // Other test programs may be doing the same.
        fs::rename(&made, &library).expect("the library is put in its place");
        library
    })
}
