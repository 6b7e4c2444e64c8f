//! Who calls, as an operation needs to know it.

use crate::grants::{Grants, Principal};
use std::{fmt, net::SocketAddr, sync::Arc};

/// An identified caller, with the rights of exactly one identity.
#[derive(Clone)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// The tailnet node that it calls from, where that is known.
    pub device: Option<String>,
    /// What it may do.
    pub grants: Arc<Grants>,
    /// The connection's other end. Forwarding headers are never believed.
    pub remote: SocketAddr,
    /// By which API.
    pub api: Dialect,
    /// Unique per request; it appears in the audit record and in the answer.
    pub request_id: Arc<str>,
}

/// An API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dialect {
    /// setec's.
    Setec,
    /// Conclave's own.
    Conclave,
}

impl Dialect {
    /// Its name in audit records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Setec => "setec",
            Self::Conclave => "conclave",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
