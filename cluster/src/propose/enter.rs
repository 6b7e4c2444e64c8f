//! On the leader: batches become stamped entries. A few are in flight at once; commands that arrive
//! meanwhile share the next entry, one append and one sync (group commit).

use super::{
    BATCH_COMMANDS,
    lane::{Admission, Lane},
    relief,
    ticket::{Claim, Reply, Tried},
};
use crate::{
    command::{Entry, EntryResponse, Proposal},
    metric_definitions,
    node::{Answer, Leadership},
    time::LeaderClock,
};
use bytes::Bytes;
use conclave_raft::{
    codec,
    node::{Applied, ProposeError, RaftNode},
    runtime::{AsyncRuntime, Runtime},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Entries in flight at once. One would leave the disk idle while followers answer; many would make
/// small batches.
const ENTRIES_IN_FLIGHT: usize = 2;

/// Bytes of answers that one entry should not exceed. A batch of small disclosures can have a large
/// answer; how large is only known afterwards, so that batches follow what earlier answers took.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// The leader's lane.
pub(crate) struct EntryLane {
    lane: Lane,
    batch_bytes: usize,
    in_flight: Arc<Semaphore>,
    answers: Arc<AnswerSizes>,
}

/// How large answers have been lately.
#[derive(Default)]
struct AnswerSizes {
    bytes_per_command: AtomicUsize,
}

impl EntryLane {
    /// A lane whose entries carry at most `batch_bytes` (or one larger command).
    pub(crate) fn new(batch_bytes: usize) -> Self {
        Self {
            lane: Lane::default(),
            batch_bytes,
            in_flight: Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT)),
            answers: Arc::default(),
        }
    }

    /// Queues one try.
    pub(crate) fn submit(&self, proposal: Proposal, admission: Arc<Admission>) -> Claim {
        self.lane.submit(proposal, admission)
    }

    /// Drains the lane for as long as the node runs.
    pub(crate) async fn run(
        self: Arc<Self>,
        raft: RaftNode,
        clock: Arc<LeaderClock>,
        mut leadership: watch::Receiver<Leadership>,
    ) {
        let mut anchor = clock.anchor();
        loop {
            self.lane.arrival().await;
            let seen = leadership.borrow_and_update().clone();
            if !seen.leads_here() {
                self.lane.refuse_all(&Tried::NotEntered);
                continue;
            }
            // A free slot first, so that whatever queues while all are in use shares the next entry.
            let slot = tokio::select! {
                biased;
                slot = self.in_flight.clone().acquire_owned() => slot.expect("this semaphore is never closed"),
                _ = leadership.changed() => continue,
            };
            anchor.mark_unchanged();
            let Some(stamp) = clock.stamp(seen.term) else {
                // Office was just taken and the voters' clocks are being compared, or they say that
                // this node must hand over.
                drop(slot);
                tokio::select! {
                    biased;
                    _ = anchor.changed() => {}
                    _ = leadership.changed() => leadership.mark_changed(),
                }
                continue;
            };
            let (proposals, replies) = self
                .lane
                .take_batch(self.batch_bytes, self.answers.commands_limit());
            let (proposals, replies) = if !raft.takes_ordinary_entries() {
                only_relieving(proposals, replies)
            } else {
                (proposals, replies)
            };
            if proposals.is_empty() {
                continue;
            }
            let payload = Bytes::from(codec::encode(&Entry { stamp, proposals }));
            metrics::histogram!(metric_definitions::ENTRY_COMMANDS).record(replies.len() as f64);
            metrics::histogram!(metric_definitions::ENTRY_BYTES).record(payload.len() as f64);
            let entering = Entering {
                raft: raft.clone(),
                term: seen.term,
                answers: self.answers.clone(),
            };
            Runtime::spawn(entering.enter(payload, replies, slot));
        }
    }
}

/// One entry on its way.
struct Entering {
    raft: RaftNode,
    term: u64,
    answers: Arc<AnswerSizes>,
}

