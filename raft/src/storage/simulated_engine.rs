//! The log's bytes in memory, on a machine whose power can be cut and whose disk can fail.
//!
//! Invariant: after [`SimulatedEngine::crash`] exactly what a synced write covered is left, and
//! nothing can be written through the handles from before.

use super::engine::{Batch, Change, Durability, LogDisk, LogEngine, Visit};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

/// The [`LogDisk`] of a simulated machine. It outlives the node, and remembers what a power cut leaves.
#[derive(Default)]
pub struct SimulatedDisk {
    engine: Mutex<SimulatedEngine>,
}

impl SimulatedDisk {
    /// Cuts the power: what has the log open cannot write any more, and the next start finds exactly
    /// what was synced.
    pub fn crash(&self) {
        let mut engine = self.lock();
        *engine = engine.crash();
    }

    /// The log as it is now.
    pub fn engine(&self) -> SimulatedEngine {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, SimulatedEngine> {
        self.engine.lock().expect("no holder of the lock panics")
    }
}

impl LogDisk for SimulatedDisk {
    fn open(&self) -> io::Result<Arc<dyn LogEngine>> {
        let engine = self.engine();
        {
            let mut machine = engine.lock();
            machine.durable = machine.present.clone();
        }
        Ok(Arc::new(engine))
    }

    fn exists(&self) -> bool {
        !self.engine().lock().present.is_empty()
    }

    /// What is set aside is gone.
    fn set_aside(&self, _folder: &Path) -> io::Result<()> {
        *self.lock() = SimulatedEngine::default();
        Ok(())
    }
}

/// A [`LogEngine`] for tests and simulations. Clones share the same machine.
#[derive(Clone, Default)]
pub struct SimulatedEngine {
    machine: Arc<Mutex<Machine>>,
}

#[derive(Default)]
struct Machine {
    /// What reads see.
    present: BTreeMap<Bytes, Bytes>,
    /// What a power cut leaves.
    durable: BTreeMap<Bytes, Bytes>,
    /// How many synced writes there were.
    syncs: u64,
    fail_next_sync: bool,
    /// Why nothing works any more.
    stopped: Option<&'static str>,
}

impl SimulatedEngine {
    /// Cuts the power: returns the engine as the next start finds it. This one is of no use any more.
    pub fn crash(&self) -> Self {
        let mut machine = self.lock();
        machine.stopped = Some("the power is cut");
        let durable = machine.durable.clone();
        let next = Machine {
            present: durable.clone(),
            durable,
            ..Machine::default()
        };
        Self {
            machine: Arc::new(Mutex::new(next)),
        }
    }

    /// Makes the next synced write fail. What it wrote is gone; every later write fails too.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// How many synced writes there were.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Flips one bit of a stored value, durably. Returns false if there is no such key.
    pub fn damage(&self, key: &[u8]) -> bool {
        let mut machine = self.lock();
        let Some(value) = machine.present.get(key) else {
            return false;
        };
        let mut damaged = value.to_vec();
        let Some(byte) = damaged.last_mut() else {
            return false;
        };
        *byte ^= 1;
        let (key, damaged) = (Bytes::copy_from_slice(key), Bytes::from(damaged));
        machine.present.insert(key.clone(), damaged.clone());
        machine.durable.insert(key, damaged);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().expect("no holder of the lock panics")
    }
}

impl LogEngine for SimulatedEngine {
    fn location(&self) -> String {
        "simulated".to_owned()
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.lock().present.get(key).cloned())
    }

    fn scan(&self, keys: Range<Bytes>, visit: &mut Visit<'_>) -> io::Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let pairs: Vec<_> = self
            .lock()
            .present
            .range(keys)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, value) in pairs {
            if !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        let mut machine = self.lock();
        if let Some(reason) = machine.stopped {
            return Err(io::Error::other(reason));
        }
        if durability == Durability::Synced && machine.fail_next_sync {
            machine.stopped = Some("the disk failed to sync");
            return Err(io::Error::other("the disk failed to sync"));
        }
        for change in batch.into_changes() {
            match change {
                Change::Put { key, value } => {
                    machine.present.insert(key, value);
                }
                Change::DeleteRange { keys } => machine.present.retain(|key, _| !keys.contains(key)),
            }
        }
        if durability == Durability::Synced {
            machine.syncs += 1;
            machine.durable = machine.present.clone();
        }
        Ok(())
    }

    fn reclaim(&self, _keys: Range<Bytes>) {}

    fn stop_reclaiming(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_opened_log_shows_survives_a_power_cut() {
        let disk = SimulatedDisk::default();
        let write = |key: &'static [u8]| {
            let mut batch = Batch::default();
            batch.put(key, key);
            let opened = disk.open().unwrap();
            opened.write(batch, Durability::Buffered).unwrap();
        };
        let holds = |key: &[u8]| disk.engine().get(key).unwrap().is_some();
        write(b"a");
        // The process ended, and the next one opens it.
        write(b"b");
        disk.crash();
        assert!(holds(b"a"));
        assert!(!holds(b"b"));
    }
}
