//! Conclave's own API, under `/conclave/v1`: health, status, audit, cluster and seal. JSON.
//!
//! | file       | idea                                                             |
//! |------------|------------------------------------------------------------------|
//! | `messages` | the messages, shared with the client                              |
//! | `routes`   | the routes, and the order in which a call is checked              |
//! | `health`   | how a node stands, for load balancers                             |
//! | `status`   | everything about a node                                           |
//! | `audit`    | the audit log, in pages                                           |
//! | `cluster`  | members and their changes, leadership, verification               |
//! | `seal`     | the seal                                                          |
//! | `errors`   | which code and status each failure has                            |
//!
//! Without a grant only health answers. Everything else needs `audit` or `operate`, and its use is
//! recorded.

mod audit;
mod cluster;
mod errors;
#[cfg(test)]
mod fuzz;
mod health;
pub mod messages;
mod routes;
mod seal;
mod status;

pub(crate) use errors::refuse;
pub(crate) use routes::{Route, handle};
