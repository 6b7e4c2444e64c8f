//! What becomes of a data directory whose disk was found to be reverted.

use crate::storage::{
    fatal::OnFatal,
    identity_store::{Identity, IdentityStore},
    rocks_engine::RocksEngine,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The database of log, vote and identity within a data directory.
pub(crate) const LOG_DIRECTORY: &str = "log";
/// The snapshots within a data directory.
pub(crate) const SNAPSHOT_DIRECTORY: &str = "snapshots";
/// What a data directory holds. The log goes last: it bears the mark.
const SET_ASIDE: [&str; 3] = ["state", SNAPSHOT_DIRECTORY, LOG_DIRECTORY];

/// Moves what a reverted directory holds to a folder within it, so that the node starts empty and
/// joins again as a new incarnation. To be called at each start before anything in the directory is
/// opened. Returns the folder, or `None` when the directory is not marked as reverted.
///
/// # Errors
/// The directory's, naming the path.
pub fn set_aside_if_reverted(data_dir: &Path) -> io::Result<Option<PathBuf>> {
    let log = data_dir.join(LOG_DIRECTORY);
    if !log.exists() {
        return Ok(None);
    }
    let identity = IdentityStore::new(Arc::new(RocksEngine::open(&log)?), OnFatal::exit()).load()?;
    let Identity::Reverted { was, reason } = identity else {
        return Ok(None);
    };
    let aside = data_dir.join(format!("reverted-{}", was.raft_id));
    tracing::warn!(%reason, aside = %aside.display(), "setting the reverted disk's data aside");
    fs::create_dir_all(&aside)?;
    for name in SET_ASIDE {
        let path = data_dir.join(name);
        if path.exists() {
            fs::rename(&path, aside.join(name))?;
        }
        File::open(data_dir)?.sync_all()?;
    }
    Ok(Some(aside))
}
