//! openraft's network over the transport. Every method is implemented: openraft's defaults would
//! grant pre-votes and refuse transfers.

use super::{
    Target, Transport,
    appending::Appender,
    greeting::Lane,
    messages::{Append, AppendOutcome, Question, Reply, Transfer, TransferRejection, unreachable},
    multiplexed::{LinkFault, jittered},
    sending_snapshot,
};
use crate::{
    identity::{NodeRecord, RaftId},
    storage::snapshot_store::SnapshotData,
    types::{LogId, LogTypes, Vote},
};
use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use openraft::{
    RaftNetworkFactory,
    base::BoxFuture,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError},
    network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption},
    raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Makes openraft's clients.
pub(crate) struct NetworkFactory {
    pub transport: Arc<Transport>,
}

/// openraft's client to one node.
pub(crate) struct Network {
    transport: Arc<Transport>,
    target: Target,
    path: Path,
}

/// Which connection carries a client's appends.
enum Path {
    /// The append connection.
    Replication(Box<Appender>),
    /// The control connection: heartbeats, never behind entries.
    Heartbeat,
}

impl NetworkFactory {
    fn network(&self, raft_id: u64, node: &NodeRecord, path: impl FnOnce(Target) -> Path) -> Network {
        let target = Target {
            name: node.name.clone(),
            address: node.address.clone(),
            raft_id: Some(RaftId(raft_id)),
        };
        Network {
            transport: Arc::clone(&self.transport),
            target: target.clone(),
            path: path(target),
        }
    }
}

impl RaftNetworkFactory<LogTypes> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &NodeRecord) -> Network {
        self.network(target, node, |target| {
            Path::Replication(Box::new(Appender::new(Arc::clone(&self.transport), target)))
        })
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeRecord) -> Network {
        self.network(target, node, |_| Path::Heartbeat)
    }

    /// A snapshot's connection is made for each snapshot.
    async fn new_snapshot_client(&mut self, target: u64, node: &NodeRecord) -> Network {
        self.network(target, node, |_| Path::Heartbeat)
    }
}

impl Network {
    async fn ask(&self, question: Question, option: &RPCOption) -> Result<Reply, RPCError<LogTypes>> {
        ask(&self.transport, &self.target, question, option).await
    }

    fn peer(&self) -> RaftId {
        self.target.raft_id.unwrap_or_default()
    }
}

async fn ask(
    transport: &Arc<Transport>,
    target: &Target,
    question: Question,
    option: &RPCOption,
) -> Result<Reply, RPCError<LogTypes>> {
    let link = transport.link(target, Lane::Control);
    let deadline = Instant::now() + option.hard_ttl();
    match link.ask(question, Bytes::new(), deadline).await {
        Ok((Reply::Refused(refusal), _)) => Err(unreachable(refusal)),
        Ok((reply, _)) => Ok(reply),
        Err(fault @ LinkFault::Unreachable(_)) => Err(unreachable(fault)),
        Err(fault) => Err(RPCError::Network(NetworkError::from_string(fault))),
    }
}

async fn heartbeat(
    transport: &Arc<Transport>,
    target: &Target,
    request: AppendEntriesRequest<LogTypes>,
    option: &RPCOption,
) -> Result<StreamAppendResult<LogTypes>, RPCError<LogTypes>> {
    let (append, body) = Append::of(request);
    if !body.is_empty() {
        return Err(unreachable("a heartbeat carries no entries"));
    }
    let (term, committed) = (append.vote.term, append.committed);
    let Reply::Heartbeat {
        outcome,
        out_of_space,
    } = ask(transport, target, Question::Heartbeat(append), option).await?
    else {
        return Err(unreachable("another reply than to a heartbeat"));
    };
    if let Some(peer) = target.raft_id {
        transport.host.peer_out_of_space(peer, out_of_space);
        if let AppendOutcome::Matched(matched) = outcome {
            transport.acknowledged.appended(peer, term, matched, committed);
        }
    }
    Ok(outcome.into())
}

impl NetStreamAppend<LogTypes> for Network {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<LogTypes>, RPCError<LogTypes>>>, RPCError<LogTypes>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<LogTypes>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let Self {
                transport,
                target,
                path,
            } = self;
            match path {
                Path::Replication(appender) => appender.stream(input).await,
                Path::Heartbeat => {
                    let outcomes = stream::once(async move {
                        let request = input.next().await?;
                        Some(heartbeat(transport, target, request, &option).await)
                    });
                    Ok(outcomes.filter_map(std::future::ready).boxed())
                }
            }
        })
    }
}

impl NetVote<LogTypes> for Network {
    async fn vote(
        &mut self,
        rpc: VoteRequest<LogTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<LogTypes>, RPCError<LogTypes>> {
        let term = rpc.vote.leader_id.term;
        match self.ask(Question::Vote(rpc.into()), &option).await? {
            Reply::Vote(reply) => {
                if reply.granted {
                    self.transport.acknowledged.voted(self.peer(), term);
                }
                Ok(reply.into())
            }
            _ => Err(unreachable("another reply than to a vote")),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<LogTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<LogTypes>, RPCError<LogTypes>> {
        match self.ask(Question::PreVote(rpc.into()), &option).await? {
            Reply::Vote(reply) => Ok(reply.into()),
            _ => Err(unreachable("another reply than to a pre-vote")),
        }
    }
}

impl NetTransferLeader<LogTypes> for Network {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<LogTypes>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<LogTypes>, RPCError<LogTypes>> {
        let transfer = Transfer {
            from: (*req.from_leader()).into(),
            to: *req.to_node_id(),
            last_log: req.last_log_id().copied().map(Into::into),
        };
        match self.ask(Question::TransferLeader(transfer), &option).await? {
            Reply::TransferLeader(reply) => Ok(reply.map_err(Into::into)),
            _ => Err(unreachable("another reply than to a transfer")),
        }
    }
}

impl NetSnapshot<LogTypes> for Network {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<LogTypes, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<LogTypes>, StreamingError<LogTypes>> {
        let sending =
            sending_snapshot::send(&self.transport, &self.target, vote, snapshot, option.soft_ttl());
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => sent.map(SnapshotResponse::new).map_err(StreamingError::from),
        }
    }
}

impl NetBackoff<LogTypes> for Network {
    fn backoff(&self) -> Option<Backoff> {
        let lengths =
            std::iter::successors(Some(FIRST_PAUSE), |length| Some((*length * 2).min(LONGEST_PAUSE)));
        Some(Backoff::new(lengths.map(jittered)))
    }
}

impl From<TransferRejection> for openraft::raft::TransferLeaderError<LogTypes> {
    fn from(rejection: TransferRejection) -> Self {
        match rejection {
            TransferRejection::VoteChanged { expected, actual } => Self::VoteChanged {
                expected: expected.into(),
                actual: actual.into(),
            },
            TransferRejection::LogNotFlushed { expected, actual } => Self::LogNotFlushed {
                expected: expected.map(LogId::from),
                actual: actual.map(LogId::from),
            },
        }
    }
}

impl From<openraft::raft::TransferLeaderError<LogTypes>> for TransferRejection {
    fn from(error: openraft::raft::TransferLeaderError<LogTypes>) -> Self {
        use openraft::raft::TransferLeaderError::{LogNotFlushed, VoteChanged};
        match error {
            VoteChanged { expected, actual } => Self::VoteChanged {
                expected: expected.into(),
                actual: actual.into(),
            },
            LogNotFlushed { expected, actual } => Self::LogNotFlushed {
                expected: expected.map(Into::into),
                actual: actual.map(Into::into),
            },
        }
    }
}
