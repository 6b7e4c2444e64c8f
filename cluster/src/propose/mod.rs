//! From a command to its outcome, wherever the leader is, and whatever happens to it on the way.
//!
//! A proposal gets a random id and keeps it, and the index that this node had applied when it was
//! made, over all its tries; the state machine answers a copy with the first one's outcome, or
//! refuses it (design, section 5). So trying again is always safe, and the invariant kept here is
//! the other half: a caller is told "nothing was done" only if no try of the proposal ever left this
//! node's queues.
//!
//! | file      | idea                                                                        |
//! |-----------|-----------------------------------------------------------------------------|
//! | `ticket`  | one try: taken by a lane, or abandoned by its caller, never both             |
//! | `lane`    | the queue in which tickets wait, taken in batches bounded in bytes           |
//! | `enter`   | on the leader: batches become stamped entries                                |
//! | `forward` | elsewhere: batches travel to the leader                                      |
//! | `own`     | what only the leader itself may propose                                     |
//! | `relief`  | which commands are let through while the disk is below its reserve           |

mod enter;
mod forward;
mod lane;
mod own;
pub(crate) mod relief;
mod ticket;

pub(crate) use enter::EntryLane;
pub(crate) use forward::ForwardLane;
pub(crate) use lane::Admission;
pub(crate) use own::is_the_clusters_own;
pub(crate) use ticket::Tried;

use crate::{
    command::{Command, Outcome, Proposal, Refusal},
    metric_definitions,
    model::ProposalId,
    node::{Answer, Leadership, ProposeError},
};
use bytes::Bytes;
use conclave_raft::{codec, node::RaftStatus, runtime::Runtime};
use futures::future::join_all;
use std::{sync::Arc, time::Duration};
use ticket::Claim;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};

/// The most commands in one entry or one message between nodes, whatever their bytes.
pub(crate) const BATCH_COMMANDS: usize = 4096;

/// What an entry or a message adds to the bytes of each command (id, index, lengths), at most.
pub(crate) const COMMAND_OVERHEAD_BYTES: usize = 64;

/// First and longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// How long a proposal waits for another leader after one said that it has no space: a leader below
/// its reserve hands over.
const NO_SPACE_PATIENCE: Duration = Duration::from_secs(2);

/// Proposes on behalf of this node's edge.
pub(crate) struct Proposer {
    /// The entry lane, for while this node leads.
    pub(crate) entries: Arc<EntryLane>,
    /// The forward lane, for while another does.
    pub(crate) forwards: Arc<ForwardLane>,
    /// Who leads.
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// What is applied here.
    pub(crate) status: watch::Receiver<RaftStatus>,
    /// Bytes that may wait here.
    pub(crate) admission: Arc<Semaphore>,
    /// The largest command in bytes.
    pub(crate) command_limit_bytes: usize,
}

impl Proposer {
    /// Proposes a command and returns its outcome; tries until the deadline.
    pub(crate) async fn propose(&self, command: &Command, deadline: Instant) -> Result<Answer, ProposeError> {
        let command = Bytes::from(codec::encode(command));
        if command.len() > self.command_limit_bytes {
            return Err(ProposeError::TooLarge {
                size_bytes: command.len(),
                limit_bytes: self.command_limit_bytes,
            });
        }
        let admission = Admission::take(&self.admission, command.len()).ok_or_else(|| {
            metrics::counter!(metric_definitions::PROPOSALS_OVERLOADED).increment(1);
            ProposeError::Overloaded
        })?;
        metrics::counter!(metric_definitions::PROPOSALS).increment(1);
        loop {
            let mut pursuit = Pursuit::new(self.make(command.clone()));
            let answer = self.pursue(&mut pursuit, &admission, deadline).await?;
            let too_late = matches!(
                answer.outcome,
                Outcome::Refused {
                    refusal: Refusal::TooLate,
                    ..
                }
            );
            match (too_late, pursuit.perhaps_entered) {
                (false, _) => return Ok(answer),
                // An earlier try may have been applied and its outcome forgotten since.
                (true, true) => return Err(ProposeError::OutcomeUnknown),
                // This node was too far behind when it made the proposal. It catches up to that
                // refusal and makes it anew.
                (true, false) => self.catch_up(answer.index, deadline).await?,
            }
        }
    }

    /// Pursues copies of one proposal at once, as a network would that delivers a message more than
    /// once.
    pub(crate) async fn propose_copies(
        &self,
        command: &Command,
        copies: usize,
        deadline: Instant,
    ) -> Vec<Result<Answer, ProposeError>> {
        let proposal = self.make(Bytes::from(codec::encode(command)));
        let pursuits = (0..copies).map(|_| async {
            let admission = Admission::take(&self.admission, proposal.command.len());
            let admission = admission.ok_or(ProposeError::Overloaded)?;
            self.pursue(&mut Pursuit::new(proposal.clone()), &admission, deadline)
                .await
        });
        join_all(pursuits).await
    }

    fn make(&self, command: Bytes) -> Proposal {
        let status = self.status.borrow();
        Proposal {
            id: ProposalId(Runtime::random_16_bytes()),
            made_at_index: status.applied_index.unwrap_or(0),
            // The leader writes it again from the peer's certificate.
            node: status.raft_id.unwrap_or_default(),
            command,
        }
    }

