//! Faults that are planted into the product on purpose, and what must find each: a harness that never
//! saw a lie proves nothing. They exist in a build with the feature `planted-faults` only, and one is
//! chosen by a variable in the nodes' environment.

use crate::workload::Workload;

/// A planted fault, and the run that must find it.
#[derive(Clone, Copy, Debug)]
pub struct PlantedFault {
    /// As the product's code names it.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Faults (by the beginnings of their names) that bring it to light.
    pub faults: &'static [&'static str],
    pub workloads: &'static [Workload],
    pub seconds: u64,
    /// The checks of which one must fail.
    pub caught_by: &'static [&'static str],
}

/// The variable that chooses one, as `conclave_raft::planted` reads it.
pub const VARIABLE: &str = "CONCLAVE_PLANTED_FAULT";
/// What a node with planted faults says at its start.
pub const CONFESSION: &str = "THIS BUILD HAS PLANTED FAULTS";

/// All of them.
pub const PLANTED_FAULTS: [PlantedFault; 9] = [
    PlantedFault {
        name: "early-acknowledgement",
        what: "an activation is acknowledged although no majority answered",
        faults: &["partition-leader-alone", "kill-majority"],
        workloads: &[Workload::Registers, Workload::Wide, Workload::Polling],
        seconds: 60,
        caught_by: &["linearizability"],
    },
    PlantedFault {
        name: "local-looks",
        what: "metadata is answered from the node's own state, as an old leader has it",
        faults: &["partition-leader-alone", "pause-leader"],
        workloads: &[Workload::Registers, Workload::Polling],
        seconds: 45,
        caught_by: &["linearizability"],
    },
    PlantedFault {
        name: "old-leader-gets",
        what: "a node that led when it last looked answers gets from its own state",
        faults: &["pause-leader", "partition-leader-alone", "mute-leader"],
        workloads: &[Workload::Registers, Workload::Ledger, Workload::Polling],
        seconds: 75,
        caught_by: &["linearizability"],
    },
    PlantedFault {
        name: "unbounded-polls",
        what: "a node that was cut off answers polls for ever",
        faults: &["partition-leader-alone", "deaf", "partition-minority"],
        workloads: &[Workload::Registers, Workload::Polling],
        seconds: 60,
        caught_by: &["staleness"],
    },
    PlantedFault {
        name: "unsynced-log",
        what: "the log is not synced before it is acknowledged",
        faults: &["power-cut-all", "power-cut-majority"],
        workloads: &[Workload::Registers, Workload::Wide, Workload::Polling],
        seconds: 45,
        caught_by: &["linearizability", "nodes", "versions"],
    },
    PlantedFault {
        name: "votes-under-old-id",
        what: "a node whose disk was wiped takes its old Raft id again, and votes",
        faults: &["wipe-beside-stale"],
        workloads: &[Workload::Registers, Workload::Wide, Workload::Polling],
        seconds: 16,
        caught_by: &["linearizability", "versions"],
    },
    PlantedFault {
        name: "unrecorded-disclosures",
        what: "some disclosures leave no audit record",
        faults: &["transfers"],
        workloads: &[Workload::Ledger, Workload::Registers],
        seconds: 20,
        caught_by: &["audit"],
    },
    PlantedFault {
        name: "random-order",
        what: "each node applies the commands of an entry in an order of its own",
        faults: &["transfers"],
        workloads: &[Workload::Registers, Workload::Wide, Workload::Polling],
        seconds: 30,
        caught_by: &["digests", "nodes"],
    },
    PlantedFault {
        name: "applied-twice",
        what: "a proposal that was sent again is applied again",
        faults: &["kill-leader", "transfers", "kill-all"],
        workloads: &[Workload::Registers, Workload::Wide, Workload::Ledger],
        seconds: 90,
        caught_by: &["linearizability", "versions", "audit"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Fault;

    #[test]
    fn every_planted_fault_is_met_by_real_ones() {
        let names: Vec<String> = Fault::all().iter().map(Fault::name).collect();
        for planted in PLANTED_FAULTS {
            for prefix in planted.faults {
                assert!(names.iter().any(|name| name.starts_with(prefix)), "{prefix}");
            }
        }
    }
}
