//! What the transport needs of the node that it serves.

use super::{
    acknowledged::{Acknowledged, Durable},
    messages::AppendOutcome,
};
use crate::{
    formation::messages::{FormationAnswer, FormationRequest},
    identity::{ClusterId, RaftId},
    node::{Peer, PeerService},
    storage::snapshot_store::SnapshotData,
    types::{LogTypes, SnapshotMeta, Vote},
};
use futures::{future::BoxFuture, stream::BoxStream};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use std::{io, sync::Arc};

/// The node behind the transport.
pub(crate) trait Host: Send + Sync + 'static {
    /// Its configured name.
    fn name(&self) -> &str;

    /// `host:port` under which others reach it.
    fn address(&self) -> &str;

    /// Where the configuration says that a node is reached. Wins over what the membership says: it is
    /// how an operator moves a node, or reaches it by another way than others do.
    fn configured_address(&self, node_name: &str) -> Option<&str>;

    /// The cluster and the Raft id of its data directory, once it has them.
    fn incarnation(&self) -> Option<(ClusterId, RaftId)>;

    /// What lies on its disk now.
    fn durable(&self) -> io::Result<Durable>;

    /// The name that the membership known here gives to a Raft id.
    fn member_name(&self, raft_id: RaftId) -> Option<String>;

    /// Whether a Raft id belonged to a member that was removed, as far as can be told: ids grow, and
    /// this one is below another's that is in the membership known here.
    fn was_removed(&self, raft_id: RaftId) -> bool;

    /// Raft, once it runs.
    fn raft(&self) -> Option<Arc<dyn Endpoint>>;

    /// Answers requests beyond Raft.
    fn service(&self) -> io::Result<Arc<dyn PeerService>>;

    /// Answers a step of formation.
    fn form(self: Arc<Self>, from: Peer, request: FormationRequest) -> BoxFuture<'static, FormationAnswer>;

    /// A peer says that this disk has forgotten what it acknowledged, and the disk does not show the
    /// opposite. Says why the peer is not believed, if it isn't.
    fn reverted(self: Arc<Self>, by: &Peer, acknowledged: Acknowledged) -> Result<(), String>;

    /// A peer said how its disk stands.
    fn peer_out_of_space(&self, peer: RaftId, out_of_space: bool);

    /// Whether this node's disk is below its reserve.
    fn out_of_space(&self) -> bool;

    /// Whether this node proposes nothing but what frees space, so that what it still sends of
    /// other entries is a tail that does not grow.
    fn drains(&self) -> bool;

    /// Whether an append, by a leader that drains or not, may be written now.
    fn admits(&self, append: &AppendEntriesRequest<LogTypes>, draining: bool) -> bool;

    /// Whether this node may stand for election.
    fn may_lead(&self) -> bool;

    /// Whether so many more bytes of a snapshot can be received with the reserve still free after them.
    fn has_room_for(&self, snapshot_bytes: u64) -> bool;

    /// Checks a received snapshot before Raft hears of it. An error of the kind `InvalidData` means
    /// that it is bad; any other that it could not be checked.
    fn verify_snapshot(&self, meta: SnapshotMeta, data: SnapshotData) -> BoxFuture<'static, io::Result<()>>;

    /// Checks a snapshot of this node's own, which another found to be bad. Errors as above. It is
    /// marked when it is good.
    fn verify_own_snapshot(
        &self,
        meta: SnapshotMeta,
        data: SnapshotData,
    ) -> BoxFuture<'static, io::Result<()>>;

    /// A member found a snapshot of this node's state to be bad.
    fn snapshot_disproved(&self);

    /// A sync failed: fatal, because it must not be tried again. In production it does not return.
    fn disk_failed(&self, reason: &str);

    /// An empty place to receive a snapshot into. Blocks on the disk.
    fn incoming(&self) -> io::Result<SnapshotData>;
}

/// openraft, as far as messages reach it. Errors mean that it has stopped.
pub(crate) trait Endpoint: Send + Sync + 'static {
    fn vote(&self, request: VoteRequest<LogTypes>) -> BoxFuture<'_, Result<VoteResponse<LogTypes>, String>>;

    fn pre_vote(
        &self,
        request: VoteRequest<LogTypes>,
    ) -> BoxFuture<'_, Result<VoteResponse<LogTypes>, String>>;

    fn transfer(
        &self,
        request: TransferLeaderRequest<LogTypes>,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<LogTypes>, String>>;

    fn heartbeat(
        &self,
        request: AppendEntriesRequest<LogTypes>,
    ) -> BoxFuture<'_, Result<AppendOutcome, String>>;

    fn append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<LogTypes>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<LogTypes>, String>>;

    /// Hands over a received snapshot; returns the vote of this node after it.
    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        data: SnapshotData,
    ) -> BoxFuture<'_, Result<Vote, String>>;
}
