//! If two logs have an entry with the same index and term, they are the same up to it (Raft, section
//! 5.3). Checked link by link: index and term decide an entry's content, and the term of the one before.

use super::Invariant;
use crate::history::{Event, Moment};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct LogMatching {
    /// Content, and the term of the entry before, where a log had one.
    entries: BTreeMap<(u64, u64), (u64, Option<u64>)>,
}

impl Invariant for LogMatching {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        let Event::Appended {
            directory,
            index,
            term,
            previous_term,
            content,
            ..
        } = event
        else {
            return Ok(());
        };
        let known = self
            .entries
            .entry((*index, *term))
            .or_insert((*content, *previous_term));
        let previous = known.1.or(*previous_term);
        if known.0 != *content {
            return Err(format!("{directory:?} has another entry {index} of term {term}"));
        }
        if previous_term.is_some() && previous != *previous_term {
            return Err(format!(
                "{directory:?} has entry {index} of term {term} after one of term {previous_term:?}, others after one \
                 of term {previous:?}"
            ));
        }
        known.1 = previous;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};
    use crate::history::{Directory, Weight};

    fn append(node: usize, previous_term: Option<u64>, content: u64) -> (Moment, Event) {
        let event = Event::Appended {
            directory: Directory { node, wiped: 0 },
            index: 7,
            term: 3,
            previous_term,
            content,
            weight: Weight::Small,
        };
        (0, event)
    }

    #[test]
    fn index_and_term_decide_content_and_predecessor() {
        let same = [append(0, None, 5), append(1, Some(2), 5), append(2, Some(2), 5)];
        assert!(holds(LogMatching::default(), &same).is_ok());
        let other_content = [append(0, Some(2), 5), append(1, Some(2), 6)];
        assert!(holds(LogMatching::default(), &other_content).is_err());
        let other_predecessor = [append(0, None, 5), append(1, Some(2), 5), append(2, Some(1), 5)];
        assert!(holds(LogMatching::default(), &other_predecessor).is_err());
    }
}
