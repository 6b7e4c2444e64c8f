//! What is wrong between this node and its peers, said once rather than at every try.
//!
//! While a peer is down or refuses something, Raft tries again many times a second. A line is written
//! when a reason is new and when it is gone.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The present reasons, by peer and subject. As many as there are configured peers, times subjects.
#[derive(Default)]
pub(crate) struct Reports {
    present: Mutex<BTreeMap<(String, Subject), String>>,
}

/// What a reason is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Subject {
    /// A snapshot that is sent to the peer.
    SendingSnapshot,
    /// A snapshot that the peer sends.
    ReceivingSnapshot,
    /// The peer calls this node's disk reverted.
    Reverted,
}

impl Reports {
    /// Takes note of a reason. True when it is another than the last one.
    pub fn is_news(&self, peer: &str, subject: Subject, reason: &str) -> bool {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let last = present.entry((peer.to_owned(), subject)).or_default();
        if last == reason {
            return false;
        }
        reason.clone_into(last);
        true
    }

    /// All is well. True when it was not before.
    pub fn is_settled(&self, peer: &str, subject: Subject) -> bool {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.remove(&(peer.to_owned(), subject)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_news_once_until_it_changes_or_is_gone() {
        let reports = Reports::default();
        let news = |peer, reason| reports.is_news(peer, Subject::SendingSnapshot, reason);
        assert!(news("a", "full"));
        assert!(!news("a", "full"));
        assert!(news("b", "full"));
        assert!(news("a", "gone"));
        assert!(reports.is_news("a", Subject::ReceivingSnapshot, "gone"));
        assert!(reports.is_settled("a", Subject::SendingSnapshot));
        assert!(!reports.is_settled("a", Subject::SendingSnapshot));
        assert!(news("a", "gone"));
    }
}
