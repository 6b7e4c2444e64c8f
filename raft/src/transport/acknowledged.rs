//! What each peer acknowledged as durable, and how a disk that forgot it is recognised.
//!
//! Raft is safe only while what a node said to be durable stays so. A copy of an older disk breaks
//! that silently, and openraft's release builds do not notice. Therefore each node remembers, while
//! it lives, the highest log position that each peer acknowledged and the highest term in which it
//! voted or took part, and compares them with what the peer says it has on disk when a connection
//! is made, before any append or vote crosses it.
//!
//! An acknowledged position may leave a log lawfully: a later leader overwrites what was not
//! committed. So a shorter log proves a reverted disk only if the missing part was committed, or if
//! the peer has seen no term later than that of the leader that it acknowledged to.

use crate::{identity::RaftId, state_machine::LogPosition};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// What a node has on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Durable {
    /// The last entry of its log, purged ones included.
    pub log: Option<LogPosition>,
    /// The term of its vote.
    pub term: u64,
}

/// What one peer is known to have had on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The highest acknowledged position that was committed; no leader ever overwrites it.
    pub committed: Option<LogPosition>,
    /// The highest acknowledged position, and the term of the leader that it was acknowledged to.
    pub log: Option<(LogPosition, u64)>,
    /// The highest term in which it granted a vote, stood for election or acknowledged entries.
    pub term: u64,
}

/// No disk is so many terms behind: with an election every second it would take more than a day.
const TERMS_BEHIND: u64 = 100_000;

impl Acknowledged {
    /// Whether its terms can have come since a disk had `durable`. A peer whose memory is broken must
    /// not set other nodes' disks aside.
    pub fn is_near(&self, durable: &Durable) -> bool {
        let positions = [self.committed, self.log.map(|(position, _)| position)];
        let terms = positions
            .into_iter()
            .flatten()
            .map(|position| position.term)
            .chain(self.log.map(|(_, term)| term))
            .chain([self.term]);
        let furthest = durable.term.saturating_add(TERMS_BEHIND);
        terms.max().is_none_or(|term| term <= furthest)
    }

    /// Whether a disk that holds `durable` has forgotten something that it acknowledged.
    pub fn forgotten_by(&self, durable: &Durable) -> bool {
        let lost_committed = self.committed > durable.log;
        let lost_uncommitted = self
            .log
            .is_some_and(|(position, term)| Some(position) > durable.log && durable.term <= term);
        durable.term < self.term || lost_committed || lost_uncommitted
    }
}

/// What every peer acknowledged to this process. Kept by Raft id: a new incarnation starts anew.
#[derive(Default)]
pub struct Acknowledgements {
    peers: Mutex<HashMap<RaftId, Acknowledged>>,
}

impl Acknowledgements {
    /// A peer acknowledged `position` to the leader of `term`, which knew `committed` to be so.
    pub fn appended(
        &self,
        peer: RaftId,
        term: u64,
        position: Option<LogPosition>,
        committed: Option<LogPosition>,
    ) {
        self.update(peer, |known| {
            known.term = known.term.max(term);
            if let Some(position) = position {
                if known
                    .log
                    .is_none_or(|(highest, of)| (term, position) > (of, highest))
                {
                    known.log = Some((position, term));
                }
                known.committed = known.committed.max(committed.min(Some(position)));
            }
        });
    }

    /// A peer granted a vote in `term`, or asked for one.
    pub fn voted(&self, peer: RaftId, term: u64) {
        self.update(peer, |known| known.term = known.term.max(term));
    }

    /// What is known now. Taken before a peer is asked for its disk's contents, it cannot be newer
    /// than the answer.
    pub fn snapshot(&self) -> HashMap<RaftId, Acknowledged> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, peer: RaftId, change: impl FnOnce(&mut Acknowledged)) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        change(peers.entry(peer).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: RaftId = RaftId(2);

    fn at(term: u64, index: u64) -> Option<LogPosition> {
        Some(LogPosition { term, index })
    }

    fn forgotten(acknowledgements: &Acknowledgements, log: Option<LogPosition>, term: u64) -> bool {
        acknowledgements.snapshot()[&PEER].forgotten_by(&Durable { log, term })
    }

    #[test]
    fn a_shorter_log_of_the_same_term_is_a_reverted_disk() {
        let known = Acknowledgements::default();
        known.appended(PEER, 1, at(1, 7), at(1, 5));
        assert!(forgotten(&known, at(1, 6), 1));
        assert!(forgotten(&known, None, 1));
        assert!(!forgotten(&known, at(1, 7), 1));
        assert!(!forgotten(&known, at(1, 8), 1));
    }

    #[test]
    fn a_later_leader_may_overwrite_what_was_not_committed() {
        let known = Acknowledgements::default();
        known.appended(PEER, 1, at(1, 7), at(1, 5));
        assert!(!forgotten(&known, at(1, 5), 2));
        assert!(forgotten(&known, at(1, 4), 2), "what was committed");
        assert!(!forgotten(&known, at(2, 6), 2));
    }

    #[test]
    fn a_lost_vote_is_a_reverted_disk() {
        let known = Acknowledgements::default();
        known.voted(PEER, 3);
        known.voted(PEER, 2);
        assert!(forgotten(&known, at(2, 9), 2));
        assert!(!forgotten(&known, at(2, 9), 3));
    }

    #[test]
    fn only_terms_that_can_have_come_meanwhile_are_believed() {
        let durable = Durable {
            log: at(3, 9),
            term: 3,
        };
        let known = Acknowledged {
            committed: at(4, 20),
            log: Some((LogPosition { term: 4, index: 21 }, 5)),
            term: 5,
        };
        assert!(known.forgotten_by(&durable) && known.is_near(&durable));
        assert!(Acknowledged::default().is_near(&durable));
        for far in [
            Acknowledged {
                term: u64::MAX,
                ..known
            },
            Acknowledged {
                committed: at(1 << 40, 20),
                ..known
            },
            Acknowledged {
                log: Some((LogPosition { term: 4, index: 21 }, 1 << 40)),
                ..known
            },
        ] {
            assert!(far.forgotten_by(&durable) && !far.is_near(&durable), "{far:?}");
        }
    }

    #[test]
    fn acknowledgements_never_go_back() {
        let known = Acknowledgements::default();
        known.appended(PEER, 2, at(2, 9), at(2, 9));
        known.appended(PEER, 1, at(1, 12), at(1, 3));
        known.appended(PEER, 2, None, at(2, 9));
        assert_eq!(
            known.snapshot()[&PEER],
            Acknowledged {
                committed: at(2, 9),
                log: Some((LogPosition { term: 2, index: 9 }, 2)),
                term: 2,
            }
        );
    }
}
