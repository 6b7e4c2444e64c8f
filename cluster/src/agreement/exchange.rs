//! Asks the other voters for their kept digests, compares, and halts this node if a majority has
//! another state.

use super::{
    fault::{Fault, looking_twice},
    verdict::{Digest, judge},
};
use crate::{
    metric_definitions,
    node::peer_message::{PeerAnswer, PeerRequest},
    state::Store,
};
use bytes::Bytes;
use conclave_raft::{codec, identity::RaftId, node::RaftNode};
use futures::future::join_all;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often. The state keeps enough digests that none passes unseen at any rate of entries that
/// this can replicate.
const EXCHANGE_EVERY: Duration = Duration::from_secs(1);

/// How long another node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The task that exchanges.
pub(crate) struct DigestExchange {
    pub(crate) raft: RaftNode,
    pub(crate) store: Arc<Store>,
}

impl DigestExchange {
    /// Exchanges for as long as the node runs.
    pub(crate) async fn run(self) {
        // Everything up to here was found equal.
        let mut agreed_up_to = 0;
        loop {
            tokio::time::sleep(EXCHANGE_EVERY).await;
            let mut exchanged = self.exchange(&mut agreed_up_to).await;
            if let Err(Fault::Differs(reason)) = &exchanged {
                tracing::error!(reason, "comparing once more");
                exchanged = self.exchange(&mut agreed_up_to).await;
            }
            if let Err(fault) = exchanged {
                return fault.halt(&self.raft).await;
            }
        }
    }

    async fn exchange(&self, agreed_up_to: &mut u64) -> Result<(), Fault> {
        let kept = looking_twice(|| self.store.view().kept_digests())
            .map_err(|error| Fault::of_reading("the kept digests", &error))?;
        let mine: BTreeMap<u64, Digest> = kept
            .into_iter()
            .filter(|&(index, _)| index > *agreed_up_to)
            .collect();
        let status = self.raft.status().borrow().clone();
        let (Some(me), false) = (status.raft_id, mine.is_empty()) else {
            return Ok(());
        };
        let voters: Vec<RaftId> = status
            .members
            .iter()
            .filter(|(_, member)| member.voter)
            .map(|(&raft_id, _)| raft_id)
            .collect();
        let asked = voters
            .iter()
            .filter(|&&voter| voter != me)
            .map(|&voter| self.ask(voter, *agreed_up_to));
        let others: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        let verdict = judge(&mine, &others, voters.len(), voters.contains(&me));
        metrics::counter!(metric_definitions::DIGESTS_COMPARED).increment(verdict.agreed.len() as u64);
        if let Some(index) = verdict.undecided_at {
            metrics::counter!(metric_definitions::DIGESTS_DIFFERING).increment(1);
            tracing::error!(
                index,
                "nodes have different states and no majority has the same; run `conclave cluster verify`"
            );
        }
        if let Some(index) = verdict.alone_at {
            metrics::counter!(metric_definitions::DIGESTS_DIFFERING).increment(1);
            return Err(Fault::Differs(format!(
                "the state at index {index} differs from that of a majority of the nodes"
            )));
        }
        *agreed_up_to = verdict.agreed.last().copied().unwrap_or(*agreed_up_to);
        Ok(())
    }

    async fn ask(&self, voter: RaftId, above_index: u64) -> Option<BTreeMap<u64, Digest>> {
        let request = Bytes::from(codec::encode(&PeerRequest::Digests { above_index }));
        let answer = self
            .raft
            .call(voter, request, Instant::now() + ANSWER_TIMEOUT)
            .await
            .ok()?;
        match codec::decode(&answer).ok()? {
            PeerAnswer::Digests(kept) => Some(kept.into_iter().collect()),
            _ => None,
        }
    }
}
