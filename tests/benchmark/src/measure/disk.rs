//! What a data directory takes on its disk, and what accounts for it.

use crate::Failure;
use rocksdb::{DB, Options};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// What a folder takes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Blocks on the disk; a file with several names counts once.
    pub bytes: u64,
    pub files: u64,
}

/// What a folder takes, whatever lies in it.
///
/// # Errors
/// When it cannot be read.
pub fn taken(folder: &Path) -> io::Result<Taken> {
    let mut taken = Taken::default();
    add(folder, &mut taken, &mut BTreeSet::new())?;
    Ok(taken)
}

fn add(folder: &Path, taken: &mut Taken, seen: &mut BTreeSet<u64>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A running node removes files; what is gone takes nothing.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            add(&entry.path(), taken, seen)?;
        } else if seen.insert(metadata.ino()) {
            taken.bytes += metadata.blocks() * 512;
            taken.files += 1;
        }
    }
    Ok(())
}

/// The bytes of each column family in a database that nobody has open.
///
/// # Errors
/// When it cannot be opened.
pub fn column_families(database: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let mut options = Options::default();
    // As conclave opens it. RocksDB 11 reads a null pointer where a database that notes its write-ahead logs in
    // the manifest is opened for reading only by somebody who does not.
    options.set_track_and_verify_wals_in_manifest(true);
    let names = DB::list_cf(&options, database)?;
    let opened = DB::open_cf_for_read_only(&options, database, &names, false)?;
    let mut sizes: BTreeMap<String, u64> = names.into_iter().map(|name| (name, 0)).collect();
    for file in opened.live_files()? {
        *sizes.entry(file.column_family_name).or_default() += file.size as u64;
    }
    Ok(sizes)
}

/// Bytes as MiB.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
