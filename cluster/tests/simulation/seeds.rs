//! Seeds, each in a process of its own, in which the system's randomness follows from the seed too.
//!
//! One process simulates one seed: what a process did before would else show in the next seed, as in
//! the counter from which tokio draws. `preload/getrandom.c` says what is preloaded into it.

use super::{
    PATIENCE,
    simulation::{Report, simulate, watch_panics},
};
use std::{
    env, fmt, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A fault of the product's that is planted, to show that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    Nothing,
    /// The log is written and never synced.
    LogNotSynced,
    /// A log in which a record is damaged is taken for whole.
    DamageUnseen,
    /// Nobody remembers what a node acknowledged whose disk is put back to what it was.
    RevertUnseen,
    /// Nodes do not see how little space is left.
    SpaceUnwatched,
    /// A write that failed on a full disk is taken for done.
    FailedWriteAcknowledged,
}

/// All of them, and what they are called.
const PLANTS: [(&str, Plant); 6] = [
    ("", Plant::Nothing),
    ("LogNotSynced", Plant::LogNotSynced),
    ("DamageUnseen", Plant::DamageUnseen),
    ("RevertUnseen", Plant::RevertUnseen),
    ("SpaceUnwatched", Plant::SpaceUnwatched),
    ("FailedWriteAcknowledged", Plant::FailedWriteAcknowledged),
];

impl Plant {
    /// What `SIMULATE_PLANT` names.
    pub fn named(name: &str) -> Self {
        let known = PLANTS.iter().find(|(known, _)| *known == name);
        let (_, plant) = known.unwrap_or_else(|| panic!("nothing is planted under the name {name}"));
        *plant
    }

    fn name(self) -> &'static str {
        let known = PLANTS.iter().find(|(_, plant)| *plant == self);
        known.expect("every plant has a name").0
    }

    /// What `make simulate` is told.
    fn argument(self) -> String {
        match self {
            Self::Nothing => String::new(),
            planted => format!(" PLANT={}", planted.name()),
        }
    }
}

/// Which seeds.
pub struct Batch {
    pub first: u64,
    pub seeds: u64,
    pub plant: Plant,
}

/// What became of them.
pub struct Summary {
    pub reports: Vec<Report>,
    pub failures: Vec<String>,
    took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&Report) -> u64| self.reports.iter().map(of).sum::<u64>();
        writeln!(
            f,
            "{} seeds held, {} did not, in {} s: {} steps, {} events, {} commands done, {} failed, {} polls, {} reads, \
             {} leaders, {} faults; damage met {} times, disks that were put back found out {} times, processes ended by \
             full disks {} times; the slowest healed in {} ms of simulated time",
            self.reports.len(),
            self.failures.len(),
            self.took.as_secs(),
            sum(|report| report.steps),
            sum(|report| report.events),
            sum(|report| report.done),
            sum(|report| report.failed),
            sum(|report| report.polls),
            sum(|report| report.reads),
            sum(|report| report.leaders),
            sum(|report| report.faults),
            sum(|report| report.met_damage),
            sum(|report| report.found_reverted),
            sum(|report| report.ended_full),
            self.reports
                .iter()
                .map(|report| report.healed_ms)
                .max()
                .unwrap_or(0),
        )?;
        self.failures
            .iter()
            .try_for_each(|failure| writeln!(f, "\n{failure}"))
    }
}

/// Simulates many seeds, as many at once as there are processors.
pub fn run_many(batch: &Batch) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(batch.first);
    let results = Mutex::new(Vec::new());
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= batch.first + batch.seeds {
                        return;
                    }
                    let result = run_one(seed, batch.plant);
                    match &result {
                        Ok(report) => println!("{report}"),
                        Err(failure) => println!("{failure}"),
                    }
                    let mut results = results.lock().expect("no holder of the lock panics");
                    results.push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no holder of the lock panics");
    results.sort_by_key(|(seed, _)| *seed);
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for (_, result) in results {
        match result {
            Ok(report) => reports.push(report),
            Err(failure) => failures.push(failure),
        }
    }
    Summary {
        reports,
        failures,
        took: began.elapsed(),
    }
}

