//! Fetching, polling, looking at and listing secrets.

use super::{
    Caller, OperationError, Operations, Polled, SecretInfo, SecretValue,
    call::{Call, at, unexpected_answer},
};
use crate::{
    audit::Subject,
    grants::Action as Right,
    index::IndexError,
    name::{FullName, StorePath},
};
use conclave_cluster::{
    command::{Disclosed, Done, Look, Operation, Which},
    model::{Action, Version},
};
use std::ops::Deref;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

impl Operations {
    /// Fetches a value: the active version's, or another.
    ///
    /// # Errors
    /// Denied without `get`; not found; not available when disabled, expired or used up.
    pub async fn get(
        &self,
        caller: &Caller,
        name: &FullName,
        which: Which,
        deadline: Instant,
    ) -> Result<SecretValue, OperationError> {
        let call = Call::begin(self, caller, Action::Get, Subject::Secret(name), deadline)?;
        call.require(Right::Get, number(which)).await?;
        #[cfg(feature = "planted-faults")]
        if conclave_raft::planted::is_planted("old-leader-gets") && self.believes_to_lead() {
            let (disclosed, index) = self.value_here(&call, name, which)?;
            return secret_value(&call, name, &disclosed, index).await;
        }
        let operation = Operation::Disclose {
            at: at(call.keyring.place(name)),
            which,
            unless_active_is: None,
        };
        match call.carry_out(operation).await? {
            (Done::Disclosed(disclosed), index) => secret_value(&call, name, &disclosed, index).await,
            _ => Err(unexpected_answer()),
        }
    }

    /// Fetches the active version's value unless that is `have`. Unchanged polls write no record, and
    /// may be answered from a state that is as old as the staleness bound.
    pub async fn poll(
        &self,
        caller: &Caller,
        name: &FullName,
        have: Version,
        deadline: Instant,
    ) -> Result<Polled, OperationError> {
        let call = Call::begin(self, caller, Action::Get, Subject::Secret(name), deadline)?;
        call.require(Right::Get, None).await?;
        if self.is_unchanged(&call, name, have).await? {
            return Ok(Polled::NotModified);
        }
        let operation = Operation::Disclose {
            at: at(call.keyring.place(name)),
            which: Which::Active,
            unless_active_is: Some(have),
        };
        match call.carry_out(operation).await? {
            (Done::NotModified { .. }, _) => Ok(Polled::NotModified),
            (Done::Disclosed(disclosed), index) => Ok(Polled::Changed(
                secret_value(&call, name, &disclosed, index).await?,
            )),
            _ => Err(unexpected_answer()),
        }
    }

    /// Reads a secret's metadata. Needs `info`.
    pub async fn info(
        &self,
        caller: &Caller,
        name: &FullName,
        deadline: Instant,
    ) -> Result<SecretInfo, OperationError> {
        let call = Call::begin(self, caller, Action::Info, Subject::Secret(name), deadline)?;
        call.require(Right::Info, None).await?;
        #[cfg(feature = "planted-faults")]
        if conclave_raft::planted::is_planted("local-looks") {
            return self.look_locally(&call, name);
        }
        let look = Look::Secret(at(call.keyring.place(name)));
        match call.carry_out(Operation::Look(look)).await? {
            // It was there when the look was recorded, and had left when the answer was given again.
            (Done::Secret(view), _) if view.place.is_none() => Err(OperationError::NotFound),
            (Done::Secret(view), index) => {
                call.check_name(name, view.secret, &view.name, index).await?;
                Ok(SecretInfo::new(name.clone(), *view))
            }
            _ => Err(unexpected_answer()),
        }
    }

    /// Whether this node led when it last looked.
    #[cfg(feature = "planted-faults")]
    fn believes_to_lead(&self) -> bool {
        self.cluster.status().borrow().raft.role == conclave_raft::node::Role::Leader
    }

    /// A value as this node happens to have it, without asking anybody and without a record.
    #[cfg(feature = "planted-faults")]
    fn value_here(
        &self,
        call: &Call<'_>,
        name: &FullName,
        which: Which,
    ) -> Result<(Disclosed, u64), OperationError> {
        let view = self.cluster.view();
        let missing = || OperationError::NotFound;
        let place = view.place(&call.keyring.place(name))?.ok_or_else(missing)?;
        let secret = place.secret.ok_or_else(missing)?;
        let record = view.secret(&secret)?.ok_or_else(missing)?;
        let number = number(which).or(record.active).ok_or_else(missing)?;
        let version = view.version(&secret, number)?.ok_or_else(missing)?;
        let value = view.sealed_value(&secret, number)?.ok_or_else(missing)?;
        let disclosed = Disclosed {
            secret,
            name: record.name,
            version: number,
            active: record.active == Some(number),
            made_ms: version.made_ms,
            expires_ms: version.expires_ms,
            disclosures_left: version.disclosures_left,
            value,
            digest: version.digest.ok_or_else(missing)?,
            metadata: version.metadata,
            sealed_revision: version.sealed_revision,
        };
        Ok((disclosed, view.applied_index().unwrap_or(0)))
    }

