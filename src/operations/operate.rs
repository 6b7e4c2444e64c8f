//! Reading the audit log, and the record of operating the cluster.

use super::{
    Caller, OperationError, Operations,
    call::{Call, outcome},
};
use crate::{
    audit::{AuditPage, AuditQuery, KeptSubject, PlainRecord, Subject},
    config,
    grants::Action as Right,
};
use conclave_cluster::{
    apply::AUDIT_LIMIT_BYTES_MIN,
    command::{AtAuditLimit, AuditRetention, Command, Look, Operation, Step},
    model::{Action, AuditKey},
};
use tokio::time::{Instant, timeout_at};

/// Whether an operation on the cluster may go on when its record cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recording {
    /// It waits until the record is written, and fails without: also on a sealed node, which cannot
    /// write any.
    Required,
    /// The record is written in the background once that is possible, alone or shared with others: for
    /// what changes nothing and is wanted most when nothing can be recorded, the full status of a node
    /// and of its seal, and for trying the seal again.
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
        let call = Call::begin(
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

    /// Sets how much audit is kept, and what happens at that limit; what is left out stays as it is.
    /// Needs `operate`. Answers what holds from now on.
    pub async fn set_audit_limit(
        &self,
        caller: &Caller,
        limit_bytes: Option<u64>,
        at_limit: Option<AtAuditLimit>,
        deadline: Instant,
    ) -> Result<AuditRetention, OperationError> {
        // What another node was asked for just before counts as well.
        self.cluster.read_barrier(deadline).await?;
        let present = self.cluster.view().meta().retention;
        let wanted = AuditRetention {
            limit_bytes: limit_bytes.unwrap_or(present.limit_bytes),
            at_limit: at_limit.unwrap_or(present.at_limit),
        };
        if wanted.limit_bytes < AUDIT_LIMIT_BYTES_MIN {
            return Err(OperationError::Invalid(format!(
                "limit_bytes: at least {AUDIT_LIMIT_BYTES_MIN}"
            )));
        }
        let at_limit = config::AtAuditLimit::from(wanted.at_limit);
        let what = format!("audit limit {} {at_limit}", wanted.limit_bytes);
        let call = Call::begin(self, caller, Action::Operate, Subject::Other(&what), deadline)?;
        call.require(Right::Operate, None).await?;
        call.carry_out(Operation::SetAuditRetention(wanted)).await?;
        Ok(wanted)
    }

    /// Checks the right `operate` and records its use, before the dialect operates the cluster or
    /// the seal. `what` says which operation, for the sealed record; it names no secret.
    pub async fn record_operate(
        &self,
        caller: &Caller,
        what: &str,
        recording: Recording,
        deadline: Instant,
    ) -> Result<(), OperationError> {
        let call = match Call::begin(self, caller, Action::Operate, Subject::Other(what), deadline) {
            Err(sealed @ OperationError::Sealed { .. }) => {
                return self.operate_sealed(caller, what, recording, sealed);
            }
            begun => begun?,
        };
        call.require(Right::Operate, None).await?;
        match recording {
            Recording::Required => call.carry_out(Operation::Look(Look::Other)).await.map(drop),
            Recording::WhenPossible => self.record_in_background(&call),
        }
    }

    /// As [`Self::record_operate`] with [`Recording::Required`], for what the leader does only for the
    /// record of it: a change of the membership or of who leads. Answers where that lies.
    pub async fn record_change(
        &self,
        caller: &Caller,
        what: &str,
        deadline: Instant,
    ) -> Result<AuditKey, OperationError> {
        let call = match Call::begin(self, caller, Action::Operate, Subject::Other(what), deadline) {
            Err(sealed @ OperationError::Sealed { .. }) => {
                return Err(self.refuse_sealed(caller, what, sealed));
            }
            begun => begun?,
        };
        call.require(Right::Operate, None).await?;
        loop {
            let answer = call.propose(Operation::Look(Look::Other)).await?;
            outcome(answer.outcome.clone())??;
            call.wait_applied(answer.index).await?;
            // None lies there if the outcome is that of an earlier try: once more, then.
            if let Some(record) = self.cluster.record_of(&answer)? {
                return Ok(record);
            }
        }
    }

    /// A sealed node can make no record: whoever has the right is told so, anybody else is refused.
    fn refuse_sealed(&self, caller: &Caller, what: &str, sealed: OperationError) -> OperationError {
        if caller.grants.allows_cluster(Right::Operate) {
            return sealed;
        }
        self.shared
            .share_refusal(caller, Action::Operate, Subject::Other(what));
        OperationError::Denied
    }

    /// What need not be recorded at once goes on and is counted, to be recorded when the node has keys;
    /// anything else is refused.
    fn operate_sealed(
        &self,
        caller: &Caller,
        what: &str,
        recording: Recording,
        sealed: OperationError,
    ) -> Result<(), OperationError> {
        match recording {
            Recording::WhenPossible if caller.grants.allows_cluster(Right::Operate) => {
                tracing::info!(what, api = %caller.api, "operated while sealed; recorded once unsealed");
                self.shared.share_look(caller, Subject::Other(what))
            }
            _ => Err(self.refuse_sealed(caller, what, sealed)),
        }
    }

    /// Records a look without waiting for it. What cannot be recorded alone is counted into a record
    /// that is shared; where that is not certain, twice rather than never.
    fn record_in_background(&self, call: &Call<'_>) -> Result<(), OperationError> {
        let Ok(permit) = self.background_records.clone().try_acquire_owned() else {
            return self.shared.share_look(call.caller, call.subject);
        };
        let record = PlainRecord::new(call.caller, &self.node_name, call.subject);
        let audit = Some(record.seal(&call.keyring, call.action, call.caller));
        let step = Step {
            preconditions: Vec::new(),
            operation: Operation::Look(Look::Other),
            audit,
        };
        let (cluster, deadline, shared) = (self.cluster.clone(), call.deadline, self.shared.clone());
        let (caller, subject) = (call.caller.clone(), KeptSubject::from(call.subject));
        tokio::spawn(async move {
            let _permit = permit;
            let command = Command {
                guards: Vec::new(),
                steps: vec![step],
            };
            let recorded: Result<_, OperationError> = async {
                outcome(cluster.propose(command, deadline).await?.outcome)??;
                Ok(())
            }
            .await;
            if let Err(error) = recorded {
                tracing::warn!(%error, "a look at the status could not be recorded yet");
                if let Err(error) = shared.share_look(&caller, subject.subject()) {
                    tracing::error!(%error, "a look at the status could not be recorded");
                }
            }
        });
        Ok(())
    }
}
