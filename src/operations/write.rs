//! Putting, activating and deleting.

use super::{
    Caller, OperationError, Operations, PutVersion,
    call::{self, Call, at, unexpected_answer},
};
use crate::{
    audit::Subject, grants::Action as Right, name::FullName, plaintext::Plaintext, seal::random_bytes,
};
use conclave_cluster::{
    command::{Activation, Create, Done, NumberChoice, Operation, Put, Refusal, SameValue, VersionChange},
    model::{Action, SecretId, SecretSettings, Version},
};
use tokio::time::Instant;

/// What tells one kind of put from another.
#[derive(Clone, Copy)]
struct PutRules {
    number: NumberChoice,
    activation: Activation,
    same_value: SameValue,
}

/// How often a put is sealed again because another secret came to lie at its place meanwhile.
const PUT_TRIES: usize = 8;

impl Operations {
    /// Adds a value as setec does: the first is activated, later ones are not; a value that the
    /// active or else the latest version has already is not stored again. Needs `put`.
    pub async fn put(
        &self,
        caller: &Caller,
        name: &FullName,
        value: Plaintext,
        deadline: Instant,
    ) -> Result<PutVersion, OperationError> {
        self.check_size(&value)?;
        let call = Call::begin(self, caller, Action::Put, Subject::Secret(name), deadline)?;
        call.require(Right::Put, None).await?;
        let rules = PutRules {
            number: NumberChoice::Next,
            activation: Activation::WhenNoneActive,
            same_value: SameValue::KeepActiveOrLatest,
        };
        self.put_by(&call, name, &value, rules).await
    }

    /// Makes and activates exactly this version. Needs `create-version`.
    ///
    /// # Errors
    /// [`OperationError::VersionUsed`] when that number ever had a value.
    pub async fn create_version(
        &self,
        caller: &Caller,
        name: &FullName,
        version: Version,
        value: Plaintext,
        deadline: Instant,
    ) -> Result<PutVersion, OperationError> {
        self.check_size(&value)?;
        let call = Call::begin(
            self,
            caller,
            Action::CreateVersion,
            Subject::Secret(name),
            deadline,
        )?;
        call.require(Right::CreateVersion, Some(version)).await?;
        let rules = PutRules {
            number: NumberChoice::Exactly(version),
            activation: Activation::Always,
            same_value: SameValue::Store,
        };
        self.put_by(&call, name, &value, rules).await
    }

    /// Makes a version the active one. Needs `activate`.
    pub async fn activate(
        &self,
        caller: &Caller,
        name: &FullName,
        version: Version,
        deadline: Instant,
    ) -> Result<(), OperationError> {
        let call = Call::begin(self, caller, Action::Activate, Subject::Secret(name), deadline)?;
        call.require(Right::Activate, Some(version)).await?;
        let place = call.keyring.place(name);
        let activated = call.carry_out(Operation::Activate {
            at: at(place),
            version,
        });
        let activated = activated.await.map(drop);
        #[cfg(feature = "planted-faults")]
        if conclave_raft::planted::is_planted("early-acknowledgement")
            && let Err(OperationError::NoMajority | OperationError::OutcomeUnknown) = activated
        {
            return Ok(());
        }
        activated
    }

    /// Destroys one version, which must be there and not be the active one. Needs `delete`.
    pub async fn delete_version(
        &self,
        caller: &Caller,
        name: &FullName,
        version: Version,
        deadline: Instant,
    ) -> Result<(), OperationError> {
        let call = Call::begin(
            self,
            caller,
            Action::DeleteVersion,
            Subject::Secret(name),
            deadline,
        )?;
        call.require(Right::Delete, Some(version)).await?;
        let operation = Operation::ChangeVersions {
            at: at(call.keyring.place(name)),
            versions: vec![version],
            change: VersionChange::Destroy,
            spare_active: true,
            refuse_destroyed: true,
        };
        call.carry_out(operation).await.map(drop)
    }

    /// Destroys a secret with all its versions. One that isn't there is no error; the attempt is
    /// recorded all the same. Needs `delete`.
    pub async fn delete(
        &self,
        caller: &Caller,
        name: &FullName,
        deadline: Instant,
    ) -> Result<(), OperationError> {
        let call = Call::begin(self, caller, Action::Delete, Subject::Secret(name), deadline)?;
        call.require(Right::Delete, None).await?;
        let operation = Operation::Delete {
            at: at(call.keyring.place(name)),
            recoverable_ms: None,
        };
        match call.carry_out(operation).await {
            Ok(_) | Err(OperationError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Seals for the secret that lies at the place, or for a new one, and again when it turns out
    /// that another lies there. The local state may be behind; the machine decides.
    async fn put_by(
        &self,
        call: &Call<'_>,
        name: &FullName,
        value: &Plaintext,
        rules: PutRules,
    ) -> Result<PutVersion, OperationError> {
        let place = call.keyring.place(name);
        let mut present = self.cluster.view().place(&place)?.and_then(|place| place.secret);
        for _ in 0..PUT_TRIES {
            let secret = present.unwrap_or_else(|| SecretId(random_bytes()));
            let create = present.is_none().then(|| Create {
                name: call.keyring.seal_name(secret, name),
                metadata: None,
                settings: SecretSettings::default(),
            });
            let (sealed, digest) = call.keyring.seal_value(secret, value);
            let operation = Operation::Put(Put {
                place,
                secret,
                create,
                number: rules.number,
                activation: rules.activation,
                same_value: rules.same_value,
                check_and_set: None,
                value: sealed,
                digest,
                metadata: None,
                lifetime_ms: None,
                disclosures: None,
                on_end: None,
            });
            match call::outcome(call.propose(operation).await?.outcome)? {
                Ok(Done::Version {
                    version,
                    stored,
                    active,
                    ..
                }) => {
                    return Ok(PutVersion {
                        version,
                        stored,
                        active,
                    });
                }
                Ok(_) => return Err(unexpected_answer()),
                Err(Refusal::OtherSecret { secret }) => present = Some(secret),
                Err(Refusal::NotFound) if present.is_some() => present = None,
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(OperationError::Overloaded)
    }

    fn check_size(&self, value: &Plaintext) -> Result<(), OperationError> {
        let limit_bytes = self.limits.value_bytes;
        if value.len() > limit_bytes {
            return Err(OperationError::TooLarge {
                size_bytes: value.len(),
                limit_bytes,
            });
        }
        Ok(())
    }
}
