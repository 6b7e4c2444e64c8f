//! Carries the schedule out, writes down what it really did, and heals everything at the end.
//!
//! One loop does all of it, on the thread that starts nodes: two faults at once never race.

use crate::{
    HarnessError,
    cluster::{Cluster, Links},
    history::Recorder,
    schedule::{Direction, Fault, Schedule, Strike},
};
use conclave::{api::conclave::messages::TransferLeadership, client::Client};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
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

/// Who strikes.
pub struct Nemesis {
    recorder: Arc<Recorder>,
    leader: watch::Receiver<Option<usize>>,
    done: Vec<Done>,
    /// What the strikes that go on take from links, by position in `done`.
    cuts: BTreeMap<usize, Links>,
    drifts: BTreeMap<usize, JoinHandle<()>>,
    transfers: BTreeMap<usize, JoinHandle<()>>,
    /// A wiped node that is not known to vote again: until then no other disk is wiped.
    wiped: bool,
    /// Nodes whose process ended although nobody ended it.
    ended_by_themselves: Vec<String>,
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
            wiped: false,
            ended_by_themselves: Vec::new(),
        }
    }

    /// Lets every fault strike and end in its time.
    ///
    /// # Errors
    /// When the harness itself fails: a node cannot be started, iptables refuses.
    pub async fn run(&mut self, cluster: &mut Cluster, schedule: &Schedule) -> Result<(), HarnessError> {
        let began = self.recorder.elapsed();
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
        for (_, drift) in std::mem::take(&mut self.drifts) {
            drift.abort();
        }
        for (_, transfers) in std::mem::take(&mut self.transfers) {
            transfers.abort();
        }
        cluster.set_links(Links::open(cluster.len()))?;
        for node in 0..cluster.len() {
            cluster.set_clock_offset_ms(node, 0);
            cluster.resume(node);
            cluster.start_node(node)?;
        }
        for node in 0..cluster.len() {
            cluster.give_seal_key_back(node).await?;
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
            self.ended_by_themselves
                .push(format!("node {} {how} after {at_s:.1} s", node + 1));
        }
    }

    /// Begins a fault; `None`: it cannot strike now.
    async fn begin(&mut self, cluster: &mut Cluster, strike: &Strike) -> Result<Option<usize>, HarnessError> {
        if matches!(strike.fault, Fault::Wipe { .. }) && self.wiped {
            return Ok(None);
        }
        let position = self.done.len();
        let known_leader = *self.leader.borrow();
        let leader =
            known_leader.unwrap_or_else(|| usize::try_from(strike.draw).unwrap_or(0) % cluster.len());
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
            Fault::Partition { .. } | Fault::OneWay { .. } | Fault::Lossy { .. } => {
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
                self.wiped = true;
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
            Fault::Partition { .. } | Fault::OneWay { .. } | Fault::Lossy { .. } => {
                self.cuts.remove(&position);
                self.apply_links(cluster)?;
            }
            Fault::ClockJump { .. } => nodes
                .iter()
                .for_each(|node| cluster.set_clock_offset_ms(*node, 0)),
            Fault::ClockDrift { .. } => {
                if let Some(drift) = self.drifts.remove(&position) {
                    drift.abort();
                }
                nodes
                    .iter()
                    .for_each(|node| cluster.set_clock_offset_ms(*node, 0));
            }
            Fault::Transfers => {
                if let Some(transfers) = self.transfers.remove(&position) {
                    transfers.abort();
                }
            }
            Fault::RollingRestart => {}
            Fault::SealKeyLoss { .. } => {
                for node in &nodes {
                    cluster.give_seal_key_back(*node).await?;
                }
            }
            Fault::Wipe { .. } => {
                for node in &nodes {
                    cluster.start_node(*node)?;
                }
                match cluster.wait_until_whole(REJOIN_PATIENCE).await {
                    Ok(()) => self.wiped = false,
                    Err(lacking) => self.note(position, format!("did not rejoin yet: {lacking}")),
                }
            }
        }
        self.done[position].ended_ns = Some(self.recorder.now_ns());
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

const LOOK_PERIOD: Duration = Duration::from_millis(200);
const REJOIN_PATIENCE: Duration = Duration::from_secs(30);
/// Before the next node of a rolling restart is stopped.
const RESTART_LOOKS: usize = 50;

/// The nodes that a fault strikes: of those that run, where it ends processes.
fn struck(fault: &Fault, cluster: &mut Cluster, leader: usize, draw: u64) -> Vec<usize> {
    let count = cluster.len();
    match fault {
        Fault::Kill { who } | Fault::PowerCut { who } | Fault::SealKeyLoss { who } | Fault::Wipe { who } => {
            let mut nodes = who.among(count, leader, draw);
            nodes.retain(|node| cluster.runs(*node));
            nodes
        }
        Fault::Pause { who, .. }
        | Fault::OneWay { who, .. }
        | Fault::ClockJump { who, .. }
        | Fault::ClockDrift { who, .. } => who.among(count, leader, draw),
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
        _ => {}
    }
    links
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
