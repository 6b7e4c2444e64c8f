//! What is asked: puts, gets, polls, and a mixture, over a number of secrets of one size, through
//! setec's API.

use super::{Connection, Driver, Target};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clap::ValueEnum;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Kind {
    /// Puts of new values.
    Put,
    /// Gets of active values: each is recorded by a majority before it is answered.
    Get,
    /// Conditional gets of what did not change: answered 304, by any node.
    Poll,
    /// Of ten operations one put, two gets, seven polls.
    Mixed,
}

/// The secrets that are worked on. Clones share what is known of them.
#[derive(Clone)]
pub struct Secrets {
    prefix: Arc<str>,
    value_bytes: usize,
    /// The active version of each, where an answer told; 1 until then.
    active: Arc<[AtomicU32]>,
}

impl Secrets {
    /// `count` secrets, at least one, whose names begin with the prefix.
    pub fn new(prefix: &str, count: usize, value_bytes: usize) -> Self {
        Self {
            prefix: prefix.into(),
            value_bytes,
            active: (0..count.max(1)).map(|_| AtomicU32::new(1)).collect(),
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.active.len()
    }

    /// Bytes of a value.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Which secret the operation with this number is about: consecutive numbers are spread over all, the
    /// same way in each run.
    pub fn scattered(&self, number: u64) -> usize {
        scattered(number, self.count() as u64) as usize
    }

    /// A secret's name.
    pub fn name(&self, index: usize) -> String {
        format!("{}{index:07}", self.prefix)
    }

    /// Different for each number. The first of a secret is always the same, so that filling up what
    /// is full makes no versions.
    pub fn value(&self, number: Option<u64>) -> String {
        let mut value = number.map_or_else(|| "first ".to_owned(), |number| format!("{number} "));
        while value.len() < self.value_bytes {
            value.push_str("0123456789abcdef");
        }
        value.truncate(self.value_bytes);
        value
    }
}

/// What a caller does with the numbers that it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    /// Puts the first value of each secret, in order.
    Fill,
    Work(Kind),
}

/// One client of one node.
pub struct Caller {
    connection: Connection,
    secrets: Secrets,
    task: Task,
    /// Part of each value that it puts, so that two runs put different ones.
    run: u64,
}

impl Caller {
    /// Makes each secret once; the number of an operation is the secret's.
    pub fn filling(target: Target, secrets: Secrets) -> Self {
        Self {
            connection: Connection::new(target),
            secrets,
            task: Task::Fill,
            run: 0,
        }
    }

    /// Works on secrets that are there. `run` tells this run's values from another's.
    pub fn working(target: Target, secrets: Secrets, kind: Kind, run: u64) -> Self {
        Self {
            connection: Connection::new(target),
            secrets,
            task: Task::Work(kind),
            run,
        }
    }

    async fn put(&mut self, index: usize, number: Option<u64>) -> Result<(), String> {
        let name = Value::from(self.secrets.name(index));
        let value = self
            .secrets
            .value(number.map(|number| self.run.wrapping_add(number)));
        let value = STANDARD.encode(value);
        let body = format!(r#"{{"Name":{name},"Value":"{value}"}}"#);
        let (status, answer) = self.connection.post("/api/put", body.into()).await?;
        done(status, &answer)
    }

    async fn get(&mut self, index: usize) -> Result<(), String> {
        let body = format!(r#"{{"Name":{}}}"#, Value::from(self.secrets.name(index)));
        let (status, answer) = self.connection.post("/api/get", body.into()).await?;
        done(status, &answer)
    }

    async fn poll(&mut self, index: usize) -> Result<(), String> {
        let name = Value::from(self.secrets.name(index));
        let version = self.secrets.active[index].load(Ordering::Relaxed);
        let body = format!(r#"{{"Name":{name},"Version":{version},"UpdateIfChanged":true}}"#);
        let (status, answer) = self.connection.post("/api/get", body.into()).await?;
        if status == StatusCode::NOT_MODIFIED {
            return Ok(());
        }
        done(status, &answer)?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        self.secrets.active[index].store(answer.version, Ordering::Relaxed);
        Err("a poll was answered with a value: it had changed".into())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    version: u32,
}

impl Driver for Caller {
    async fn perform(&mut self, number: u64) -> Result<(), String> {
        let index = self.secrets.scattered(number);
        let count = self.secrets.count() as u64;
        match self.task {
            Task::Fill => self.put((number % count) as usize, None).await,
            Task::Work(Kind::Put) => self.put(index, Some(number)).await,
            Task::Work(Kind::Get) => self.get(index).await,
            Task::Work(Kind::Poll) => self.poll(index).await,
            Task::Work(Kind::Mixed) => match number % 10 {
                0 => self.put(index, Some(number)).await,
                1 | 2 => self.get(index).await,
                _ => self.poll(index).await,
            },
        }
    }
}

fn scattered(number: u64, count: u64) -> u64 {
    // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((u128::from(hash) * u128::from(count)) >> 64) as u64
}

fn done(status: StatusCode, answer: &Bytes) -> Result<(), String> {
    if status == StatusCode::OK {
        return Ok(());
    }
    let text = String::from_utf8_lossy(answer);
    Err(format!("{}: {}", status.as_u16(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn operations_reach_all_secrets() {
        let reached: BTreeSet<u64> = (0..1000).map(|number| scattered(number, 64)).collect();
        assert_eq!(reached, (0..64).collect());
        assert_eq!(scattered(12345, 1), 0);
    }

    #[test]
    fn values_have_their_size_and_differ() {
        let secrets = Secrets::new("bench/", 10, 256);
        assert_eq!(secrets.value(None).len(), 256);
        assert_eq!(secrets.value(Some(7)).len(), 256);
        assert_ne!(secrets.value(Some(7)), secrets.value(Some(8)));
        assert_eq!(secrets.name(3), "bench/0000003");
    }
}
