//! The disk that a machine's log lies on: the simulated one, a note of what is written to it, and what
//! goes wrong with it. A record may be damaged, the disk may be full, and it may be what it once was.

use super::{
    dice::Dice,
    history::{Directory, Event, History, Weight},
    seeds::Plant,
};
use bytes::Bytes;
use conclave_cluster::command;
use conclave_raft::{
    codec,
    state_machine::LogPosition,
    storage::{
        engine::{Batch, Change, Durability, LogDisk, LogEngine, Visit},
        simulated_engine::{SimulatedDisk, SimulatedEngine},
        space::SpaceProbe,
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

    /// Term and index of the last entry.
    pub fn last(&self) -> Option<(u64, u64)> {
        let last = self.entries.last_key_value();
        let purged = self.purged.map(|purged| (purged.term, purged.index));
        last.map(|(index, (term, _))| (*term, *index)).max(purged)
    }
}

/// The log as it once was.
pub struct LogCopy {
    pairs: Vec<(Bytes, Bytes)>,
    directory: Directory,
    pub content: LogContent,
}

/// One machine's disk. Clones share it.
#[derive(Clone)]
pub struct WatchedDisk {
    shared: Arc<Shared>,
}

struct Shared {
    disk: SimulatedDisk,
    history: History,
    plant: Plant,
    known: Mutex<Known>,
}

struct Known {
    directory: Directory,
    raft_id: Option<u64>,
    content: LogContent,
    /// A record that was damaged, as it lies there since.
    damaged: Option<(Bytes, Bytes)>,
    /// Whether what it held was replaced by an older copy of it.
    reverted: bool,
    /// What was written to it since.
    written_since: Option<String>,
    free_bytes: u64,
    /// Whether a write that fails for want of space is there nevertheless.
    keeps_what_failed: bool,
    /// What is there of writes that failed: nobody has acted on it before the log is opened again.
    kept: Vec<Change>,
    /// Whether a write failed since the node was started.
    failed: bool,
}

/// What is free on a disk that is not full.
pub const MUCH_SPACE_BYTES: u64 = 1 << 40;

impl WatchedDisk {
    pub fn new(node: usize, history: &History, plant: Plant) -> Self {
        let known = Known {
            directory: Directory { node, wiped: 0 },
            raft_id: None,
            content: LogContent::default(),
            damaged: None,
            reverted: false,
            written_since: None,
            free_bytes: MUCH_SPACE_BYTES,
            keeps_what_failed: false,
            kept: Vec::new(),
            failed: false,
        };
        let shared = Shared {
            disk: SimulatedDisk::default(),
            history: history.clone(),
            plant,
            known: Mutex::new(known),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Cuts the power: what was not synced is gone.
    pub fn cut_power(&self) {
        self.shared.disk.crash();
        let mut known = self.shared.lock();
        // What is damaged is not read: no node may run on it.
        let damaged = known.damaged.clone();
        known.kept.clear();
        known.content = read(&pairs(&self.shared.disk.engine()), damaged.as_ref());
    }

    /// Another disk, an empty one, takes its place.
    pub fn wipe(&self) {
        let set_aside = self.shared.disk.set_aside(Path::new(""));
        set_aside.expect("a simulated disk can be set aside");
        let mut known = self.shared.lock();
        known.directory.wiped += 1;
        known.raft_id = None;
        known.content = LogContent::default();
        known.damaged = None;
        known.reverted = false;
        known.written_since = None;
        known.kept.clear();
    }

    /// Flips one bit of one record, on the disk.
    pub fn damage(&self, dice: &mut Dice) {
        let engine = self.shared.disk.engine();
        let pairs = pairs(&engine);
        if pairs.is_empty() {
            return;
        }
        let (key, value) = pairs[dice.index(pairs.len())].clone();
        let mut damaged = value.to_vec();
        let byte = dice.index(damaged.len());
        let bit = 1 << dice.index(8);
        if self.shared.plant != Plant::DamageUnseen {
            damaged[byte] ^= bit;
        }
        let damaged = Bytes::from(damaged);
        let mut batch = Batch::default();
        batch.put(key.clone(), damaged.clone());
        let written = engine.write(batch, Durability::Synced);
        written.expect("a simulated disk can be written");
        self.shared.lock().damaged = Some((key, damaged));
    }

    /// Whether a damaged record lies there: it was not overwritten or deleted since.
    pub fn is_damaged(&self) -> bool {
        let Some((key, damaged)) = self.shared.lock().damaged.clone() else {
            return false;
        };
        let present = self.shared.disk.engine().get(&key);
        present.expect("a simulated disk can be read").as_ref() == Some(&damaged)
    }

    /// The log as it is now, if it is a node's.
    pub fn copy(&self) -> Option<LogCopy> {
        let known = self.shared.lock();
        known.raft_id?;
        Some(LogCopy {
            pairs: pairs(&self.shared.disk.engine()),
            directory: known.directory,
            content: known.content.clone(),
        })
    }

    /// Whether a copy is one of the same data directory.
    pub fn is_of(&self, copy: &LogCopy) -> bool {
        self.directory() == copy.directory
    }

    /// Puts the log back to what it was.
    pub fn revert_to(&self, copy: &LogCopy) {
        let set_aside = self.shared.disk.set_aside(Path::new(""));
        set_aside.expect("a simulated disk can be set aside");
        let mut batch = Batch::default();
        for (key, value) in &copy.pairs {
            batch.put(key.clone(), value.clone());
        }
        let written = self.shared.disk.engine().write(batch, Durability::Synced);
        written.expect("a simulated disk can be written");
        let mut known = self.shared.lock();
        known.content = read(&copy.pairs, None);
        known.reverted = true;
        known.written_since = None;
    }

    /// Whether it was put back to what it was, and not wiped since.
    pub fn is_reverted(&self) -> bool {
        self.shared.lock().reverted
    }

    /// The first vote or entry that was written since it was put back.
    pub fn written_since_reverted(&self) -> Option<String> {
        self.shared.lock().written_since.clone()
    }

    /// So much is free from now on. Where nothing is, each write fails; it may be there nevertheless.
    pub fn set_free_bytes(&self, free_bytes: u64, keeps_what_failed: bool) {
        let mut known = self.shared.lock();
        known.free_bytes = free_bytes;
        known.keeps_what_failed = keeps_what_failed;
    }

    /// Whether a write failed since the node was started, for want of space: its process is to end.
    pub fn has_failed(&self) -> bool {
        self.shared.lock().failed
    }

    /// A node is started.
    pub fn begin(&self) {
        self.shared.lock().failed = false;
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

impl SpaceProbe for WatchedDisk {
    fn free_bytes(&self) -> io::Result<u64> {
        if self.shared.plant == Plant::SpaceUnwatched {
            return Ok(MUCH_SPACE_BYTES);
        }
        Ok(self.shared.lock().free_bytes)
    }
}

impl LogDisk for WatchedDisk {
    fn open(&self) -> io::Result<Arc<dyn LogEngine>> {
        let kept = {
            let mut known = self.shared.lock();
            // What was not synced would have to be written now.
            if known.free_bytes == 0 && !known.kept.is_empty() {
                known.failed = true;
                return Err(no_space());
            }
            std::mem::take(&mut known.kept)
        };
        self.shared.disk.open()?;
        self.shared.note(&kept);
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
            if known.reverted && (index_of(key).is_some() || key[..] == *VOTE_KEY) {
                let term = known.content.term;
                let what = index_of(key).map_or("a vote".to_owned(), |index| format!("entry {index}"));
                let first = || format!("{what}, in term {term}");
                known.written_since.get_or_insert_with(first);
            }
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
                    weight: weight_of(value),
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

/// Everything that lies on a disk.
fn pairs(engine: &SimulatedEngine) -> Vec<(Bytes, Bytes)> {
    let mut pairs = Vec::new();
    let everything = Bytes::new()..Bytes::from_static(&[0xff; 32]);
    let scanned = engine.scan(everything, &mut |key, value| {
        pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        Ok(true)
    });
    scanned.expect("a simulated disk can be read");
    pairs
}

/// The log as the next start finds it.
fn read(pairs: &[(Bytes, Bytes)], damaged: Option<&(Bytes, Bytes)>) -> LogContent {
    let mut content = LogContent::default();
    for pair in pairs.iter().filter(|pair| Some(*pair) != damaged) {
        content.put(&pair.0, &pair.1);
    }
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
        let full = {
            let mut known = self.shared.lock();
            let full = known.free_bytes == 0 && self.shared.plant != Plant::SpaceUnwatched;
            if full && self.shared.plant == Plant::FailedWriteAcknowledged {
                return Ok(());
            }
            known.failed |= full;
            full.then_some(known.keeps_what_failed)
        };
        let Some(keeps) = full else {
            self.engine.write(batch, durability)?;
            self.shared.note(&changes);
            return Ok(());
        };
        // What became of it nobody knows.
        if keeps {
            self.engine.write(batch, Durability::Buffered)?;
            self.shared.lock().kept.extend(changes);
        }
        Err(no_space())
    }

    fn reclaim(&self, keys: Range<Bytes>) {
        self.engine.reclaim(keys);
    }

    fn stop_reclaiming(&self) {
        self.engine.stop_reclaiming();
    }
}

fn no_space() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space is left on the device")
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

/// What an entry does to the space.
fn weight_of(value: &[u8]) -> Weight {
    let PayloadRecord::Proposal(proposal) = record::<EntryRecord>(value).payload else {
        return Weight::Nothing;
    };
    let entry: command::Entry = codec::decode(&proposal).expect("a node proposes entries of this form");
    let mut commands = entry.proposals.iter().map(|proposal| {
        codec::decode::<command::Command>(&proposal.command).expect("a node proposes such commands")
    });
    let takes_space = |command: command::Command| {
        let mut steps = command.steps.iter();
        steps.any(|step| {
            matches!(
                step.operation,
                command::Operation::Put(_) | command::Operation::Disclose { .. }
            )
        })
    };
    if commands.any(takes_space) {
        Weight::Ordinary
    } else {
        Weight::Small
    }
}

#[derive(Deserialize)]
struct EntryRecord {
    position: LogPosition,
    payload: PayloadRecord,
}

#[derive(Deserialize)]
enum PayloadRecord {
    Blank,
    Proposal(Bytes),
    #[expect(dead_code, reason = "read whole or refused")]
    Membership(Bytes),
}

#[derive(Deserialize)]
struct VoteRecord {
    term: u64,
    voted_for: u64,
    committed: bool,
}
