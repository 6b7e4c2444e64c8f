//! Free space: checked before openraft sees an entry.
//!
//! Below the first reserve a node takes no ordinary entries; the second, smaller one is for what
//! frees space (deletions, pruning) or keeps the cluster going (blank and membership entries), so
//! that a majority of full disks can be emptied. It resumes by itself.
//!
//! An ordinary entry that a leader appended just before the disks fell below their reserve must not
//! stand in the way of what frees them: a log has one order. Therefore a leader that proposes nothing
//! but relieving entries any more, because of its own disk or of a majority's, says so with its
//! appends (it *drains*), and below the first reserve a node takes what such a leader brings, ordinary
//! entries too, down to the middle between the reserves.
//!
//! This cannot fill the disk. While a leader drains, the ordinary entries that it holds do not become
//! more, and what a follower lacks of them is bounded by what a leader has in flight; but the bound does
//! not rest on that. The space is measured afresh for each such append. An entry is written four times
//! at most: to the log and to the state, each by a write-ahead file and later by a table. The first
//! two halves show in the next measurement, and the other two are no larger: when the middle is
//! reached, what is still to come is at most what has come, which is at most half of what lies
//! between the reserves. So the last reserve stays, but for what one connection's window holds that was
//! not yet written when it was measured.
//!
//! Invariant: nothing that openraft has accepted is refused here, so that the log keeps no hole.

use crate::{metric_definitions as metric, types::Payload};
use bytes::Bytes;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// The environment variable that names a file with the free space in bytes, as a decimal number, to
/// be believed instead of the file system. For tests of whole processes.
pub const FIGURE_FILE_VARIABLE: &str = "CONCLAVE_TEST_FREE_SPACE_FILE";

/// Says how much space is free.
pub trait SpaceProbe: Send + Sync + 'static {
    /// Free space in bytes, as far as this process may use it.
    ///
    /// # Errors
    /// It cannot be determined now.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Asks the file system of a path.
pub struct FileSystemProbe {
    path: PathBuf,
}

/// Believes a file that holds a decimal number of bytes.
pub struct FigureFileProbe {
    path: PathBuf,
}

/// The probe for a data directory: the figure in the file that is given or that
/// [`FIGURE_FILE_VARIABLE`] names, else the file system's.
pub fn probe_for(data_directory: &Path, figure_file: Option<PathBuf>) -> Arc<dyn SpaceProbe> {
    match figure_file.or_else(|| std::env::var_os(FIGURE_FILE_VARIABLE).map(PathBuf::from)) {
        Some(path) => Arc::new(FigureFileProbe { path }),
        None => Arc::new(FileSystemProbe {
            path: data_directory.to_owned(),
        }),
    }
}

impl SpaceProbe for FileSystemProbe {
    fn free_bytes(&self) -> io::Result<u64> {
        let figures = rustix::fs::statvfs(&self.path)?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}

impl SpaceProbe for FigureFileProbe {
    fn free_bytes(&self) -> io::Result<u64> {
        fs::read_to_string(&self.path)?.trim().parse().map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", self.path.display()),
            )
        })
    }
}

/// How much space is kept free, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserves {
    /// Below this much free space ordinary entries are refused.
    pub ordinary_bytes: u64,
    /// Below this much even the relieving ones are. Smaller than [`Self::ordinary_bytes`].
    pub relieving_bytes: u64,
}

impl Reserves {
    /// Down to here a draining leader's ordinary entries are taken.
    fn middle_bytes(self) -> u64 {
        self.relieving_bytes + self.ordinary_bytes.saturating_sub(self.relieving_bytes) / 2
    }
}

impl Default for Reserves {
    fn default() -> Self {
        Self {
            ordinary_bytes: 512 * 1024 * 1024,
            relieving_bytes: 128 * 1024 * 1024,
        }
    }
}

/// What an entry does to the space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryClass {
    /// Takes space.
    Ordinary,
    /// Frees some, or keeps the cluster going: blank, membership, deletion, pruning.
    Relieving,
}

/// Says what a proposal does to the space. The caller knows: the payload is opaque here.
pub type Classify = Arc<dyn Fn(&Bytes) -> EntryClass + Send + Sync>;

