//! The edge's operations on a real cluster of one node in this process: real log, real state, real
//! keys. Several edges over the one node stand for several nodes' edges.

#[path = "../support/lone_node.rs"]
mod lone_node;

mod fixture;
mod rights;
mod seal_source;
mod sealing;
mod values;
