//! `DIR/dev.json`: what programs need to know of a running development cluster.

use super::{DevError, Layout};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The file's content. Programs rely on these fields.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announcement {
    pub cluster_id: String,
    pub nodes: Vec<NodeAnnouncement>,
    /// PEM file of the CA that signs the nodes' API certificates.
    pub ca: PathBuf,
    /// PEM files of a client certificate with all rights, and its key.
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeAnnouncement {
    /// Its Raft id.
    pub id: u64,
    /// `https://127.0.0.1:…`
    pub api: String,
    /// `127.0.0.1:…` of its cluster listener.
    pub cluster: String,
    /// `http://127.0.0.1:…/metrics`
    pub metrics: String,
    /// Its process when it was started.
    pub pid: u32,
    pub data_dir: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
}

impl Announcement {
    /// Puts together what is known once the cluster serves.
    pub fn new(layout: &Layout, cluster_id: String, nodes: Vec<NodeAnnouncement>) -> Self {
        let (client_cert, client_key) = layout.client();
        Self {
            cluster_id,
            nodes,
            ca: layout.authority(),
            client_cert,
            client_key,
        }
    }

    /// Writes the file so that readers see the old content or the new one.
    pub fn write(&self, path: &Path) -> Result<(), DevError> {
        let beside = path.with_extension("json.new");
        let named = |error: std::io::Error| DevError::at(path, error);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(named)?;
        file.write_all(format!("{}\n", self.to_json()).as_bytes())
            .map_err(named)?;
        fs::rename(&beside, path).map_err(named)
    }

    /// Reads the file in a development cluster's folder.
    pub fn read(folder: &Path) -> Result<Self, DevError> {
        let path = folder.join("dev.json");
        let text = fs::read_to_string(&path)
            .map_err(|error| DevError::at(&path, format!("{error} (is `conclave dev` running?)")))?;
        serde_json::from_str(&text).map_err(|error| DevError::at(&path, error))
    }

    /// One line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("paths of ours are UTF-8 and everything else is text")
    }

    /// The variables that client commands read.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.api.as_str()).collect();
        let path = |path: &Path| path.to_string_lossy().into_owned();
        [
            ("CONCLAVE_ADDRESSES", addresses.join(",")),
            ("CONCLAVE_CA", path(&self.ca)),
            ("CONCLAVE_CLIENT_CERT", path(&self.client_cert)),
            ("CONCLAVE_CLIENT_KEY", path(&self.client_key)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_the_documented_one() {
        let node = NodeAnnouncement {
            id: 1,
            api: "https://127.0.0.1:1".into(),
            cluster: "127.0.0.1:2".into(),
            metrics: "http://127.0.0.1:3/metrics".into(),
            pid: 4,
            data_dir: "/d/node-1/data".into(),
            config: "/d/node-1/node.toml".into(),
        };
        let announcement = Announcement {
            cluster_id: "c".into(),
            nodes: vec![node],
            ca: "/d/ca.pem".into(),
            client_cert: "/d/client.pem".into(),
            client_key: "/d/client.key".into(),
        };
        let expected = serde_json::json!({
            "cluster_id": "c",
            "nodes": [{
                "id": 1, "api": "https://127.0.0.1:1", "cluster": "127.0.0.1:2",
                "metrics": "http://127.0.0.1:3/metrics", "pid": 4,
                "data_dir": "/d/node-1/data", "config": "/d/node-1/node.toml"
            }],
            "ca": "/d/ca.pem", "client_cert": "/d/client.pem", "client_key": "/d/client.key"
        });
        assert_eq!(serde_json::to_value(&announcement).expect("JSON"), expected);
        let folder = tempfile::tempdir().expect("a temporary folder");
        announcement
            .write(&folder.path().join("dev.json"))
            .expect("the file is written");
        assert_eq!(
            Announcement::read(folder.path()).expect("the file is read"),
            announcement
        );
    }
}