/// The class of an entry's payload.
pub fn class_of(payload: &Payload, classify: &Classify) -> EntryClass {
    match payload {
        Payload::Blank | Payload::Membership(_) => EntryClass::Relieving,
        Payload::Normal(proposal) => classify(&proposal.0),
    }
}

/// How much space there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SpaceLevel {
    /// Nothing more is taken.
    Exhausted,
    /// Only relieving entries are taken.
    BelowReserve,
    /// Everything is taken.
    Enough,
}

/// Knows the present [`SpaceLevel`]. Clones share it.
#[derive(Clone)]
pub struct SpaceGate {
    probe: Arc<dyn SpaceProbe>,
    reserves: Reserves,
    level: Arc<watch::Sender<SpaceLevel>>,
}

impl SpaceGate {
    /// Measures once.
    ///
    /// # Errors
    /// The second reserve is not smaller than the first, or the space cannot be determined.
    pub fn new(probe: Arc<dyn SpaceProbe>, reserves: Reserves) -> io::Result<Self> {
        if reserves.relieving_bytes > reserves.ordinary_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the second reserve is larger than the first",
            ));
        }
        let level = level(probe.free_bytes()?, reserves, SpaceLevel::Enough);
        Ok(Self {
            probe,
            reserves,
            level: Arc::new(watch::Sender::new(level)),
        })
    }

    /// Whether an entry of this class may be taken now.
    pub fn admits(&self, class: EntryClass) -> bool {
        let admitted = match class {
            EntryClass::Ordinary => self.level() == SpaceLevel::Enough,
            EntryClass::Relieving => self.level() >= SpaceLevel::BelowReserve,
        };
        if !admitted {
            refused();
        }
        admitted
    }

    /// Whether an append may be taken whose entries that are new here have these classes. `draining`:
    /// its leader proposes nothing but relieving entries.
    pub fn admits_append(&self, classes: impl Iterator<Item = EntryClass>, draining: bool) -> bool {
        let level = self.level();
        if level == SpaceLevel::Enough {
            return true;
        }
        let (mut any, mut any_ordinary) = (false, false);
        for class in classes {
            any = true;
            any_ordinary |= class == EntryClass::Ordinary;
        }
        let admitted = match (any, any_ordinary) {
            (false, _) => true,
            (true, false) => level >= SpaceLevel::BelowReserve,
            (true, true) => level >= SpaceLevel::BelowReserve && draining && self.is_above_middle(),
        };
        if !admitted {
            refused();
        }
        admitted
    }

    fn is_above_middle(&self) -> bool {
        let free_bytes = self.probe.free_bytes();
        free_bytes.is_ok_and(|free_bytes| free_bytes >= self.reserves.middle_bytes())
    }

    /// The level at the last measurement.
    pub fn level(&self) -> SpaceLevel {
        *self.level.borrow()
    }

    /// Tells each change of the level.
    pub fn watch(&self) -> watch::Receiver<SpaceLevel> {
        self.level.subscribe()
    }

    /// Measures now. If the space cannot be determined the last level stays.
    pub fn measure(&self) -> SpaceLevel {
        let free_bytes = match self.probe.free_bytes() {
            Ok(free_bytes) => free_bytes,
            Err(error) => {
                tracing::warn!(%error, "the free space could not be determined");
                return self.level();
            }
        };
        let now = level(free_bytes, self.reserves, self.level());
        metric::space(free_bytes, now < SpaceLevel::Enough);
        self.level.send_if_modified(|level| {
            let changed = *level != now;
            if changed {
                tracing::warn!(free_bytes, before = ?*level, ?now, "the free space crossed a reserve");
            }
            *level = now;
            changed
        });
        now
    }

    /// Measures again and again. Runs until it is dropped.
    pub async fn keep_measuring(self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            self.measure();
        }
    }
}

/// Counts a refusal.
pub fn refused() {
    metric::space_refused();
}

