//! Who callers are, and what they may do.
//!
//! Grants have setec's own form: rules of actions and secret patterns. What no rule allows is
//! refused; no action implies another. They come from Tailscale's capability or from the
//! configuration; a caller has those of one identity, never a union.

mod configured;
#[cfg(test)]
mod fuzz;
mod principal;
mod rules;

pub(crate) use configured::without_quoted;
pub use configured::{ConfiguredGrants, GrantsStatus, GrantsTable};
pub use principal::{Principal, PrincipalError, PrincipalKind};
pub use rules::{Action, Grant, GrantError, Grants, WrittenGrant};
