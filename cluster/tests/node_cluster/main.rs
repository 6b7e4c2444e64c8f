//! Nodes of one cluster in one process: real storage, real TLS over loopback, real Raft.

mod agreement;
mod clocks;
mod commands;
mod members;
mod memory_network;
mod one_thread;
mod proposals;
mod reads;
mod test_cluster;
