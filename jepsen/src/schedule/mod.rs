//! Which faults strike when: a pure function of a seed, so that a run can be repeated.
//!
//! The same seed gives the same faults at the same times to the same roles, and the same draws to the
//! clients. It does not decide how threads and packets interleave, nor who leads: a run that found
//! something is likely, not sure, to find it again.

mod fault;

pub(crate) use fault::pick;
pub use fault::{Direction, FLIPPED_BYTE, Fault, Length, Partition, Region, Who};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;
use std::time::Duration;

/// All faults of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Schedule {
    pub seed: u64,
    pub strikes: Vec<Strike>,
}

/// A fault at a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Strike {
    /// Since the load began.
    pub at_ms: u64,
    pub lasts_ms: u64,
    pub fault: Fault,
    /// Decides which nodes play the roles that are open.
    pub draw: u64,
}

impl Schedule {
    /// Draws faults for so long. Each one strikes before any strikes again. With `mixed`, two tracks
    /// run at once: one of processes and disks, one of links, clocks and roles.
    ///
    /// # Panics
    /// When there are no faults.
    pub fn draw(seed: u64, time: Duration, faults: &[Fault], mixed: bool) -> Self {
        assert!(!faults.is_empty(), "a schedule needs faults");
        let mut random = StdRng::seed_from_u64(seed);
        let mut strikes = Vec::new();
        if mixed {
            let faults = faults.iter().filter(|fault| !fault.reverts_a_disk());
            let (processes, others): (Vec<Fault>, Vec<Fault>) =
                faults.cloned().partition(Fault::is_of_processes);
            for track in [processes, others] {
                strikes.extend(draw_track(&mut random, time, track));
            }
            strikes.sort_by_key(|strike| strike.at_ms);
        } else {
            strikes = draw_track(&mut random, time, faults.to_vec());
        }
        Self { seed, strikes }
    }
}

/// Before the first fault, so that there is something to be lost.
const WARM_UP_MS: u64 = 3_000;

fn draw_track(random: &mut impl Rng, time: Duration, faults: Vec<Fault>) -> Vec<Strike> {
    let end_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut at_ms = WARM_UP_MS + random.random_range(0..1_500);
    let (mut strikes, mut left) = (Vec::new(), Vec::new());
    while !faults.is_empty() {
        if left.is_empty() {
            left.clone_from(&faults);
            left.shuffle(random);
        }
        let fault = left.pop().expect("it was filled above");
        let lasts_ms = match &fault {
            // Shorter than the lower end of the election time-out, 150 ms.
            Fault::Pause {
                length: Length::Shorter,
                ..
            } => random.random_range(60..140),
            Fault::Kill { .. } | Fault::PowerCut { .. } => random.random_range(500..4_000),
            // Nodes start first, or come in.
            Fault::WipeBesideStale | Fault::FlippedByte { .. } => random.random_range(4_000..7_000),
            _ => random.random_range(2_000..6_000),
        };
        if at_ms + lasts_ms > end_ms {
            return strikes;
        }
        let draw = random.random();
        strikes.push(Strike {
            at_ms,
            lasts_ms,
            fault,
            draw,
        });
        at_ms += lasts_ms + random.random_range(1_500..4_000);
    }
    strikes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        let draw = |seed, mixed| Schedule::draw(seed, Duration::from_secs(300), &Fault::all(), mixed);
        assert_eq!(draw(7, true), draw(7, true));
        assert_ne!(draw(7, true), draw(8, true));
        assert_ne!(draw(7, true), draw(7, false));
    }

    #[test]
    fn every_fault_strikes_before_any_strikes_again() {
        let faults = Fault::all();
        let schedule = Schedule::draw(3, Duration::from_secs(3_600), &faults, false);
        assert!(schedule.strikes.len() > 2 * faults.len());
        for fault in &faults {
            let first = &schedule.strikes[..faults.len()];
            assert_eq!(first.iter().filter(|strike| strike.fault == *fault).count(), 1);
        }
        for pair in schedule.strikes.windows(2) {
            assert!(pair[0].at_ms + pair[0].lasts_ms < pair[1].at_ms);
        }
    }

    #[test]
    fn mixed_faults_overlap() {
        let schedule = Schedule::draw(3, Duration::from_secs(600), &Fault::all(), true);
        let overlaps = schedule
            .strikes
            .windows(2)
            .filter(|pair| pair[1].at_ms < pair[0].at_ms + pair[0].lasts_ms);
        assert!(overlaps.count() > 20);
    }
}
