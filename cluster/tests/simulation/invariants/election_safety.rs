//! At most one leader a term (Raft, section 5.2). It rests on two things that are checked too: a data
//! directory votes for one node in a term, and no vote goes back, also across a crash.

use super::Invariant;
use crate::history::{Directory, Event, Moment};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<Directory, (u64, u64)>,
}

impl Invariant for ElectionSafety {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        let Event::Voted {
            directory,
            term,
            voted_for,
            leads,
        } = event
        else {
            return Ok(());
        };
        if *leads {
            let leader = *self.leaders.entry(*term).or_insert(*voted_for);
            if leader != *voted_for {
                return Err(format!("{leader} and {voted_for} both lead in term {term}"));
            }
        }
        let before = self.votes.insert(*directory, (*term, *voted_for));
        match before {
            Some((before, _)) if before > *term => Err(format!(
                "{directory:?} voted in term {before}, and then in term {term}"
            )),
            // Whoever leads in a term was voted for by a majority: that outdoes a vote of one's own.
            Some((before, other)) if before == *term && other != *voted_for && !*leads => Err(format!(
                "{directory:?} voted for {other} and for {voted_for} in term {term}"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};

    fn vote(node: usize, term: u64, voted_for: u64, leads: bool) -> (Moment, Event) {
        let directory = Directory { node, wiped: 0 };
        let event = Event::Voted {
            directory,
            term,
            voted_for,
            leads,
        };
        (0, event)
    }

    #[test]
    fn one_leader_a_term() {
        let history = |second| [vote(0, 3, 1, true), vote(1, 3, second, true), vote(1, 4, 2, true)];
        assert!(holds(ElectionSafety::default(), &history(1)).is_ok());
        assert!(holds(ElectionSafety::default(), &history(2)).is_err());
    }

    #[test]
    fn one_vote_a_term_and_none_goes_back() {
        let twice = [vote(0, 3, 1, false), vote(0, 3, 2, false)];
        assert!(holds(ElectionSafety::default(), &twice).is_err());
        let back = [vote(0, 3, 1, false), vote(0, 2, 1, false)];
        assert!(holds(ElectionSafety::default(), &back).is_err());
        let outdone = [vote(0, 3, 1, false), vote(0, 3, 2, true), vote(1, 2, 1, false)];
        assert!(holds(ElectionSafety::default(), &outdone).is_ok());
    }
}
