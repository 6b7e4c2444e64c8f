//! What goes wrong, and when: drawn from the seed.
//!
//! Whatever is drawn, no promise may break. What is left out is what cannot be survived: a second disk that
//! is lost (wiped, damaged or put back to what it was) before the first one's node was replaced.

mod disks;

use super::{
    dice::Dice,
    machine::Machine,
    network::{Losses, name},
    seeds::Plant,
};
use disks::{Planned, Watch};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use turmoil::Sim;

/// Faults of one simulation.
pub struct Faults {
    dice: Dice,
    machines: Vec<Arc<Machine>>,
    losses: Losses,
    /// Links that are not whole: how, and until when (in milliseconds).
    links: BTreeMap<(usize, usize), (Link, u64)>,
    /// Machines whose node does not run: what is to become of their files, and until when.
    down: BTreeMap<usize, (Down, u64)>,
    /// Whose disk was lost, and has not been seen as a voter again.
    lost: Option<usize>,
    lost_before: Vec<usize>,
    /// Machines whose disk is full, or nearly so, and until when.
    full: BTreeMap<usize, u64>,
    /// A machine whose disk will be put back to what it is now.
    planned: Option<Planned>,
    /// A machine whose disk was put back to what it was, where this must be found out.
    watch: Option<Watch>,
    plant: Plant,
    next_ms: u64,
    next_copy_ms: u64,
    /// The longest pause between two faults, in milliseconds.
    pause_ms: u64,
    /// How often what went wrong.
    pub counts: BTreeMap<&'static str, u64>,
}

/// What is wrong with a link. turmoil's do not mix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Messages are lost, both ways.
    Cut,
    /// They are lost on their way from the first machine to the second.
    CutOneWay(usize, usize),
    /// They are kept back, both ways, and delivered later.
    Held,
    /// They take up to so many milliseconds.
    Slow,
}

/// How a node ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Down {
    /// Its process was killed.
    Killed,
    /// Its power was cut.
    PowerCut,
    /// It was asked to stop, and is still stopping, perhaps.
    Stopping,
    /// It was killed, and its disk is empty.
    Wiped,
    /// It was killed, and its disk is what it once was.
    Reverted,
    /// It halted because of that, and its process ended.
    FoundReverted,
    /// Its process ended because its disk is full.
    EndedFull,
}

/// What a message takes at most, where nothing is slow.
pub const LATENCY_MS: u64 = 8;

impl Faults {
    pub fn new(mut dice: Dice, machines: &[Arc<Machine>], losses: &Losses, plant: Plant) -> Self {
        Self {
            pause_ms: dice.between(300, 3_000),
            dice,
            machines: machines.to_vec(),
            losses: losses.clone(),
            links: BTreeMap::new(),
            down: BTreeMap::new(),
            lost: None,
            lost_before: Vec::new(),
            full: BTreeMap::new(),
            planned: None,
            watch: None,
            plant,
            next_ms: 0,
            next_copy_ms: 0,
            counts: BTreeMap::new(),
        }
    }

    /// Does what is due now: ends faults, and begins others.
    pub fn step(&mut self, sim: &mut Sim<'_>) {
        let now_ms = milliseconds(sim);
        self.end_those_due(sim, now_ms);
        if now_ms >= self.next_copy_ms {
            self.next_copy_ms = now_ms + self.dice.between(500, 4_000);
            let machine = self.dice.index(self.machines.len());
            self.machines[machine].copy_state();
        }
        self.revert_as_planned(sim, now_ms);
        // A disk is put back in a quiet hour, and whoever has to find it out is left alone meanwhile.
        let quiet = self.planned.is_some() || self.watch.is_some();
        if now_ms >= self.next_ms && !quiet {
            self.next_ms = now_ms + self.dice.between(50, self.pause_ms);
            self.begin_one(sim, now_ms);
        }
    }

