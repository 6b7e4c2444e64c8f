//! The names that certificates bear.

use std::fmt;

/// A node's name in its certificate: `conclave://CLUSTER/NODE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeName {
    cluster: String,
    node: String,
}

/// Why a text is no node name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} must have 1 to 63 characters of a-z, 0-9 and -")]
pub struct NodeNameError(String);

/// A client's name in its certificate. Its type is a part of the principal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientName {
    Uri(String),
    Email(String),
    Dns(String),
    CommonName(String),
}

impl NodeName {
    /// The scheme of a node's URI name. A certificate with such a name is never a client's.
    pub const SCHEME: &'static str = "conclave://";

    /// A node of a cluster.
    pub fn new(cluster: &str, node: &str) -> Result<Self, NodeNameError> {
        for part in [cluster, node] {
            if !crate::config::is_name(part) {
                return Err(NodeNameError(part.to_owned()));
            }
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
        })
    }

    /// The node's part.
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}", Self::SCHEME, self.cluster, self.node)
    }
}

impl ClientName {
    /// Parses `uri:…`, `email:…`, `dns:…` or `cn:…`, the form in which grants name principals.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        if name.is_empty() || name.chars().any(char::is_control) {
            return None;
        }
        let name = name.to_owned();
        match kind {
            "uri" => Some(Self::Uri(name)),
            "email" => Some(Self::Email(name)),
            "dns" => Some(Self::Dns(name)),
            "cn" => Some(Self::CommonName(name)),
            _ => None,
        }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) => write!(f, "uri:{name}"),
            Self::Email(name) => write!(f, "email:{name}"),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::CommonName(name) => write!(f, "cn:{name}"),
        }
    }
}
