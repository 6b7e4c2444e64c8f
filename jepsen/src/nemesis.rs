//! Carries the schedule out, writes down what it really did, and heals everything at the end.
//!
//! One loop does all of it, on the thread that starts nodes: two faults at once never race.

use crate::{
    HarnessError,
    cluster::{Cluster, Links, Pace},
    history::{Operation, Recorder},
    schedule::{Direction, FLIPPED_BYTE, Fault, Region, Schedule, Strike, Who, pick},
};
use conclave::{api::conclave::messages::TransferLeadership, client::Client};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// The fault's name.
    pub fault: String,
    /// Positions of the nodes that it struck.
    pub nodes: Vec<usize>,
    /// The position of the node that led, as far as was known.
    pub leader: Option<usize>,
    pub began_ns: u64,
    /// `None`: it was healed at the end of the run.
    pub ended_ns: Option<u64>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl Done {
    /// Whether the node that was asked stood on damaged files meanwhile, because of this.
    pub fn damaged_for(&self, operation: &Operation) -> bool {
        let until_ns = self.ended_ns.unwrap_or(u64::MAX);
        self.fault.starts_with(FLIPPED_BYTE)
            && self.nodes.contains(&operation.node)
            && operation.invoked_ns <= until_ns
            && operation.completed_ns.is_none_or(|at_ns| at_ns >= self.began_ns)
    }
}

/// Who strikes.
pub struct Nemesis {
    recorder: Arc<Recorder>,
    leader: watch::Receiver<Option<usize>>,
    done: Vec<Done>,
    /// What the strikes that go on take from links, by position in `done`.
    cuts: BTreeMap<usize, Links>,
    drifts: BTreeMap<usize, JoinHandle<()>>,
    transfers: BTreeMap<usize, JoinHandle<()>>,
    /// A node lost its disk, or its place, and is not known to vote again.
    disk_lost: bool,
    /// Nodes that came back by themselves with an empty disk. A name may do so once in ten minutes;
    /// later its place is given to it by an operator.
    came_back: BTreeSet<usize>,
    /// Nodes that were removed from the membership.
    removed: Vec<usize>,
    /// Nodes that joined and have no vote yet.
    learners: Vec<usize>,
    /// Nodes with an empty disk whose place an operator has to give them.
    unreplaced: Vec<LostPlace>,
    /// Nodes that were started with a flipped byte, and may halt for it.
    damaged: BTreeMap<usize, Damaged>,
    /// Nodes whose process ended although nobody ended it.
    ended_by_themselves: Vec<String>,
}

/// A node whose disk lost what was acknowledged, and which may not come back by itself yet.
struct LostPlace {
    node: usize,
    /// The incarnation that had that disk, once it is known. On an old disk the node takes itself for it
    /// at first.
    incarnation: Option<u64>,
}

/// A node that was started on damaged files.
struct Damaged {
    /// The position of the fault in `done`.
    position: usize,
    /// The damaged file's name.
    file: String,
    /// How much it had said before, in bytes.
    said_bytes: u64,
}

impl Nemesis {
    /// One that has not struck yet.
    pub fn new(recorder: Arc<Recorder>, leader: watch::Receiver<Option<usize>>) -> Self {
        Self {
            recorder,
            leader,
            done: Vec::new(),
            cuts: BTreeMap::new(),
            drifts: BTreeMap::new(),
            transfers: BTreeMap::new(),
            disk_lost: false,
            came_back: BTreeSet::new(),
            removed: Vec::new(),
            learners: Vec::new(),
            unreplaced: Vec::new(),
            damaged: BTreeMap::new(),
            ended_by_themselves: Vec::new(),
        }
    }

    /// Lets every fault strike and end in its time.
    ///
    /// # Errors
    /// When the harness itself fails: a node cannot be started, iptables refuses.
    pub async fn run(&mut self, cluster: &mut Cluster, schedule: &Schedule) -> Result<(), HarnessError> {
        // Moves on when a fault took longer than planned, as returns of wiped nodes do: the faults after
        // it shall last as long as they should.
        let mut began = self.recorder.elapsed();
        let mut edges = Vec::new();
        for (number, strike) in schedule.strikes.iter().enumerate() {
            edges.push((strike.at_ms, false, number));
            edges.push((strike.at_ms + strike.lasts_ms, true, number));
        }
        edges.sort_unstable();
        let mut under_way = BTreeMap::new();
        for (at_ms, ends, number) in edges {
            let at = began + Duration::from_millis(at_ms);
            while self.recorder.elapsed() < at {
                let left = at.saturating_sub(self.recorder.elapsed());
                tokio::time::sleep(left.min(LOOK_PERIOD)).await;
                self.look_for_ends(cluster);
            }
            let strike = &schedule.strikes[number];
            if ends {
                if let Some(position) = under_way.remove(&number) {
                    self.end(cluster, strike, position).await?;
                }
            } else if let Some(position) = self.begin(cluster, strike).await? {
                under_way.insert(number, position);
            }
            began += self.recorder.elapsed().saturating_sub(at + LATE);
        }
        Ok(())
    }