    /// Ends every fault, and starts what does not run.
    pub fn end_all(&mut self, sim: &mut Sim<'_>) {
        self.end_those_due(sim, u64::MAX);
        for machine in &self.machines {
            machine.clock_offset_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Whether every node was started again.
    pub fn all_run(&self) -> bool {
        self.down.is_empty()
    }

    fn end_those_due(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let due = |until: &u64| *until <= now_ms;
        let links: Vec<_> = self
            .links
            .iter()
            .filter(|(_, (_, until))| due(until))
            .map(|(pair, (link, _))| (*pair, *link))
            .collect();
        for (pair, link) in links {
            self.links.remove(&pair);
            self.mend(sim, pair, link);
        }
        let down: Vec<_> = self
            .down
            .iter()
            .filter(|(_, (_, until))| due(until))
            .map(|(node, (down, _))| (*node, *down))
            .collect();
        for (node, down) in down {
            self.restart(sim, node, down);
        }
        let full = self.full.iter().filter(|(_, until)| due(until));
        let full: Vec<_> = full.map(|(node, _)| *node).collect();
        for node in full {
            self.empty(sim, node);
        }
    }

    fn begin_one(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let all = self.machines.len();
        let minority = (all - 1) / 2;
        match self.dice.between(1, 115) {
            1..=10 => self.crash(sim, now_ms, Down::PowerCut, 1),
            11..=14 => self.crash(sim, now_ms, Down::PowerCut, minority + 1),
            15..=17 => self.crash(sim, now_ms, Down::PowerCut, all),
            18..=25 => self.crash(sim, now_ms, Down::Killed, 1),
            26..=27 => self.crash(sim, now_ms, Down::Killed, all),
            28..=33 => self.crash_the_leader(sim, now_ms),
            34..=37 => self.stop_one(now_ms),
            38..=47 => {
                let cut_off = self.dice.index(minority) + 1;
                self.cut_off(sim, now_ms, cut_off, Link::Cut);
            }
            48..=52 => {
                let cut_off = self.dice.index(minority) + 1;
                self.cut_off(sim, now_ms, cut_off, Link::Held);
            }
            53..=58 => self.cut_the_leader_off(sim, now_ms),
            59..=66 => self.cut_one_way(sim, now_ms),
            67..=72 => self.ring(sim, now_ms),
            73..=82 => self.lose_a_few(sim, now_ms),
            83..=90 => self.slow_link(sim, now_ms),
            91..=96 => self.jump_a_clock(),
            97..=100 => self.wipe_one(sim, now_ms),
            101..=104 => self.damage_one(sim, now_ms),
            105..=109 => self.fill_some(sim, now_ms),
            _ => self.plan_to_revert_one(now_ms),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn until(&mut self, now_ms: u64, longest_ms: u64) -> u64 {
        now_ms + self.dice.between(20, longest_ms)
    }

    /// Who leads, as far as any node knows.
    fn leader(&self) -> Option<usize> {
        self.machines.iter().position(|machine| {
            machine.running().is_some_and(|running| {
                let status = running.status.borrow();
                status.raft.leader.is_some() && status.raft.leader == status.raft.raft_id
            })
        })
    }

    // Machines.

    fn crash(&mut self, sim: &mut Sim<'_>, now_ms: u64, how: Down, count: usize) {
        let chosen = self.dice.some_of(self.machines.len(), count);
        for node in chosen {
            self.crash_node(sim, now_ms, how, node);
        }
    }

    fn crash_the_leader(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        if let Some(leader) = self.leader() {
            let how = if self.dice.percent(50) {
                Down::PowerCut
            } else {
                Down::Killed
            };
            self.crash_node(sim, now_ms, how, leader);
        }
    }

    fn crash_node(&mut self, sim: &mut Sim<'_>, now_ms: u64, how: Down, node: usize) {
        if self.down.contains_key(&node) {
            return;
        }
        self.count(match how {
            Down::PowerCut => "power cut",
            Down::Wiped => "disk wiped",
            Down::Reverted => "disk put back",
            Down::FoundReverted => "found to be put back",
            Down::EndedFull => "ended on a full disk",
            Down::Killed | Down::Stopping => "process killed",
        });
        let until = self.until(now_ms, 6_000);
        self.down.insert(node, (how, until));
        let others: Vec<_> = self.whole_links(node);
        if how == Down::PowerCut {
            // Nobody hears of it: a kernel that is killed closes no connection.
            for &other in &others {
                sim.partition(name(node), name(other));
            }
        }
        self.machines[node].let_go();
        sim.crash(name(node));
        if how == Down::PowerCut {
            for &other in &others {
                sim.repair(name(node), name(other));
            }
        }
        for other in 0..self.machines.len() {
            if other != node {
                self.losses.note(node, other, microseconds(sim));
            }
        }
        match how {
            Down::PowerCut => self.machines[node].after_a_power_cut(),
            Down::Wiped => self.machines[node].after_a_wipe(),
            Down::Killed
            | Down::Stopping
            // Its disk is put back by whoever does so.
            | Down::Reverted
            | Down::FoundReverted
            | Down::EndedFull => self.machines[node].after_a_kill(),
        }
    }

    fn stop_one(&mut self, now_ms: u64) {
        let node = self.dice.index(self.machines.len());
        if self.down.contains_key(&node) || self.machines[node].running().is_none() {
            return;
        }
        self.count("node stopped");
        // It takes its time, and is started again no sooner than it has stopped.
        let until = now_ms + self.dice.between(3_000, 9_000);
        self.down.insert(node, (Down::Stopping, until));
        self.machines[node].stop.notify_one();
    }

    fn restart(&mut self, sim: &mut Sim<'_>, node: usize, how: Down) {
        if how == Down::Stopping {
            if sim.is_host_running(name(node)) {
                return;
            }
            self.machines[node].after_a_kill();
        }
        self.down.remove(&node);
        sim.bounce(name(node));
    }

    fn jump_a_clock(&mut self) {
        self.count("clock jumped");
        let node = self.dice.index(self.machines.len());
        let to_ms = match self.dice.between(1, 3) {
            1 => 0,
            2 => self.dice.between(0, 8_000),
            _ => self.dice.between(0, 3_600_000),
        };
        let to_ms = i64::try_from(to_ms).expect("an hour");
        let to_ms = if self.dice.percent(50) { to_ms } else { -to_ms };
        self.machines[node]
            .clock_offset_ms
            .store(to_ms, Ordering::Relaxed);
    }

    // Links.

    /// The other ends of a machine's links with which nothing is wrong.
    fn whole_links(&self, node: usize) -> Vec<usize> {
        (0..self.machines.len())
            .filter(|&other| other != node && !self.links.contains_key(&pair(node, other)))
            .collect()
    }

    fn spoil(&mut self, sim: &mut Sim<'_>, (a, b): (usize, usize), link: Link, until: u64) {
        if self.links.contains_key(&pair(a, b)) {
            return;
        }
        self.links.insert(pair(a, b), (link, until));
        match link {
            Link::Cut => sim.partition(name(a), name(b)),
            Link::CutOneWay(from, to) => sim.partition_oneway(name(from), name(to)),
            Link::Held => sim.hold(name(a), name(b)),
            Link::Slow => {
                let latency = Duration::from_millis(self.dice.between(20, 400));
                sim.set_link_max_message_latency(name(a), name(b), latency);
            }
        }
        if matches!(link, Link::Cut | Link::CutOneWay(..)) {
            self.losses.note(a, b, microseconds(sim));
        }
    }

    fn mend(&mut self, sim: &mut Sim<'_>, (a, b): (usize, usize), link: Link) {
        match link {
            Link::Cut => sim.repair(name(a), name(b)),
            Link::CutOneWay(from, to) => sim.repair_oneway(name(from), name(to)),
            Link::Held => sim.release(name(a), name(b)),
            Link::Slow => {
                let latency = Duration::from_millis(LATENCY_MS);
                sim.set_link_max_message_latency(name(a), name(b), latency);
            }
        }
        if matches!(link, Link::Cut | Link::CutOneWay(..)) {
            self.losses.note(a, b, microseconds(sim));
        }
    }

    fn cut_off(&mut self, sim: &mut Sim<'_>, now_ms: u64, count: usize, link: Link) {
        let chosen = self.dice.some_of(self.machines.len(), count);
        self.part(sim, now_ms, &chosen, link);
    }

    fn cut_the_leader_off(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        if let Some(leader) = self.leader() {
            let link = if self.dice.percent(50) {
                Link::Cut
            } else {
                Link::Held
            };
            self.part(sim, now_ms, &[leader], link);
        }
    }

    fn part(&mut self, sim: &mut Sim<'_>, now_ms: u64, these: &[usize], link: Link) {
        self.count(if link == Link::Cut {
            "partition"
        } else {
            "partition that keeps messages back"
        });
        let until = self.until(now_ms, 8_000);
        for &one in these {
            for other in (0..self.machines.len()).filter(|other| !these.contains(other)) {
                self.spoil(sim, (one, other), link, until);
            }
        }
    }

    fn cut_one_way(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.count("one-way cut");
        let until = self.until(now_ms, 8_000);
        let from = self.dice.index(self.machines.len());
        let to_all = self.dice.percent(50);
        let only = (from + 1 + self.dice.index(self.machines.len() - 1)) % self.machines.len();
        for to in (0..self.machines.len()).filter(|&to| to != from && (to_all || to == only)) {
            self.spoil(sim, (from, to), Link::CutOneWay(from, to), until);
        }
    }

    /// Each machine sees only its neighbours; of three, two do not see each other.
    fn ring(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.count("ring");
        let until = self.until(now_ms, 8_000);
        let all = self.machines.len();
        if all == 3 {
            let between = self.dice.index(all);
            let ends = ((between + 1) % all, (between + 2) % all);
            return self.spoil(sim, ends, Link::Cut, until);
        }
        for one in 0..all {
            for other in one + 1..all {
                if other - one != 1 && other - one != all - 1 {
                    self.spoil(sim, (one, other), Link::Cut, until);
                }
            }
        }
    }

    fn lose_a_few(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.count("messages lost");
        let until = now_ms + self.dice.between(1, 20);
        let ends = self.dice.some_of(self.machines.len(), 2);
        self.spoil(sim, (ends[0], ends[1]), Link::Cut, until);
    }

    fn slow_link(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        self.count("slow link");
        let until = self.until(now_ms, 8_000);
        let ends = self.dice.some_of(self.machines.len(), 2);
        self.spoil(sim, (ends[0], ends[1]), Link::Slow, until);
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn milliseconds(sim: &Sim<'_>) -> u64 {
    u64::try_from(sim.elapsed().as_millis()).expect("a simulation lasts minutes")
}

fn microseconds(sim: &Sim<'_>) -> u64 {
    u64::try_from(sim.elapsed().as_micros()).expect("a simulation lasts minutes")
}
