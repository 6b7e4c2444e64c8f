//! The faults that there are.

use serde::Serialize;

/// One fault, with roles instead of nodes: who plays them is known only when it strikes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Fault {
    /// `kill -9`; they start again at the end.
    Kill { who: Who },
    /// `kill -9`, and what was not synced is gone from their disks.
    PowerCut { who: Who },
    /// SIGSTOP, then SIGCONT.
    Pause { who: Who, length: Length },
    /// Both ways, between nodes; clients reach all of them.
    Partition { between: Partition },
    /// One node hears nothing from the others, or is not heard by them.
    OneWay { who: Who, direction: Direction },
    /// Every link between nodes loses this share of its packets.
    Lossy { percent: u8 },
    /// Every link of these nodes delays what it carries, each way, or carries so much in a second.
    Slow {
        who: Who,
        delay_ms: u64,
        kib_per_s: Option<u64>,
    },
    /// The wall clock jumps, and back at the end.
    ClockJump { who: Who, offset_ms: i64 },
    /// The wall clock drifts, by many small jumps.
    ClockDrift { who: Who, ms_per_s: i64 },
    /// The leader is asked to hand over, again and again.
    Transfers,
    /// SIGTERM and start, node by node.
    RollingRestart,
    /// Its seal key is gone, and it starts anew; the key comes back at the end.
    SealKeyLoss { who: Who },
    /// `kill -9`, and the disk is empty; it joins as a new incarnation at the end.
    Wipe { who: Who },
    /// Followers are down for a while; then all others are, and one of those loses its disk. Those that
    /// are behind and the one that was wiped start alone: they are a majority, and must not elect.
    WipeBesideStale,
    /// `kill -9`, and one byte of one of its files is another when it starts again. It refuses, halts or
    /// is unharmed; at the end an operator wipes and replaces it.
    FlippedByte { region: Region },
    /// It gets the disk that it had when this began, and must be found out.
    OldDisk { who: Who },
    /// Little space is left on its file system: less than the first reserve, or than the last.
    FullDisk { who: Who, below_the_last_reserve: bool },
    /// It is no member any more; at the end its disk is emptied, it joins and votes again.
    Removal { who: Who },
    /// It is removed, and joins with an empty disk as a learner, which nobody replaced; it votes at the end.
    Learner { who: Who },
}

/// Which nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// Any one.
    One,
    Leader,
    /// One that does not lead.
    Follower,
    /// So few that a majority is left.
    Minority,
    /// Just more than half.
    Majority,
    All,
}

/// Beside the election time-out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    Shorter,
    Longer,
}

/// What is cut off from what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    LeaderAlone,
    /// A minority of followers.
    Minority,
    /// A majority without the leader is cut off from the leader and the rest.
    MajorityWithoutLeader,
    /// Each node sees its two neighbours only; of three nodes, two do not see each other.
    Ring,
}

/// What a one-way cut takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    HearsNothing,
    IsNotHeard,
}

/// Which files a fault damages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// Tables, write-ahead logs and manifests of the `log` database.
    Log,
    /// The same of the state.
    State,
    /// Small files that say which others count.
    Marks,
}

impl Fault {
    /// Every fault, in one size each.
    pub fn all() -> Vec<Self> {
        let minute_ms = 60_000;
        vec![
            Self::Kill { who: Who::One },
            Self::Kill { who: Who::Leader },
            Self::Kill { who: Who::Majority },
            Self::Kill { who: Who::All },
            Self::PowerCut { who: Who::One },
            Self::PowerCut { who: Who::Leader },
            Self::PowerCut { who: Who::Majority },
            Self::PowerCut { who: Who::All },
            Self::Pause {
                who: Who::Leader,
                length: Length::Shorter,
            },
            Self::Pause {
                who: Who::Leader,
                length: Length::Longer,
            },
            Self::Pause {
                who: Who::Majority,
                length: Length::Longer,
            },
            Self::Partition {
                between: Partition::LeaderAlone,
            },
            Self::Partition {
                between: Partition::Minority,
            },
            Self::Partition {
                between: Partition::MajorityWithoutLeader,
            },
            Self::Partition {
                between: Partition::Ring,
            },
            Self::OneWay {
                who: Who::Leader,
                direction: Direction::HearsNothing,
            },
            Self::OneWay {
                who: Who::Leader,
                direction: Direction::IsNotHeard,
            },
            Self::OneWay {
                who: Who::Follower,
                direction: Direction::HearsNothing,
            },
            Self::OneWay {
                who: Who::Follower,
                direction: Direction::IsNotHeard,
            },
            Self::Lossy { percent: 10 },
            Self::Lossy { percent: 30 },
            Self::Slow {
                who: Who::All,
                delay_ms: 50,
                kib_per_s: None,
            },
            Self::Slow {
                who: Who::Leader,
                delay_ms: 200,
                kib_per_s: None,
            },
            Self::Slow {
                who: Who::All,
                delay_ms: 500,
                kib_per_s: None,
            },
            Self::Slow {
                who: Who::All,
                delay_ms: 5,
                kib_per_s: Some(128),
            },
            Self::ClockJump {
                who: Who::Leader,
                offset_ms: 3 * 60 * minute_ms,
            },
            Self::ClockJump {
                who: Who::Leader,
                offset_ms: -7 * minute_ms,
            },
            Self::ClockJump {
                who: Who::Follower,
                offset_ms: -5 * 60 * minute_ms,
            },
            Self::ClockJump {
                who: Who::Majority,
                offset_ms: 2 * minute_ms,
            },
            Self::ClockDrift {
                who: Who::Leader,
                ms_per_s: 400,
            },
            Self::Transfers,
            Self::RollingRestart,
            Self::SealKeyLoss { who: Who::Leader },
            Self::SealKeyLoss { who: Who::Follower },
            Self::Wipe { who: Who::Follower },
            Self::Wipe { who: Who::Leader },
            Self::WipeBesideStale,
            Self::OldDisk { who: Who::Follower },
            Self::FlippedByte { region: Region::Log },
            Self::FlippedByte {
                region: Region::State,
            },
            Self::FlippedByte {
                region: Region::Marks,
            },
            Self::FullDisk {
                who: Who::Leader,
                below_the_last_reserve: false,
            },
            Self::FullDisk {
                who: Who::Follower,
                below_the_last_reserve: true,
            },
            Self::FullDisk {
                who: Who::Majority,
                below_the_last_reserve: false,
            },
            Self::FullDisk {
                who: Who::All,
                below_the_last_reserve: true,
            },
            Self::Removal { who: Who::Follower },
            Self::Removal { who: Who::Leader },
            Self::Learner { who: Who::Follower },
        ]
    }

