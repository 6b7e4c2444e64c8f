//! Each proposal is applied at most once, however often it is sent; one that was acknowledged, exactly
//! once (design, section 5). Each application leaves an audit record, which says whose it is.

use super::Invariant;
use crate::history::{Event, Moment, Operation};
use conclave_cluster::model::AuditKey;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct EachProposalOnce {
    recorded: BTreeMap<Operation, AuditKey>,
    /// Acknowledged in this step.
    acknowledged: Vec<Operation>,
}

impl Invariant for EachProposalOnce {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        match event {
            Event::Recorded { key, operation, .. } => {
                if let Some(before) = self.recorded.insert(*operation, *key) {
                    return Err(format!(
                        "operation {operation} was applied at {before:?} and {key:?}"
                    ));
                }
            }
            Event::Answered { operation, answer } if answer.is_done() => {
                self.acknowledged.push(*operation);
            }
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        for operation in self.acknowledged.drain(..) {
            if !self.recorded.contains_key(&operation) {
                return Err(format!("operation {operation} was acknowledged and not applied"));
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
    use crate::history::Answer;
    use conclave_cluster::model::Action;

    fn recorded(index: u64) -> (Moment, Event) {
        let event = Event::Recorded {
            key: AuditKey {
                index,
                position: 0,
                step: 0,
            },
            operation: 1,
            action: Action::Put,
            place: Some(1),
            version: Some(1),
            done: true,
        };
        (0, event)
    }

    fn answered() -> (Moment, Event) {
        let answer = Answer::Done { index: 5 };
        (0, Event::Answered { operation: 1, answer })
    }

    #[test]
    fn once_and_not_twice() {
        assert!(holds(EachProposalOnce::default(), &[recorded(5), answered()]).is_ok());
        assert!(holds(EachProposalOnce::default(), &[recorded(5), recorded(6)]).is_err());
    }

    #[test]
    fn what_was_acknowledged_was_applied() {
        assert!(holds_in_one_step(EachProposalOnce::default(), &[answered(), recorded(5)]).is_ok());
        assert!(holds(EachProposalOnce::default(), &[answered(), recorded(5)]).is_err());
    }
}
