//! Reading the audit log, and the record of operating the cluster.

use super::{
    Caller, OperationError, Operations,
    call::{Call, outcome},
};
use crate::{
    audit::{AuditPage, AuditQuery, PlainRecord, SharedRefusals, Subject},
    grants::Action as Right,
};
use conclave_cluster::{
    command::{Command, Look, Operation, Refusing, Step},
    model::Action,
};
use tokio::time::{Instant, timeout_at};

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
    /// Reads the audit log. Needs `audit`; the reading is recorded, and may find itself.
    pub async fn audit_list(
        &self,
        caller: &Caller,
        query: &AuditQuery,
        deadline: Instant,
    ) -> Result<AuditPage, OperationError> {
        if !(1..=AuditQuery::LIMIT).contains(&query.limit) {
            return Err(OperationError::Invalid(format!(
                "limit: 1 to {} records",
                AuditQuery::LIMIT
            )));
        }
        let call = Call::admit(
            self,
            caller,
            Action::AuditRead,
            Subject::Other("audit list"),
            deadline,
        )?;
        call.require(Right::Audit, None).await?;
        call.record_look(Look::Other).await?;
        let (cluster, query) = (self.cluster.clone(), query.clone());
        // What was recorded up to now may be under a term that became known meanwhile.
        let keyring = self.sealer.keyring()?;
        let permit = timeout_at(deadline, self.audit_readings.clone().acquire_owned())
            .await
            .map_err(|_| OperationError::Overloaded)?
            .map_err(|_| OperationError::Stopping)?;
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            query.run(&cluster.view(), &keyring)
        });
        match timeout_at(deadline, reading).await {
            Err(_) => Err(OperationError::Overloaded),
            Ok(Err(_)) => Err(OperationError::Damaged("the reading was interrupted".to_owned())),
            Ok(Ok(page)) => Ok(page?),
        }
    }

    /// Checks the right `operate` and records its use, before the dialect operates the cluster or
    /// the seal. `what` says which operation, for the sealed record; it names no secret. On a sealed
    /// node, which cannot make a record, the right alone is checked and the use goes to the node's
    /// log, without who.
    pub async fn record_operate(
        &self,
        caller: &Caller,
        what: &str,
        recording: Recording,
        deadline: Instant,
    ) -> Result<(), OperationError> {
        let call = match Call::admit(self, caller, Action::Operate, Subject::Other(what), deadline) {
            Err(OperationError::Sealed { .. }) => {
                return if caller.grants.allows_cluster(Right::Operate) {
                    tracing::info!(what, api = %caller.api, "operated while sealed: no record can be made");
                    Ok(())
                } else {
                    Err(OperationError::Denied)
                };
            }
            admitted => admitted?,
        };
        call.require(Right::Operate, None).await?;
        match recording {
            Recording::Required => call.carry_out(Operation::Look(Look::Other)).await.map(drop),
            Recording::WhenPossible => {
                self.record_in_background(&call);
                Ok(())
            }
        }
    }

    /// Writes refusals that share a record. What cannot be written is kept for the next time.
    pub(super) async fn write_refusals(&self, refusals: Vec<SharedRefusals>, deadline: Instant) {
        for refusal in refusals {
            if let Err(error) = self.write_refusal(&refusal, deadline).await {
                tracing::warn!(%error, attempts = refusal.attempts, "refusals could not be recorded yet");
                self.refusals().put_back(refusal, Instant::now());
            }
        }
    }

    async fn write_refusal(&self, refusal: &SharedRefusals, deadline: Instant) -> Result<(), OperationError> {
        let keyring = self.sealer.keyring()?;
        let subject = match &refusal.name {
            Some(name) => Subject::Secret(name),
            None => Subject::Several,
        };
        let record = PlainRecord::new(&refusal.caller, &self.node_name, subject);
        let step = Step {
            preconditions: Vec::new(),
            operation: Operation::Refuse(Refusing {
                place: refusal.name.as_ref().map(|name| keyring.place(name)),
                version: None,
                attempts: refusal.attempts,
            }),
            audit: Some(record.seal(&keyring, refusal.action, &refusal.caller)),
        };
        let answer = self
            .cluster
            .propose(
                Command {
                    guards: Vec::new(),
                    steps: vec![step],
                },
                deadline,
            )
            .await?;
        outcome(answer.outcome)??;
        Ok(())
    }

    fn record_in_background(&self, call: &Call<'_>) {
        let Ok(permit) = self.background_records.clone().try_acquire_owned() else {
            tracing::warn!("a look at the status could not be recorded: too many are waiting");
            return;
        };
        let record = PlainRecord::new(call.caller, &self.node_name, call.subject);
        let audit = Some(record.seal(&call.keyring, call.action, call.caller));
        let step = Step {
            preconditions: Vec::new(),
            operation: Operation::Look(Look::Other),
            audit,
        };
        let (cluster, deadline) = (self.cluster.clone(), call.deadline);
        tokio::spawn(async move {
            let _permit = permit;
            let command = Command {
                guards: Vec::new(),
                steps: vec![step],
            };
            if let Err(error) = cluster.propose(command, deadline).await {
                tracing::warn!(%error, "a look at the status could not be recorded");
            }
        });
    }
}
