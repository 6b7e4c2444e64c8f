//! The two clocks of a node: what people call the time, and what measures how long ago something
//! was.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z, as this machine believes.
pub trait WallClock: Send + Sync + 'static {
    /// The time now. May jump either way.
    fn now_ms(&self) -> u64;
}

/// The operating system's wall clock.
///
/// For tests of whole processes only: the environment variable
/// `CONCLAVE_TEST_WALL_CLOCK_OFFSET_MS` (a whole number, may be negative) is added to it. A clock
/// set so is wrong in the same way as one that an administrator set wrong, and is caught in the same
/// way.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWallClock {
    offset_ms: i64,
}

impl SystemWallClock {
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

impl WallClock for SystemWallClock {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        now_ms.saturating_add_signed(self.offset_ms)
    }
}

/// CLOCK_BOOTTIME: only goes forward, and goes on while the machine is suspended. A poll's staleness
/// measured by a clock that stops would be too small.
pub(crate) struct BootClock;

/// A moment by [`BootClock`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct BootTime(Duration);

impl BootClock {
    /// Now.
    pub(crate) fn now() -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        BootTime(Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        ))
    }
}

impl BootTime {
    /// How long ago it was.
    pub(crate) fn elapsed(self) -> Duration {
        BootClock::now().since(self)
    }

    /// How long after `earlier` it is (zero if it is not).
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
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
        let first = BootClock::now();
        let second = BootClock::now();
        assert!(second >= first);
        assert_eq!(first.since(second), Duration::ZERO);
    }
}
