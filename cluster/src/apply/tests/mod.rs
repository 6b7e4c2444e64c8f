//! The state machine against its promises.

pub(super) mod fixtures;
