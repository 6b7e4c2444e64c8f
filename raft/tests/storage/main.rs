//! What lies on a disk: the log, the state machine behind openraft, and both after a crash.

mod disk;
mod log;
mod state;
mod suite;
mod support;