    /// Metadata as this node happens to have it, without a record.
    #[cfg(feature = "planted-faults")]
    fn look_locally(&self, call: &Call<'_>, name: &FullName) -> Result<SecretInfo, OperationError> {
        let view = self.cluster.view();
        let place = view.place(&call.keyring.place(name))?;
        let secret = place
            .and_then(|place| place.secret)
            .ok_or(OperationError::NotFound)?;
        let seen = view.secret_view(&secret)?.ok_or(OperationError::NotFound)?;
        Ok(SecretInfo::new(name.clone(), seen))
    }

    /// Lists the secrets of a store that the caller has `info` for, in byte order of their names.
    /// Needs no right of its own: without `info` for anything the list is empty. Denied without any
    /// right at all.
    pub async fn list(
        &self,
        caller: &Caller,
        store: &StorePath,
        deadline: Instant,
    ) -> Result<Listing, OperationError> {
        let call = Call::begin(self, caller, Action::List, Subject::Store(store), deadline)?;
        call.require_any().await?;
        let look = Look::Store(call.keyring.store_place(store));
        let (_, index) = call.carry_out(Operation::Look(look)).await?;
        call.wait_applied(index).await?;
        let listing = self.list_applied(caller, store, deadline).await?;
        if listing.is_complete {
            return Ok(listing);
        }
        drop(listing);
        // Perhaps names are under a term that is newer than the keyring that is held here.
        self.sealer.keyring_as_of(index, deadline).await?;
        self.list_applied(caller, store, deadline).await
    }

    /// Lists from what this node has applied.
    async fn list_applied(
        &self,
        caller: &Caller,
        store: &StorePath,
        deadline: Instant,
    ) -> Result<Listing, OperationError> {
        let permit = timeout_at(deadline, self.listings.clone().acquire_owned())
            .await
            .map_err(|_| OperationError::Overloaded)?
            .map_err(|_| OperationError::Stopping)?;
        let (index, cluster) = (self.index.clone(), self.cluster.clone());
        let (store, grants) = (store.clone(), caller.grants.clone());
        let listing = tokio::task::spawn_blocking(move || {
            let found = index.list(&store, |name| grants.allows(Right::Info, name))?;
            let view = cluster.view();
            let mut secrets = Vec::with_capacity(found.names.len());
            for (name, secret) in found.names {
                // It may have gone since the index was read.
                if let Some(seen) = view.secret_view(&secret)?.filter(|seen| seen.place.is_some()) {
                    secrets.push(SecretInfo::new(name, seen));
                }
            }
            Ok::<_, IndexError>(Listing {
                secrets,
                is_complete: found.is_complete,
                _permit: permit,
            })
        });
        match timeout_at(deadline, listing).await {
            Err(_) => Err(OperationError::Overloaded),
            Ok(Err(_)) => Err(OperationError::Damaged("the listing was interrupted".to_owned())),
            Ok(Ok(listing)) => Ok(listing?),
        }
    }

    /// Whether the caller's version is active and available, as of a state that a quorum confirmed
    /// within the staleness bound.
    async fn is_unchanged(
        &self,
        call: &Call<'_>,
        name: &FullName,
        have: Version,
    ) -> Result<bool, OperationError> {
        let freshness = self.cluster.poll_barrier(call.deadline).await?;
        let view = self.cluster.view();
        let Some(secret) = view
            .place(&call.keyring.place(name))?
            .and_then(|place| place.secret)
        else {
            return Ok(false);
        };
        if view.secret(&secret)?.and_then(|record| record.active) != Some(have) {
            return Ok(false);
        }
        let now_ms = view.time_ms().max(freshness.time_ms);
        Ok(view
            .version(&secret, have)?
            .is_some_and(|version| version.is_available(now_ms)))
    }
}

/// The secrets of a store. There are only a few listings at once, so each is to be dropped as soon as its
/// answer is written.
pub struct Listing {
    secrets: Vec<SecretInfo>,
    is_complete: bool,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Listing {
    type Target = [SecretInfo];

    fn deref(&self) -> &[SecretInfo] {
        &self.secrets
    }
}

async fn secret_value(
    call: &Call<'_>,
    name: &FullName,
    disclosed: &Disclosed,
    index: u64,
) -> Result<SecretValue, OperationError> {
    Ok(SecretValue {
        version: disclosed.version,
        active: disclosed.active,
        made_ms: disclosed.made_ms,
        expires_ms: disclosed.expires_ms,
        value: call.open(name, disclosed, index).await?,
    })
}

fn number(which: Which) -> Option<Version> {
    match which {
        Which::Number(version) => Some(version),
        Which::Active | Which::Latest | Which::LatestEnabled => None,
    }
}
