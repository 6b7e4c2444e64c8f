//! How secrets are named in clear, before the edge turns names into tokens.
//!
//! A full name is (namespace, store, name). setec's names live in the root namespace, store
//! `secret`, byte for byte. Parse, don't validate: whoever holds one of these types holds a name
//! that keeps the rules. `Debug` shows no name, so that none reaches a log by accident.

mod full_name;
#[cfg(test)]
mod fuzz;
mod pattern;

pub use full_name::{FullName, NameError, NamespacePath, SecretName, StoreName, StorePath};
pub use pattern::Pattern;
