//! A cluster of one node, and edges over it.

use crate::lone_node;
use conclave::{
    grants::{Grants, Principal, WrittenGrant},
    name::FullName,
    operations::{Caller, Dialect, OperationError, OperationLimits, Operations, PutVersion},
    plaintext::Plaintext,
    seal::{KeyFile, KeyFiles, SealError, SealOptions, SealSource, SealStatus, Sealer},
};
use conclave_cluster::{command::Which, model::Version, node::Cluster};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout};

pub struct OneNode {
    pub cluster: Cluster,
    pub folder: tempfile::TempDir,
}

pub struct Edge {
    pub operations: Arc<Operations>,
    pub sealer: Arc<Sealer>,
    pub key_files: Arc<KeyFiles>,
}

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

impl OneNode {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = lone_node::start(folder.path()).await;
        Self { cluster, folder }
    }

    /// A new key file.
    pub fn key_file(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        KeyFile::generate(&path).unwrap();
        path
    }

    /// An edge with the key in this file, whether or not it opens the keyring.
    pub fn edge(&self, key_file: &Path) -> Edge {
        self.edge_with(key_file, OperationLimits::default())
    }

    pub fn edge_with(&self, key_file: &Path, limits: OperationLimits) -> Edge {
        let key_files = Arc::new(KeyFiles::new(Some(key_file.to_owned())));
        let (operations, sealer) = self.edge_of(key_files.clone(), limits);
        Edge {
            operations,
            sealer,
            key_files,
        }
    }

    /// The parts of an edge that finds its seal key wherever this says.
    pub fn edge_of(
        &self,
        source: Arc<dyn SealSource>,
        limits: OperationLimits,
    ) -> (Arc<Operations>, Arc<Sealer>) {
        let options = SealOptions {
            source,
            reseal_bytes_per_s: 64 << 20,
        };
        let sealer = Sealer::start(self.cluster.clone(), options);
        let operations = Operations::start(self.cluster.clone(), sealer.clone(), "n1".to_owned(), limits);
        (operations, sealer)
    }

    /// An unsealed edge.
    pub async fn unsealed(&self) -> Edge {
        let edge = self.edge(&self.key_file("seal.key"));
        edge.wait(|status| status.sealed.is_none()).await;
        edge
    }
}

impl Edge {
    pub async fn wait(&self, condition: impl Fn(&SealStatus) -> bool) -> SealStatus {
        let mut status = self.sealer.status();
        let found = timeout(PATIENCE, status.wait_for(|status| condition(status))).await;
        found.expect("the seal never came to stand so").unwrap().clone()
    }

    /// Wraps the keyring under the key in this file, and returns that key's id.
    pub async fn rekey(&self, file: PathBuf) -> Result<String, SealError> {
        let provider = self.key_files.bring(file, None).expect("a key file");
        self.sealer.rekey(&*provider, deadline()).await?;
        Ok(provider.id().to_owned())
    }

    pub async fn put(&self, caller: &Caller, name: &str, value: &str) -> Result<PutVersion, OperationError> {
        let value = Plaintext::new(value.as_bytes().to_vec());
        self.operations
            .put(caller, &full_name(name), value, deadline())
            .await
    }

    pub async fn get(
        &self,
        caller: &Caller,
        name: &str,
        which: Which,
    ) -> Result<(u32, String), OperationError> {
        let value = self
            .operations
            .get(caller, &full_name(name), which, deadline())
            .await?;
        Ok((
            value.version.get(),
            String::from_utf8(value.value.as_bytes().to_vec()).unwrap(),
        ))
    }
}

pub fn full_name(name: &str) -> FullName {
    FullName::setec(name).unwrap()
}

pub fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

/// A caller with these rules, as setec writes them.
pub fn caller(principal: &str, rules: serde_json::Value) -> Caller {
    let written: Vec<WrittenGrant> = serde_json::from_value(rules).unwrap();
    Caller {
        principal: principal.parse::<Principal>().unwrap(),
        device: None,
        grants: Arc::new(Grants::from_written(&written).unwrap()),
        remote: "192.0.2.7:4711".parse().unwrap(),
        api: Dialect::Setec,
        request_id: "r-1".into(),
    }
}

/// A caller with every right.
pub fn root() -> Caller {
    Caller {
        grants: Arc::new(Grants::all()),
        ..caller("cn:root", serde_json::json!([]))
    }
}
