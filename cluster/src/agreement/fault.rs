//! What is wrong with this node's state, and what becomes of the node: it halts, and where the state
//! itself is what is wrong, for good, so that no restart serves or votes with it.

use conclave_raft::node::RaftNode;
use std::io;

/// Why a node halts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The state is another than a majority's, or than what was written.
    Disproved(String),
    /// Something else, which may be gone after a restart.
    Passing(String),
}

impl Fault {
    /// Of reading the state: bytes that are not what was written disprove it, a failure to read does
    /// not.
    pub(crate) fn of_reading(what: &str, error: &io::Error) -> Self {
        let reason = format!("{what} cannot be read: {error}");
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Disproved(reason),
            _ => Self::Passing(reason),
        }
    }

    /// In words.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Disproved(reason) | Self::Passing(reason) => reason,
        }
    }

    /// Halts the node.
    pub(crate) async fn halt(self, raft: &RaftNode) {
        tracing::error!(reason = self.reason(), "this node halts");
        match self {
            Self::Disproved(reason) => raft.halt_for_good(reason).await,
            Self::Passing(reason) => raft.halt(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_that_changed_disprove_a_state() {
        let of = |kind| Fault::of_reading("it", &io::Error::new(kind, "why"));
        let reason = "it cannot be read: why".to_owned();
        assert_eq!(of(io::ErrorKind::InvalidData), Fault::Disproved(reason.clone()));
        assert_eq!(of(io::ErrorKind::Other), Fault::Passing(reason));
    }
}
