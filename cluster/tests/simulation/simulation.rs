//! One seed: a cluster forms, faults come, faults stop, and then the cluster must heal and serve.

use super::{
    dice::Dice,
    faults::{Faults, LATENCY_MS},
    history::{Event, History, Moment, Operation},
    invariants::Invariants,
    machine::{EPOCH_MS, Machine, Mark, Running, STALENESS_BOUND, Settings, World},
    network::{Losses, name},
    seeds::Plant,
    trace::Trace,
    workload::{Workload, number_of, operation_of},
};
use conclave_cluster::{
    audit::AuditFilter,
    model::{AuditKey, OutcomeKind},
};
use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};
use turmoil::Sim;

/// A step of simulated time.
const TICK: Duration = Duration::from_millis(1);
/// What stands in the records of the cluster's own commands, in place of an operation's number.
const NOBODYS: Operation = 0;
/// For a cluster to form.
const FORMING: Duration = Duration::from_secs(30);
/// For a cluster to serve again, once nothing is wrong any more: a disk may have to be filled again.
const HEALING: Duration = Duration::from_secs(120);

/// What one seed did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub nodes: u64,
    pub steps: u64,
    pub events: u64,
    /// Commands that were done, and those of which nobody knows.
    pub done: u64,
    pub failed: u64,
    pub polls: u64,
    pub reads: u64,
    pub leaders: u64,
    pub faults: u64,
    /// Nodes that halted or did not start because a record was damaged.
    pub met_damage: u64,
    /// Nodes that were found to run on a disk that was put back.
    pub found_reverted: u64,
    /// Processes that ended because their disk was full.
    pub ended_full: u64,
    /// How long the cluster took to serve again, in milliseconds.
    pub healed_ms: u64,
    pub trace: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed={} nodes={} steps={} events={} done={} failed={} polls={} reads={} leaders={} faults={} \
             met_damage={} found_reverted={} ended_full={} healed_ms={} trace={}",
            self.seed,
            self.nodes,
            self.steps,
            self.events,
            self.done,
            self.failed,
            self.polls,
            self.reads,
            self.leaders,
            self.faults,
            self.met_damage,
            self.found_reverted,
            self.ended_full,
            self.healed_ms,
            self.trace
        )
    }
}

/// Simulates a seed, with its files in a folder.
///
/// # Errors
/// Which property does not hold.
pub fn simulate(seed: u64, plant: Plant, root: &Path) -> Result<Report, String> {
    let mut dice = Dice::new(seed);
    let mut simulation = Simulation::new(seed, &mut dice, plant, root);
    simulation.run_until("the cluster did not form", FORMING, Simulation::serves_everywhere)?;
    let faults_for = Duration::from_millis(dice.between(10_000, 40_000));
    let end = simulation.sim.elapsed() + faults_for;
    while simulation.sim.elapsed() < end {
        simulation.faults.step(&mut simulation.sim);
        simulation.step()?;
    }
    let faults_end = simulation.sim.elapsed();
    simulation.faults.expose_damage(&mut simulation.sim);
    simulation.faults.end_all(&mut simulation.sim);
    simulation.served = Served::default();
    simulation.run_until("the cluster did not heal", HEALING, |simulation| {
        if !simulation.faults.all_run() {
            simulation.faults.end_all(&mut simulation.sim);
        }
        simulation.serves_everywhere()
    })?;
    let healed = simulation.sim.elapsed() - faults_end;
    simulation.world.workload.quiet.set();
    simulation.run_until(
        "the nodes did not come to the same state",
        HEALING,
        |simulation| simulation.all_agree(),
    )?;
    Ok(simulation.report(seed, healed))
}

/// What was served since this was last looked for.
#[derive(Debug, Default)]
struct Served {
    commands: u64,
    /// By which nodes.
    polls: BTreeSet<usize>,
    reads: BTreeSet<usize>,
}

struct Simulation<'s> {
    sim: Sim<'s>,
    world: World,
    machines: Vec<Arc<Machine>>,
    faults: Faults,
    invariants: Invariants,
    trace: Trace,
    /// Up to where audit records were seen.
    recorded: Option<u64>,
    served: Served,
    counts: Report,
}

