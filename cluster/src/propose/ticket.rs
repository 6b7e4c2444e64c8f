//! One try of one proposal. Either a lane takes it, or its caller abandons it while it still waits;
//! one atomic step decides, so that "nothing was done" is never said of a proposal that left.

use super::lane::Admission;
use crate::{command::Proposal, node::Answer};
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};
use tokio::sync::oneshot;

/// What one try came to. It also travels from the leader to the node that forwarded the proposal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Tried {
    /// Applied.
    Applied(Answer),
    /// Certainly not appended by this try: no leader there, or the message was not sent.
    NotEntered,
    /// The leader's disk is below its reserve; not appended.
    NoSpace,
    /// Too much waits on the leader; not appended.
    Overloaded,
    /// It may have been appended.
    Unknown,
}

/// The caller's half.
pub(crate) struct Claim {
    state: Arc<AtomicU8>,
    tried: oneshot::Receiver<Tried>,
}

/// The lane's half, while it waits.
pub(crate) struct Ticket {
    proposal: Proposal,
    state: Arc<AtomicU8>,
    reply: Reply,
}

/// The lane's half, once taken.
pub(crate) struct Reply {
    tried: oneshot::Sender<Tried>,
    /// Bytes stay accounted for until the try ends, also when the caller has left.
    _admission: Arc<Admission>,
}

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const ABANDONED: u8 = 2;

/// Makes both halves of a try.
pub(super) fn issue(proposal: Proposal, admission: Arc<Admission>) -> (Ticket, Claim) {
    let state = Arc::new(AtomicU8::new(WAITING));
    let (sender, receiver) = oneshot::channel();
    let reply = Reply {
        tried: sender,
        _admission: admission,
    };
    (
        Ticket {
            proposal,
            state: state.clone(),
            reply,
        },
        Claim {
            state,
            tried: receiver,
        },
    )
}

impl Claim {
    /// What became of the try.
    pub(crate) async fn tried(&mut self) -> Tried {
        match (&mut self.tried).await {
            Ok(tried) => tried,
            Err(_) if self.state.load(Ordering::Acquire) == TAKEN => Tried::Unknown,
            Err(_) => Tried::NotEntered,
        }
    }

    /// Gives the try up. True: it was never taken.
    pub(crate) fn abandon(self) -> bool {
        self.settle(ABANDONED)
    }

    fn settle(&self, to: u8) -> bool {
        self.state
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

impl Ticket {
    /// The bytes of its command.
    pub(super) fn command_bytes(&self) -> usize {
        self.proposal.command.len()
    }

    /// Takes it, unless its caller has abandoned it.
    pub(super) fn take(self) -> Option<(Proposal, Reply)> {
        self.state
            .compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
            .then_some((self.proposal, self.reply))
    }

    /// Sends it back untaken.
    pub(super) fn refuse(self, why: Tried) {
        self.reply.say(why);
    }
}

impl Reply {
    /// Tells the caller, if it still listens.
    pub(super) fn say(self, tried: Tried) {
        let _ = self.tried.send(tried);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lane::tests::proposal_of, *};

    #[tokio::test]
    async fn a_taken_ticket_cannot_be_abandoned() {
        let (ticket, claim) = issue(proposal_of(3), Admission::free());
        let taken = ticket.take();
        assert!(taken.is_some());
        assert!(!claim.abandon());
    }

    #[tokio::test]
    async fn an_abandoned_ticket_cannot_be_taken() {
        let (ticket, claim) = issue(proposal_of(3), Admission::free());
        assert!(claim.abandon());
        assert!(ticket.take().is_none());
    }

    #[tokio::test]
    async fn a_lane_that_dies_leaves_the_truth() {
        let (ticket, mut claim) = issue(proposal_of(3), Admission::free());
        drop(ticket);
        assert!(matches!(claim.tried().await, Tried::NotEntered));
        let (ticket, mut claim) = issue(proposal_of(3), Admission::free());
        drop(ticket.take());
        assert!(matches!(claim.tried().await, Tried::Unknown));
    }
}
