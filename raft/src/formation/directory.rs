//! What becomes of a data directory whose disk was found to be reverted, or whose state was disproved.

use crate::{
    identity::ClusterId,
    storage::{
        engine::LogDisk,
        fatal::OnFatal,
        identity_store::{Evidence, Formation, Identity, IdentityStore},
        record,
        snapshot_store::replace_file,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The snapshots within a data directory.
pub(crate) const SNAPSHOT_DIRECTORY: &str = "snapshots";
/// What a data directory holds beside the log.
const SET_ASIDE: [&str; 2] = ["state", SNAPSHOT_DIRECTORY];

/// Says that this directory's data was set aside, and of which cluster it was.
const MARK: &str = "set-aside";

#[derive(Serialize, Deserialize)]
struct MarkRecord {
    cluster_id: ClusterId,
}

/// The cluster that this directory was part of before its data was set aside. Such a directory is not
/// like an empty one: it joins that cluster again, and never forms another. Were all nodes' disks set
/// aside, they would else agree on a new, empty cluster.
///
/// # Errors
/// The mark cannot be read or is damaged.
pub(crate) fn set_aside_from(data_dir: &Path) -> io::Result<Option<ClusterId>> {
    let bytes = match fs::read(data_dir.join(MARK)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: MarkRecord = record::open(
        &bytes,
        &data_dir.display().to_string(),
        "the mark of data set aside",
    )?;
    Ok(Some(record.cluster_id))
}

/// Moves what a reverted directory holds to a folder within it, so that the node starts empty and
/// joins again as a new incarnation. To be called at each start before anything in the directory is
/// opened. Returns the folder, or `None` when the directory is not marked as reverted.
///
/// # Errors
/// The directory's, naming the path. A directory whose state was disproved is refused: nothing of it may
/// be used, and only an operator takes it out of the way.
pub fn set_aside_if_reverted(data_dir: &Path, disk: &dyn LogDisk) -> io::Result<Option<PathBuf>> {
    if !disk.exists() {
        return Ok(None);
    }
    let identity = IdentityStore::new(disk.open()?, OnFatal::exit()).load()?;
    let (was, reason) = match identity {
        Identity::Reverted { was, reason } => (was, reason),
        Identity::Disproved { was, reason, by } => {
            let refused = disproved(&was, &reason, by);
            return Err(io::Error::new(
                refused.kind(),
                format!("{}: {refused}", data_dir.display()),
            ));
        }
        Identity::Empty | Identity::Accepted(_) | Identity::Member(_) => return Ok(None),
    };
    let aside = data_dir.join(format!("reverted-{}", was.raft_id));
    tracing::warn!(%reason, aside = %aside.display(), "setting the reverted disk's data aside");
    let mark = MarkRecord {
        cluster_id: was.cluster_id,
    };
    replace_file(data_dir, MARK, &record::seal(&mark))?;
    fs::create_dir_all(&aside)?;
    for name in SET_ASIDE {
        let path = data_dir.join(name);
        if path.exists() {
            fs::rename(&path, aside.join(name))?;
        }
        // Where it came to lie first: a power cut must not take both names.
        File::open(&aside)?.sync_all()?;
        File::open(data_dir)?.sync_all()?;
    }
    // The log goes last: it bears the mark.
    disk.set_aside(&aside)?;
    File::open(data_dir)?.sync_all()?;
    Ok(Some(aside))
}

/// Takes the mark off a directory whose node had found its own state to be damaged. To be called only
/// when a look at all of it found it to be what was written; any other directory stays as it is.
/// Returns whether there was such a mark.
///
/// # Errors
/// The directory's, naming the path.
pub fn acquit(disk: &dyn LogDisk) -> io::Result<bool> {
    if !disk.exists() {
        return Ok(false);
    }
    IdentityStore::new(disk.open()?, OnFatal::exit()).acquit()
}

/// Why a node does not start on a directory whose state was disproved, and what to do.
pub(crate) fn disproved(was: &Formation, reason: &str, by: Evidence) -> io::Error {
    let raft_id = was.raft_id;
    let or = match by {
        Evidence::Majority => "",
        Evidence::OwnLook => {
            ". Where the cause is gone, `conclave server --rescan` looks through the data first, and starts on it if \
             all of it is as it was written"
        }
    };
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the node halted on this data, and neither serves nor votes with it any more: {reason}. Look for the cause \
             (memory, disk, this program) while a majority of the others runs; then empty the data directory and start \
             the node: it joins again as a new incarnation and takes the place of {raft_id}, by itself, or where \
             `rejoin` is \"manual\" by `conclave cluster replace {raft_id}`{or}"
        ),
    )
}
