//! Requests that share a record: refusals beyond a rate, and looks at the status that could not be
//! recorded when they were served. They are written in the background, and before the node stops.
//! Until then they are in this process's memory alone: what a crash takes of them is gone, and so is
//! what a sealed node counted if it stops before it has keys.

use super::{Caller, OperationError, Operations, call::outcome};
use crate::{
    audit::{PlainRecord, SharedRecord, SharedRecords, Subject, Verdict},
    name::FullName,
};
use conclave_cluster::{
    command::{Command, Look, Operation, Refusing, Step},
    model::Action,
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// How often what shares a record is looked through, and how long writing it may take.
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// What shares records, by what the records say. Cheap to clone; clones share the counts.
#[derive(Clone)]
pub(super) struct Shared {
    refusals: Arc<Mutex<SharedRecords>>,
    over_rate: Arc<Mutex<SharedRecords>>,
    looks: Arc<Mutex<SharedRecords>>,
}

/// What the records say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// For want of a right.
    Refusals,
    /// Over the caller's limits, before anything else was looked at.
    OverRate,
    Looks,
}

impl Shared {
    /// With so many refusals of one caller and action that get a record of their own at once.
    pub(super) fn new(own_refusal_records: u32) -> Self {
        Self {
            refusals: Arc::new(Mutex::new(SharedRecords::new(own_refusal_records))),
            over_rate: Arc::new(Mutex::new(SharedRecords::new(0))),
            looks: Arc::new(Mutex::new(SharedRecords::new(0))),
        }
    }

    /// Counts a refusal, unless it gets a record of its own.
    pub(super) fn count_refusal(&self, caller: &Caller, action: Action, subject: Subject<'_>) -> Verdict {
        self.of(Kind::Refusals)
            .count(caller, action, subject, Instant::now())
    }

    /// Counts a refusal that cannot have a record of its own now. Beyond the callers that are counted
    /// at once it is only in the node's log.
    pub(super) fn share_refusal(&self, caller: &Caller, action: Action, subject: Subject<'_>) {
        if !self
            .of(Kind::Refusals)
            .share(caller, action, subject, Instant::now())
        {
            tracing::warn!("a refusal could not be counted: too many callers are refused");
        }
    }

    /// Counts a request over its caller's limits. Beyond the callers that are counted at once it is
    /// only in the metrics.
    pub(super) fn share_over_rate(&self, caller: &Caller, action: Action) {
        let subject = Subject::Other("over the rate");
        let _ = self
            .of(Kind::OverRate)
            .share(caller, action, subject, Instant::now());
    }

    /// Counts a look. Refused beyond the callers that are counted at once.
    pub(super) fn share_look(&self, caller: &Caller, subject: Subject<'_>) -> Result<(), OperationError> {
        if self
            .of(Kind::Looks)
            .share(caller, Action::Operate, subject, Instant::now())
        {
            Ok(())
        } else {
            Err(OperationError::Overloaded)
        }
    }

    /// How many requests are counted and not yet recorded.
    pub(super) fn attempts(&self) -> u64 {
        [Kind::Refusals, Kind::OverRate, Kind::Looks]
            .map(|kind| self.of(kind).attempts())
            .iter()
            .sum()
    }

    fn of(&self, kind: Kind) -> MutexGuard<'_, SharedRecords> {
        let counts = match kind {
            Kind::Refusals => &self.refusals,
            Kind::OverRate => &self.over_rate,
            Kind::Looks => &self.looks,
        };
        counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes shared records as their windows end, until the last handle is dropped.
pub(super) async fn keep_writing(operations: Weak<Operations>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(operations) = operations.upgrade() else {
            return;
        };
        // A sealed node counts on until it has keys.
        if operations.sealer.keyring().is_err() {
            continue;
        }
        operations
            .write_shared(Instant::now() + PATIENCE, |counts| {
                counts.take_ended(Instant::now())
            })
            .await;
    }
}

impl Operations {
    /// Writes what `take` takes. What cannot be written is kept for the next time.
    pub(super) async fn write_shared(
        &self,
        deadline: Instant,
        take: impl Fn(&mut SharedRecords) -> Vec<SharedRecord>,
    ) {
        for kind in [Kind::Refusals, Kind::OverRate, Kind::Looks] {
            let taken = take(&mut self.shared.of(kind));
            for shared in taken {
                if let Err(error) = self.write_one(kind, &shared, deadline).await {
                    tracing::warn!(%error, ?kind, attempts = shared.attempts, "could not be recorded yet");
                    self.shared.of(kind).put_back(shared, Instant::now());
                }
            }
        }
    }

    async fn write_one(
        &self,
        kind: Kind,
        shared: &SharedRecord,
        deadline: Instant,
    ) -> Result<(), OperationError> {
        let keyring = self.sealer.keyring()?;
        let subject = shared.subject.subject();
        let name: Option<&FullName> = match subject {
            Subject::Secret(name) => Some(name),
            Subject::Store(_) | Subject::Other(_) | Subject::Several => None,
        };
        let record = PlainRecord::new(&shared.caller, &self.node_name, subject);
        let step = Step {
            preconditions: Vec::new(),
            operation: match kind {
                Kind::Refusals | Kind::OverRate => Operation::Refuse(Refusing {
                    place: name.map(|name| keyring.place(name)),
                    version: None,
                    attempts: shared.attempts,
                }),
                Kind::Looks => Operation::Look(Look::Several {
                    looks: shared.attempts,
                }),
            },
            audit: Some(record.seal(&keyring, shared.action, &shared.caller)),
        };
        let command = Command {
            guards: Vec::new(),
            steps: vec![step],
        };
        let answer = self.cluster.propose(command, deadline).await?;
        outcome(answer.outcome)??;
        Ok(())
    }
}
