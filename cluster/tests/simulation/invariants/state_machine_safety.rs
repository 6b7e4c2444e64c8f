//! No two nodes apply different entries at one index (Raft, section 5.4.3), and what they then have is the
//! same, byte for byte (design, sections 2 and 9): equal digests at equal indexes.

use super::Invariant;
use crate::history::{Event, Moment};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct StateMachineSafety {
    terms: BTreeMap<u64, (u64, usize)>,
    digests: BTreeMap<u64, (u64, usize)>,
}

impl Invariant for StateMachineSafety {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        let (what, known, node, index, seen) = match event {
            Event::Applied {
                node, index, term, ..
            } => ("term", &mut self.terms, node, index, term),
            Event::Digest { node, index, digest } => ("digest", &mut self.digests, node, index, digest),
            _ => return Ok(()),
        };
        let (before, other) = *known.entry(*index).or_insert((*seen, *node));
        if before != *seen {
            return Err(format!(
                "at index {index} nodes {other} and {node} differ in the {what}: {before} and {seen}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};

    #[test]
    fn nodes_agree_on_terms_and_digests() {
        let applied = |node, term| {
            let event = Event::Applied {
                node,
                index: 6,
                term,
                in_term: 9,
            };
            (0, event)
        };
        let digest = |node, digest| {
            let event = Event::Digest {
                node,
                index: 6,
                digest,
            };
            (0, event)
        };
        let agree = [applied(0, 2), applied(1, 2), digest(0, 7), digest(1, 7)];
        assert!(holds(StateMachineSafety::default(), &agree).is_ok());
        assert!(holds(StateMachineSafety::default(), &[applied(0, 2), applied(1, 3)]).is_err());
        assert!(holds(StateMachineSafety::default(), &[digest(0, 7), digest(1, 8)]).is_err());
        // The same node again, after a crash.
        assert!(holds(StateMachineSafety::default(), &[digest(0, 7), digest(0, 8)]).is_err());
    }
}
