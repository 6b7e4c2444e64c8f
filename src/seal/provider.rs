//! What wraps the keyring's key, and where a node finds it: key files now; Shamir shares and key
//! services join behind the same two interfaces, and nothing else of the seal knows which it is.

use super::{key::Key, reason::SealedReason};
use futures::future::BoxFuture;
use std::sync::Arc;

/// Where a node finds its seal keys. It is asked anew whenever one is needed, so that a file that was
/// mended, or a last share that came in, counts at the next attempt ([`super::Sealer::retry`]).
pub trait SealSource: Send + Sync {
    /// The one that this node is to use: a new keyring is wrapped under it.
    fn configured(&self) -> Result<Arc<dyn SealProvider>, SealedReason>;

    /// The one with this id, also if another is configured by now; else why this node has it not.
    fn with_id(&self, id: &str) -> Result<Arc<dyn SealProvider>, SealedReason>;
}

/// Wraps and unwraps one key of 32 bytes, the one that the keyring is sealed under.
pub trait SealProvider: Send + Sync {
    /// Names the key that wraps, and reveals nothing else of it. It is stored in clear beside what
    /// was wrapped, so that a wrong key can be told from damage.
    fn id(&self) -> &str;

    /// Wraps `key`, bound to `context`.
    fn wrap<'a>(&'a self, key: &'a Key, context: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, ProviderError>>;

    /// The inverse of [`Self::wrap`] for the same context.
    fn unwrap<'a>(
        &'a self,
        wrapped: &'a [u8],
        context: &'a [u8],
    ) -> BoxFuture<'a, Result<Key, ProviderError>>;
}

/// Why a provider could not wrap or unwrap.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProviderError {
    /// Other bytes than it wrapped, or another context.
    #[error("the wrapped key does not open under seal key {id}")]
    CannotUnwrap { id: String },
    /// It does not answer now (a key service).
    #[error("{0}")]
    Unavailable(String),
}
