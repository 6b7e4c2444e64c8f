//! A simulated machine: a disk for the log, a directory for the state, clocks, and a node that is started
//! again and again.
//!
//! The state's directory holds real files, written by RocksDB. A power cut takes an older copy of them: any
//! prefix of the log will do, since the log is the truth; but none from before the state was last made
//! durable, which is when the log is purged or a snapshot is installed. Each start finds its files in a
//! folder of its own, so that nothing of the node before can touch them.

use super::{
    dice::Dice,
    disk::{LogCopy, WatchedDisk},
    history::{Event, History},
    network::{self, Losses, PORT},
    seeds::Plant,
    workload::{self, Workload},
};
use conclave_cluster::{
    command::{AtAuditLimit, AuditRetention},
    node::{Cluster, ClusterOptions, ClusterParts, ClusterStatus, Rejoin},
    time::Clocks,
};
use conclave_raft::{
    node::NodeParts,
    runtime::Runtime,
    storage::{fatal::OnFatal, space::Reserves},
};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// The bound under which followers answer polls.
pub const STALENESS_BOUND: Duration = Duration::from_secs(2);

/// What nodes keep free.
pub const RESERVES: Reserves = Reserves {
    ordinary_bytes: 64 * 1024 * 1024,
    relieving_bytes: 16 * 1024 * 1024,
};

/// When the simulation begins: in 2027.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// What all machines have in common.
#[derive(Clone)]
pub struct World {
    pub root: PathBuf,
    pub history: History,
    pub losses: Losses,
    pub workload: Arc<Workload>,
    pub settings: Settings,
}

/// What differs between simulations.
#[derive(Clone)]
pub struct Settings {
    pub nodes: usize,
    pub election_timeout: Duration,
    pub snapshot_log_bytes: u64,
    pub snapshot_keep_log_bytes: u64,
    pub plant: Plant,
}

pub struct Machine {
    pub number: usize,
    pub disk: WatchedDisk,
    /// How far the wall clock is off, in milliseconds.
    pub clock_offset_ms: Arc<AtomicI64>,
    /// Asks the node to stop as SIGTERM would.
    pub stop: Notify,
    pub world: World,
    changing: Mutex<Changing>,
}

struct Changing {
    dice: Dice,
    boot: u32,
    running: Option<Running>,
    copies: Vec<StateCopy>,
    /// Whether the node did not start, because of what was done to its disk.
    refused: bool,
}

/// A node that runs.
#[derive(Clone)]
pub struct Running {
    pub node: Cluster,
    pub status: watch::Receiver<ClusterStatus>,
    /// How far the last look at its state came.
    pub seen: Option<u64>,
}

/// A copy of the state's files as they once were.
struct StateCopy {
    folder: PathBuf,
    /// Which generation of the state was in use: another one was installed durably.
    generation: Option<Vec<u8>>,
    applied: Option<u64>,
}

/// A copy of everything as it once was, all at one moment.
pub struct OldDisk {
    pub log: LogCopy,
    folder: PathBuf,
}

impl Machine {
    pub fn new(number: usize, dice: Dice, world: &World) -> Self {
        Self {
            number,
            disk: WatchedDisk::new(number, &world.history, world.settings.plant),
            clock_offset_ms: Arc::default(),
            stop: Notify::new(),
            world: world.clone(),
            changing: Mutex::new(Changing {
                dice,
                boot: 0,
                running: None,
                copies: Vec::new(),
                refused: false,
            }),
        }
    }

    /// The node, if one runs.
    pub fn running(&self) -> Option<Running> {
        self.lock().running.clone()
    }

    /// Remembers how far the look at the node's state came.
    pub fn saw(&self, applied: Option<u64>) {
        if let Some(running) = &mut self.lock().running {
            running.seen = applied;
        }
    }

    /// Lets go of the node: before it crashes, and once it has stopped.
    pub fn let_go(&self) {
        self.lock().running = None;
    }

    /// Whether the node did not start, because of what was done to its disk.
    pub fn refused(&self) -> bool {
        self.lock().refused
    }

    /// Whether the node may halt with this reason, after what was done to its disk.
    pub fn may_halt(&self, reason: &str) -> bool {
        let disk = &self.disk;
        disk.has_failed()
            || disk.is_damaged() && reason.contains("damaged")
            || disk.is_reverted() && reason.contains("older than")
    }

