//! How far the snapshots are that this node sends, for people who wait for a node to catch up.

use crate::identity::RaftId;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How far one transfer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotProgress {
    /// Bytes that the receiver has acknowledged.
    pub sent_bytes: u64,
    /// Bytes of all files of the snapshot.
    pub total_bytes: u64,
}

/// The transfers that run.
#[derive(Clone, Default)]
pub(crate) struct SnapshotsSent(Arc<Mutex<BTreeMap<RaftId, SnapshotProgress>>>);

/// One of them, listed until it is dropped, however it ends.
pub(crate) struct Sending {
    transfers: SnapshotsSent,
    receiver: Option<RaftId>,
}

impl SnapshotsSent {
    /// Lists a transfer. There is at most one to a node.
    pub fn begin(&self, receiver: Option<RaftId>, total_bytes: u64) -> Sending {
        if let Some(receiver) = receiver {
            let progress = SnapshotProgress {
                sent_bytes: 0,
                total_bytes,
            };
            self.change(|transfers| transfers.insert(receiver, progress));
        }
        Sending {
            transfers: self.clone(),
            receiver,
        }
    }

    /// All that run, by receiver.
    pub fn running(&self) -> BTreeMap<RaftId, SnapshotProgress> {
        self.change(|transfers| transfers.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<RaftId, SnapshotProgress>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sending {
    /// Counts what was acknowledged.
    pub fn sent(&self, bytes: u64) {
        self.transfers.change(|transfers| {
            if let Some(progress) = self.receiver.and_then(|receiver| transfers.get_mut(&receiver)) {
                progress.sent_bytes += bytes;
            }
        });
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver {
            self.transfers.change(|transfers| transfers.remove(&receiver));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_listed_until_it_ends() {
        let transfers = SnapshotsSent::default();
        let sending = transfers.begin(Some(RaftId(4)), 100);
        sending.sent(30);
        sending.sent(12);
        let progress = SnapshotProgress {
            sent_bytes: 42,
            total_bytes: 100,
        };
        assert_eq!(transfers.running(), BTreeMap::from([(RaftId(4), progress)]));
        drop(sending);
        assert!(transfers.running().is_empty());
    }
}
