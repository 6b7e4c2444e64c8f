//! The client of a cluster: setec's methods and Conclave's own API over HTTPS.
//!
//! It knows several nodes. A request goes to one of them; when that one cannot be reached, or says
//! that it cannot serve, the next is tried until a deadline. The invariant: a request is sent again
//! only when it was certainly not carried out, or when carrying it out twice is the same as once
//! (see [`Repetition`]).

mod error;
mod own;
mod setec;
mod settings;
mod transport;

pub use error::ClientError;
pub use setec::{SecretInfo, SecretValue};
pub use settings::{Settings, SettingsError};
pub use transport::{Client, Repetition};
