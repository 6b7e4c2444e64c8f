//! Time, as the cluster agrees on it (design, section 3).
//!
//! The leader stamps entries from a clock that only goes forward, anchored when it took office and
//! bound to that term; the state machine takes the greater of the stamp and its own time. The
//! invariant kept here: no entry is stamped before the voters' clocks were compared in this term,
//! and none by a node whose wall clock a majority of the voters contradicts.
//!
//! | file         | idea                                                                  |
//! |--------------|-----------------------------------------------------------------------|
//! | `clocks`     | the wall clock and the clock that counts suspension, both injectable  |
//! | `comparison` | the median of the voters, and whether a majority agrees on the time   |
//! | `leader`     | the anchor of one term, and the stamps made from it                   |
//! | `watcher`    | compares all the time, anchors, and hands over when it must           |

mod clocks;
mod comparison;
mod leader;
mod watcher;

pub(crate) use clocks::BootTime;
pub use clocks::{Clocks, SystemClocks};
pub(crate) use leader::LeaderClock;
pub(crate) use watcher::{ClockReport, ClockWatcher};