    /// Undoes everything that is not undone, and starts every node.
    ///
    /// # Errors
    /// When the harness itself fails.
    pub async fn heal(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        self.look_for_ends(cluster);
        self.cuts.clear();
        for (_, task) in std::mem::take(&mut self.drifts) {
            end_task(task).await;
        }
        for (_, task) in std::mem::take(&mut self.transfers) {
            end_task(task).await;
        }
        cluster.set_links(Links::open(cluster.len()))?;
        for node in 0..cluster.len() {
            cluster.set_clock_offset_ms(node, 0);
            cluster.resume(node);
            cluster.empty_disk(node)?;
            cluster.start_node(node)?;
        }
        for node in 0..cluster.len() {
            cluster.give_seal_key_back(node).await?;
        }
        for _ in 0..HEAL_TRIES {
            self.bring_back(cluster).await?;
            if self.removed.is_empty() && self.learners.is_empty() && self.unreplaced.is_empty() {
                break;
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        Ok(())
    }

    /// What was done so far.
    pub fn done(&self) -> &[Done] {
        &self.done
    }

    /// Nodes that ended although nobody ended them.
    pub fn ended_by_themselves(&self) -> &[String] {
        &self.ended_by_themselves
    }

    /// Notes nodes that ended by themselves. They stay down until everything is healed.
    pub fn look_for_ends(&mut self, cluster: &mut Cluster) {
        for (node, how) in cluster.ended_by_themselves() {
            let at_s = self.recorder.elapsed().as_secs_f64();
            let ended = format!("node {} {how} after {at_s:.1} s", node + 1);
            let Some(damaged) = self.damaged.get(&node) else {
                self.ended_by_themselves.push(ended);
                continue;
            };
            let position = damaged.position;
            // It may, and must say why: which file, or where it lies.
            let said = cluster.said_since(node, damaged.said_bytes);
            let data_dir = cluster.data_dir(node).to_string_lossy();
            let reason = said
                .lines()
                .rev()
                .find(|line| line.contains(&damaged.file) || line.contains(&*data_dir));
            match reason {
                Some(reason) => {
                    let note = format!("{ended}, and said: {}", shortened(reason));
                    self.note(position, note);
                }
                None => {
                    let last = shortened(said.lines().last().unwrap_or_default());
                    let file = &damaged.file;
                    self.ended_by_themselves.push(format!(
                        "{ended}, with a flipped byte in {file}, which it did not name: {last}"
                    ));
                }
            }
        }
    }

    /// Begins a fault; `None`: it cannot strike now.
    async fn begin(&mut self, cluster: &mut Cluster, strike: &Strike) -> Result<Option<usize>, HarnessError> {
        if strike.fault.loses_a_disk() && self.disk_lost {
            self.bring_back(cluster).await?;
            self.disk_lost = cluster.wait_until_whole(LOOK_PERIOD).await.is_err();
            return Ok(None);
        }
        cluster.tidy_disks();
        let position = self.done.len();
        let known_leader = *self.leader.borrow();
        let leader = known_leader.unwrap_or_else(|| pick(strike.draw, cluster.len()));
        let nodes = struck(&strike.fault, cluster, leader, strike.draw);
        let name = strike.fault.name();
        let shown: Vec<usize> = nodes.iter().map(|node| node + 1).collect();
        let at_s = self.recorder.elapsed().as_secs_f64();
        eprintln!("{at_s:7.1} s  {name}, nodes {shown:?}");
        self.done.push(Done {
            fault: name,
            nodes: nodes.clone(),
            leader: known_leader,
            began_ns: self.recorder.now_ns(),
            ended_ns: None,
            notes: Vec::new(),
        });
        match &strike.fault {
            Fault::Kill { .. } => cluster.kill(&nodes).await,
            Fault::PowerCut { .. } => {
                let lost = cluster.cut_power(&nodes).await;
                self.note(position, format!("{lost} files and names lost something"));
            }
            Fault::Pause { .. } => nodes.iter().for_each(|node| cluster.pause(*node)),
            Fault::Partition { .. } | Fault::OneWay { .. } | Fault::Lossy { .. } | Fault::Slow { .. } => {
                self.cuts
                    .insert(position, links(&strike.fault, cluster.len(), leader, strike.draw));
                self.apply_links(cluster)?;
            }
            Fault::ClockJump { offset_ms, .. } => {
                nodes
                    .iter()
                    .for_each(|node| cluster.set_clock_offset_ms(*node, *offset_ms));
            }
            Fault::ClockDrift { ms_per_s, .. } => {
                let clocks: Vec<_> = nodes.iter().map(|node| cluster.clock(*node)).collect();
                self.drifts
                    .insert(position, tokio::spawn(drift(clocks, *ms_per_s)));
            }
            Fault::Transfers => {
                let operator = cluster.operator().clone();
                self.transfers.insert(position, tokio::spawn(transfer(operator)));
            }
            Fault::RollingRestart => self.restart_in_turn(cluster, position).await?,
            Fault::SealKeyLoss { .. } => {
                for node in &nodes {
                    cluster.take_seal_key(*node)?;
                    cluster.kill(&[*node]).await;
                    cluster.start_node(*node)?;
                }
            }
            Fault::Wipe { .. } => {
                cluster.kill(&nodes).await;
                for node in &nodes {
                    cluster.wipe(*node)?;
                }
                self.disk_lost = true;
            }
            Fault::WipeBesideStale => {
                let wiped = self.leave_stale_and_wiped(cluster, nodes[0], leader).await?;
                self.note(position, format!("node {} lost its disk", wiped + 1));
                self.done[position].nodes = vec![wiped];
                self.disk_lost = true;
            }
            Fault::FlippedByte { region } => {
                cluster.kill(&nodes).await;
                for node in &nodes {
                    self.flip_a_byte(cluster, position, *node, (*region, strike.draw))?;
                    cluster.start_node(*node)?;
                }
                self.disk_lost = true;
            }
            Fault::FullDisk {
                below_the_last_reserve,
                ..
            } => {
                for node in &nodes {
                    cluster.fill_disk(*node, *below_the_last_reserve)?;
                }
            }
            Fault::OldDisk { .. } => {
                cluster.kill(&nodes).await;
                for node in &nodes {
                    cluster.keep_copy_of_disk(*node);
                    cluster.start_node(*node)?;
                }
                self.disk_lost = true;
            }
            Fault::Removal { .. } => {
                for node in &nodes {
                    // It may have been removed all the same.
                    if let Err(reason) = cluster.remove_member(*node).await {
                        self.note(position, format!("not surely removed: {reason}"));
                    }
                    self.disk_lost = true;
                    self.removed.push(*node);
                }
            }
            Fault::Learner { .. } => {
                self.disk_lost = true;
                for node in &nodes {
                    let joined = self.join_as_learner(cluster, *node).await?;
                    if let Err(reason) = joined {
                        self.note(position, format!("not surely a learner: {reason}"));
                    }
                }
            }
        }
        Ok(Some(position))
    }

    async fn end(
        &mut self,
        cluster: &mut Cluster,
        strike: &Strike,
        position: usize,
    ) -> Result<(), HarnessError> {
        let nodes = self.done[position].nodes.clone();
        match &strike.fault {
            Fault::Kill { .. } | Fault::PowerCut { .. } => {
                for node in &nodes {
                    cluster.start_node(*node)?;
                }
            }
            Fault::Pause { .. } => nodes.iter().for_each(|node| cluster.resume(*node)),
            Fault::Partition { .. } | Fault::OneWay { .. } | Fault::Lossy { .. } | Fault::Slow { .. } => {
                self.cuts.remove(&position);
                self.apply_links(cluster)?;
            }
            Fault::ClockJump { .. } => nodes
                .iter()
                .for_each(|node| cluster.set_clock_offset_ms(*node, 0)),
            Fault::ClockDrift { .. } => {
                if let Some(drift) = self.drifts.remove(&position) {
                    end_task(drift).await;
                }
                nodes
                    .iter()
                    .for_each(|node| cluster.set_clock_offset_ms(*node, 0));
            }
            Fault::Transfers => {
                if let Some(transfers) = self.transfers.remove(&position) {
                    end_task(transfers).await;
                }
            }
            Fault::RollingRestart => {}
            Fault::FullDisk { .. } => {
                for node in &nodes {
                    cluster.empty_disk(*node)?;
                }
            }
            Fault::SealKeyLoss { .. } => {
                for node in &nodes {
                    cluster.give_seal_key_back(*node).await?;
                }
            }
            Fault::Wipe { .. } => {
                for node in &nodes {
                    cluster.start_node(*node)?;
                }
                self.wait_for_return(cluster, position, &nodes).await?;
            }
            Fault::WipeBesideStale => {
                for node in 0..cluster.len() {
                    cluster.start_node(node)?;
                }
                self.wait_for_return(cluster, position, &nodes).await?;
            }
            Fault::FlippedByte { .. } => {
                for node in &nodes {
                    self.take_damaged_disk_out(cluster, position, *node).await?;
                }
                self.wait_for_return(cluster, position, &nodes).await?;
            }
            Fault::OldDisk { .. } => {
                cluster.kill(&nodes).await;
                for node in &nodes {
                    cluster.put_kept_disk_back(*node)?;
                    cluster.start_node(*node)?;
                }
                self.wait_for_return(cluster, position, &nodes).await?;
            }
            Fault::Removal { .. } | Fault::Learner { .. } => {
                self.bring_back(cluster).await?;
                self.wait_for_voters(cluster, position).await;
            }
        }
        self.done[position].ended_ns = Some(self.recorder.now_ns());
        Ok(())
    }

    /// Waits until these, whose disks lost what was acknowledged, vote again as new incarnations.
    async fn wait_for_return(
        &mut self,
        cluster: &mut Cluster,
        position: usize,
        nodes: &[usize],
    ) -> Result<(), HarnessError> {
        for node in nodes {
            if !self.came_back.insert(*node) {
                self.unreplaced.push(LostPlace {
                    node: *node,
                    incarnation: None,
                });
            }
        }
        self.bring_back(cluster).await?;
        self.wait_for_voters(cluster, position).await;
        Ok(())
    }

    async fn wait_for_voters(&mut self, cluster: &Cluster, position: usize) {
        match cluster.wait_until_whole(REJOIN_PATIENCE).await {
            Ok(()) => self.disk_lost = false,
            Err(lacking) => self.note(position, format!("not all vote yet: {lacking}")),
        }
    }

    /// Gives nodes without a place theirs, on empty disks, as new incarnations. What cannot be done now is
    /// left for the next time.
    async fn bring_back(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        for node in std::mem::take(&mut self.removed) {
            match cluster.is_member(node).await {
                Some(false) => {
                    self.start_empty_to_join(cluster, node).await?;
                }
                // The removal failed.
                Some(true) => cluster.start_node(node)?,
                None => self.removed.push(node),
            }
        }
        for node in std::mem::take(&mut self.learners) {
            if insist(async || cluster.add_voter(node).await).await.is_err() {
                self.learners.push(node);
            }
        }
        for mut lost in std::mem::take(&mut self.unreplaced) {
            let replaced = insist(async || {
                let lost_id = match lost.incarnation {
                    Some(lost_id) => lost_id,
                    None => *lost.incarnation.insert(cluster.member_id(lost.node).await?),
                };
                // An earlier attempt may have been told of too late.
                if cluster.votes_anew(lost.node, lost_id).await {
                    return Ok(());
                }
                cluster.replace_member(lost.node).await
            });
            if replaced.await.is_err() {
                self.unreplaced.push(lost);
            }
        }
        Ok(())
    }

    /// Removes a member, and lets it join with an empty disk, without a vote. The inner error says why it
    /// may be neither a member nor a learner now.
    async fn join_as_learner(
        &mut self,
        cluster: &mut Cluster,
        node: usize,
    ) -> Result<Result<(), String>, HarnessError> {
        if let Err(reason) = cluster.remove_member(node).await {
            self.removed.push(node);
            return Ok(Err(reason));
        }
        self.start_empty_to_join(cluster, node).await?;
        Ok(insist(async || cluster.add_learner(node).await.map(drop)).await)
    }

    /// Starts a node that is no member any more with an empty disk. It is let in as an operator does;
    /// that counts as a return, after which it may not come back by itself for a while.
    async fn start_empty_to_join(&mut self, cluster: &mut Cluster, node: usize) -> Result<(), HarnessError> {
        start_empty(cluster, node).await?;
        self.came_back.insert(node);
        self.learners.push(node);
        Ok(())
    }

    /// Stops followers, so that what is acknowledged then is on the others alone; stops those too, takes
    /// one disk, and starts the wiped node and those that are behind. Returns which was wiped.
    async fn leave_stale_and_wiped(
        &mut self,
        cluster: &mut Cluster,
        wiped: usize,
        leader: usize,
    ) -> Result<usize, HarnessError> {
        let count = cluster.len();
        let stale: Vec<usize> = (1..count)
            .map(|step| (leader + step) % count)
            .filter(|node| *node != wiped)
            .take((count - 1) / 2)
            .collect();
        cluster.kill(&stale).await;
        tokio::time::sleep(ACKNOWLEDGED_WITHOUT_THEM).await;
        self.look_for_ends(cluster);
        let others: Vec<usize> = (0..count).filter(|node| !stale.contains(node)).collect();
        cluster.kill(&others).await;
        cluster.wipe(wiped)?;
        for node in stale.into_iter().chain([wiped]) {
            cluster.start_node(node)?;
        }
        Ok(wiped)
    }

    fn flip_a_byte(
        &mut self,
        cluster: &mut Cluster,
        position: usize,
        node: usize,
        (region, draw): (Region, u64),
    ) -> Result<(), HarnessError> {
        let Some(flipped) = cluster.flip_a_byte(node, region, draw)? else {
            self.note(position, format!("node {} has no such file yet", node + 1));
            return Ok(());
        };
        let (file, at, of) = (flipped.file.display(), flipped.at, flipped.of);
        self.note(
            position,
            format!("node {}: byte {at} of {of} of {file}", node + 1),
        );
        let file = flipped.file.file_name().unwrap_or_default();
        let damaged = Damaged {
            position,
            file: file.to_string_lossy().into_owned(),
            said_bytes: cluster.said_bytes(node),
        };
        self.damaged.insert(node, damaged);
        Ok(())
    }

    /// As an operator does: has all nodes look through their data, and whatever comes of it, the node
    /// with the damaged disk gets an empty one.
    async fn take_damaged_disk_out(
        &mut self,
        cluster: &mut Cluster,
        position: usize,
        node: usize,
    ) -> Result<(), HarnessError> {
        self.look_for_ends(cluster);
        if cluster.runs(node) {
            let operator = cluster.operator().with_timeout(VERIFY_PATIENCE);
            let found = match operator.verify().await {
                Ok(verification) if verification.agreed => "agreed with the others",
                Ok(_) => "did not agree with the others",
                Err(_) => "could not be compared with the others",
            };
            self.note(position, format!("node {} ran on, and {found}", node + 1));
            self.look_for_ends(cluster);
        }
        if cluster.has_set_its_data_aside(node) {
            self.came_back.insert(node);
        }
        start_empty(cluster, node).await?;
        self.damaged.remove(&node);
        Ok(())
    }

    async fn restart_in_turn(&mut self, cluster: &mut Cluster, position: usize) -> Result<(), HarnessError> {
        for node in 0..cluster.len() {
            if !cluster.stop(node).await {
                self.note(
                    position,
                    format!("node {} did not stop with exit code 0", node + 1),
                );
            }
            cluster.start_node(node)?;
            for _ in 0..RESTART_LOOKS {
                let status = cluster.status(node).await;
                if status.is_some_and(|status| status.leader_id.is_some() && !status.sealed) {
                    break;
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        }
        Ok(())
    }

    fn apply_links(&self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        let mut all = Links::open(cluster.len());
        self.cuts.values().for_each(|cuts| all.add(cuts));
        cluster.set_links(all)
    }

    fn note(&mut self, position: usize, note: String) {
        self.done[position].notes.push(note);
    }
}

/// So late nobody minds.
const LATE: Duration = Duration::from_millis(500);
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// For a change of the membership, beside the time that one attempt takes.
const INSISTENCE: Duration = Duration::from_secs(10);
/// Of what a fault left to be done; a change of the membership may still be under way.
const HEAL_TRIES: usize = 100;
const REJOIN_PATIENCE: Duration = Duration::from_secs(30);
/// So long the others acknowledge what stopped followers do not learn of.
const ACKNOWLEDGED_WITHOUT_THEM: Duration = Duration::from_millis(2_500);
const VERIFY_PATIENCE: Duration = Duration::from_secs(20);
/// Of what a node said, in a note.
const NOTE_CHARACTERS: usize = 500;
/// Before the next node of a rolling restart is stopped.
const RESTART_LOOKS: usize = 50;

/// With nothing on its disk.
async fn start_empty(cluster: &mut Cluster, node: usize) -> Result<(), HarnessError> {
    cluster.kill(&[node]).await;
    cluster.wipe(node)?;
    cluster.start_node(node)
}

/// Tries again for a while. Not for long: another fault may stand in the way until this one ends.
async fn insist(mut attempt: impl AsyncFnMut() -> Result<(), String>) -> Result<(), String> {
    let until = Instant::now() + INSISTENCE;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < until => tokio::time::sleep(LOOK_PERIOD).await,
            ended => return ended,
        }
    }
}

fn shortened(line: &str) -> String {
    line.chars().take(NOTE_CHARACTERS).collect()
}

/// The nodes that a fault strikes: of those that run, where it ends processes.
fn struck(fault: &Fault, cluster: &mut Cluster, leader: usize, draw: u64) -> Vec<usize> {
    let count = cluster.len();
    match fault {
        Fault::Kill { who }
        | Fault::PowerCut { who }
        | Fault::SealKeyLoss { who }
        | Fault::Wipe { who }
        | Fault::OldDisk { who }
        | Fault::Removal { who }
        | Fault::Learner { who } => {
            let mut nodes = who.among(count, leader, draw);
            nodes.retain(|node| cluster.runs(*node));
            nodes
        }
        Fault::FlippedByte { .. } => {
            let mut nodes = Who::Follower.among(count, leader, draw);
            nodes.retain(|node| cluster.runs(*node));
            nodes
        }
        // Any but those that will be behind, so the leader too.
        Fault::WipeBesideStale => Who::One.among(count, leader, draw),
        Fault::Pause { who, .. }
        | Fault::OneWay { who, .. }
        | Fault::FullDisk { who, .. }
        | Fault::ClockJump { who, .. }
        | Fault::ClockDrift { who, .. } => who.among(count, leader, draw),
        Fault::Slow { who, .. } => who.among(count, leader, draw),
        Fault::Partition { .. } | Fault::Lossy { .. } | Fault::Transfers | Fault::RollingRestart => {
            (0..count).collect()
        }
    }
}

fn links(fault: &Fault, nodes: usize, leader: usize, draw: u64) -> Links {
    let mut links = Links::open(nodes);
    match fault {
        Fault::Partition { between } => {
            for (from, to) in between.cuts(nodes, leader, draw) {
                links.cut(from, to);
            }
        }
        Fault::OneWay { who, direction } => {
            for one in who.among(nodes, leader, draw) {
                for other in (0..nodes).filter(|other| *other != one) {
                    match direction {
                        Direction::HearsNothing => links.cut(other, one),
                        Direction::IsNotHeard => links.cut(one, other),
                    }
                }
            }
        }
        Fault::Lossy { percent } => {
            for from in 0..nodes {
                for to in (0..nodes).filter(|to| *to != from) {
                    links.lose(from, to, f64::from(*percent) / 100.0);
                }
            }
        }
        Fault::Slow {
            who,
            delay_ms,
            kib_per_s,
        } => {
            let pace = Pace {
                delay_ms: *delay_ms,
                kib_per_s: *kib_per_s,
            };
            for one in who.among(nodes, leader, draw) {
                for other in (0..nodes).filter(|other| *other != one) {
                    links.slow(one, other, pace);
                    links.slow(other, one, pace);
                }
            }
        }
        _ => {}
    }
    links
}

/// Ends a task, and waits until it does nothing more.
async fn end_task(task: JoinHandle<()>) {
    task.abort();
    let _ = task.await;
}

/// Lets clocks run away in steps of a tenth of a second.
async fn drift(clocks: Vec<conclave_fault_layer::FaultLayer>, ms_per_s: i64) {
    for step in 1.. {
        tokio::time::sleep(Duration::from_millis(100)).await;
        clocks
            .iter()
            .for_each(|clock| clock.set_clock_offset_ms(step * ms_per_s / 10));
    }
}

/// Asks the leader to hand over, until it is ended.
async fn transfer(operator: Client) {
    let operator = operator.with_timeout(Duration::from_secs(2));
    let request = TransferLeadership {
        to: None,
        timeout_ms: Some(1_500),
    };
    loop {
        // Where no node leads there is nothing to hand over.
        let _ = operator.transfer_leadership(&request).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}
