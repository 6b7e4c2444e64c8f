//! Conclave under real faults, by Jepsen's method: real processes in network namespaces, clients
//! outside that record what they asked and what they were told, and checkers that look for a lie.
//!
//! | module      | idea                                                                          |
//! |-------------|-------------------------------------------------------------------------------|
//! | `cluster`   | `conclave` processes, each in a namespace of its own, joined by a bridge      |
//! | `client`    | one call over TLS, and honestly what became of it                             |
//! | `workload`  | which calls clients make                                                      |
//! | `schedule`  | which faults strike when: all from one seed                                   |
//! | `nemesis`   | carries the schedule out                                                      |
//! | `history`   | what was invoked and what came back, in Jepsen's EDN and as JSON lines        |
//! | `model`     | one secret by setec's rules                                                   |
//! | `checker`   | one file a promise                                                            |
//! | `planted`   | faults in the product itself, to show that they are found                    |
//! | `report`    | the verdict, and a page for people                                            |
//! | `run`       | all of it, once                                                               |
//!
//! The rule: a write that timed out, or whose connection broke, is *info*: it may have happened, may
//! happen yet, or never. Only what a node says was not done is *fail*.
//!
//! What is tested, the commands, and what was found: `docs/reliability.md`.

pub mod checker;
pub mod client;
pub mod cluster;
pub mod history;
pub mod model;
pub mod nemesis;
pub mod planted;
pub mod report;
pub mod run;
pub mod schedule;
pub mod workload;

/// Why a run could not be made. The message names the file, command or node.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HarnessError(pub String);

impl HarnessError {
    /// An error about something that has a name.
    pub fn about(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}
