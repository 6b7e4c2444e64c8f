//! Sealing: nothing below the edge ever sees plaintext.
//!
//! A key file (later: Shamir shares, key services) wraps the key of the keyring; the keyring, stored
//! through the cluster, holds the data keys by term, the token key and the digest keys. A node without
//! its key is sealed: it votes and stores, and answers clients "sealed".

mod cipher;
#[cfg(test)]
mod fuzz;
mod keep;
mod key;
mod key_file;
mod key_files;
mod keyring;
mod provider;
mod random;
mod reason;
mod reseal;
mod sealer;
mod stored_keyring;

#[cfg(test)]
mod golden;

pub use cipher::{Binding, Kind};
pub use key::Key;
pub use key_file::{KeyFile, KeyFileError};
pub use key_files::KeyFiles;
pub use keyring::{Keyring, OpenError};
pub use provider::{ProviderError, SealProvider, SealSource};
pub use random::random_bytes;
pub use reason::SealedReason;
pub use sealer::{ResealProgress, SealError, SealOptions, SealStatus, Sealer};
pub use stored_keyring::SYSTEM_NAMESPACE;
