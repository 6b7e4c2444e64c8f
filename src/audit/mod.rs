//! Audit records in clear: who asked, from where, by which API, about which name.
//!
//! The core keeps what it knows itself in clear and ours sealed. Ours is canonical JSON (RFC 8785)
//! under a commitment made before the outcome is known, so that a record can later be proven without
//! being opened to everyone.

mod plain_record;
mod query;
mod shared_records;

pub use plain_record::{KeptSubject, PlainRecord, Subject};
pub use query::{AuditEntry, AuditPage, AuditQuery};
pub use shared_records::{SharedRecord, SharedRecords, Verdict};