/// Simulates one seed in a process of its own.
///
/// # Errors
/// What does not hold, with the line that shows it again.
pub fn run_one(seed: u64, plant: Plant) -> Result<Report, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let said = folder.path().join("said");
    let program = env::current_exe().expect("this program lies somewhere");
    let mut child = Command::new(program)
        .args(["--exact", "one_seed", "--ignored", "--nocapture"])
        .env("LD_PRELOAD", library())
        .env("SIMULATE_SEED", seed.to_string())
        .env("SIMULATE_PLANT", plant.name())
        .env("SIMULATE_FOLDER", folder.path())
        .stdin(Stdio::null())
        .stdout(fs::File::create(&said).expect("a file"))
        .stderr(fs::File::create(folder.path().join("errors")).expect("a file"))
        .spawn()
        .expect("a process");
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        match child.try_wait().expect("a child that was not waited for") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    let heard = read(&said);
    let report = heard
        .lines()
        .find_map(|line| report_of(line.split_once(REPORT)?.1));
    if let (Some(status), Some(report)) = (ended, report)
        && status.success()
    {
        return Ok(report);
    }
    let failure = heard.split_once(FAILURE).map(|(_, failure)| failure.trim());
    let failure = failure.map_or_else(
        || match ended {
            None => format!("it did not end within {PATIENCE:?}"),
            Some(status) => format!(
                "it ended with {status}: {}",
                last_lines(&folder.path().join("errors"))
            ),
        },
        str::to_owned,
    );
    let planted = plant.argument();
    Err(format!(
        "seed {seed} fails. To see it again: make simulate SEED={seed}{planted}\n{failure}"
    ))
}

const REPORT: &str = "simulated: ";
const FAILURE: &str = "does not hold: ";

/// What the child does.
pub fn be_the_child() {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is set"));
    let seed = variable("SIMULATE_SEED").parse().expect("a number");
    let plant = Plant::named(&variable("SIMULATE_PLANT"));
    watch_panics();
    match simulate(
        seed,
        plant,
        &Path::new(&variable("SIMULATE_FOLDER")).join("machines"),
    ) {
        Ok(report) => println!("{REPORT}{report}"),
        Err(failure) => {
            println!("{FAILURE}{failure}");
            std::process::exit(1);
        }
    }
}

fn report_of(line: &str) -> Option<Report> {
    let mut report = Report::default();
    for field in line.split_whitespace() {
        let (name, value) = field.split_once('=')?;
        let number = || value.parse().ok();
        match name {
            "seed" => report.seed = number()?,
            "nodes" => report.nodes = number()?,
            "steps" => report.steps = number()?,
            "events" => report.events = number()?,
            "done" => report.done = number()?,
            "failed" => report.failed = number()?,
            "polls" => report.polls = number()?,
            "reads" => report.reads = number()?,
            "leaders" => report.leaders = number()?,
            "faults" => report.faults = number()?,
            "met_damage" => report.met_damage = number()?,
            "found_reverted" => report.found_reverted = number()?,
            "ended_full" => report.ended_full = number()?,
            "healed_ms" => report.healed_ms = number()?,
            "trace" => report.trace = value.to_owned(),
            _ => return None,
        }
    }
    Some(report)
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let file = fs::File::open(path);
    let read = file.and_then(|mut file| file.read_to_end(&mut bytes));
    read.expect("what was said can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_lines(path: &Path) -> String {
    let said = read(path);
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Compiles what is preloaded, once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/preload/getrandom.c");
        conclave_fault_layer::compile(&source, Path::new(env!("CARGO_TARGET_TMPDIR")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_said() {
        let report = Report {
            seed: 7,
            nodes: 3,
            healed_ms: 12,
            trace: "abc".into(),
            ..Report::default()
        };
        assert_eq!(report_of(&report.to_string()), Some(report));
    }
}
