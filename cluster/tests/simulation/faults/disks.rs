//! What goes wrong with disks, and what the nodes on them may do then.
//!
//! A lost disk (wiped, damaged or put back to what it was) may cost its node the place, and one more must
//! not be lost before that node votes again. Who meets damage halts or does not start, and its disk is
//! then wiped. A disk is put back only while all that it forgets lies on every other machine: else
//! nobody could survive it. Then the leader remembers what the node acknowledged, and for as long as it
//! leads, the node must not write a vote or an entry before it is found out.

use super::{Down, Faults, microseconds, milliseconds};
use crate::{
    disk::MUCH_SPACE_BYTES,
    history::Event,
    machine::{Machine, OldDisk, RESERVES},
    network::name,
    seeds::Plant,
};
use turmoil::Sim;

/// Within such a time a node is found out that runs on a disk that was put back.
const FOUND_OUT_WITHIN_MS: u64 = 10_000;

/// So long is waited for the hour in which a disk can be put back.
const PLANNED_FOR_MS: u64 = 12_000;

/// A disk that will be put back to what it was when this was planned.
pub(super) struct Planned {
    node: usize,
    old: OldDisk,
    until_ms: u64,
}

/// A machine whose disk was put back to what it was, while a leader remembers what is missing.
pub(super) struct Watch {
    node: usize,
    /// In which that leader leads.
    term: u64,
    runs_since_ms: Option<u64>,
}

impl Faults {
    /// Ends the processes of nodes that ended by themselves, because of what was done to their disks.
    ///
    /// # Errors
    /// A disk that was put back was not found out.
    pub fn tend(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        let now_ms = milliseconds(sim);
        for node in 0..self.machines.len() {
            if !self.down.contains_key(&node) {
                self.tend_one(sim, now_ms, node);
            }
        }
        self.look_at_the_watched(now_ms)
    }

    fn tend_one(&mut self, sim: &mut Sim<'_>, now_ms: u64, node: usize) {
        let machine = self.machines[node].clone();
        let disk = &machine.disk;
        let halted = machine
            .running()
            .is_some_and(|running| running.status.borrow().raft.halted.is_some());
        if disk.has_failed() {
            note(sim, &machine, Event::EndedFull { node });
            self.crash_node(sim, now_ms, Down::EndedFull, node);
        } else if disk.is_damaged() && (halted || machine.refused()) {
            note(sim, &machine, Event::MetDamage { node });
            self.crash_node(sim, now_ms, Down::Wiped, node);
        } else if disk.is_reverted() && halted {
            note(sim, &machine, Event::FoundReverted { node });
            self.watch = None;
            self.crash_node(sim, now_ms, Down::FoundReverted, node);
        }
    }

    /// Kills nodes that have not met the damage on their disks yet: they will when they start.
    pub fn expose_damage(&mut self, sim: &mut Sim<'_>) {
        let now_ms = milliseconds(sim);
        for node in 0..self.machines.len() {
            if self.machines[node].disk.is_damaged() {
                self.crash_node(sim, now_ms, Down::Killed, node);
            }
        }
    }

    /// Whether a machine may lose its disk now: no other one has that was not replaced, and this one has
    /// not before, for a node may join by itself every ten minutes.
    fn may_lose_its_disk(&mut self, node: usize) -> bool {
        if let Some(lost) = self.lost
            && self.is_replaced(lost)
        {
            self.lost = None;
        }
        self.lost.is_none() && !self.lost_before.contains(&node)
    }

    /// Whether a node votes, as it knows itself, and nothing is wrong with its disk.
    fn is_replaced(&self, node: usize) -> bool {
        let disk = &self.machines[node].disk;
        !disk.is_damaged() && !disk.is_reverted() && self.votes(node)
    }

    fn votes(&self, node: usize) -> bool {
        self.machines[node].running().is_some_and(|running| {
            let status = running.status.borrow();
            let own = status.raft.raft_id.and_then(|own| status.raft.members.get(&own));
            let names = status.raft.members.values();
            let incarnations = names.filter(|member| member.record.name == name(node));
            own.is_some_and(|own| own.voter) && !status.raft.joint() && incarnations.count() == 1
        })
    }

    fn loses_its_disk(&mut self, node: usize) {
        self.lost = Some(node);
        self.lost_before.push(node);
    }

    pub(super) fn wipe_one(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let node = self.dice.index(self.machines.len());
        if !self.may_lose_its_disk(node) || self.down.contains_key(&node) {
            return;
        }
        self.loses_its_disk(node);
        self.crash_node(sim, now_ms, Down::Wiped, node);
    }

    /// A record of a log is damaged, while the node runs or while it does not.
    pub(super) fn damage_one(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let node = self.dice.index(self.machines.len());
        let is_down = self.down.contains_key(&node);
        let stops = matches!(self.down.get(&node), Some((Down::Stopping, _)));
        if stops || !self.may_lose_its_disk(node) {
            return;
        }
        self.count("record damaged");
        self.loses_its_disk(node);
        if !is_down && self.dice.percent(60) {
            self.crash_node(sim, now_ms, Down::Killed, node);
        }
        self.machines[node].disk.damage(&mut self.dice);
    }

