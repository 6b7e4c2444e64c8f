//! The two clocks of a node: what people call the time, and what measures how long ago something
//! was.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The clocks of one node: a parameter, so that a test or a simulation can set them.
pub trait Clocks: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z, as this machine believes. May jump either way.
    fn wall_ms(&self) -> u64;

    /// Time since some fixed moment: only goes forward, and goes on while the machine is suspended. A
    /// poll's staleness measured by a clock that stops would be too small.
    fn since_boot(&self) -> Duration;
}

/// The operating system's clocks: the wall clock, and CLOCK_BOOTTIME.
///
/// For tests of whole processes only: the environment variable
/// `CONCLAVE_TEST_WALL_CLOCK_OFFSET_MS` (a whole number, may be negative) is added to it. A clock
/// set so is wrong in the same way as one that an administrator set wrong, and is caught in the same
/// way.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClocks {
    offset_ms: i64,
}

impl SystemClocks {
    /// Reads the test's offset, if there is one.
    pub fn from_environment() -> Self {
        let offset_ms = std::env::var("CONCLAVE_TEST_WALL_CLOCK_OFFSET_MS")
            .ok()
            .and_then(|offset| offset.parse().ok())
            .unwrap_or(0);
        if offset_ms != 0 {
            tracing::warn!(offset_ms, "the wall clock is shifted for a test");
        }
        Self { offset_ms }
    }
}

impl Clocks for SystemClocks {
    fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        now_ms.saturating_add_signed(self.offset_ms)
    }

    fn since_boot(&self) -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        )
    }
}

/// A moment by [`Clocks::since_boot`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BootTime(Duration);

impl dyn Clocks {
    /// Now, by the clock that counts suspension.
    pub(crate) fn boot_time(&self) -> BootTime {
        BootTime(self.since_boot())
    }

    /// How long ago a moment was (zero if it was not).
    pub(crate) fn elapsed_since(&self, earlier: BootTime) -> Duration {
        self.since_boot().saturating_sub(earlier.0)
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_goes_forward() {
        let clocks: &dyn Clocks = &SystemClocks::default();
        let first = clocks.boot_time();
        let second = clocks.boot_time();
        assert!(second >= first);
        let ahead = BootTime(second.0 + Duration::from_secs(3600));
        assert_eq!(clocks.elapsed_since(ahead), Duration::ZERO);
    }
}
