//! Nodes of one cluster in one process: real storage, real TLS over loopback, real Raft.

mod agreement;
mod clocks;
mod commands;
mod members;
mod proposals;
mod reads;
mod test_cluster;
