//! What was committed in a term is in the log of every leader of a later term (Raft, section 5.4).
//! What a node applied was committed, in no later term than it knew of then.

use super::Invariant;
use crate::history::{Event, Moment};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct LeaderCompleteness {
    /// By index: the entry's term, and the earliest term of which it is known that it was committed then.
    committed: BTreeMap<u64, (u64, u64)>,
}

impl Invariant for LeaderCompleteness {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        match event {
            Event::Applied {
                index, term, in_term, ..
            } => {
                let known = self.committed.entry(*index).or_insert((*term, *in_term));
                known.1 = known.1.min(*in_term);
            }
            Event::TookOffice { raft_id, term, log } => {
                // What came before its first entry, the leader has in its state.
                let Some((first, _)) = log.first() else {
                    return Ok(());
                };
                for (index, (entry_term, in_term)) in self.committed.range(first..) {
                    let own = log.binary_search_by_key(index, |(index, _)| *index);
                    let own = own.ok().map(|place| log[place].1);
                    if in_term < term && own != Some(*entry_term) {
                        return Err(format!(
                            "{raft_id} leads in term {term}, and its entry {index} is of term {own:?}, while one of \
                             term {entry_term} was committed in term {in_term}"
                        ));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};

    fn history(in_term: u64, log: &[(u64, u64)]) -> [(Moment, Event); 2] {
        let applied = Event::Applied {
            node: 0,
            index: 6,
            term: 2,
            in_term,
        };
        let office = Event::TookOffice {
            raft_id: 3,
            term: 4,
            log: log.to_vec(),
        };
        [(0, applied), (1, office)]
    }

    #[test]
    fn a_leader_has_what_was_committed_before() {
        let holds = |in_term, log: &[_]| holds(LeaderCompleteness::default(), &history(in_term, log)).is_ok();
        assert!(holds(3, &[(5, 1), (6, 2)]));
        assert!(!holds(3, &[(5, 1)]));
        assert!(!holds(3, &[(5, 1), (6, 3)]));
        // Committed by a leader of a later term, of which this one does not know.
        assert!(holds(5, &[(5, 1)]));
        // Purged: it is in the state.
        assert!(holds(3, &[(7, 2)]));
    }
}
