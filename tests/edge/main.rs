//! What the edge promises, on real processes over real TLS: one file a promise.
//!
//! They share a program because each is small and linking is not.

#[path = "../support/mod.rs"]
mod support;

mod blind_disk;
mod command_line;
mod folders;
mod identity_certificate;
mod identity_tailscale;
mod limits;
mod membership;
mod reload;
mod requests;
mod seal;
