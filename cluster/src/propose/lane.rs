//! Where tickets wait. A lane is drained in batches: whatever queued while earlier batches were
//! under way shares the next one, so that batches grow with the load and nothing waits on purpose.

use super::{
    COMMAND_OVERHEAD_BYTES,
    ticket::{self, Claim, Reply, Ticket, Tried},
};
use crate::command::Proposal;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Bytes of a proposal that count against a limit for as long as this lives.
pub(crate) struct Admission {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// `None` when too many bytes are waiting.
    pub(crate) fn take(bytes: &Arc<Semaphore>, size_bytes: usize) -> Option<Arc<Self>> {
        let permits = u32::try_from(size_bytes + COMMAND_OVERHEAD_BYTES).ok()?;
        let permit = bytes.clone().try_acquire_many_owned(permits).ok()?;
        Some(Arc::new(Self {
            _permit: Some(permit),
        }))
    }

    /// Outside any limit.
    #[cfg(test)]
    pub(super) fn free() -> Arc<Self> {
        Arc::new(Self { _permit: None })
    }
}

/// A queue of tickets. Its length is bounded by the admission that each ticket holds.
#[derive(Default)]
pub(super) struct Lane {
    waiting: Mutex<VecDeque<Ticket>>,
    arrived: Notify,
}

impl Lane {
    /// Queues one try.
    pub(super) fn submit(&self, proposal: Proposal, admission: Arc<Admission>) -> Claim {
        let (ticket, claim) = ticket::issue(proposal, admission);
        self.queue().push_back(ticket);
        self.arrived.notify_one();
        claim
    }

    /// Waits until something is queued. For one waiter at a time.
    pub(super) async fn arrival(&self) {
        while self.queue().is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Takes what fits into `limit_bytes` and `limit_commands`, at least one. Abandoned tickets are
    /// dropped.
    pub(super) fn take_batch(
        &self,
        limit_bytes: usize,
        limit_commands: usize,
    ) -> (Vec<Proposal>, Vec<Reply>) {
        let mut queue = self.queue();
        let mut bytes = 0;
        let mut batch = (Vec::new(), Vec::new());
        while let Some(next) = queue.front() {
            bytes += next.command_bytes() + COMMAND_OVERHEAD_BYTES;
            let full = bytes > limit_bytes || batch.0.len() >= limit_commands;
            if full && !batch.0.is_empty() {
                break;
            }
            if let Some((proposal, reply)) = queue.pop_front().and_then(Ticket::take) {
                batch.0.push(proposal);
                batch.1.push(reply);
            }
        }
        batch
    }

    /// Sends everything back untaken.
    pub(super) fn refuse_all(&self, why: &Tried) {
        let tickets = std::mem::take(&mut *self.queue());
        tickets.into_iter().for_each(|ticket| ticket.refuse(why.clone()));
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Ticket>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::ProposalId;
    use conclave_raft::identity::RaftId;

    pub(in crate::propose) fn proposal_of(size_bytes: usize) -> Proposal {
        Proposal {
            id: ProposalId([7; 16]),
            made_at_index: 0,
            node: RaftId(1),
            command: vec![0; size_bytes].into(),
        }
    }

    #[tokio::test]
    async fn batches_are_bounded_in_bytes_and_never_empty() {
        let lane = Lane::default();
        let claims: Vec<_> = [100, 100, 5000, 100]
            .map(|size| lane.submit(proposal_of(size), Admission::free()))
            .into();
        lane.arrival().await;
        let limit = 2 * (100 + COMMAND_OVERHEAD_BYTES);
        let sizes =
            |batch: (Vec<Proposal>, Vec<Reply>)| batch.0.iter().map(|p| p.command.len()).collect::<Vec<_>>();
        assert_eq!(sizes(lane.take_batch(limit, 100)), [100, 100]);
        assert_eq!(sizes(lane.take_batch(limit, 100)), [5000]);
        assert_eq!(sizes(lane.take_batch(limit, 100)), [100]);
        assert!(lane.take_batch(limit, 100).0.is_empty());
        drop(claims);
    }

    #[tokio::test]
    async fn abandoned_tickets_leave_no_trace() {
        let lane = Lane::default();
        let first = lane.submit(proposal_of(1), Admission::free());
        let _second = lane.submit(proposal_of(2), Admission::free());
        assert!(first.abandon());
        let (proposals, _replies) = lane.take_batch(usize::MAX, 100);
        assert_eq!(proposals.len(), 1);
        assert_eq!(proposals[0].command.len(), 2);
    }

    #[test]
    fn admission_ends_with_its_last_holder() {
        let bytes = Arc::new(Semaphore::new(1000));
        let held = Admission::take(&bytes, 900).unwrap();
        assert!(Admission::take(&bytes, 900).is_none());
        drop(held);
        assert!(Admission::take(&bytes, 900).is_some());
    }
}
