//! Sealing: nothing below the edge ever sees plaintext.

mod reason;
mod sealer;

pub use reason::SealedReason;
pub use sealer::{ResealProgress, SealError, SealOptions, SealStatus, Sealer};
