//! What must hold of every history. Each property sees every event in order, and is asked again after
//! each step, when all that happened in it is known.
//!
//! | file                            | source                                                    |
//! |---------------------------------|-----------------------------------------------------------|
//! | `election_safety`               | Ongaro and Ousterhout 2014, section 5.2                   |
//! | `log_matching`                  | the same, section 5.3                                     |
//! | `leader_completeness`           | the same, section 5.4                                     |
//! | `state_machine_safety`          | the same, section 5.4.3; design, sections 2 and 9         |
//! | `each_proposal_once`            | design, section 5                                         |
//! | `disclosures_recorded`          | design, section 2                                         |
//! | `versions_never_reused`         | design, section 10                                        |
//! | `incarnations_never_reused`     | design, section 4                                         |
//! | `full_disks`                    | design, section 7                                         |
//! | `staleness_bound`               | design, section 6                                         |
//! | `linearizable_reads`            | design, section 6; Ongaro 2014 (thesis), section 6.4      |
//!
//! (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", USENIX ATC 2014.)

mod disclosures_recorded;
mod each_proposal_once;
mod election_safety;
mod full_disks;
mod incarnations_never_reused;
mod leader_completeness;
mod linearizable_reads;
mod log_matching;
mod staleness_bound;
mod state_machine_safety;
mod versions_never_reused;

use super::history::{Event, Moment};
use std::time::Duration;

/// A property of histories.
pub trait Invariant {
    /// Sees the next event.
    ///
    /// # Errors
    /// What is wrong.
    fn see(&mut self, at: Moment, event: &Event) -> Result<(), String>;

    /// Looks at the end of a step.
    ///
    /// # Errors
    /// What is wrong.
    fn settle(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// All of them.
pub struct Invariants(Vec<(&'static str, Box<dyn Invariant>)>);

impl Invariants {
    pub fn new(staleness_bound: Duration) -> Self {
        Self(vec![
            (
                "election safety",
                Box::new(election_safety::ElectionSafety::default()),
            ),
            ("log matching", Box::new(log_matching::LogMatching::default())),
            (
                "leader completeness",
                Box::new(leader_completeness::LeaderCompleteness::default()),
            ),
            (
                "state machine safety",
                Box::new(state_machine_safety::StateMachineSafety::default()),
            ),
            (
                "each proposal once",
                Box::new(each_proposal_once::EachProposalOnce::default()),
            ),
            (
                "each disclosure recorded before it is answered",
                Box::new(disclosures_recorded::DisclosuresRecorded::default()),
            ),
            (
                "versions never reused",
                Box::new(versions_never_reused::VersionsNeverReused::default()),
            ),
            (
                "incarnations never reused",
                Box::new(incarnations_never_reused::IncarnationsNeverReused::default()),
            ),
            ("full disks", Box::new(full_disks::FullDisks::default())),
            (
                "staleness bound",
                Box::new(staleness_bound::StalenessBound::new(staleness_bound)),
            ),
            (
                "linearizable reads",
                Box::new(linearizable_reads::LinearizableReads::default()),
            ),
        ])
    }

    /// Sees the events of a step.
    ///
    /// # Errors
    /// Names the property that does not hold, the moment and what is wrong.
    pub fn step(&mut self, events: &[(Moment, Event)]) -> Result<(), String> {
        for (name, invariant) in &mut self.0 {
            for (at, event) in events {
                let held = invariant.see(*at, event);
                held.map_err(|wrong| format!("{name} does not hold at {at} us: {wrong}"))?;
            }
            let settled = invariant.settle();
            settled.map_err(|wrong| format!("{name} does not hold: {wrong}"))?;
        }
        Ok(())
    }
}

/// Machines take turns within a tick of a millisecond: what lies closer together has no order.
pub const UNORDERED_US: u64 = 2_000;

/// The highest index that had been acknowledged at each moment.
#[derive(Default)]
pub struct Acknowledged {
    highest: Vec<(Moment, u64)>,
}

impl Acknowledged {
    pub fn see(&mut self, at: Moment, event: &Event) {
        if let Event::Answered { answer, .. } = event
            && let Some(index) = answer.index()
        {
            self.note(at, index);
        }
    }

    fn note(&mut self, at: Moment, index: u64) {
        let place = self.highest.partition_point(|(moment, _)| *moment <= at);
        let before = place.checked_sub(1).map_or(0, |before| self.highest[before].1);
        if index > before {
            self.highest.insert(place, (at, index));
            // What comes later is at least as high. Machines differ by less than a tick.
            for later in &mut self.highest[place..] {
                later.1 = later.1.max(index);
            }
        }
    }

    /// What had been acknowledged at a moment.
    pub fn at(&self, moment: Moment) -> u64 {
        let place = self.highest.partition_point(|(at, _)| *at <= moment);
        place.checked_sub(1).map_or(0, |before| self.highest[before].1)
    }
}

#[cfg(test)]
pub mod made_up {
    //! Histories that a test makes up.

    use super::Invariant;
    use crate::history::{Event, Moment};

    /// Whether an invariant holds of a history in which each event is a step.
    pub fn holds(mut invariant: impl Invariant, events: &[(Moment, Event)]) -> Result<(), String> {
        for (at, event) in events {
            invariant.see(*at, event)?;
            invariant.settle()?;
        }
        Ok(())
    }

    /// The same, all in one step.
    pub fn holds_in_one_step(
        mut invariant: impl Invariant,
        events: &[(Moment, Event)],
    ) -> Result<(), String> {
        for (at, event) in events {
            invariant.see(*at, event)?;
        }
        invariant.settle()
    }

    #[test]
    fn what_was_acknowledged_at_a_moment() {
        let mut acknowledged = super::Acknowledged::default();
        for (at, index) in [(10, 5), (30, 9), (20, 7), (25, 6), (40, 8)] {
            acknowledged.note(at, index);
        }
        let seen = [9, 10, 19, 20, 29, 30, 100].map(|moment| acknowledged.at(moment));
        assert_eq!(seen, [0, 5, 5, 7, 7, 9, 9]);
    }
}
