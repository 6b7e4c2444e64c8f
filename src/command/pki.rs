//! `conclave pki init|node|client`: certificates for people without an authority of their own.

use super::{Failure, output::Format};
use crate::pki::{Authority, AuthorityKind, ClientName, NodeName, PkiError, Validity};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Makes CAs and certificates.
#[derive(Args, Debug)]
pub struct Pki {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Makes both CAs: node-ca.pem (also what clients trust) and client-ca.pem, with their keys.
    Init {
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        cluster: ClusterName,
        /// For how many days they are valid.
        #[arg(long, default_value_t = 3_650)]
        days: u32,
    },
    /// Makes a node's certificates: NAME.pem for the cluster, NAME-api.pem for the API.
    Node {
        /// The node's name.
        name: String,
        /// A DNS name or IP address under which nodes and clients reach it; may be repeated.
        #[arg(long = "host", required = true)]
        hosts: Vec<String>,
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        cluster: ClusterName,
        /// For how many days they are valid.
        #[arg(long, default_value_t = 397)]
        days: u32,
    },
    /// Makes a client's certificate.
    Client {
        /// The principal, as grants name it: uri:…, email:…, dns:… or cn:….
        principal: String,
        /// The files' name: FILE.pem and FILE.key in the folder.
        #[arg(long, default_value = "client")]
        file: String,
        #[command(flatten)]
        folder: Folder,
        /// For how many days it is valid.
        #[arg(long, default_value_t = 397)]
        days: u32,
    },
}

#[derive(Args, Debug)]
struct Folder {
    /// The folder that holds the CAs and gets the certificates. Made with mode 0700.
    #[arg(long = "dir", value_name = "DIR", default_value = "pki")]
    path: PathBuf,
}

#[derive(Args, Debug)]
struct ClusterName {
    /// The cluster's configured name.
    #[arg(long = "cluster", value_name = "NAME", default_value = "conclave")]
    cluster_name: String,
}

impl Folder {
    fn pem(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.pem"))
    }

    fn key(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.key"))
    }

    fn load(&self, kind: AuthorityKind, name: &str) -> Result<Authority, Failure> {
        Ok(Authority::load(kind, &self.pem(name), &self.key(name))?)
    }
}

impl Pki {
    pub fn run(self, format: Format) -> Result<(), Failure> {
        match self.action {
            Action::Init {
                folder,
                cluster,
                days,
            } => {
                create_private(&folder.path)?;
                for (kind, name) in [
                    (AuthorityKind::Nodes, NODE_CA),
                    (AuthorityKind::Clients, CLIENT_CA),
                ] {
                    let authority = Authority::generate(kind, &cluster.cluster_name, Validity::days(days))?;
                    authority.write(&folder.pem(name), &folder.key(name))?;
                    report(format, &folder.pem(name), &folder.key(name))?;
                }
                Ok(())
            }
            Action::Node {
                name,
                hosts,
                folder,
                cluster,
                days,
            } => {
                let node_name = NodeName::new(&cluster.cluster_name, &name)
                    .map_err(|error| Failure::Invalid(error.to_string()))?;
                let authority = folder.load(AuthorityKind::Nodes, NODE_CA)?;
                let api = format!("{name}-api");
                let issued = [
                    (
                        name,
                        authority.issue_node(&node_name, &hosts, Validity::days(days))?,
                    ),
                    (api, authority.issue_api_server(&hosts, Validity::days(days))?),
                ];
                for (name, issued) in issued {
                    issued.write(&folder.pem(&name), &folder.key(&name))?;
                    report(format, &folder.pem(&name), &folder.key(&name))?;
                }
                Ok(())
            }
            Action::Client {
                principal,
                file,
                folder,
                days,
            } => {
                let name = ClientName::parse(&principal).ok_or_else(|| {
                    Failure::Invalid(format!("{principal:?} is not uri:…, email:…, dns:… or cn:…"))
                })?;
                let issued = folder
                    .load(AuthorityKind::Clients, CLIENT_CA)?
                    .issue_client(&name, Validity::days(days))?;
                issued.write(&folder.pem(&file), &folder.key(&file))?;
                report(format, &folder.pem(&file), &folder.key(&file))
            }
        }
    }
}

const NODE_CA: &str = "node-ca";
const CLIENT_CA: &str = "client-ca";

fn create_private(folder: &Path) -> Result<(), Failure> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failure::Other(format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

fn report(format: Format, certificate: &Path, key: &Path) -> Result<(), Failure> {
    format.print(&json!({"certificate": certificate, "key": key}), || {
        format!("{} with {}", certificate.display(), key.display())
    })
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::Name { .. } | PkiError::WrongAuthority(_) => Self::Invalid(error.to_string()),
            PkiError::Certificate(_) | PkiError::File(_) => Self::Other(error.to_string()),
        }
    }
}
