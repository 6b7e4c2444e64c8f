//! What clients asked, when, and what they were told.
//!
//! The invariant: an operation is *ok* only with the node's answer, *fail* only when it certainly did
//! not happen, and *info* otherwise. Times are nanoseconds of one monotonic clock since the run began.

mod edn;
mod recorder;

pub use edn::write_edn;
pub use recorder::{Invocation, OperationId, Recorder};

use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// One operation of one client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Position in the history, in order of invocation.
    pub id: usize,
    /// Jepsen's process: a client, which becomes another process once it does not know what became
    /// of an operation.
    pub process: u64,
    /// Who called, as grants name principals.
    pub principal: String,
    /// The workload that it belongs to.
    pub workload: String,
    /// The position of the node that was asked.
    pub node: usize,
    /// The secret; `None` for a list.
    pub secret: Option<String>,
    pub call: Call,
    pub invoked_ns: u64,
    /// `None` while it is under way.
    pub completed_ns: Option<u64>,
    pub outcome: Outcome,
    /// The node's id of the request, by which its audit record is found.
    pub request_id: Option<String>,
}

/// What is asked. Values are numbers here; on the wire each is a text that holds its number.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "f")]
pub enum Call {
    Put {
        value: u64,
    },
    CreateVersion {
        version: u32,
        value: u64,
    },
    Activate {
        version: u32,
    },
    Get,
    GetVersion {
        version: u32,
    },
    /// A conditional get: the active value unless this version is active.
    Poll {
        version: u32,
    },
    Info,
    DeleteVersion {
        version: u32,
    },
    Delete,
    List,
}

/// What a node answered.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Answer {
    Done,
    Version {
        version: u32,
    },
    Value {
        version: u32,
        value: u64,
    },
    /// 304 to a poll.
    NotModified,
    Versions {
        versions: Vec<u32>,
        active: u32,
    },
    NotFound,
    /// 412: the number had a value before.
    VersionUsed,
    /// 400: the active version is not deleted alone.
    ActiveVersion,
    /// 403.
    Denied,
    Listing {
        secrets: Vec<Listed>,
    },
    /// Bytes that no client of this run ever put. It fits nothing, so that checkers refuse it.
    Foreign {
        text: String,
    },
}

/// A secret in a list.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub versions: Vec<u32>,
    pub active: u32,
}

/// What became of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Outcome {
    Ok {
        answer: Answer,
    },
    /// It certainly did not happen.
    Fail {
        reason: String,
    },
    /// It may have happened, or may happen yet.
    Info {
        reason: String,
    },
}

/// All operations of a run, in order of invocation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
}

impl Call {
    /// Jepsen's name of the function.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put { .. } => "put",
            Self::CreateVersion { .. } => "create-version",
            Self::Activate { .. } => "activate",
            Self::Get => "get",
            Self::GetVersion { .. } => "get-version",
            Self::Poll { .. } => "poll",
            Self::Info => "info",
            Self::DeleteVersion { .. } => "delete-version",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }

    /// Whether it may change a secret.
    pub fn writes(&self) -> bool {
        match self {
            Self::Put { .. }
            | Self::CreateVersion { .. }
            | Self::Activate { .. }
            | Self::DeleteVersion { .. }
            | Self::Delete => true,
            Self::Get | Self::GetVersion { .. } | Self::Poll { .. } | Self::Info | Self::List => false,
        }
    }
}

impl Operation {
    /// The answer of an operation that was answered.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok { answer } => Some(answer),
            Outcome::Fail { .. } | Outcome::Info { .. } => None,
        }
    }

    /// Whether nobody knows what became of it.
    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Info { .. })
    }
}

impl History {
    /// One JSON object a line, each an operation with its call and its outcome.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_json_lines(&self, out: &mut impl Write) -> io::Result<()> {
        for operation in &self.operations {
            serde_json::to_writer(&mut *out, operation)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`Self::write_json_lines`] wrote.
    ///
    /// # Errors
    /// When a line is no operation.
    pub fn read_json_lines(text: &str) -> serde_json::Result<Self> {
        let operations = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Self { operations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_back() {
        let operation = |id, call, outcome| Operation {
            id,
            process: 3,
            principal: "uri:jepsen://registers/1".to_owned(),
            workload: "registers".to_owned(),
            node: 1,
            secret: Some("registers/1".to_owned()),
            call,
            invoked_ns: 5,
            completed_ns: Some(9),
            outcome,
            request_id: None,
        };
        let (reason, value) = ("timed out".to_owned(), 7);
        let answer = Answer::Value { version: 2, value };
        let history = History {
            operations: vec![
                operation(0, Call::Put { value }, Outcome::Info { reason }),
                operation(1, Call::Get, Outcome::Ok { answer }),
            ],
        };
        let mut lines = Vec::new();
        history.write_json_lines(&mut lines).expect("written to memory");
        let text = String::from_utf8(lines).expect("JSON is UTF-8");
        assert_eq!(History::read_json_lines(&text).expect("read back"), history);
    }
}
