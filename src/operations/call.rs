//! One call: who asks, about what, with which keys and until when. Its methods are the steps that
//! every operation is made of.

use super::{Caller, OperationError, Operations};
use crate::{
    audit::{PlainRecord, Subject, Verdict},
    grants,
    name::FullName,
    plaintext::Plaintext,
    seal::{Keyring, OpenError},
};
use conclave_cluster::{
    command::{Command, Disclosed, Done, Expected, Look, Operation, Outcome, Refusal, Refusing, Step},
    model::{Action, Place, Sealed, SecretId, Version},
    node::Answer,
};
use std::sync::Arc;
use tokio::time::Instant;

/// A call, with keys to serve it.
pub struct Call<'a> {
    pub operations: &'a Operations,
    pub caller: &'a Caller,
    pub action: Action,
    pub subject: Subject<'a>,
    pub keyring: Arc<Keyring>,
    pub deadline: Instant,
}

impl<'a> Call<'a> {
    /// Begins a call, on an unsealed node.
    pub fn begin(
        operations: &'a Operations,
        caller: &'a Caller,
        action: Action,
        subject: Subject<'a>,
        deadline: Instant,
    ) -> Result<Self, OperationError> {
        let keyring = operations.sealer.keyring()?;
        Ok(Self {
            operations,
            caller,
            action,
            subject,
            keyring,
            deadline,
        })
    }

    /// The secret that it is about.
    fn name(&self) -> Option<&'a FullName> {
        match self.subject {
            Subject::Secret(name) => Some(name),
            Subject::Store(_) | Subject::Other(_) | Subject::Several => None,
        }
    }

    /// Goes on only if the caller has the right; else records the refusal.
    pub async fn require(
        &self,
        right: grants::Action,
        version: Option<Version>,
    ) -> Result<(), OperationError> {
        let allowed = match self.name() {
            Some(name) => self.caller.grants.allows(right, name),
            None => self.caller.grants.allows_cluster(right),
        };
        if allowed {
            Ok(())
        } else {
            self.refuse(version).await
        }
    }

    /// Goes on only if the caller has any right at all: to others not even an empty list is shown.
    pub async fn require_any(&self) -> Result<(), OperationError> {
        if self.caller.grants.is_empty() {
            self.refuse(None).await
        } else {
            Ok(())
        }
    }

    /// Records the refusal, alone or with others.
    async fn refuse(&self, version: Option<Version>) -> Result<(), OperationError> {
        let verdict = self
            .operations
            .shared
            .count_refusal(self.caller, self.action, self.subject);
        if verdict == Verdict::Record {
            let place = self.name().map(|name| self.keyring.place(name));
            let refusing = Operation::Refuse(Refusing {
                place,
                version,
                attempts: 1,
            });
            let answer = self.propose(refusing).await?;
            // The audit is full: it is recorded with others once there is room again.
            if let Err(refusal) = outcome(answer.outcome)? {
                tracing::warn!(%refusal, "a refusal could not be recorded yet");
                self.operations
                    .shared
                    .share_refusal(self.caller, self.action, self.subject);
            }
        }
        Err(OperationError::Denied)
    }

    /// Proposes one operation with the record of who asks.
    pub async fn propose(&self, operation: Operation) -> Result<Answer, OperationError> {
        let record = PlainRecord::new(self.caller, &self.operations.node_name, self.subject);
        let audit = Some(record.seal(&self.keyring, self.action, self.caller));
        let step = Step {
            preconditions: Vec::new(),
            operation,
            audit,
        };
        let command = Command {
            guards: Vec::new(),
            steps: vec![step],
        };
        // On the heap: a poll, which seldom comes here, is the smaller for it.
        Ok(Box::pin(self.operations.cluster.propose(command, self.deadline)).await?)
    }

    /// As [`Self::propose`], and takes a refusal for an error.
    pub async fn carry_out(&self, operation: Operation) -> Result<(Done, u64), OperationError> {
        let answer = self.propose(operation).await?;
        let index = answer.index;
        Ok((outcome(answer.outcome)??, index))
    }

    /// Records a look at something that is no secret, and waits until it is applied here.
    pub async fn record_look(&self, look: Look) -> Result<(), OperationError> {
        let (_, index) = self.carry_out(Operation::Look(look)).await?;
        self.wait_applied(index).await
    }

    /// Waits until this node has applied what was answered.
    pub async fn wait_applied(&self, index: u64) -> Result<(), OperationError> {
        if self.operations.cluster.wait_applied(index, self.deadline).await {
            Ok(())
        } else {
            Err(OperationError::NoMajority)
        }
    }

    /// Opens a disclosed value, once it is sure that it is the asked secret's.
    pub async fn open(
        &self,
        name: &FullName,
        disclosed: &Disclosed,
        index: u64,
    ) -> Result<Plaintext, OperationError> {
        self.check_name(name, disclosed.secret, &disclosed.name, index)
            .await?;
        self.with_keys(index, |keyring| {
            keyring.open_value(disclosed.secret, &disclosed.value, &disclosed.digest)
        })
        .await
    }

    /// A place is no proof of what lies there; the sealed name is.
    pub async fn check_name(
        &self,
        name: &FullName,
        secret: SecretId,
        sealed: &Sealed,
        index: u64,
    ) -> Result<(), OperationError> {
        let stored = self
            .with_keys(index, |keyring| keyring.open_name(secret, sealed))
            .await?;
        if stored == *name {
            Ok(())
        } else {
            Err(OperationError::Damaged(
                "another secret lies at this secret's place".to_owned(),
            ))
        }
    }

    /// Opens with this call's keys, or with those that were committed meanwhile by another node.
    async fn with_keys<T>(
        &self,
        index: u64,
        open: impl Fn(&Keyring) -> Result<T, OpenError>,
    ) -> Result<T, OperationError> {
        let opened = match open(&self.keyring) {
            Err(OpenError::UnknownTerm(_)) => {
                open(&*self.operations.sealer.keyring_as_of(index, self.deadline).await?)
            }
            opened => opened,
        };
        opened.map_err(|error| OperationError::Damaged(error.to_string()))
    }
}

/// The answer of a command with one step.
pub fn outcome(outcome: Outcome) -> Result<Result<Done, Refusal>, OperationError> {
    match outcome {
        Outcome::Done(mut answers) if answers.len() == 1 => Ok(Ok(answers.remove(0))),
        Outcome::Done(_) => Err(unexpected_answer()),
        Outcome::Refused { refusal, .. } => Ok(Err(refusal)),
    }
}

/// The machine answered with something that the operation cannot have.
pub fn unexpected_answer() -> OperationError {
    OperationError::Damaged("the cluster gave an answer of another kind".to_owned())
}

/// Whatever lies at a place.
pub fn at(place: Place) -> Expected {
    Expected::At(place)
}
