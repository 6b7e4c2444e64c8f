//! Conclave's own API, under `/conclave/v1`: health, status, audit, cluster and seal.

pub mod messages;
