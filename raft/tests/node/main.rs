//! Whole nodes over real sockets, in one process: one program, because linking is what building
//! tests costs.

mod certificates;
mod incarnations;
mod membership;
mod replication;
mod support;
