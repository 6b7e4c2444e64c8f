//! Takes down operations as they happen.

use super::{Call, History, Operation, Outcome};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The history of a run that goes on.
pub struct Recorder {
    began: Instant,
    operations: Mutex<Vec<Operation>>,
}

/// An operation that was invoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperationId(usize);

/// Who invokes what.
#[derive(Clone, Debug)]
pub struct Invocation<'a> {
    pub process: u64,
    pub principal: &'a str,
    pub workload: &'a str,
    pub node: usize,
    pub secret: Option<String>,
    pub call: Call,
}

impl Recorder {
    /// Time begins now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            operations: Mutex::default(),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes down that a client is about to send a request.
    pub fn invoke(&self, invocation: Invocation<'_>) -> OperationId {
        let mut operations = self.operations();
        let id = operations.len();
        operations.push(Operation {
            id,
            process: invocation.process,
            principal: invocation.principal.to_owned(),
            workload: invocation.workload.to_owned(),
            node: invocation.node,
            secret: invocation.secret,
            call: invocation.call,
            invoked_ns: self.now_ns(),
            completed_ns: None,
            outcome: Outcome::Info {
                reason: "under way when the run ended".to_owned(),
            },
            request_id: None,
        });
        OperationId(id)
    }

    /// Takes down what became of it.
    pub fn complete(&self, id: OperationId, outcome: Outcome, request_id: Option<String>) {
        let mut operations = self.operations();
        let operation = &mut operations[id.0];
        operation.completed_ns = Some(self.now_ns());
        operation.outcome = outcome;
        operation.request_id = request_id;
    }

    /// What was taken down so far.
    pub fn history(&self) -> History {
        History {
            operations: self.operations().clone(),
        }
    }

    fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}
