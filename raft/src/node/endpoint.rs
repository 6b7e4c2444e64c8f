//! openraft as the transport sees it.

use crate::{
    storage::snapshot_store::SnapshotData,
    transport::{host::Endpoint, messages::AppendOutcome},
    types::{LogTypes, Raft, SnapshotMeta, Vote},
};
use futures::{FutureExt, StreamExt, TryFutureExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    storage::Snapshot,
};

impl Endpoint for Raft {
    fn vote(&self, request: VoteRequest<LogTypes>) -> BoxFuture<'_, Result<VoteResponse<LogTypes>, String>> {
        Self::vote(self, request)
            .map_err(|error| error.to_string())
            .boxed()
    }

    fn pre_vote(
        &self,
        request: VoteRequest<LogTypes>,
    ) -> BoxFuture<'_, Result<VoteResponse<LogTypes>, String>> {
        Self::pre_vote(self, request)
            .map_err(|error| error.to_string())
            .boxed()
    }

    fn transfer(
        &self,
        request: TransferLeaderRequest<LogTypes>,
    ) -> BoxFuture<'_, Result<TransferLeaderResponse<LogTypes>, String>> {
        self.handle_transfer_leader(request)
            .map_err(|error| error.to_string())
            .boxed()
    }

    fn heartbeat(
        &self,
        request: AppendEntriesRequest<LogTypes>,
    ) -> BoxFuture<'_, Result<AppendOutcome, String>> {
        async move {
            let previous = request.prev_log_id;
            let response = self
                .append_entries(request)
                .await
                .map_err(|error| error.to_string())?;
            Ok(match response {
                AppendEntriesResponse::Success => AppendOutcome::Matched(previous.map(Into::into)),
                AppendEntriesResponse::PartialSuccess(matched) => {
                    AppendOutcome::Matched(matched.map(Into::into))
                }
                AppendEntriesResponse::HigherVote(vote) => AppendOutcome::HigherVote(vote.into()),
                AppendEntriesResponse::Conflict => {
                    let previous = previous.ok_or("nothing cannot conflict")?;
                    AppendOutcome::Conflict(previous.into())
                }
            })
        }
        .boxed()
    }

    fn append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<LogTypes>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<LogTypes>, String>> {
        self.stream_append(requests)
            .map(|outcome| outcome.map_err(|error| error.to_string()))
            .boxed()
    }

    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        data: SnapshotData,
    ) -> BoxFuture<'_, Result<Vote, String>> {
        let snapshot = Snapshot { meta, snapshot: data };
        self.install_full_snapshot(vote, snapshot)
            .map_ok(|response| response.vote)
            .map_err(|error| error.to_string())
            .boxed()
    }
}
