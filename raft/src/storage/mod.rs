//! What survives: the log, the vote, the identity of a data directory, and the state's snapshots.
//!
//! Two databases: `log` (entries, vote, identity; synced as openraft demands) and `state` (the state
//! machine's own, written without a sync; the log is its durable copy until it is flushed).

pub mod background_writes;
pub mod durable_directory;
pub mod engine;
pub mod fatal;
#[cfg(test)]
mod fuzz;
pub mod identity_store;
pub mod log_store;
pub(crate) mod record;
pub mod rocks_engine;
pub mod simulated_engine;
pub mod snapshot_policy;
pub mod snapshot_store;
pub mod space;
pub mod state_machine_adapter;
pub mod write_ahead_log;
