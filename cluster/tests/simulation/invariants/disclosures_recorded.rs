//! No value leaves before its disclosure is recorded, committed, under what was really disclosed (design,
//! section 2).

use super::Invariant;
use crate::history::{Answer, Event, Moment, Operation};
use conclave_cluster::model::Action;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct DisclosuresRecorded {
    /// Place and version.
    recorded: BTreeMap<Operation, (Option<u32>, Option<u32>)>,
    /// Answered in this step.
    answered: Vec<(Operation, u32, u32)>,
}

impl Invariant for DisclosuresRecorded {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        match event {
            Event::Recorded {
                operation,
                action: Action::Get,
                place,
                version,
                done: true,
                ..
            } => {
                self.recorded.insert(*operation, (*place, *version));
            }
            Event::Answered {
                operation,
                answer: Answer::Disclosed { place, version, .. },
            } => self.answered.push((*operation, *place, *version)),
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        for (operation, place, version) in self.answered.drain(..) {
            let recorded = self.recorded.get(&operation);
            if recorded != Some(&(Some(place), Some(version))) {
                return Err(format!(
                    "operation {operation} disclosed version {version} at place {place}; recorded is {recorded:?}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::made_up::{holds, holds_in_one_step},
        *,
    };
    use conclave_cluster::model::AuditKey;

    fn recorded(version: u32, done: bool) -> (Moment, Event) {
        let key = AuditKey {
            index: 5,
            position: 0,
            step: 0,
        };
        let event = Event::Recorded {
            key,
            operation: 1,
            action: Action::Get,
            place: Some(3),
            version: Some(version),
            done,
        };
        (0, event)
    }

    fn disclosed() -> (Moment, Event) {
        let answer = Answer::Disclosed {
            index: 5,
            place: 3,
            version: 2,
            value: 9,
        };
        (0, Event::Answered { operation: 1, answer })
    }

    #[test]
    fn before_the_answer_and_under_what_was_disclosed() {
        assert!(holds(DisclosuresRecorded::default(), &[recorded(2, true), disclosed()]).is_ok());
        assert!(holds_in_one_step(DisclosuresRecorded::default(), &[disclosed(), recorded(2, true)]).is_ok());
        assert!(holds(DisclosuresRecorded::default(), &[disclosed(), recorded(2, true)]).is_err());
        assert!(holds(DisclosuresRecorded::default(), &[recorded(1, true), disclosed()]).is_err());
        assert!(holds(DisclosuresRecorded::default(), &[recorded(2, false), disclosed()]).is_err());
    }
}