    /// What people and the command line call it.
    pub fn name(&self) -> String {
        match self {
            Self::Kill { who } => format!("kill-{}", who.name()),
            Self::PowerCut { who } => format!("power-cut-{}", who.name()),
            Self::Pause {
                who,
                length: Length::Shorter,
            } => format!("pause-{}-shortly", who.name()),
            Self::Pause {
                who,
                length: Length::Longer,
            } => format!("pause-{}", who.name()),
            Self::Partition { between } => match between {
                Partition::LeaderAlone => "partition-leader-alone".to_owned(),
                Partition::Minority => "partition-minority".to_owned(),
                Partition::MajorityWithoutLeader => "partition-majority-without-leader".to_owned(),
                Partition::Ring => "partition-ring".to_owned(),
            },
            Self::OneWay {
                who,
                direction: Direction::HearsNothing,
            } => format!("deaf-{}", who.name()),
            Self::OneWay {
                who,
                direction: Direction::IsNotHeard,
            } => format!("mute-{}", who.name()),
            Self::Lossy { percent } => format!("lossy-{percent}"),
            Self::Slow {
                who,
                delay_ms,
                kib_per_s: None,
            } => format!("slow-{}-{delay_ms}", who.name()),
            Self::Slow { who, .. } => format!("narrow-{}", who.name()),
            Self::ClockJump { who, offset_ms } => {
                let direction = if *offset_ms < 0 { "back" } else { "ahead" };
                format!("clock-{direction}-{}", who.name())
            }
            Self::ClockDrift { who, .. } => format!("clock-drift-{}", who.name()),
            Self::Transfers => "transfers".to_owned(),
            Self::RollingRestart => "rolling-restart".to_owned(),
            Self::SealKeyLoss { who } => format!("seal-key-loss-{}", who.name()),
            Self::Wipe { who } => format!("wipe-{}", who.name()),
            Self::WipeBesideStale => "wipe-beside-stale".to_owned(),
            Self::OldDisk { who } => format!("old-disk-{}", who.name()),
            Self::FlippedByte { region } => format!("{FLIPPED_BYTE}-{}", region.name()),
            Self::FullDisk { who, .. } => format!("full-disk-{}", who.name()),
            Self::Removal { who } => format!("removal-{}", who.name()),
            Self::Learner { who } => format!("learner-{}", who.name()),
        }
    }

    /// Whether it takes from a disk what was acknowledged: until the node is a voter again, no other
    /// disk may lose anything, or a majority may have lost it.
    pub fn loses_a_disk(&self) -> bool {
        matches!(
            self,
            Self::Wipe { .. }
                | Self::WipeBesideStale
                | Self::OldDisk { .. }
                | Self::FlippedByte { .. }
                | Self::Removal { .. }
                | Self::Learner { .. }
        )
    }

    /// Whether it may leave a disk that is older than what it acknowledged. That is found out by a leader
    /// that knows what was acknowledged, and not by one that was elected since (docs/threat-model.md):
    /// no other fault may strike meanwhile.
    pub fn reverts_a_disk(&self) -> bool {
        matches!(self, Self::OldDisk { .. } | Self::FlippedByte { .. })
    }

