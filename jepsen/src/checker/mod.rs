//! Looks for a lie in what clients were told. One file a promise:
//!
//! | file              | promise                                                                   |
//! |-------------------|---------------------------------------------------------------------------|
//! | `linearizability` | every secret behaves as one copy (design, section 6)                      |
//! | `registers`       | that search over all secrets; then with 304s, no staler than the bound    |
//! | `versions`        | no number stands for two values, no put is stored twice (sections 5, 10)  |
//! | `audit`           | each answer has its record (sections 2, 13)                               |
//! | `order`           | no record was committed after its answer (section 2)                      |
//! | `availability`    | how long calls stood still in each fault: a figure                        |
//! | `enough`          | whether enough was done for all this to mean something                    |

pub mod audit;
pub mod availability;
pub mod enough;
pub mod linearizability;
pub mod order;
pub mod registers;
pub mod versions;

use serde::Serialize;
use serde_json::{Map, Value};

/// What a checker came to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
    /// What it counted or measured.
    pub figures: Map<String, Value>,
}

/// How sure a checker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The promise was kept.
    Valid,
    /// It cannot be told.
    Unknown,
    /// The promise was broken.
    Invalid,
}

/// One broken promise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    pub secret: Option<String>,
    /// Positions in the history of the operations that show it.
    pub operations: Vec<usize>,
    pub text: String,
}

impl Check {
    /// Invalid as soon as something was found.
    pub fn of(name: &'static str, findings: Vec<Finding>, figures: Vec<(&str, Value)>) -> Self {
        Self {
            name,
            verdict: if findings.is_empty() {
                Verdict::Valid
            } else {
                Verdict::Invalid
            },
            findings,
            figures: figures
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        }
    }
}

#[cfg(test)]
mod against_stateright;
#[cfg(test)]
mod test_history {
    //! Short histories for the tests of checkers.

    use crate::history::{Answer, Call, Operation, Outcome};

    /// An operation on `a` that was answered.
    pub fn answered(id: usize, call: Call, from_ms: u64, until_ms: u64, answer: Answer) -> Operation {
        Operation {
            id,
            process: 0,
            principal: "uri:jepsen://registers-0".to_owned(),
            workload: "registers".to_owned(),
            node: 0,
            secret: (call != Call::List).then(|| "a".to_owned()),
            call,
            invoked_ns: from_ms * 1_000_000,
            completed_ns: Some(until_ms * 1_000_000),
            outcome: Outcome::Ok { answer },
            request_id: Some(format!("request {id}")),
        }
    }

    /// One whose outcome nobody knows.
    pub fn unknown(id: usize, call: Call, from_ms: u64) -> Operation {
        let reason = "time-out".to_owned();
        Operation {
            outcome: Outcome::Info { reason },
            request_id: None,
            ..answered(id, call, from_ms, from_ms + 2_500, Answer::Done)
        }
    }

    pub fn put(value: u64) -> Call {
        Call::Put { value }
    }

    pub fn version(version: u32) -> Answer {
        Answer::Version { version }
    }

    pub fn value(version: u32, value: u64) -> Answer {
        Answer::Value { version, value }
    }
}
