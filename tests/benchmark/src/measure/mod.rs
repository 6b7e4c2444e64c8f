//! Instruments.
//!
//! | file      | idea                                                             |
//! |-----------|------------------------------------------------------------------|
//! | `round`   | one round of load, and what it cost each process                  |
//! | `usage`   | what the kernel counts for a process                              |
//! | `spread`  | the figures of several rounds                                     |
//! | `moments` | when operations succeeded, for pauses and rates over a while      |
//! | `disk`    | what a data directory takes, and what accounts for it             |

mod disk;
mod moments;
mod round;
mod spread;
mod usage;

pub use disk::{column_families, mebibytes, taken};
pub use moments::{Moments, Noting};
pub use round::{Round, Rounds, fill, plan, round};
pub use spread::{Spread, thousands};
pub use usage::Usage;
