//! Writers that keep a cluster busy, and the ledger of what it acknowledged to them.

use super::{PATIENCE, TestCluster, eventually};
use conclave::client::{Client, ClientError};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// A put that was acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub name: String,
    pub version: u32,
    pub value: String,
    pub at: Instant,
}

/// What became of all puts.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub acknowledged: Vec<Acknowledged>,
    /// Puts whose client gave up.
    pub failed: Vec<String>,
}

/// Running writers.
pub struct Load {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Load {
    /// Starts writers, each with a client that knows all nodes. Every value is unique. Every
    /// fourth put is to a name that all writers share, so that version numbers are contended.
    pub fn start(cluster: &TestCluster, writers: usize) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let client = cluster.client();
            let (ledger, stop) = (ledger.clone(), stop.clone());
            tasks.spawn(write(writer, client, ledger, stop));
        }
        Self {
            ledger,
            stop,
            writers: tasks,
        }
    }

    /// Waits until so many more puts are acknowledged.
    pub async fn wait_for_more(&self, puts: usize) {
        let wanted = self.ledger().acknowledged.len() + puts;
        eventually("more puts are acknowledged", PATIENCE, async || {
            let ledger = self.ledger();
            let acknowledged = ledger.acknowledged.len();
            if acknowledged >= wanted {
                Ok(())
            } else {
                let failed = &ledger.failed;
                Err(format!("{acknowledged} of {wanted}; failed: {failed:?}"))
            }
        })
        .await;
    }

    /// Stops the writers and returns what they were told.
    pub async fn stop(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.expect("a writer does not panic");
        }
        let mut ledger = std::mem::take(&mut *self.ledger());
        ledger.acknowledged.sort_by_key(|put| put.at);
        ledger
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// The longest time without an acknowledgement that began after `from` and before `until`.
    pub fn longest_gap(&self, from: Instant, until: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        for put in self.acknowledged.iter().filter(|put| put.at >= from) {
            if last < until {
                longest = longest.max(put.at - last);
            }
            last = put.at;
        }
        longest
    }

    /// Two values under one version number.
    pub fn versions_used_twice(&self) -> Vec<String> {
        let mut values: BTreeMap<(&str, u32), &str> = BTreeMap::new();
        let mut twice = Vec::new();
        for put in &self.acknowledged {
            let other = values.insert((&put.name, put.version), &put.value);
            if let Some(other) = other.filter(|other| *other != put.value) {
                twice.push(format!(
                    "version {} of {} is {other} and {}",
                    put.version, put.name, put.value
                ));
            }
        }
        twice
    }

    /// Looks every acknowledged put up; describes those that are not as they were acknowledged.
    pub async fn lost(&self, client: &Client) -> Vec<String> {
        let puts = Arc::new(Mutex::new(self.acknowledged.clone()));
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (puts, client) = (puts.clone(), client.clone());
            readers.spawn(async move {
                let next = || puts.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut lost = Vec::new();
                while let Some(put) = next() {
                    let wrong = match client.get(&put.name, Some(put.version)).await {
                        Ok(got) if got.value.as_slice() == put.value.as_bytes() => continue,
                        Ok(_) => "has another value".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    lost.push(format!("version {} of {}: {wrong}", put.version, put.name));
                }
                lost
            });
        }
        readers.join_all().await.concat()
    }

    /// Nothing acknowledged is lost, and no version number stands for two values.
    pub async fn assert_kept(&self, client: &Client) {
        assert!(!self.acknowledged.is_empty(), "nothing was acknowledged");
        assert_eq!(self.versions_used_twice(), Vec::<String>::new());
        assert_eq!(self.lost(client).await, Vec::<String>::new());
    }
}

/// Readers at once, when all puts are looked up.
const READERS: usize = 16;

async fn write(writer: usize, client: Client, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) {
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = match number % 4 {
            3 => "load/shared".to_owned(),
            _ => format!("load/{writer}/{number}"),
        };
        let value = format!("value {number} of writer {writer}");
        let put = client.put(&name, value.as_bytes()).await;
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match put {
            Ok(version) => ledger.acknowledged.push(Acknowledged {
                name,
                version,
                value,
                at: Instant::now(),
            }),
            Err(error) => ledger.failed.push(describe(&name, &error)),
        }
    }
}

fn describe(name: &str, error: &ClientError) -> String {
    format!("{name}: {error}")
}
