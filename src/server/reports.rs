//! What a stranger can bring about is said in the log at most once a minute, with how often it happened:
//! it costs the stranger nothing, and must not fill the disk that the log lies on.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Reports of one kind of event.
pub(super) struct Reports(Mutex<Unreported>);

/// The same for several kinds, of which none hides another.
pub(super) struct ReportsByKind(Mutex<BTreeMap<&'static str, Unreported>>);

/// What was counted and not reported yet.
pub(super) struct Unreported {
    events: u64,
    reported: Option<Instant>,
}

impl Reports {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Unreported::new()))
    }

    /// As [`Unreported::count`].
    pub(super) fn count(&self, now: Instant) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count(now)
    }
}

impl ReportsByKind {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// As [`Unreported::count`], for events of this kind.
    pub(super) fn count(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.entry(kind).or_insert_with(Unreported::new).count(now)
    }
}

impl Unreported {
    /// Between two reports.
    const EVERY: Duration = Duration::from_secs(60);

    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self {
            events: 0,
            reported: None,
        }
    }

    /// Counts an event. When a report is due: how many there were since the last one, this included.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.events += 1;
        let is_due = self
            .reported
            .is_none_or(|reported| now.duration_since(reported) >= Self::EVERY);
        is_due.then(|| {
            self.reported = Some(now);
            std::mem::take(&mut self.events)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_reported_at_once_and_then_one_a_minute_with_the_count() {
        let (reports, begin) = (Reports::new(), Instant::now());
        let counts: Vec<u64> = (0..=600)
            .filter_map(|tenths| reports.count(begin + Duration::from_millis(200 * tenths)))
            .collect();
        assert_eq!(counts, [1, 300, 300]);
    }

    #[test]
    fn one_kind_hides_no_other() {
        let (reports, now) = (ReportsByKind::new(), Instant::now());
        let counts = ["a", "a", "b", "a"].map(|kind| reports.count(kind, now));
        assert_eq!(counts, [Some(1), None, Some(1), None]);
    }
}