impl Entering {
    async fn enter(self, payload: Bytes, replies: Vec<Reply>, slot: OwnedSemaphorePermit) {
        let in_flight = metrics::gauge!(metric_definitions::ENTRIES_IN_FLIGHT);
        in_flight.increment(1.0);
        let proposed = self.raft.propose(self.term, payload).await;
        in_flight.decrement(1.0);
        drop(slot);
        match proposed {
            Ok(applied) => self.distribute(applied, replies),
            Err(ProposeError::NotLeader { .. }) => say_to_all(replies, &Tried::NotEntered),
            // Batches are smaller than the log's limit by far, and few are in flight.
            Err(ProposeError::TooLarge { .. } | ProposeError::Busy) => {
                say_to_all(replies, &Tried::NotEntered)
            }
            Err(ProposeError::NoSpace) => say_to_all(replies, &Tried::NoSpace),
            Err(ProposeError::Unknown(_)) => say_to_all(replies, &Tried::Unknown),
        }
    }

    fn distribute(&self, applied: Applied, replies: Vec<Reply>) {
        let index = applied.position.index;
        let response: EntryResponse = match codec::decode(&applied.response) {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(index, %error, "an entry's outcomes cannot be read");
                return say_to_all(replies, &Tried::Unknown);
            }
        };
        if response.outcomes.len() != replies.len() {
            tracing::error!(index, "an entry has another number of outcomes than of commands");
            return say_to_all(replies, &Tried::Unknown);
        }
        let answered = response.outcomes.iter().flatten().count();
        self.answers.observe(applied.response.len(), answered);
        for (position, (reply, outcome)) in (0_u32..).zip(replies.into_iter().zip(response.outcomes)) {
            reply.say(match outcome {
                Some(outcome) => Tried::Applied(Answer {
                    index,
                    position,
                    time_ms: response.time_ms,
                    outcome,
                }),
                // Together the answers were too large. The caller asks again with the same id, in a
                // smaller batch, and gets the outcome that the state machine remembers.
                None => Tried::Unknown,
            });
        }
    }
}

/// Sends back what takes space, so that what frees some is not refused with it.
fn only_relieving(proposals: Vec<Proposal>, replies: Vec<Reply>) -> (Vec<Proposal>, Vec<Reply>) {
    let (relieving, ordinary): (Vec<_>, Vec<_>) = proposals
        .into_iter()
        .zip(replies)
        .partition(|(proposal, _)| relief::relieves(&proposal.command));
    ordinary
        .into_iter()
        .for_each(|(_, reply)| reply.say(Tried::NoSpace));
    relieving.into_iter().unzip()
}

fn say_to_all(replies: Vec<Reply>, tried: &Tried) {
    replies.into_iter().for_each(|reply| reply.say(tried.clone()));
}

impl AnswerSizes {
    fn observe(&self, bytes: usize, commands: usize) {
        let seen = bytes / commands.max(1);
        let kept = self.bytes_per_command.load(Ordering::Relaxed);
        self.bytes_per_command
            .store(seen.max(kept - kept / 8), Ordering::Relaxed);
    }

    fn commands_limit(&self) -> usize {
        let bytes_per_command = self.bytes_per_command.load(Ordering::Relaxed).max(1);
        (ANSWER_BYTES / bytes_per_command).clamp(1, BATCH_COMMANDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_the_size_of_answers_down_and_up() {
        let sizes = AnswerSizes::default();
        assert_eq!(sizes.commands_limit(), BATCH_COMMANDS);
        sizes.observe(64 * 1024 * 1024, 64);
        assert_eq!(sizes.commands_limit(), 16);
        (0..200).for_each(|_| sizes.observe(256, 1));
        assert_eq!(sizes.commands_limit(), BATCH_COMMANDS);
        sizes.observe(usize::MAX, 1);
        assert_eq!(sizes.commands_limit(), 1);
    }
}
