//! How a node stands, for load balancers.

use super::messages::HealthState;
use crate::server::Edge;
use conclave_cluster::node::ClusterStatus;
use conclave_raft::node::Role;

pub(super) fn state(edge: &Edge) -> HealthState {
    let is_sealed = edge.sealer.status().borrow().sealed.is_some();
    state_of(&edge.cluster.status().borrow(), is_sealed)
}

fn state_of(status: &ClusterStatus, is_sealed: bool) -> HealthState {
    let raft = &status.raft;
    if raft.halted.is_some() {
        return HealthState::Halted;
    }
    if status.removed {
        return HealthState::Removed;
    }
    if is_sealed {
        return HealthState::Sealed;
    }
    if raft.leader.is_none() || status.quorum_lost {
        return HealthState::NoQuorum;
    }
    if raft.out_of_space {
        return HealthState::NoSpace;
    }
    if status.clock_refuses_lead {
        return HealthState::Clock;
    }
    match raft.role {
        Role::Leader => HealthState::Leader,
        Role::Follower => HealthState::Follower,
        Role::Learner => HealthState::Learner,
        Role::Unformed | Role::Candidate => HealthState::NoQuorum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_raft::{identity::RaftId, node::RaftStatus};

    fn status(role: Role, leader: Option<u64>) -> ClusterStatus {
        let raft = RaftStatus {
            role,
            leader: leader.map(RaftId),
            ..RaftStatus::default()
        };
        ClusterStatus {
            raft,
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn states_that_matter_to_a_load_balancer_have_statuses_of_their_own() {
        let state = |status: ClusterStatus, sealed| state_of(&status, sealed).http_status();
        let mut halted = status(Role::Leader, Some(1));
        halted.raft.halted = Some("damage".into());
        let mut full = status(Role::Follower, Some(1));
        full.raft.out_of_space = true;
        let removed = ClusterStatus {
            removed: true,
            quorum_lost: true,
            ..status(Role::Learner, None)
        };
        let statuses = [
            state(status(Role::Leader, Some(1)), false),
            state(status(Role::Follower, Some(1)), false),
            state(status(Role::Follower, Some(1)), true),
            state(status(Role::Candidate, None), false),
            state(full, false),
            state(halted, false),
            state(removed, true),
        ];
        assert_eq!(statuses, [200, 202, 503, 504, 507, 500, 410]);
        let mut sorted = statuses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), statuses.len());
    }

    #[test]
    fn every_state_is_in_the_document() {
        let document = include_str!("../../../docs/command.md");
        for state in [
            HealthState::Leader,
            HealthState::Follower,
            HealthState::Learner,
            HealthState::Clock,
            HealthState::Removed,
            HealthState::Halted,
            HealthState::Sealed,
            HealthState::NoQuorum,
            HealthState::NoSpace,
        ] {
            let word = serde_json::to_value(state).unwrap();
            let row = format!("| {} | `{}` | ", state.http_status(), word.as_str().unwrap());
            assert!(document.contains(&row), "{row}");
        }
    }

    #[test]
    fn a_leader_that_nobody_hears_is_none() {
        let status = ClusterStatus {
            quorum_lost: true,
            ..status(Role::Follower, Some(1))
        };
        assert_eq!(state_of(&status, false), HealthState::NoQuorum);
    }

    #[test]
    fn a_wrong_clock_shows() {
        let status = ClusterStatus {
            clock_refuses_lead: true,
            ..status(Role::Follower, Some(1))
        };
        assert_eq!(state_of(&status, false), HealthState::Clock);
    }
}