/// A level is left upwards only with a sixteenth of its reserve to spare, so that it does not
/// flap.
fn level(free_bytes: u64, reserves: Reserves, before: SpaceLevel) -> SpaceLevel {
    let needed = |reserve: u64, above: SpaceLevel| {
        if before >= above {
            reserve
        } else {
            reserve.saturating_add(reserve / 16)
        }
    };
    if free_bytes >= needed(reserves.ordinary_bytes, SpaceLevel::Enough) {
        SpaceLevel::Enough
    } else if free_bytes >= needed(reserves.relieving_bytes, SpaceLevel::BelowReserve) {
        SpaceLevel::BelowReserve
    } else {
        SpaceLevel::Exhausted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Proposal;

    const RESERVES: Reserves = Reserves {
        ordinary_bytes: 1600,
        relieving_bytes: 160,
    };

    fn gate(free_bytes: u64) -> (tempfile::TempDir, SpaceGate, impl Fn(u64) -> SpaceLevel) {
        let folder = tempfile::tempdir().unwrap();
        let figure = folder.path().join("free");
        fs::write(&figure, free_bytes.to_string()).unwrap();
        let gate = SpaceGate::new(probe_for(folder.path(), Some(figure.clone())), RESERVES).unwrap();
        let measured = gate.clone();
        let measure = move |free_bytes: u64| {
            fs::write(&figure, format!("{free_bytes}\n")).unwrap();
            measured.measure()
        };
        (folder, gate, measure)
    }

    #[test]
    fn each_reserve_admits_its_class() {
        let (_folder, gate, measure) = gate(1600);
        let admitted = || {
            (
                gate.admits(EntryClass::Ordinary),
                gate.admits(EntryClass::Relieving),
            )
        };
        assert_eq!(admitted(), (true, true));
        assert_eq!(measure(1599), SpaceLevel::BelowReserve);
        assert_eq!(admitted(), (false, true));
        assert_eq!(measure(159), SpaceLevel::Exhausted);
        assert_eq!(admitted(), (false, false));
    }

    #[test]
    fn a_draining_leader_brings_ordinary_entries_down_to_the_middle() {
        use EntryClass::{Ordinary, Relieving};
        let (_folder, gate, measure) = gate(1600);
        let admits = |classes: &[EntryClass], draining| gate.admits_append(classes.iter().copied(), draining);
        assert!(admits(&[Ordinary], false));
        // The middle of 160 and 1600.
        assert_eq!(measure(880), SpaceLevel::BelowReserve);
        assert!(!admits(&[Ordinary, Relieving], false));
        assert!(admits(&[Ordinary, Relieving], true));
        assert!(admits(&[Ordinary], true));
        assert_eq!(measure(879), SpaceLevel::BelowReserve);
        assert!(!admits(&[Ordinary, Relieving], true));
        assert!(admits(&[Relieving], false));
        assert_eq!(measure(159), SpaceLevel::Exhausted);
        assert!(!admits(&[Relieving], true));
        assert!(admits(&[], false));
    }

    #[test]
    fn it_resumes_by_itself_with_something_to_spare() {
        let (_folder, gate, measure) = gate(100);
        let mut changes = gate.watch();
        assert_eq!(measure(169), SpaceLevel::Exhausted);
        assert_eq!(measure(170), SpaceLevel::BelowReserve);
        assert_eq!(measure(1699), SpaceLevel::BelowReserve);
        assert_eq!(measure(1700), SpaceLevel::Enough);
        assert_eq!(*changes.borrow_and_update(), SpaceLevel::Enough);
        assert_eq!(measure(1600), SpaceLevel::Enough);
    }

    #[test]
    fn an_unreadable_figure_changes_nothing() {
        let (folder, gate, _measure) = gate(1600);
        fs::write(folder.path().join("free"), "lots").unwrap();
        assert_eq!(gate.measure(), SpaceLevel::Enough);
    }

    #[test]
    fn the_file_system_has_a_figure() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            FileSystemProbe {
                path: folder.path().to_owned()
            }
            .free_bytes()
            .unwrap()
                > 0
        );
    }

    #[test]
    fn the_caller_classifies_proposals_only() {
        let classify: Classify = Arc::new(|bytes| {
            if bytes[..] == b"delete"[..] {
                EntryClass::Relieving
            } else {
                EntryClass::Ordinary
            }
        });
        let proposal = |bytes: &'static [u8]| Payload::Normal(Proposal(Bytes::from_static(bytes)));
        assert_eq!(class_of(&Payload::Blank, &classify), EntryClass::Relieving);
        assert_eq!(class_of(&proposal(b"put"), &classify), EntryClass::Ordinary);
        assert_eq!(class_of(&proposal(b"delete"), &classify), EntryClass::Relieving);
    }
}
