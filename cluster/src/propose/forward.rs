//! Elsewhere than on the leader: batches travel to it. The leader stamps each proposal with the node
//! that the connection's certificate names; what a message says about that is never asked.

use super::{
    BATCH_COMMANDS,
    lane::{Admission, Lane},
    ticket::{Claim, Reply, Tried},
};
use crate::{
    command::Proposal,
    metric_definitions,
    node::{
        Leadership,
        peer_message::{ForwardedProposal, PeerAnswer, PeerRequest},
    },
};
use bytes::Bytes;
use conclave_raft::{
    codec,
    identity::RaftId,
    node::{CallError, RaftNode},
    runtime::{AsyncRuntime, Runtime},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};

/// Messages under way at once. Each is answered when its entries are applied.
const MESSAGES_IN_FLIGHT: usize = 8;

/// How long a message waits for its answer. Callers give up earlier by themselves; this frees the
/// slot of a message that a silent leader swallowed.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A follower's lane.
pub(crate) struct ForwardLane {
    pub(super) lane: Lane,
    batch_bytes: usize,
    in_flight: Arc<Semaphore>,
}

impl ForwardLane {
    /// A lane whose messages carry at most `batch_bytes` (or one larger command).
    pub(crate) fn new(batch_bytes: usize) -> Self {
        Self {
            lane: Lane::default(),
            batch_bytes,
            in_flight: Arc::new(Semaphore::new(MESSAGES_IN_FLIGHT)),
        }
    }

    /// Queues one try.
    pub(crate) fn submit(&self, proposal: Proposal, admission: Arc<Admission>) -> Claim {
        self.lane.submit(proposal, admission)
    }

    /// Drains the lane for as long as the node runs.
    pub(crate) async fn run(self: Arc<Self>, raft: RaftNode, mut leadership: watch::Receiver<Leadership>) {
        loop {
            self.lane.arrival().await;
            let seen = leadership.borrow_and_update().clone();
            let (Some(leader), false) = (seen.leader, seen.leads_here()) else {
                self.lane.refuse_all(&Tried::NotEntered);
                continue;
            };
            let slot = tokio::select! {
                biased;
                slot = self.in_flight.clone().acquire_owned() => slot.expect("this semaphore is never closed"),
                _ = leadership.changed() => continue,
            };
            let (proposals, replies) = self.lane.take_batch(self.batch_bytes, BATCH_COMMANDS);
            if proposals.is_empty() {
                continue;
            }
            metrics::counter!(metric_definitions::PROPOSALS_FORWARDED).increment(replies.len() as u64);
            Runtime::spawn(forward(
                raft.clone(),
                leader,
                leadership.clone(),
                proposals,
                replies,
                slot,
            ));
        }
    }
}

async fn forward(
    raft: RaftNode,
    leader: RaftId,
    mut leadership: watch::Receiver<Leadership>,
    proposals: Vec<Proposal>,
    replies: Vec<Reply>,
    slot: OwnedSemaphorePermit,
) {
    let proposals = proposals
        .into_iter()
        .map(|proposal| ForwardedProposal {
            id: proposal.id,
            made_at_index: proposal.made_at_index,
            command: proposal.command,
        })
        .collect();
    let request = Bytes::from(codec::encode(&PeerRequest::Propose(proposals)));
    let answered = tokio::select! {
        biased;
        answered = raft.call(leader, request, Instant::now() + MESSAGE_TIMEOUT) => answered,
        // Its callers turn to the new leader; the slot is free for them.
        _ = leadership.wait_for(|now| now.leader != Some(leader)) => Err(CallError::TimedOut { to: leader.to_string() }),
    };
    drop(slot);
    let outcomes = match answered.map(|answer| codec::decode(&answer)) {
        Ok(Ok(PeerAnswer::Proposed(outcomes))) if outcomes.len() == replies.len() => outcomes,
        Ok(Ok(PeerAnswer::Unready)) => vec![Tried::NotEntered; replies.len()],
        Err(CallError::Busy { .. }) => vec![Tried::Overloaded; replies.len()],
        Ok(Ok(_)) | Ok(Err(_)) => {
            tracing::warn!(%leader, "the leader's answer to forwarded proposals cannot be understood");
            vec![Tried::Unknown; replies.len()]
        }
        Err(CallError::Unreachable { .. } | CallError::TimedOut { .. }) => {
            vec![Tried::Unknown; replies.len()]
        }
    };
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        reply.say(outcome);
    }
}