    /// Disks become full, or nearly so.
    pub(super) fn fill_some(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let all = self.machines.len();
        let chosen = match self.dice.between(1, 10) {
            1..=4 => self.dice.some_of(all, 1),
            5..=7 => self.leader().into_iter().collect(),
            8..=9 => self.dice.some_of(all, all / 2 + 1),
            _ => self.dice.some_of(all, all),
        };
        let until = self.until(now_ms, 9_000);
        for node in chosen {
            if self.full.contains_key(&node) {
                continue;
            }
            let last = RESERVES.relieving_bytes;
            let middle = last + (RESERVES.ordinary_bytes - last) / 2;
            let free_bytes = match self.dice.between(1, 4) {
                1 => 0,
                2 => self.dice.between(1, last - 1),
                3 => self.dice.between(last, middle - 1),
                _ => self.dice.between(middle, RESERVES.ordinary_bytes - 1),
            };
            self.count(if free_bytes == 0 {
                "disk full"
            } else {
                "disk nearly full"
            });
            self.full.insert(node, until);
            let keeps_what_failed = self.dice.percent(50);
            let machine = &self.machines[node];
            machine.disk.set_free_bytes(free_bytes, keeps_what_failed);
            note(sim, machine, Event::Space { node, free_bytes });
        }
    }

    /// A disk has space again.
    pub(super) fn empty(&mut self, sim: &Sim<'_>, node: usize) {
        self.full.remove(&node);
        let free_bytes = MUCH_SPACE_BYTES;
        let machine = &self.machines[node];
        machine.disk.set_free_bytes(free_bytes, false);
        note(sim, machine, Event::Space { node, free_bytes });
    }

    /// A follower's disk is copied, to be put back to this later.
    pub(super) fn plan_to_revert_one(&mut self, now_ms: u64) {
        let node = self.dice.index(self.machines.len());
        if self.leader().is_none_or(|leader| leader == node) || !self.may_lose_its_disk(node) {
            return;
        }
        self.planned = self.machines[node].copy_disk().map(|old| Planned {
            node,
            old,
            until_ms: now_ms + PLANNED_FOR_MS,
        });
    }

    /// A follower's disk becomes what it once was, once nothing else is wrong.
    pub(super) fn revert_as_planned(&mut self, sim: &mut Sim<'_>, now_ms: u64) {
        let all_is_well = self.down.is_empty() && self.links.is_empty() && self.full.is_empty();
        let Some(planned) = self
            .planned
            .take_if(|planned| all_is_well || now_ms > planned.until_ms)
        else {
            return;
        };
        let node = planned.node;
        let old_last = planned.old.log.content.last().map(|(_, index)| index);
        let leader = self.leader().filter(|leader| {
            *leader != node
                && all_is_well
                && self.votes(node)
                && self.all_have_what_is_on(node)
                && self.knows_of_more(*leader, node, old_last)
        });
        let Some(leader) = leader else {
            if now_ms <= planned.until_ms {
                self.planned = Some(planned);
            }
            return;
        };
        if !self.may_lose_its_disk(node) || !self.machines[node].disk.is_of(&planned.old.log) {
            return;
        }
        self.loses_its_disk(node);
        self.crash_node(sim, now_ms, Down::Reverted, node);
        self.machines[node].after_a_revert(&planned.old);
        self.watch = Some(Watch {
            node,
            term: self.machines[leader].disk.look(|log| log.term),
            runs_since_ms: None,
        });
        if self.plant == Plant::RevertUnseen {
            for other in 0..self.machines.len() {
                self.crash_node(sim, now_ms, Down::Killed, other);
            }
        }
    }

    /// Whether every log has all that is in this one, and no term is another.
    fn all_have_what_is_on(&self, node: usize) -> bool {
        let of = |node: usize| self.machines[node].disk.look(|log| (log.term, log.last()));
        let (term, last) = of(node);
        last.is_some_and(|(last_term, index)| {
            (0..self.machines.len()).map(of).all(|(other_term, other_last)| {
                other_term == term
                    && other_last
                        .is_some_and(|(other, other_index)| other == last_term && other_index >= index)
            })
        })
    }

    /// Whether the leader knows that a node acknowledged more than this.
    fn knows_of_more(&self, leader: usize, node: usize, than: Option<u64>) -> bool {
        let running = |node: usize| self.machines[node].running();
        let (Some(leader), Some(node)) = (running(leader), running(node)) else {
            return false;
        };
        let raft_id = node.status.borrow().raft.raft_id;
        let status = leader.status.borrow();
        let member = raft_id.and_then(|raft_id| status.raft.members.get(&raft_id));
        member.is_some_and(|member| member.matched_index > than)
    }

    /// For as long as the leader leads that remembers what a node acknowledged, this one writes neither a
    /// vote nor an entry, and is found out.
    fn look_at_the_watched(&mut self, now_ms: u64) -> Result<(), String> {
        let Some(watch) = &mut self.watch else {
            return Ok(());
        };
        let node = watch.node;
        let disk = &self.machines[node].disk;
        let mut machines = self.machines.iter();
        if self.plant != Plant::RevertUnseen
            && machines.any(|machine| machine.disk.look(|log| log.term > watch.term))
        {
            // Another one leads, or will, and need not know.
            self.watch = None;
            return Ok(());
        }
        if let Some(written) = disk.written_since_reverted() {
            return Err(format!(
                "node {node}'s disk was put back to what it was, and it wrote {written}, although the leader of term {} \
                 remembers what it acknowledged",
                watch.term
            ));
        }
        if self.down.contains_key(&node) {
            return Ok(());
        }
        let since_ms = *watch.runs_since_ms.get_or_insert(now_ms);
        if now_ms > since_ms + FOUND_OUT_WITHIN_MS {
            return Err(format!(
                "node {node}'s disk was put back to what it was, and nobody found it out"
            ));
        }
        Ok(())
    }
}

fn note(sim: &Sim<'_>, machine: &Machine, event: Event) {
    machine.world.history.note_at(microseconds(sim), event);
}
