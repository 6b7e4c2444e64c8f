//! The way of proposals into Raft: one queue, so that the order of the calls is the order in the log
//! whatever order their futures are polled in.

use super::{Applied, ProposeError, core::Core};
use crate::{
    identity::RaftId,
    runtime::Runtime,
    types::{CommittedLeaderId, LogTypes, Proposal},
};
use bytes::Bytes;
use openraft::{AsyncRuntime, errors::ClientWriteError, impls::ProgressResponder};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Proposals that wait to be handed to Raft. It takes them at once, so that few ever wait.
pub(super) const QUEUE: usize = 4096;

/// A proposal on its way.
pub(crate) struct Queued {
    pub term: u64,
    pub payload: Bytes,
    pub outcome: oneshot::Sender<Result<Applied, ProposeError>>,
}

/// Hands proposals to Raft in order.
pub(super) async fn run(core: Arc<Core>, mut queue: mpsc::Receiver<Queued>) {
    while let Some(queued) = queue.recv().await {
        hand_over(&core, queued).await;
    }
}

async fn hand_over(core: &Core, queued: Queued) {
    let Some(raft) = core.running() else {
        // Whoever asked may have gone; so below.
        let _ = queued.outcome.send(Err(ProposeError::NotLeader { leader: None }));
        return;
    };
    let (responder, completed) = ProgressResponder::<LogTypes, _>::complete_only();
    // openraft compares the term and appends in one step.
    let handed = raft
        .write(Proposal(queued.payload))
        .with_leader(CommittedLeaderId::new(queued.term))
        .responder(responder)
        .await;
    if let Err(error) = handed {
        let _ = queued.outcome.send(Err(ProposeError::Unknown(error.to_string())));
        return;
    }
    Runtime::spawn(async move {
        let outcome = match completed.await {
            Ok(Ok(written)) => Ok(Applied {
                position: written.log_id.into(),
                response: written.data.0,
            }),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(ProposeError::NotLeader {
                leader: forward.leader_id.map(RaftId),
            }),
            Ok(Err(error)) => Err(ProposeError::Unknown(error.to_string())),
            Err(_) => Err(ProposeError::Unknown("the node stopped".into())),
        };
        let _ = queued.outcome.send(outcome);
    });
}
