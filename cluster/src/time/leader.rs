//! The clock of one term in office.

use super::clocks::{BootTime, Clocks, whole_ms};
use crate::command::Stamp;
use std::sync::Arc;
use tokio::sync::watch;

/// Stamps entries while this node leads. Between anchors it goes forward with the boot clock, so
/// that an administrator who sets the wall clock does not move it.
pub(crate) struct LeaderClock {
    clocks: Arc<dyn Clocks>,
    anchor: watch::Sender<Option<Anchor>>,
}

/// Where the clock of a term was set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anchor {
    /// The term that it is bound to.
    pub(crate) term: u64,
    /// When it was set, by the boot clock.
    at: BootTime,
    /// What it was set to, in milliseconds since 1970-01-01T00:00:00Z.
    time_ms: u64,
    /// Whether a majority of the voters agreed on the time; otherwise it goes on from the state's.
    agreed: bool,
}

impl LeaderClock {
    /// Unset; goes forward with this node's boot clock.
    pub(crate) fn new(clocks: Arc<dyn Clocks>) -> Self {
        Self {
            clocks,
            anchor: watch::Sender::new(None),
        }
    }

    /// Sets the clock for a term, never back within one.
    pub(super) fn set(&self, term: u64, time_ms: u64, agreed: bool) {
        self.anchor.send_modify(|anchor| {
            let floor_ms = anchor
                .filter(|anchor| anchor.term == term)
                .map_or(0, |anchor| anchor.now_ms(&*self.clocks));
            *anchor = Some(Anchor {
                term,
                at: self.clocks.boot_time(),
                time_ms: time_ms.max(floor_ms),
                agreed,
            });
        });
    }

    /// Stops stamping.
    pub(super) fn unset(&self) {
        self.anchor.send_if_modified(|anchor| anchor.take().is_some());
    }

    /// Whether the clock of this term is set to a time that a majority agreed on.
    pub(super) fn agreed(&self, term: u64) -> Option<bool> {
        self.anchor
            .borrow()
            .filter(|anchor| anchor.term == term)
            .map(|anchor| anchor.agreed)
    }

    /// The stamp for an entry of this term; `None` until the clock is set for it.
    pub(crate) fn stamp(&self, term: u64) -> Option<Stamp> {
        let anchor = self.anchor.borrow().filter(|anchor| anchor.term == term)?;
        Some(Stamp {
            term,
            time_ms: anchor.now_ms(&*self.clocks),
        })
    }

    /// A notice of each setting.
    pub(crate) fn anchor(&self) -> watch::Receiver<Option<Anchor>> {
        self.anchor.subscribe()
    }
}

impl Anchor {
    fn now_ms(&self, clocks: &dyn Clocks) -> u64 {
        self.time_ms
            .saturating_add(whole_ms(clocks.elapsed_since(self.at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClocks;

    #[test]
    fn stamps_are_bound_to_the_term_and_never_go_back_within_it() {
        let clock = LeaderClock::new(Arc::new(SystemClocks::default()));
        assert!(clock.stamp(3).is_none());
        clock.set(3, 1_000_000, true);
        assert!(clock.stamp(2).is_none());
        assert!(clock.stamp(3).unwrap().time_ms >= 1_000_000);
        clock.set(3, 5, true);
        assert!(clock.stamp(3).unwrap().time_ms >= 1_000_000);
        clock.set(4, 5, false);
        assert!(clock.stamp(4).unwrap().time_ms < 1_000_000);
        clock.unset();
        assert!(clock.stamp(4).is_none());
    }
}
