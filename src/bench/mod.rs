//! Load on a cluster, and how it bore it: what `conclave bench` measures.
//!
//! The invariant of an open-loop run: latency counts from the moment at which an operation was to
//! start, not from when a connection was free for it. A server that stalls is not excused from what
//! would have been asked meanwhile.
//!
//! | file         | idea                                                              |
//! |--------------|-------------------------------------------------------------------|
//! | `generator`  | drivers kept busy, closed-loop or at a rate; when what is counted |
//! | `measured`   | the figures: counts, latencies, errors                            |
//! | `connection` | one connection over TLS, reused, with little work of its own      |
//! | `workload`   | put, get, poll, mixed: which requests, over which secrets         |

mod connection;
mod generator;
mod measured;
mod workload;

pub use connection::{Connection, Target};
pub use generator::{Driver, Pace, Plan, Progress, run};
pub use measured::Measured;
pub use workload::{Caller, Kind, Secrets};
