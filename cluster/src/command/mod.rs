//! What can be asked of the machine, how it travels in the log, and what it answers.

mod entry;
mod operation;
mod outcome;

pub use entry::{Entry, EntryResponse, Proposal, Stamp};
pub use operation::{
    Activation, AtAuditLimit, AuditRetention, Command, Create, Expected, Look, NumberChoice, Operation,
    Precondition, Put, Refusing, SameValue, SealedPart, Step, VersionChange, Which,
};
pub use outcome::{Disclosed, Done, Outcome, Refusal, SecretView, VersionView};
