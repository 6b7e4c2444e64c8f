//! What is wrong with this node's state, and what becomes of the node: it halts, and where the state
//! itself is what is wrong, for good, so that no restart serves or votes with it.
//!
//! What only this node sees it looks at twice: a reading that goes wrong once (a memory, a cable) is no
//! damage of what is stored.

use conclave_raft::node::{Evidence, RaftNode};
use std::io;

/// Why a node halts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The state is another than a majority's.
    Differs(String),
    /// The state is another than what was written.
    Damaged(String),
    /// Something else, which may be gone after a restart.
    Passing(String),
}

impl Fault {
    /// Of reading the state: bytes that are not what was written are damage, a failure to read is not.
    pub(crate) fn of_reading(what: &str, error: &io::Error) -> Self {
        let reason = format!("{what} cannot be read: {error}");
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Damaged(reason),
            _ => Self::Passing(reason),
        }
    }

    /// In words.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Differs(reason) | Self::Damaged(reason) | Self::Passing(reason) => reason,
        }
    }

    /// Halts the node.
    pub(crate) async fn halt(self, raft: &RaftNode) {
        tracing::error!(reason = self.reason(), "this node halts");
        match self {
            Self::Differs(reason) => raft.halt_for_good(reason, Evidence::Majority).await,
            Self::Damaged(reason) => raft.halt_for_good(reason, Evidence::OwnLook).await,
            Self::Passing(reason) => raft.halt(reason),
        }
    }
}

/// Reads the state, and where the bytes are not what was written, once more. To be used wherever damage
/// that is found would halt the node.
pub(crate) fn looking_twice<T>(mut look: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match look() {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(%error, "bytes are not what was written; looking once more");
            look()
        }
        looked => looked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_at_a_second_look_is_no_damage() {
        let of = |kinds: &[Option<io::ErrorKind>]| {
            let mut looks = kinds.iter();
            let looked = looking_twice(|| looks.next().unwrap().map_or(Ok(()), |kind| Err(kind.into())));
            (looked.is_ok(), looks.len())
        };
        let (bad, failed) = (Some(io::ErrorKind::InvalidData), Some(io::ErrorKind::Other));
        assert_eq!(of(&[None, bad]), (true, 1));
        assert_eq!(of(&[bad, None]), (true, 0));
        assert_eq!(of(&[bad, bad, None]), (false, 1));
        assert_eq!(of(&[failed, None]), (false, 1));
    }

    #[test]
    fn only_bytes_that_changed_are_damage() {
        let of = |kind| Fault::of_reading("it", &io::Error::new(kind, "why"));
        let reason = "it cannot be read: why".to_owned();
        assert_eq!(of(io::ErrorKind::InvalidData), Fault::Damaged(reason.clone()));
        assert_eq!(of(io::ErrorKind::Other), Fault::Passing(reason));
    }
}
