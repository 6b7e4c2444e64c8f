//! `runtime.json` in the data directory: which addresses and process a running node has, for people
//! and programs that let it choose its ports. Removed when the node stops in order.

use serde::{Deserialize, Serialize};
use std::{fs, io, net::SocketAddr, path::Path};

/// The file's content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuntimeFile {
    /// The configured node name.
    pub node_name: String,
    /// The process.
    pub pid: u32,
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where other nodes connect.
    pub cluster: SocketAddr,
    /// Where the metrics are.
    pub metrics: SocketAddr,
}

impl RuntimeFile {
    /// Its name in the data directory.
    pub const NAME: &str = "runtime.json";

    /// Reads it.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let bytes = fs::read(data_dir.join(Self::NAME))?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }

    pub(super) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let new = data_dir.join("runtime.json.new");
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        fs::write(&new, format!("{text}\n"))?;
        fs::rename(new, data_dir.join(Self::NAME))
    }

    pub(super) fn remove(data_dir: &Path) {
        let _ = fs::remove_file(data_dir.join(Self::NAME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let file = RuntimeFile {
            node_name: "a".into(),
            pid: 7,
            api: address,
            cluster: address,
            metrics: address,
        };
        file.write(folder.path()).unwrap();
        assert_eq!(RuntimeFile::read(folder.path()).unwrap(), file);
        RuntimeFile::remove(folder.path());
        assert!(RuntimeFile::read(folder.path()).is_err());
    }
}
