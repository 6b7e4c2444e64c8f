//! A poll is answered from a state that has everything that was acknowledged a bound ago, on whichever
//! node (design, section 6).

use super::{Acknowledged, Invariant, UNORDERED_US};
use crate::history::{Event, Moment};
use std::time::Duration;

pub struct StalenessBound {
    bound_us: u64,
    acknowledged: Acknowledged,
}

impl StalenessBound {
    pub fn new(bound: Duration) -> Self {
        Self {
            bound_us: u64::try_from(bound.as_micros()).expect("a bound of seconds"),
            acknowledged: Acknowledged::default(),
        }
    }
}

impl Invariant for StalenessBound {
    fn see(&mut self, at: Moment, event: &Event) -> Result<(), String> {
        self.acknowledged.see(at, event);
        match event {
            Event::Polled { node, applied } => {
                let due = self
                    .acknowledged
                    .at(at.saturating_sub(self.bound_us + UNORDERED_US));
                if *applied < due {
                    return Err(format!(
                        "node {node} answered a poll from index {applied}; {due} was acknowledged a bound ago"
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
    fn a_poll_may_be_stale_within_the_bound() {
        let answered = |at, index| {
            let answer = Answer::Done { index };
            (at, Event::Answered { operation: 1, answer })
        };
        let polled = |at, applied| (at, Event::Polled { node: 1, applied });
        let bound = || StalenessBound::new(Duration::from_secs(1));
        let within = [answered(1_000_000, 5), polled(1_900_000, 4), polled(2_100_000, 5)];
        assert!(holds(bound(), &within).is_ok());
        let beyond = [answered(1_000_000, 5), polled(2_100_000, 4)];
        assert!(holds(bound(), &beyond).is_err());
    }
}
