//! The seam between nodes and the network: byte streams whose other end is known.
//!
//! Invariant: whoever is named at the other end of a stream has proven that name before the stream
//! is handed over. Over TCP certificates prove it ([`super::tls_network`]); in a simulated network,
//! where nothing comes between two nodes, the network itself says who is there.

use super::{in_force::InForce, tls::NameFault};
use futures::future::BoxFuture;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// A node's way to the others.
pub trait Network: Send + Sync + 'static {
    /// Connects to the node that listens at `address` (`host:port`). May be dropped at any time; the
    /// caller sets the deadline.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<Proven, NetworkFault>>;

    /// Reads again what this node proves its name with. Connections that were opened with the old
    /// proof end.
    ///
    /// # Errors
    /// What cannot be used, by name; the old proof stays in force.
    fn reload(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Where other nodes reach this one, until it is dropped.
pub trait Listener: Send + 'static {
    /// Waits for the next connection. The future may be dropped and loses none.
    ///
    /// # Errors
    /// There is none now; to be tried again a little later.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>>;
}

/// A stream of bytes in both directions, in order and unchanged for as long as it lasts.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for S {}

/// A stream to a node that has proven its name.
pub struct Proven {
    /// The configured name of the node at the other end.
    pub node_name: String,
    /// The bytes.
    pub stream: Box<dyn ByteStream>,
    /// How long the proof holds, and so the connection.
    pub in_force: InForce,
}

/// A connection that came in. To prove who it is takes a while, in which others are accepted.
pub struct Incoming {
    /// Where it came from, for messages.
    pub from: String,
    /// Its other end's proof; the caller sets the deadline.
    pub proving: BoxFuture<'static, Result<Proven, NetworkFault>>,
}

/// Why there is no stream to a node.
#[derive(Debug, thiserror::Error)]
pub enum NetworkFault {
    /// The connection failed or broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The certificate at the other end names no node of this cluster.
    #[error("{0}")]
    Certificate(#[from] NameFault),
}
