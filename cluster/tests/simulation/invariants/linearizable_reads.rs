//! A linearizable read is answered from a state that has everything that was acknowledged before it was
//! asked for, on whichever node (design, section 6; read indexes: Ongaro's thesis, section 6.4).

use super::{Acknowledged, Invariant, UNORDERED_US};
use crate::history::{Event, Moment};

#[derive(Default)]
pub struct LinearizableReads {
    acknowledged: Acknowledged,
}

impl Invariant for LinearizableReads {
    fn see(&mut self, at: Moment, event: &Event) -> Result<(), String> {
        self.acknowledged.see(at, event);
        match event {
            Event::Read { node, asked, applied } => {
                let due = self.acknowledged.at(asked.saturating_sub(UNORDERED_US));
                if *applied < due {
                    return Err(format!(
                        "node {node} answered a read from index {applied}; {due} was acknowledged before it was asked"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};
    use crate::history::Answer;

    #[test]
    fn a_read_sees_what_was_acknowledged_before_it_was_asked() {
        let answer = Answer::Done { index: 5 };
        let answered = (10_000, Event::Answered { operation: 1, answer });
        let read = |asked, applied| {
            let event = Event::Read {
                node: 1,
                asked,
                applied,
            };
            (30_000, event)
        };
        let holds = |read| holds(LinearizableReads::default(), &[answered.clone(), read]).is_ok();
        assert!(holds(read(20_000, 5)));
        assert!(holds(read(9_000, 4)));
        assert!(!holds(read(20_000, 4)));
    }
}
