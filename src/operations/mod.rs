//! The one small set of operations that every dialect maps to.
//!
//! Each operation checks the caller's limits, then its rights, turns the name into tokens, proposes
//! one command that carries the sealed record of who asks, and opens the answer. Nothing leaves in
//! plaintext before the cluster has recorded the disclosure.

mod answers;
mod caller;
mod error;
mod limits;

pub use answers::{Polled, PutVersion, SecretInfo, SecretValue};
pub use caller::{Caller, Dialect};
pub use error::OperationError;
pub use limits::OperationLimits;

use crate::{
    audit::{AuditPage, AuditQuery},
    name::{FullName, StorePath},
    plaintext::Plaintext,
    seal::Sealer,
};
use conclave_cluster::{command::Which, model::Version, node::Cluster};
use std::sync::Arc;
use tokio::time::Instant;

/// The operations of one node's edge. Shared by all its listeners.
pub struct Operations {}

/// Whether an operation on the cluster may go on when its record cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recording {
    /// It waits until the record is written, and fails without.
    Required,
    /// The record is written in the background where a majority answers: for the full status, which
    /// is wanted most when none does.
    WhenPossible,
}

impl Operations {
    /// Starts the index of names and the flushing of refusals.
    pub fn start(
        _cluster: Cluster,
        _sealer: Arc<Sealer>,
        _node_name: String,
        _limits: OperationLimits,
    ) -> Arc<Self> {
        todo!()
    }

    /// Fetches a value: the active version's, or another.
    ///
    /// # Errors
    /// Denied without `get`; not found; not available when disabled, expired or used up.
    pub async fn get(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _which: Which,
        _deadline: Instant,
    ) -> Result<SecretValue, OperationError> {
        todo!()
    }

    /// Fetches the active version's value unless that is `have`. Unchanged polls write no record.
    pub async fn poll(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _have: Version,
        _deadline: Instant,
    ) -> Result<Polled, OperationError> {
        todo!()
    }

    /// Reads a secret's metadata. Needs `info`.
    pub async fn info(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _deadline: Instant,
    ) -> Result<SecretInfo, OperationError> {
        todo!()
    }

    /// Lists the secrets of a store that the caller has `info` for, in byte order of their names.
    pub async fn list(
        &self,
        _caller: &Caller,
        _store: &StorePath,
        _deadline: Instant,
    ) -> Result<Vec<SecretInfo>, OperationError> {
        todo!()
    }

    /// Adds a value as setec does: the first is activated, later ones are not; a value that the
    /// active or else the latest version has already is not stored again.
    pub async fn put(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _value: Plaintext,
        _deadline: Instant,
    ) -> Result<PutVersion, OperationError> {
        todo!()
    }

    /// Makes and activates exactly this version. Needs `create-version`.
    ///
    /// # Errors
    /// [`OperationError::VersionUsed`] when that number ever had a value.
    pub async fn create_version(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _version: Version,
        _value: Plaintext,
        _deadline: Instant,
    ) -> Result<PutVersion, OperationError> {
        todo!()
    }

    /// Makes a version the active one.
    pub async fn activate(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _version: Version,
        _deadline: Instant,
    ) -> Result<(), OperationError> {
        todo!()
    }

    /// Destroys one version, which must not be the active one.
    pub async fn delete_version(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _version: Version,
        _deadline: Instant,
    ) -> Result<(), OperationError> {
        todo!()
    }

    /// Destroys a secret with all its versions. One that isn't there is no error.
    pub async fn delete(
        &self,
        _caller: &Caller,
        _name: &FullName,
        _deadline: Instant,
    ) -> Result<(), OperationError> {
        todo!()
    }

    /// Reads the audit log. Needs `audit`; the reading is recorded.
    pub async fn audit_list(
        &self,
        _caller: &Caller,
        _query: &AuditQuery,
        _deadline: Instant,
    ) -> Result<AuditPage, OperationError> {
        todo!()
    }

    /// Checks the right `operate` and records its use, before the dialect operates the cluster or
    /// the seal. `what` says which operation, for the sealed record. On a sealed node, which cannot
    /// make a record, the right alone is checked and the use goes to the node's log, without who.
    pub async fn record_operate(
        &self,
        _caller: &Caller,
        _what: &str,
        _recording: Recording,
        _deadline: Instant,
    ) -> Result<(), OperationError> {
        todo!()
    }

    /// Writes what is still counted of refusals. To be called once no more requests come.
    pub async fn shutdown(&self, _deadline: Instant) {
        todo!()
    }
}
