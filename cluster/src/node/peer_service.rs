//! Answers what other nodes ask of this one. Refusing is cheap: a request is decoded, and whatever
//! this node cannot answer now is [`PeerAnswer::Unready`].
//!
//! A certificate proves a name, and a name outlives its membership: only an asker whose Raft id is in
//! the membership that is in effect here has anything done for it. A node that was removed is told the
//! time, and with it that it is no member; a directory that is still empty may ask to join.

use super::{
    Inner, Leadership, OperateError,
    peer_message::{ForwardedProposal, PeerAnswer, PeerRequest},
};
use crate::{
    agreement::{Fault, looking_twice},
    command::Proposal,
    propose::{Admission, BATCH_COMMANDS, Tried, is_the_clusters_own},
};
use bytes::Bytes;
use conclave_raft::{
    codec,
    formation::messages::{JoinGrant, JoinRefusal},
    identity::RaftId,
    node::{Peer, PeerService},
};
use futures::{FutureExt, future::BoxFuture, future::join_all};
use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// Bytes of outcomes in one answer. What is beyond is answered "unknown": the node that asked asks
/// again with the same ids, and gets the remembered outcomes.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// The longest that a scan or a change of membership may be waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The service. It exists before the node that it answers for, because that node's transport needs
/// it to start.
#[derive(Default)]
pub(super) struct Service {
    node: OnceLock<Weak<Inner>>,
}

impl Service {
    /// From here on it answers for this node.
    pub(super) fn answer_for(&self, node: &Arc<Inner>) {
        let _ = self.node.set(Arc::downgrade(node));
    }
}

impl PeerService for Service {
    fn handle(self: Arc<Self>, from: Peer, request: Bytes) -> BoxFuture<'static, Bytes> {
        async move {
            let answer = match self.node.get().and_then(Weak::upgrade) {
                Some(node) => node.answer(from, &request).await,
                None => PeerAnswer::Unready,
            };
            Bytes::from(codec::encode(&answer))
        }
        .boxed()
    }

    fn join(self: Arc<Self>, from: Peer) -> BoxFuture<'static, Result<JoinGrant, JoinRefusal>> {
        async move {
            match self.node.get().and_then(Weak::upgrade) {
                Some(node) => node.join(from).await,
                None => Err("this node is starting".into()),
            }
        }
        .boxed()
    }
}

impl Inner {
    async fn answer(self: Arc<Self>, from: Peer, request: &[u8]) -> PeerAnswer {
        let request = match codec::decode(request) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(node = from.name, %error, "another node asked something unknown");
                return PeerAnswer::Unready;
            }
        };
        let Some(asker) = from.raft_id else {
            return PeerAnswer::Unready;
        };
        let member = self.raft.status().borrow().members.contains_key(&asker);
        if !member && !matches!(request, PeerRequest::Clock) {
            tracing::debug!(node = from.name, %asker, "no member asked for something");
            return PeerAnswer::Unready;
        }
        match request {
            PeerRequest::Propose(proposals) => self.enter_for(asker, proposals).await,
            PeerRequest::ReadIndex => match self.barriers.answer_as_leader().await {
                Some(confirmed) => PeerAnswer::ReadIndex {
                    index: confirmed.index,
                    time_ms: confirmed.time_ms,
                },
                None => PeerAnswer::Unready,
            },
            PeerRequest::Clock => PeerAnswer::Clock {
                wall_ms: self.clocks.wall_ms(),
                rules_known: crate::apply::NEWEST_RULES,
                member,
            },
            PeerRequest::Digests { above_index } => {
                match looking_twice(|| self.store.view().kept_digests()) {
                    Ok(kept) => PeerAnswer::Digests(
                        kept.into_iter()
                            .filter(|&(index, _)| index > above_index)
                            .collect(),
                    ),
                    Err(error) => {
                        Fault::of_reading("the kept digests", &error)
                            .halt(&self.raft)
                            .await;
                        PeerAnswer::Unready
                    }
                }
            }
            PeerRequest::Verify { timeout_ms } => {
                let wait = Duration::from_millis(timeout_ms).min(LONGEST_WAIT);
                match timeout(wait, self.scrub.clone().verify()).await {
                    Ok(result) => PeerAnswer::Verified(result),
                    Err(_) => PeerAnswer::Verified(Err("the scan did not finish in time".into())),
                }
            }
            PeerRequest::Operate {
                operation,
                record,
                timeout_ms,
            } => {
                let deadline = Instant::now() + Duration::from_millis(timeout_ms).min(LONGEST_WAIT);
                match self.operate_here(asker, operation, record, deadline).await {
                    Err(OperateError::NoLeader) => PeerAnswer::Unready,
                    result => PeerAnswer::Operated(result),
                }
            }
        }
    }

    async fn enter_for(&self, asker: RaftId, proposals: Vec<ForwardedProposal>) -> PeerAnswer {
        let seen: Leadership = self.leadership.borrow().clone();
        if !seen.leads_here() || proposals.len() > BATCH_COMMANDS {
            return PeerAnswer::Unready;
        }
        let tries = proposals.into_iter().map(
            |ForwardedProposal {
                 id,
                 made_at_index,
                 command,
             }| async move {
                if command.len() > self.proposer.command_limit_bytes || is_the_clusters_own(&command) {
                    return Tried::NotEntered;
                }
                let Some(admission) = Admission::take(&self.forwarded_admission, command.len()) else {
                    return Tried::Overloaded;
                };
                // Who proposed is what the connection's certificate says.
                let proposal = Proposal {
                    id,
                    made_at_index,
                    node: asker,
                    command,
                };
                self.proposer.entries.submit(proposal, admission).tried().await
            },
        );
        let mut tried = join_all(tries).await;
        let mut bytes = 0;
        for one in &mut tried {
            let one_bytes = match one {
                Tried::Applied(answer) => answer.outcome.large_bytes(),
                _ => 0,
            };
            if bytes > 0 && bytes + one_bytes > ANSWER_BYTES {
                *one = Tried::Unknown;
            } else {
                bytes += one_bytes;
            }
        }
        PeerAnswer::Proposed(tried)
    }
}
