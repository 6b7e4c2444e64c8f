//! Who leads. Derived from Raft's status, and announced only when it changes, so that a thousand
//! waiting proposals do not wake with every applied entry.

use conclave_raft::{
    identity::RaftId,
    node::{RaftStatus, Role},
};
use tokio::sync::watch;

/// Who leads, as far as this node knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leadership {
    /// The present term.
    pub(crate) term: u64,
    /// Who leads in it.
    pub(crate) leader: Option<RaftId>,
    /// Whether that is this node.
    leads: bool,
    /// The node is stopping or has halted: nothing new is begun.
    pub(crate) stopped: bool,
}

impl Leadership {
    /// Whether this node leads.
    pub(crate) fn leads_here(&self) -> bool {
        self.leads && !self.stopped
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
                leads: leading,
                stopped: status.halted.is_some(),
            }
        };
        leadership.send_if_modified(|before| {
            let now = Leadership {
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
