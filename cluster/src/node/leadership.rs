//! Who leads. Derived from Raft's status, and announced only when it changes, so that a thousand
//! waiting proposals do not wake with every applied entry.

use conclave_raft::{
    identity::RaftId,
    node::{RaftStatus, Role},
};
use std::time::Duration;
use tokio::{sync::watch, time::Instant};

/// Who leads, as far as this node knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leadership {
    /// The present term.
    pub(crate) term: u64,
    /// Who leads in it.
    pub(crate) leader: Option<RaftId>,
    /// Since when that is this node.
    leading_since: Option<Instant>,
    /// The node is stopping or has halted: nothing new is begun.
    pub(crate) stopped: bool,
}

impl Leadership {
    /// Whether this node leads.
    pub(crate) fn leads_here(&self) -> bool {
        self.leading_since.is_some() && !self.stopped
    }

    /// How long this node has led in this term.
    pub(crate) fn led_for(&self) -> Duration {
        self.leading_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Announces leadership for as long as the node runs. `stopped`, once announced, stays.
pub(super) async fn announce(mut status: watch::Receiver<RaftStatus>, leadership: watch::Sender<Leadership>) {
    loop {
        let now = {
            let status = status.borrow_and_update();
            let leading = status.role == Role::Leader;
            Leadership {
                term: status.term,
                leader: if leading {
                    status.raft_id
                } else {
                    status.leader.filter(|&leader| Some(leader) != status.raft_id)
                },
                leading_since: leading.then(Instant::now),
                stopped: status.halted.is_some(),
            }
        };
        leadership.send_if_modified(|before| {
            let same_office = before.leading_since.filter(|_| before.term == now.term);
            let now = Leadership {
                leading_since: now.leading_since.map(|since| same_office.unwrap_or(since)),
                stopped: now.stopped || before.stopped,
                ..now
            };
            let changed = *before != now;
            *before = now;
            changed
        });
        if status.changed().await.is_err() {
            return leadership.send_modify(|last| last.stopped = true);
        }
    }
}