    /// What runs on the machine from one start to the next crash.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        let (boot, seed) = {
            let mut changing = self.lock();
            (changing.boot, changing.dice.number())
        };
        let node = self.number;
        self.world.history.note(Event::Started { node, boot });
        Runtime::seeded(seed, self.serve()).await
    }

    async fn serve(&self) -> turmoil::Result {
        let (network, listener) =
            network::listen(self.number, &self.world.losses, &self.world.history).await?;
        let (number, disk) = (self.number, self.disk.clone());
        let parts = ClusterParts {
            raft: NodeParts {
                disk: Arc::new(self.disk.clone()),
                network: Arc::new(network),
                listener: Box::new(listener),
                space: Arc::new(self.disk.clone()),
            },
            clocks: Arc::new(SimulatedClocks {
                offset_ms: self.clock_offset_ms.clone(),
            }),
            on_fatal: OnFatal::new(move |reason| {
                // A full disk ends the process: `faults` does, before anything else happens.
                assert!(disk.has_failed(), "node {number}'s disk failed: {reason}");
            }),
        };
        fs::create_dir_all(self.data_dir())?;
        let damaged = self.disk.is_damaged();
        let node = match Cluster::start_with(self.options(), parts).await {
            Ok(_) if damaged => return Err(format!("node {number} started on a damaged log").into()),
            Ok(node) => node,
            Err(error) => {
                let excused = damaged && error.to_string().contains("damaged") || self.disk.has_failed();
                if !excused {
                    return Err(error.into());
                }
                self.lock().refused = true;
                return Ok(());
            }
        };
        self.lock().running = Some(Running {
            status: node.status(),
            node: node.clone(),
            seen: None,
        });
        let clients = workload::serve(number, &node, &self.world);
        self.stop.notified().await;
        clients.stop().await;
        // Until then it may lead, and answer.
        node.shutdown(Duration::from_secs(3)).await;
        self.let_go();
        Ok(())
    }

    /// Copies the state as it is now; a power cut may go back to it.
    pub fn copy_state(&self) {
        let Some(running) = self.running() else { return };
        let applied = running.node.view().applied_index();
        let mut changing = self.lock();
        let folder = self.world.root.join(format!(
            "copy-{}-{}-{}",
            self.number,
            changing.boot,
            applied.map_or(0, |applied| applied + 1)
        ));
        if folder.exists() {
            return;
        }
        let state = self.folder_of(changing.boot).join(STATE);
        copy(&state, &folder);
        changing.copies.push(StateCopy {
            generation: fs::read(folder.join(CURRENT)).ok(),
            folder,
            applied,
        });
        if changing.copies.len() > COPIES {
            let oldest = changing.copies.remove(0);
            let _ = fs::remove_dir_all(oldest.folder);
        }
    }

    /// A copy of the whole disk as it is now, which the machine may get back.
    pub fn copy_disk(&self) -> Option<OldDisk> {
        self.running()?;
        let log = self.disk.copy()?;
        let folder = self.world.root.join(format!("old-{}", self.number));
        let _ = fs::remove_dir_all(&folder);
        copy(&self.folder_of(self.lock().boot), &folder);
        Some(OldDisk { log, folder })
    }

    /// The disk as it once was, for the next start.
    pub fn after_a_revert(&self, old: &OldDisk) {
        self.disk.revert_to(&old.log);
        let mut changing = self.lock();
        let (before, next) = self.next_boot(&mut changing);
        copy(&old.folder, &next);
        let _ = fs::remove_dir_all(before);
        forget_copies(&mut changing);
    }

    /// The machine's files for the next start, after its process ended.
    pub fn after_a_kill(&self) {
        let mut changing = self.lock();
        let (before, next) = self.next_boot(&mut changing);
        if before.exists() {
            copy(&before, &next);
        }
        let _ = fs::remove_dir_all(before);
    }

    /// The same, after its power was cut.
    pub fn after_a_power_cut(&self) {
        self.disk.cut_power();
        let purged = self.disk.look(|log| log.purged.map(|purged| purged.index));
        let mut changing = self.lock();
        let (before, next) = self.next_boot(&mut changing);
        if before.exists() {
            copy(&before, &next);
        }
        let generation = fs::read(next.join(STATE).join(CURRENT)).ok();
        let possible: Vec<usize> = (0..changing.copies.len())
            .filter(|&copy| {
                let copy = &changing.copies[copy];
                copy.generation == generation && copy.applied >= purged
            })
            .collect();
        // Now and then the disk had written everything.
        if !possible.is_empty() && changing.dice.percent(80) {
            let chosen = possible[changing.dice.index(possible.len())];
            fs::remove_dir_all(next.join(STATE)).expect("a folder can be removed");
            copy(&changing.copies[chosen].folder, &next.join(STATE));
        }
        let _ = fs::remove_dir_all(before);
        forget_copies(&mut changing);
    }

    /// An empty disk in its place.
    pub fn after_a_wipe(&self) {
        self.disk.wipe();
        let mut changing = self.lock();
        let (before, _) = self.next_boot(&mut changing);
        let _ = fs::remove_dir_all(before);
        forget_copies(&mut changing);
    }

    fn next_boot(&self, changing: &mut Changing) -> (PathBuf, PathBuf) {
        let before = self.folder_of(changing.boot);
        changing.boot += 1;
        changing.refused = false;
        self.disk.begin();
        (before, self.folder_of(changing.boot))
    }

    fn data_dir(&self) -> PathBuf {
        self.folder_of(self.lock().boot)
    }

    fn folder_of(&self, boot: u32) -> PathBuf {
        self.world.root.join(format!("node-{}-{boot}", self.number))
    }

    fn options(&self) -> ClusterOptions {
        let settings = &self.world.settings;
        let nodes: Vec<_> = (0..settings.nodes)
            .map(|number| {
                let name = network::name(number);
                let address = format!("{name}:{PORT}");
                (name, address)
            })
            .collect();
        let (node_name, advertise) = nodes[self.number].clone();
        ClusterOptions {
            cluster_name: "simulation".into(),
            node_name,
            // The network is a simulated one: neither is used.
            listen: "127.0.0.1:1".parse().expect("an address"),
            certificate: PathBuf::new(),
            private_key: PathBuf::new(),
            authority: PathBuf::new(),
            advertise,
            nodes,
            data_dir: self.data_dir(),
            dev: true,
            rejoin: Rejoin::Automatic,
            staleness_bound: STALENESS_BOUND,
            clock_skew_bound: Duration::from_secs(5),
            election_timeout: settings.election_timeout,
            proposal_queue_bytes: 64 * 1024 * 1024,
            batch_bytes: 4 * 1024 * 1024,
            snapshot_log_bytes: settings.snapshot_log_bytes,
            snapshot_keep_log_bytes: settings.snapshot_keep_log_bytes,
            reserve_bytes: RESERVES.ordinary_bytes,
            last_reserve_bytes: RESERVES.relieving_bytes,
            sync: settings.plant != Plant::LogNotSynced,
            audit_retention: AuditRetention {
                limit_bytes: 1 << 30,
                at_limit: AtAuditLimit::PruneOldest,
            },
            scrub_bytes_per_s: 1 << 30,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Within a data directory.
const STATE: &str = "state";
/// Within it: which generation is in use.
const CURRENT: &str = "current";
/// So many copies of a state are kept.
const COPIES: usize = 4;

fn forget_copies(changing: &mut Changing) {
    for copy in changing.copies.drain(..) {
        let _ = fs::remove_dir_all(copy.folder);
    }
}

/// Copies files as they are at one moment: RocksDB's own threads may be replacing some of them, and nobody
/// else writes while a simulation looks.
fn copy(from: &Path, to: &Path) {
    for _ in 0..COPY_TRIES {
        let before = files_below(from);
        if before.is_ok() && copy_once(from, to).is_ok() && files_below(from).ok() == before.ok() {
            return;
        }
        let _ = fs::remove_dir_all(to);
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} changes all the time", from.display());
}

const COPY_TRIES: u32 = 100;

fn copy_once(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_once(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn files_below(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.insert(entry.path());
        }
    }
    Ok(files)
}

/// Clocks that follow the simulation's; the wall clock may be off.
struct SimulatedClocks {
    offset_ms: Arc<AtomicI64>,
}

impl Clocks for SimulatedClocks {
    fn wall_ms(&self) -> u64 {
        let since_start = u64::try_from(self.since_boot().as_millis()).expect("minutes");
        (EPOCH_MS + since_start).saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        turmoil::sim_elapsed().expect("a node runs on a simulated machine")
    }
}

/// Something that clients are told once.
#[derive(Default)]
pub struct Mark(AtomicBool);

impl Mark {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
