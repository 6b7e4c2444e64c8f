//! A byte flipped in a file of a stopped node, as a disk does it that says nothing.

use crate::{HarnessError, schedule::Region};
use conclave_fault_layer::files_below;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Where a bit was turned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlippedByte {
    /// Relative to the data directory.
    pub file: PathBuf,
    pub at: u64,
    pub of: u64,
}

/// Larger files are no marks.
const MARK_BYTES: u64 = 4_096;

/// Turns one bit of one byte of a file that the draw decides. `None`: there is no such file yet.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn flip_a_byte(
    data_dir: &Path,
    region: Region,
    draw: u64,
) -> Result<Option<FlippedByte>, HarnessError> {
    let mut random = StdRng::seed_from_u64(draw);
    let files = files_below(data_dir).map_err(|error| HarnessError::about(data_dir.display(), error))?;
    // By kind, for else it would always be one of the many.
    let mut kinds: BTreeMap<&str, Vec<(&Path, u64)>> = BTreeMap::new();
    for path in &files {
        let length = path
            .metadata()
            .map_err(|error| HarnessError::about(path.display(), error))?
            .len();
        let file = path.strip_prefix(data_dir).unwrap_or(path);
        if length > 0
            && let Some(kind) = kind(file, length, region)
        {
            kinds.entry(kind).or_default().push((file, length));
        }
    }
    let kinds: Vec<_> = kinds.into_values().collect();
    let Some(&(file, of)) = kinds
        .choose(&mut random)
        .and_then(|kind| kind.choose(&mut random))
    else {
        return Ok(None);
    };
    let path = data_dir.join(file);
    let at = random.random_range(0..of);
    let mut byte = [0];
    let flipped = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .and_then(|file| {
            file.read_exact_at(&mut byte, at)?;
            byte[0] ^= 1 << random.random_range(0..8);
            file.write_all_at(&byte, at)
        });
    flipped.map_err(|error| HarnessError::about(path.display(), error))?;
    Ok(Some(FlippedByte {
        file: file.to_owned(),
        at,
        of,
    }))
}

/// What kind of file of that region it is, if it is one.
fn kind(file: &Path, length: u64, region: Region) -> Option<&'static str> {
    let name = file.file_name()?.to_str()?;
    let first = file.components().next()?.as_os_str().to_str()?;
    // RocksDB's own diary, and what it locks.
    if name == "LOCK" || name.starts_with("LOG") {
        return None;
    }
    let folder = match region {
        Region::Log => "log",
        Region::State => "state",
        Region::Marks => {
            let is_mark = length < MARK_BYTES && !name.contains('.') && !name.starts_with("MANIFEST");
            return (is_mark && !first.starts_with("reverted")).then_some("mark");
        }
    };
    let endings = [("table", ".sst"), ("write-ahead log", ".log")];
    let ending = endings.iter().find(|(_, ending)| name.ends_with(ending));
    let kind = match ending {
        Some((kind, _)) => *kind,
        None if name.starts_with("MANIFEST") => "manifest",
        None => return None,
    };
    (first == folder).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_bit_of_a_file_of_that_region_is_turned() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [
            ("log/000004.log", Region::Log),
            ("log/000005.sst", Region::Log),
            ("log/MANIFEST-000001", Region::Log),
            ("log/CURRENT", Region::Marks),
            ("state/current", Region::Marks),
            ("state/generation-1/000009.sst", Region::State),
        ];
        let never = [
            "log/LOG",
            "log/LOCK",
            "runtime.json",
            "reverted-2/state/000001.sst",
        ];
        let content = vec![7; 100];
        for name in files.iter().map(|(name, _)| *name).chain(never) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, &content).expect("a file");
        }
        for region in [Region::Log, Region::State, Region::Marks] {
            for draw in 0..20 {
                let flipped = flip_a_byte(folder.path(), region, draw).expect("it is flipped");
                let flipped = flipped.expect("a file");
                let name = flipped.file.to_str().expect("a name");
                assert!(files.contains(&(name, region)), "{name} of {region:?}");
                let path = folder.path().join(name);
                let now = fs::read(&path).expect("the file");
                let turned: u32 = now.iter().map(|byte| (byte ^ 7).count_ones()).sum();
                assert_eq!(turned, 1);
                fs::write(&path, &content).expect("a file");
            }
        }
        let empty = tempfile::tempdir().expect("a folder");
        assert_eq!(flip_a_byte(empty.path(), Region::Log, 1).expect("nothing"), None);
    }
}
