//! Makes certificates for people without an authority of their own.
//!
//! Two authorities, nodes' and clients', never the same. The node CA signs node certificates, which
//! bear the URI name `conclave://CLUSTER/NODE`, and the API's server certificates, which bear no
//! such name and serve only as a server's: such a leaf is neither a node nor a client. The client
//! CA signs client certificates and nothing else.

mod authority;
mod files;
mod names;

pub use authority::{Authority, AuthorityKind, Issued, PkiError, Validity};
pub use files::{write_certificate, write_private_key};
pub use names::{ClientName, NodeName, NodeNameError};
