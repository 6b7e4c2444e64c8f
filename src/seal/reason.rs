//! Why a node has no keys.

/// Why this node is sealed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealedReason {
    /// The node has just started.
    #[error("the node is starting")]
    Starting,
    /// No keyring was found yet, and no majority answered to make one.
    #[error("the keyring is not there yet: {0}")]
    NoKeyring(String),
    /// There was a keyring, or at least secrets are stored, and the keyring is gone. No other is ever
    /// made in its place: it would open nothing of what is stored.
    #[error(
        "the keyring is gone from the cluster: only a node that still holds its keys can put it back; \
         do not restart nodes that are unsealed"
    )]
    KeyringGone,
    /// No seal key is configured.
    #[error("no seal key is configured")]
    NoKeyConfigured,
    /// The seal key cannot be used now: the file that should hold it, or the service that keeps it.
    #[error("{0}")]
    SealKey(String),
    /// The configured seal key is another than the one that the keyring is sealed with.
    #[error("wrong seal key: the keyring is sealed with key {needed}, the configured key is {configured}")]
    WrongSealKey { needed: String, configured: String },
    /// This node's state could not be read: its disk is damaged, or an error that passes.
    #[error("the keyring cannot be read from this node's state: {0}")]
    Unreadable(String),
    /// The stored keyring cannot be opened.
    #[error("the keyring is damaged: {0}")]
    Damaged(String),
}
