//! How the voters' disks stand, as the leader hears it with their heartbeats.
//!
//! The rule: while some voter's disk is below its reserve, ordinary entries are proposed only if a
//! majority of each set of voters answers and has space. Else what was appended would wait for disks
//! that refuse it, and whatever frees them would wait behind it.

use crate::identity::RaftId;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What was heard of every voter's disk.
pub(crate) struct PeerSpace {
    known: Mutex<Known>,
}

struct Known {
    /// What counts was heard in this term, since this moment.
    term: u64,
    since: Instant,
    heard: HashMap<RaftId, Heard>,
}

#[derive(Clone, Copy)]
struct Heard {
    below_reserve: bool,
    at: Instant,
}

/// Who asks: the leader, of itself.
pub(crate) struct Leader<'l> {
    /// The term that it leads.
    pub term: u64,
    /// Its id.
    pub own: RaftId,
    /// Whether its own disk has space.
    pub has_space: bool,
    /// The sets of voters, each of which decides by a majority.
    pub voter_sets: &'l [BTreeSet<RaftId>],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    HasSpace,
    BelowReserve,
    Silent,
}

impl PeerSpace {
    pub fn new() -> Self {
        Self {
            known: Mutex::new(Known {
                term: 0,
                since: Instant::now(),
                heard: HashMap::new(),
            }),
        }
    }

    /// A voter said how its disk stands. True when that is another state than before.
    pub fn hear(&self, peer: RaftId, below_reserve: bool, now: Instant) -> bool {
        let heard = Heard {
            below_reserve,
            at: now,
        };
        let before = self.known().heard.insert(peer, heard);
        before.is_some_and(|before| before.below_reserve) != below_reserve
    }

    /// Whether a member's disk was last heard to be below its reserve, if it was heard.
    pub fn is_below_reserve(&self, peer: RaftId) -> Option<bool> {
        self.known().heard.get(&peer).map(|heard| heard.below_reserve)
    }

    /// Whether a voter's disk was heard to have space, no longer ago than this.
    pub fn has_space(&self, peer: RaftId, within: Duration, now: Instant) -> bool {
        let heard = self.known().heard.get(&peer).copied();
        heard.is_some_and(|heard| !heard.below_reserve && now.saturating_duration_since(heard.at) <= within)
    }

    /// Whether ordinary entries can be committed, as far as disks go. Who was not heard for longer
    /// than `silence` has no space either; a leader that took office since then gives everybody time.
    pub fn majorities_have_space(&self, leader: &Leader<'_>, silence: Duration, now: Instant) -> bool {
        let mut known = self.known();
        if known.term != leader.term {
            known.term = leader.term;
            known.since = now;
        }
        let known = &*known;
        let disk = |voter: RaftId| {
            let heard = known.heard.get(&voter).filter(|heard| heard.at >= known.since);
            let last = heard.map_or(known.since, |heard| heard.at);
            match heard {
                _ if voter == leader.own && leader.has_space => Disk::HasSpace,
                _ if voter == leader.own => Disk::BelowReserve,
                _ if now.saturating_duration_since(last) > silence => Disk::Silent,
                Some(heard) if heard.below_reserve => Disk::BelowReserve,
                _ => Disk::HasSpace,
            }
        };
        let every = leader.voter_sets.iter().flatten();
        let any_below = every.copied().any(|voter| disk(voter) == Disk::BelowReserve);
        !any_below
            || leader.voter_sets.iter().all(|voters| {
                let with_space = voters.iter().filter(|voter| disk(**voter) == Disk::HasSpace);
                with_space.count() * 2 > voters.len()
            })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(1);
    const OWN: RaftId = RaftId(1);
    const B: RaftId = RaftId(2);
    const C: RaftId = RaftId(3);

    fn open(peers: &PeerSpace, has_space: bool, voter_sets: &[BTreeSet<RaftId>], now: Instant) -> bool {
        let leader = Leader {
            term: 1,
            own: OWN,
            has_space,
            voter_sets,
        };
        peers.majorities_have_space(&leader, SILENCE, now)
    }

    #[test]
    fn a_majority_of_full_disks_takes_nothing_ordinary() {
        let (peers, now) = (PeerSpace::new(), Instant::now());
        let voters = [BTreeSet::from([OWN, B, C])];
        assert!(open(&peers, true, &voters, now));
        assert!(open(&peers, false, &voters, now), "the others have space");
        peers.hear(B, true, now);
        assert!(open(&peers, true, &voters, now));
        assert!(!open(&peers, false, &voters, now));
        peers.hear(C, true, now);
        assert!(!open(&peers, true, &voters, now));
        peers.hear(B, false, now);
        assert!(open(&peers, true, &voters, now));
    }

    #[test]
    fn silence_counts_only_beside_a_full_disk() {
        let (peers, now) = (PeerSpace::new(), Instant::now());
        let voters = [BTreeSet::from([OWN, B, C])];
        assert!(open(&peers, true, &voters, now));
        let later = now + 2 * SILENCE;
        assert!(open(&peers, true, &voters, later), "nobody is known to be full");
        peers.hear(C, true, later);
        assert!(!open(&peers, true, &voters, later));
        peers.hear(B, false, later);
        assert!(open(&peers, true, &voters, later));
        assert!(peers.has_space(B, SILENCE, later) && !peers.has_space(C, SILENCE, later));
        assert!(!peers.has_space(B, SILENCE, later + 2 * SILENCE));
    }

    #[test]
    fn both_sets_of_a_joint_membership_count() {
        let (peers, now) = (PeerSpace::new(), Instant::now());
        let voters = [BTreeSet::from([OWN, B]), BTreeSet::from([OWN, B, C])];
        peers.hear(B, true, now);
        peers.hear(C, false, now);
        assert!(!open(&peers, true, &voters, now));
        assert!(open(&peers, true, &voters[1..], now));
    }

    #[test]
    fn it_is_said_once_when_a_disk_falls_below_its_reserve_and_when_it_is_back() {
        let (peers, now) = (PeerSpace::new(), Instant::now());
        let said = [false, true, true, false, false].map(|below| peers.hear(B, below, now));
        assert_eq!(said, [false, true, false, true, false]);
    }
}
