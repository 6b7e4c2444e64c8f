//! Conclave's replicated log: orders opaque bytes durably on a majority of nodes.
//!
//! This crate knows nothing of secrets. It keeps openraft behind one facade, takes its clock, its
//! randomness, its store and its network as parameters (so that a simulator can supply them), and
//! owns what the operating system and the network do to a log: durable storage, mutual TLS between
//! nodes, the formation of a cluster, and the incarnations that make a wiped disk harmless.
//!
//! Dependencies point one way: `conclave` (the edge) → `conclave-cluster` → this crate.

pub mod codec;
pub mod formation;
pub mod identity;
pub mod metric_definitions;
pub mod node;
#[cfg(feature = "planted-faults")]
pub mod planted;
pub mod runtime;
pub mod state_machine;
pub mod storage;
pub mod transport;
pub mod types;
