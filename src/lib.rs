//! Conclave's edge: identifies, authorises, seals and opens, and speaks the dialects of clients.

pub mod api;
pub mod config;
pub mod pki;
