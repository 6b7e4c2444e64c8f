//! The disk that a machine's log lies on: the simulated one, and a note of what is written to it.

use super::history::{Directory, Event, History};
use bytes::Bytes;
use conclave_raft::{
    codec,
    state_machine::LogPosition,
    storage::{
        engine::{Batch, Change, Durability, LogDisk, LogEngine, Visit},
        simulated_engine::{SimulatedDisk, SimulatedEngine},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What lies in the log, as it was written.
#[derive(Clone, Debug, Default)]
pub struct LogContent {
    /// Term and hash of each entry, by its index.
    pub entries: BTreeMap<u64, (u64, u64)>,
    /// The last entry that was purged.
    pub purged: Option<LogPosition>,
    /// The term of the vote.
    pub term: u64,
}

impl LogContent {
    /// The term of an entry that is there, or was the last one purged.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        let entry = self.entries.get(&index).map(|(term, _)| *term);
        entry.or(self
            .purged
            .filter(|purged| purged.index == index)
            .map(|purged| purged.term))
    }
}

/// One machine's disk. Clones share it.
#[derive(Clone)]
pub struct WatchedDisk {
    shared: Arc<Shared>,
}

struct Shared {
    disk: SimulatedDisk,
    history: History,
    known: Mutex<Known>,
}

struct Known {
    directory: Directory,
    raft_id: Option<u64>,
    content: LogContent,
}

impl WatchedDisk {
    pub fn new(node: usize, history: &History) -> Self {
        let known = Known {
            directory: Directory { node, wiped: 0 },
            raft_id: None,
            content: LogContent::default(),
        };
        let shared = Shared {
            disk: SimulatedDisk::default(),
            history: history.clone(),
            known: Mutex::new(known),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Cuts the power: what was not synced is gone.
    pub fn cut_power(&self) {
        self.shared.disk.crash();
        let content = read(&self.shared.disk.engine());
        self.shared.lock().content = content;
    }

    /// Another disk, an empty one, takes its place.
    pub fn wipe(&self) {
        let set_aside = self.shared.disk.set_aside(Path::new(""));
        set_aside.expect("a simulated disk can be set aside");
        let mut known = self.shared.lock();
        known.directory.wiped += 1;
        known.raft_id = None;
        known.content = LogContent::default();
    }

    pub fn directory(&self) -> Directory {
        self.shared.lock().directory
    }

    /// The Raft id that the node was seen to have. Returns false when it is known already.
    pub fn identify(&self, raft_id: u64) -> bool {
        self.shared.lock().raft_id.replace(raft_id) != Some(raft_id)
    }

    /// Looks at the log.
    pub fn look<T>(&self, look: impl FnOnce(&LogContent) -> T) -> T {
        look(&self.shared.lock().content)
    }
}

impl LogDisk for WatchedDisk {
    fn open(&self) -> io::Result<Arc<dyn LogEngine>> {
        Ok(Arc::new(WatchedEngine {
            engine: self.shared.disk.engine(),
            shared: self.shared.clone(),
        }))
    }

    fn exists(&self) -> bool {
        self.shared.disk.exists()
    }

    fn set_aside(&self, _folder: &Path) -> io::Result<()> {
        self.wipe();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, batch: &[Change]) {
        let mut known = self.lock();
        for change in batch {
            known.content.change(change);
            let Change::Put { key, value } = change else {
                continue;
            };
            if let Some(index) = index_of(key) {
                let (term, content) = known.content.entries[&index];
                self.history.note(Event::Appended {
                    directory: known.directory,
                    index,
                    term,
                    previous_term: index
                        .checked_sub(1)
                        .and_then(|index| known.content.term_of(index)),
                    content,
                });
            } else if key[..] == *VOTE_KEY {
                let vote: VoteRecord = record(value);
                self.history.note(Event::Voted {
                    directory: known.directory,
                    term: vote.term,
                    voted_for: vote.voted_for,
                    leads: vote.committed,
                });
                if vote.committed && known.raft_id == Some(vote.voted_for) {
                    let log = known.content.entries.iter();
                    self.history.note(Event::TookOffice {
                        raft_id: vote.voted_for,
                        term: vote.term,
                        log: log.map(|(index, (term, _))| (*index, *term)).collect(),
                    });
                }
            }
        }
    }
}

impl LogContent {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Put { key, value } => self.put(key, value),
            Change::DeleteRange { keys } => {
                self.entries
                    .retain(|index, _| !keys.contains(&Bytes::from(key_of(*index))));
            }
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        if let Some(index) = index_of(key) {
            let entry: EntryRecord = record(value);
            assert_eq!(entry.position.index, index, "an entry lies where it belongs");
            self.entries.insert(index, (entry.position.term, hash(value)));
        } else if key == PURGED_KEY {
            self.purged = Some(record(value));
        } else if key == VOTE_KEY {
            self.term = record::<VoteRecord>(value).term;
        }
    }
}

/// The log as the next start finds it.
fn read(engine: &SimulatedEngine) -> LogContent {
    let mut content = LogContent::default();
    let everything = Bytes::new()..Bytes::from_static(&[0xff; 32]);
    let scanned = engine.scan(everything, &mut |key, value| {
        content.put(key, value);
        Ok(true)
    });
    scanned.expect("a simulated disk can be read");
    content
}

struct WatchedEngine {
    engine: SimulatedEngine,
    shared: Arc<Shared>,
}

impl LogEngine for WatchedEngine {
    fn location(&self) -> String {
        self.engine.location()
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.engine.get(key)
    }

    fn scan(&self, keys: Range<Bytes>, visit: &mut Visit<'_>) -> io::Result<()> {
        self.engine.scan(keys, visit)
    }

    fn write(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        let changes = batch.changes().to_vec();
        self.engine.write(batch, durability)?;
        self.shared.note(&changes);
        Ok(())
    }

    fn reclaim(&self, keys: Range<Bytes>) {
        self.engine.reclaim(keys);
    }
}

const ENTRY_PREFIX: &[u8] = b"entry/";
const PURGED_KEY: &[u8] = b"purged";
const VOTE_KEY: &[u8] = b"vote";
const CHECKSUM_BYTES: usize = 4;

fn key_of(index: u64) -> Vec<u8> {
    [ENTRY_PREFIX, &index.to_be_bytes()].concat()
}

fn index_of(key: &[u8]) -> Option<u64> {
    let index = key.strip_prefix(ENTRY_PREFIX)?;
    Some(u64::from_be_bytes(
        index.try_into().expect("an entry's key ends in its index"),
    ))
}

fn hash(value: &[u8]) -> u64 {
    let hash = blake3::hash(value);
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

/// The stored forms, as `raft`'s log store writes them.
fn record<T: DeserializeOwned>(value: &[u8]) -> T {
    let bytes = &value[..value.len() - CHECKSUM_BYTES];
    codec::decode(bytes).expect("a node writes records of these forms")
}

#[derive(Deserialize)]
struct EntryRecord {
    position: LogPosition,
    #[expect(dead_code, reason = "read whole or refused")]
    payload: PayloadRecord,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read whole or refused")]
enum PayloadRecord {
    Blank,
    Proposal(Bytes),
    Membership(Bytes),
}

#[derive(Deserialize)]
struct VoteRecord {
    term: u64,
    voted_for: u64,
    committed: bool,
}