impl Simulation<'_> {
    fn new(seed: u64, dice: &mut Dice, plant: Plant, root: &Path) -> Self {
        let nodes = if dice.percent(75) { 3 } else { 5 };
        let world = World {
            root: root.to_owned(),
            history: History::default(),
            losses: Losses::default(),
            workload: Arc::new(Workload {
                clients_per_node: dice.index(2) + 1,
                places: u32::try_from(dice.between(1, 8)).expect("a few"),
                pause_ms: dice.between(40, 300),
                quiet: Mark::default(),
            }),
            settings: Settings {
                nodes,
                election_timeout: Duration::from_millis(dice.between(100, 400)),
                // Every other seed goes without snapshots: RocksDB's own threads decide of which files one is
                // made, and that decides how it is sent.
                snapshot_log_bytes: if seed.is_multiple_of(2) {
                    1 << 40
                } else {
                    dice.between(32, 512) * 1024
                },
                snapshot_keep_log_bytes: dice.between(1, 64) * 1024,
                plant,
            },
        };
        let mut sim = turmoil::Builder::new()
            .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
            .simulation_duration(Duration::from_secs(24 * 60 * 60))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(LATENCY_MS))
            .tcp_capacity(16 * 1024)
            .enable_random_order()
            .rng_seed(seed)
            .build();
        let machines: Vec<_> = (0..nodes)
            .map(|number| Arc::new(Machine::new(number, dice.child(), &world)))
            .collect();
        for machine in &machines {
            let machine = machine.clone();
            sim.host(name(machine.number), move || machine.clone().run());
        }
        Self {
            sim,
            faults: Faults::new(dice.child(), &machines, &world.losses, plant),
            world,
            machines,
            invariants: Invariants::new(STALENESS_BOUND),
            trace: Trace::new(),
            recorded: None,
            served: Served::default(),
            counts: Report::default(),
        }
    }

    fn run_until(
        &mut self,
        what: &str,
        patience: Duration,
        reached: impl Fn(&mut Self) -> bool,
    ) -> Result<(), String> {
        let end = self.sim.elapsed() + patience;
        while !reached(self) {
            if self.sim.elapsed() > end {
                return Err(format!("{what} within {patience:?}:\n{}", self.describe()));
            }
            self.step()?;
        }
        Ok(())
    }

    /// One tick on every machine, and a look at what it brought.
    fn step(&mut self) -> Result<(), String> {
        let tended = self.faults.tend(&mut self.sim);
        tended.map_err(|wrong| format!("{wrong}\n{}", self.describe()))?;
        let stepped = self.sim.step();
        stepped.map_err(|error| format!("a node ended: {error}"))?;
        self.counts.steps += 1;
        if let Some(panic) = first_panic() {
            return Err(format!("something panicked: {panic}"));
        }
        for machine in self.machines.clone() {
            if let Some(running) = machine.running() {
                self.look_at(&machine, &running)?;
            }
        }
        let events = self.world.history.take();
        for (at, event) in &events {
            self.trace.add(*at, event);
            self.count(event);
        }
        let held = self.invariants.step(&events);
        held.map_err(|wrong| format!("{wrong}\n{}", self.describe()))
    }

    /// What a node's state shows since the last look.
    fn look_at(&mut self, machine: &Machine, running: &Running) -> Result<(), String> {
        let at = self.now();
        let node = machine.number;
        let note = |event| self.world.history.note_at(at, event);
        {
            let status = running.status.borrow();
            match &status.raft.halted {
                Some(reason) if !machine.may_halt(reason) => {
                    return Err(format!("node {node} halted: {reason}"));
                }
                Some(_) => return Ok(()),
                None => {}
            }
            if let Some(raft_id) = status.raft.raft_id
                && machine.disk.identify(raft_id.0)
            {
                let directory = machine.disk.directory();
                let raft_id = raft_id.0;
                note(Event::Identified { directory, raft_id });
            }
        }
        let view = running.node.view();
        let Some(applied) = view.meta().applied else {
            return Ok(());
        };
        if running.seen == Some(applied.index) {
            return Ok(());
        }
        let first = running.seen.map_or(applied.index, |seen| seen + 1);
        let (terms, in_term) = machine.disk.look(|log| {
            let terms = (first..=applied.index).filter_map(|index| Some((index, log.term_of(index)?)));
            (terms.collect::<Vec<_>>(), log.term)
        });
        for (index, term) in terms {
            note(Event::Applied {
                node,
                index,
                term,
                in_term,
            });
        }
        let damaged = |error: std::io::Error| format!("node {node}'s state is damaged: {error}");
        let digest = view.running_digest().map_err(damaged)?;
        note(Event::Digest {
            node,
            index: applied.index,
            digest: u64::from_le_bytes(*digest.first_chunk().expect("it has 32 bytes")),
        });
        if self.recorded.is_none_or(|recorded| recorded < applied.index) {
            let mut from = Some(AuditKey {
                index: self.recorded.map_or(0, |recorded| recorded + 1),
                position: 0,
                step: 0,
            });
            while let Some(key) = from {
                let page = view.audit(&AuditFilter::default(), Some(key), 1000, false);
                let page = page.map_err(damaged)?;
                for (key, record) in page.records {
                    let operation = operation_of(&record.commitment);
                    if operation == NOBODYS {
                        continue;
                    }
                    note(Event::Recorded {
                        key,
                        operation,
                        action: record.action,
                        place: record.place.as_ref().map(number_of),
                        version: record.version.map(|version| version.get()),
                        done: record.outcome == OutcomeKind::Done,
                    });
                }
                from = page.next;
            }
            self.recorded = Some(applied.index);
        }
        machine.saw(Some(applied.index));
        Ok(())
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Answered { answer, .. } if answer.index().is_some() => {
                self.counts.done += 1;
                self.served.commands += 1;
            }
            Event::Answered { .. } => self.counts.failed += 1,
            Event::Polled { node, .. } => {
                self.counts.polls += 1;
                self.served.polls.insert(*node);
            }
            Event::Read { node, .. } => {
                self.counts.reads += 1;
                self.served.reads.insert(*node);
            }
            Event::TookOffice { .. } => self.counts.leaders += 1,
            Event::MetDamage { .. } => self.counts.met_damage += 1,
            Event::FoundReverted { .. } => self.counts.found_reverted += 1,
            Event::EndedFull { .. } => self.counts.ended_full += 1,
            _ => {}
        }
    }

    /// Whether every node has served since this was last looked for, and votes.
    fn serves_everywhere(&mut self) -> bool {
        let all = self.machines.len();
        self.served.commands > 0
            && self.served.polls.len() == all
            && self.served.reads.len() == all
            && self.machines.iter().all(|machine| {
                machine.running().is_some_and(|running| {
                    let status = running.status.borrow();
                    let own = status.raft.raft_id.and_then(|own| status.raft.members.get(&own));
                    own.is_some_and(|own| own.voter) && status.raft.members.len() == all
                })
            })
    }

    fn all_agree(&mut self) -> bool {
        let mut applied = self.machines.iter().map(|machine| {
            let running = machine.running()?;
            running.node.view().meta().applied
        });
        let first = applied.next().flatten();
        first.is_some() && applied.all(|other| other == first)
    }

    fn now(&self) -> Moment {
        u64::try_from(self.sim.elapsed().as_micros()).expect("a simulation lasts minutes")
    }

    fn describe(&self) -> String {
        let mut description = format!("at {:?}\n", self.sim.elapsed());
        for machine in &self.machines {
            let status = machine.running().map(|running| running.status.borrow().clone());
            let line = match status {
                None => "does not run".to_owned(),
                Some(status) => format!(
                    "id {:?} {:?} in term {}, leader {:?}, log {:?}, applied {:?}, snapshot {:?}, purged {:?}, voters \
                     {:?}, members {:?}, quorum lost {}, skew {:?}",
                    status.raft.raft_id,
                    status.raft.role,
                    status.raft.term,
                    status.raft.leader,
                    status.raft.last_log_index,
                    status.raft.applied_index,
                    status.raft.snapshot_index,
                    status.raft.purged_index,
                    status.raft.voter_sets,
                    status.raft.members.keys().collect::<Vec<_>>(),
                    status.quorum_lost,
                    status.clock_skew_ms,
                ),
            };
            description.push_str(&format!("  node {} {line}\n", machine.number));
        }
        let served = format!("  served {:?}, faults {:?}\n", self.served, self.faults.counts);
        description + &served
    }

    fn report(&self, seed: u64, healed: Duration) -> Report {
        Report {
            seed,
            nodes: self.machines.len() as u64,
            events: self.trace.events(),
            faults: self.faults.counts.values().sum(),
            healed_ms: u64::try_from(healed.as_millis()).expect("minutes"),
            trace: self.trace.hash(),
            ..self.counts.clone()
        }
    }
}

static FIRST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// From now on a panic in any task counts: tokio keeps it to itself.
pub fn watch_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        let mut first = FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| panic.to_string());
    }));
}

fn first_panic() -> Option<String> {
    FIRST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