    /// Whether it is done to processes and disks, rather than to links, clocks and roles: of each two
    /// at once, one is of this kind.
    pub fn is_of_processes(&self) -> bool {
        match self {
            Self::Kill { .. }
            | Self::PowerCut { .. }
            | Self::Pause { .. }
            | Self::RollingRestart
            | Self::SealKeyLoss { .. }
            | Self::Wipe { .. }
            | Self::WipeBesideStale
            | Self::OldDisk { .. }
            | Self::FlippedByte { .. }
            | Self::Removal { .. }
            | Self::Learner { .. } => true,
            Self::FullDisk { .. }
            | Self::Partition { .. }
            | Self::OneWay { .. }
            | Self::Lossy { .. }
            | Self::Slow { .. }
            | Self::ClockJump { .. }
            | Self::ClockDrift { .. }
            | Self::Transfers => false,
        }
    }
}

/// What the names of all faults begin with that flip a byte.
pub const FLIPPED_BYTE: &str = "flipped-byte";

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Minority => "minority",
            Self::Majority => "majority",
            Self::All => "all",
        }
    }

    /// The positions of the nodes, of so many with this leader. `draw` decides where it is free.
    pub fn among(self, nodes: usize, leader: usize, draw: u64) -> Vec<usize> {
        let any = pick(draw, nodes);
        let from = |first: usize, count: usize| (0..count).map(|step| (first + step) % nodes).collect();
        let follower = (leader + 1 + pick(draw, nodes - 1)) % nodes;
        match self {
            Self::One => vec![any],
            Self::Leader => vec![leader],
            Self::Follower => vec![follower],
            Self::Minority => {
                let followers = (1..nodes).map(|step| (leader + step) % nodes);
                followers.take((nodes - 1) / 2).collect()
            }
            Self::Majority => from(any, nodes / 2 + 1),
            Self::All => from(0, nodes),
        }
    }
}

impl Region {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
            Self::Marks => "marks",
        }
    }
}

impl Partition {
    /// The ordered pairs of nodes between which nothing gets through.
    pub fn cuts(self, nodes: usize, leader: usize, draw: u64) -> Vec<(usize, usize)> {
        let side: Vec<usize> = match self {
            Self::LeaderAlone => vec![leader],
            Self::Minority => Who::Minority.among(nodes, leader, draw),
            Self::MajorityWithoutLeader => {
                let majority = (1..nodes).map(|step| (leader + step) % nodes);
                majority.take(nodes / 2 + 1).collect()
            }
            Self::Ring => return ring(nodes, draw),
        };
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| side.contains(from) != side.contains(to))
            .collect()
    }
}

/// One of so many.
pub(crate) fn pick(draw: u64, count: usize) -> usize {
    usize::try_from(draw).unwrap_or(0) % count
}

/// Of three nodes every two are neighbours: there, one pair is cut.
fn ring(nodes: usize, draw: u64) -> Vec<(usize, usize)> {
    let first = pick(draw, nodes);
    let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    let apart = |(from, to): &(usize, usize)| {
        let distance = (from + nodes - to) % nodes;
        if nodes <= 3 {
            distance != 0 && *from != first && *to != first
        } else {
            distance > 1 && distance < nodes - 1
        }
    };
    pairs.filter(apart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        let names: Vec<String> = Fault::all().iter().map(Fault::name).collect();
        assert_eq!(
            names.iter().collect::<BTreeSet<_>>().len(),
            names.len(),
            "{names:?}"
        );
    }

    #[test]
    fn roles_are_given_to_nodes() {
        for nodes in [3, 5] {
            for leader in 0..nodes {
                for draw in 0..20 {
                    let among = |who: Who| who.among(nodes, leader, draw);
                    assert_eq!(among(Who::Leader), [leader]);
                    assert_ne!(among(Who::Follower), [leader]);
                    assert!(among(Who::One)[0] < nodes);
                    assert_eq!(among(Who::Majority).len(), nodes / 2 + 1);
                    assert_eq!(among(Who::Minority).len(), nodes / 2);
                    assert!(!among(Who::Minority).contains(&leader));
                    assert_eq!(among(Who::All).len(), nodes);
                }
            }
        }
    }

    #[test]
    fn partitions_cut_both_ways_and_what_they_should() {
        for nodes in [3, 5] {
            for leader in 0..nodes {
                for between in [
                    Partition::LeaderAlone,
                    Partition::Minority,
                    Partition::MajorityWithoutLeader,
                    Partition::Ring,
                ] {
                    let cuts = between.cuts(nodes, leader, 4);
                    assert!(
                        cuts.iter()
                            .all(|(from, to)| from != to && cuts.contains(&(*to, *from)))
                    );
                    let heard = |node| {
                        (1..nodes)
                            .filter(|step| !cuts.contains(&(node, (node + step) % nodes)))
                            .count()
                    };
                    match between {
                        Partition::LeaderAlone => assert_eq!(heard(leader), 0),
                        Partition::Minority => assert_eq!(heard(leader), nodes / 2),
                        Partition::MajorityWithoutLeader => assert_eq!(heard(leader), nodes / 2 - 1),
                        Partition::Ring if nodes == 5 => assert!((0..nodes).all(|node| heard(node) == 2)),
                        Partition::Ring => assert_eq!(cuts.len(), 2),
                    }
                }
            }
        }
    }
}