    async fn catch_up(&self, index: u64, deadline: Instant) -> Result<(), ProposeError> {
        let mut status = self.status.clone();
        let caught_up =
            status.wait_for(|status| status.applied_index >= Some(index) || status.halted.is_some());
        match timeout_at(deadline, caught_up).await {
            Ok(Ok(status)) if status.halted.is_none() => Ok(()),
            Ok(_) => Err(ProposeError::Stopping),
            Err(_) => Err(ProposeError::NoLeader),
        }
    }

    async fn pursue(
        &self,
        pursuit: &mut Pursuit,
        admission: &Arc<Admission>,
        deadline: Instant,
    ) -> Result<Answer, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let seen = leadership.borrow_and_update().clone();
            if seen.stopped {
                return Err(pursuit.given_up(ProposeError::Stopping));
            }
            if Instant::now() >= deadline {
                return Err(pursuit.given_up(ProposeError::NoLeader));
            }
            let mut claim = if seen.leads_here() {
                self.entries.submit(pursuit.proposal.clone(), admission.clone())
            } else if seen.leader.is_some() {
                self.forwards.submit(pursuit.proposal.clone(), admission.clone())
            } else {
                // A change of leadership is announced; nothing is polled.
                let _ = timeout_at(deadline, leadership.changed()).await;
                continue;
            };
            let tried = tokio::select! {
                biased;
                tried = claim.tried() => tried,
                _ = leadership.changed() => given_up(claim),
                () = sleep_until(deadline) => given_up(claim),
            };
            match tried {
                Tried::Applied(answer) => return Ok(answer),
                Tried::NotEntered => pursuit.refused(None),
                Tried::Overloaded => pursuit.refused(Some(ProposeError::Overloaded)),
                Tried::NoSpace => {
                    pursuit.refused(Some(ProposeError::NoSpace));
                    let since = *pursuit.no_space_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > NO_SPACE_PATIENCE {
                        return Err(pursuit.given_up(ProposeError::NoSpace));
                    }
                }
                Tried::Unknown => pursuit.perhaps_entered = true,
            }
            metrics::counter!(metric_definitions::PROPOSAL_RETRIES).increment(1);
            let pause = pursuit.next_pause();
            tokio::select! {
                biased;
                _ = leadership.changed() => leadership.mark_changed(),
                () = sleep_until(deadline.min(Instant::now() + pause)) => {}
            }
        }
    }
}

fn given_up(claim: Claim) -> Tried {
    if claim.abandon() {
        Tried::NotEntered
    } else {
        Tried::Unknown
    }
}

/// What is known of one proposal's tries.
struct Pursuit {
    proposal: Proposal,
    /// Some try left this node's queues and it is not certain that nothing was appended.
    perhaps_entered: bool,
    /// Why the last try was refused, where it says more than "no leader".
    refusal: Option<ProposeError>,
    no_space_since: Option<Instant>,
    pause: Duration,
}

impl Pursuit {
    fn new(proposal: Proposal) -> Self {
        Self {
            proposal,
            perhaps_entered: false,
            refusal: None,
            no_space_since: None,
            pause: PAUSES.0,
        }
    }

    fn refused(&mut self, why: Option<ProposeError>) {
        self.refusal = why;
    }

    fn given_up(&self, otherwise: ProposeError) -> ProposeError {
        if self.perhaps_entered {
            ProposeError::OutcomeUnknown
        } else {
            self.refusal.clone().unwrap_or(otherwise)
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_raft::identity::RaftId;

    /// Apply tells an old copy from a new proposal by the index at which it was made.
    #[tokio::test]
    async fn a_proposal_is_the_same_over_all_its_tries() {
        let applied = |index| RaftStatus {
            raft_id: Some(RaftId(1)),
            applied_index: Some(index),
            ..RaftStatus::default()
        };
        let status = watch::Sender::new(applied(5));
        let leadership = watch::Sender::new(Leadership::default());
        leadership.send_modify(|seen| seen.leader = Some(RaftId(2)));
        let forwards = Arc::new(ForwardLane::new(1 << 20));
        let proposer = Proposer {
            entries: Arc::new(EntryLane::new(1 << 20)),
            forwards: forwards.clone(),
            leadership: leadership.subscribe(),
            status: status.subscribe(),
            admission: Arc::new(Semaphore::new(1 << 20)),
            command_limit_bytes: 1 << 20,
        };
        let command = Command {
            guards: vec![],
            steps: vec![],
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let proposing = tokio::spawn(async move { proposer.propose(&command, deadline).await });
        let take = async || {
            forwards.lane.arrival().await;
            let (proposals, replies) = forwards.lane.take_batch(1 << 20, 1);
            let taken = proposals.into_iter().zip(replies).next();
            taken.expect("its caller waits")
        };
        let (first, reply) = take().await;
        assert_eq!(first.made_at_index, 5);
        status.send_replace(applied(9));
        reply.say(Tried::Unknown);
        let (second, reply) = take().await;
        assert_eq!(second, first);
        reply.say(Tried::Applied(Answer {
            index: 8,
            position: 0,
            time_ms: 0,
            outcome: Outcome::Done(vec![]),
        }));
        assert_eq!(proposing.await.unwrap().unwrap().index, 8);
    }
}
