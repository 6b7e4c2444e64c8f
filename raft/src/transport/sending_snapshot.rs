//! Sends a snapshot: its files in chunks, each with a checksum and a deadline of its own, and a
//! digest over everything at the end. There is no deadline for the whole.

use super::{
    Target, Transport,
    connection::{Connection, dial},
    greeting::Lane,
    messages::{Refusal, SnapshotAnswer, SnapshotFrame, unreachable},
    reports::Subject,
    snapshots_sent::Sending,
};
use crate::{
    metric_definitions as metric,
    runtime::Runtime,
    storage::snapshot_store::SnapshotData,
    types::{self, LogTypes, SnapshotMeta, Vote},
};
use bytes::Bytes;
use openraft::{AsyncRuntime, errors::RPCError, type_config::alias::SnapshotOf};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// Bytes of one chunk.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;
/// Files of one snapshot.
pub(crate) const FILES_LIMIT: usize = 50_000;
/// After a follower refused a snapshot that it had received, in part or whole, before one is sent again:
/// it may be one who cannot take any.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Sends a snapshot and waits until the follower has handed it to its Raft.
pub(crate) async fn send(
    transport: &Transport,
    target: &Target,
    vote: Vote,
    snapshot: SnapshotOf<LogTypes, SnapshotData>,
    step_deadline: Duration,
) -> Result<Vote, RPCError<LogTypes>> {
    if snapshot.snapshot.is_damaged() {
        return Err(unreachable("the snapshot is damaged, and another is being taken"));
    }
    let connection = dial(transport, target, Lane::Snapshot)
        .await
        .map_err(unreachable)?;
    let total_bytes = snapshot.snapshot.files().iter().map(|file| file.size_bytes).sum();
    let mut conversation = Conversation {
        connection,
        step_deadline,
        sending: transport.snapshots_sent.begin(target.raft_id, total_bytes),
    };
    let (meta, data) = (snapshot.meta.clone(), snapshot.snapshot.clone());
    let error = match conversation.send(vote, snapshot).await {
        Ok(vote) => {
            if transport
                .reports
                .is_settled(&target.name, Subject::SendingSnapshot)
            {
                tracing::info!(peer = %target.name, "a snapshot was taken after all");
            }
            return Ok(vote);
        }
        Err(error) => error,
    };
    let reason = error.to_string();
    if transport
        .reports
        .is_news(&target.name, Subject::SendingSnapshot, &reason)
    {
        tracing::warn!(peer = %target.name, %reason, "a snapshot was not sent; trying again");
    }
    drop(conversation);
    let refusal = error.get_ref().and_then(|source| source.downcast_ref());
    if let Some(Refusal::SnapshotDisproved(_)) = refusal {
        transport.host.snapshot_disproved();
        look_for_the_fault(transport, meta, data).await;
    }
    if let Some(Refusal::SnapshotDisproved(_) | Refusal::Snapshot(_)) = refusal {
        tokio::time::sleep(REFUSED_PAUSE).await;
    }
    Err(unreachable(error))
}

/// Its receiver found that the snapshot is not the copy of a state. That may be the receiver's own disk or
/// memory, and another snapshot would fare no better: only a look at what lies here tells. One look is
/// enough; what its files are is compared each time that they are sent.
async fn look_for_the_fault(transport: &Transport, meta: SnapshotMeta, data: SnapshotData) {
    if data.is_verified() {
        return;
    }
    match transport.host.verify_own_snapshot(meta, data.clone()).await {
        Ok(()) => tracing::warn!("the snapshot is whole here: its receiver's disk or memory seems to be bad"),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(%error, "the snapshot is bad; another one will be taken");
            data.report_disproved();
        }
        Err(error) => tracing::warn!(%error, "the snapshot could not be looked at"),
    }
}

struct Conversation {
    connection: Connection,
    step_deadline: Duration,
    sending: Sending,
}

impl Conversation {
    async fn send(&mut self, vote: Vote, snapshot: SnapshotOf<LogTypes, SnapshotData>) -> io::Result<Vote> {
        let data = snapshot.snapshot;
        let files = data
            .files()
            .iter()
            .map(|file| (file.name.clone(), file.size_bytes));
        let begin = SnapshotFrame::Begin {
            vote: vote.into(),
            last_log: snapshot.meta.last_log_id.map(Into::into),
            membership: types::known_membership(&snapshot.meta.last_membership)
                .map(|(position, bytes)| (position, bytes.to_vec())),
            files: files.collect(),
        };
        self.step(&begin, Bytes::new()).await?;
        let mut digest = SnapshotDigest::default();
        for file in data.files() {
            digest.begin_file(&file.name, file.size_bytes);
            let found = self
                .send_file(&data.directory().join(&file.name), file.size_bytes, &mut digest)
                .await?;
            if found != file.crc32c {
                data.report_damage(&file.name);
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the snapshot's file {} is damaged", file.name),
                ));
            }
        }
        let end = SnapshotFrame::End {
            digest: digest.finish(),
        };
        match self.step(&end, Bytes::new()).await? {
            SnapshotAnswer::Done(vote) => Ok(vote.into()),
            _ => Err(io::Error::other("the follower did not conclude the snapshot")),
        }
    }

    /// Sends one file; returns the checksum of what was read.
    async fn send_file(&mut self, path: &Path, size: u64, digest: &mut SnapshotDigest) -> io::Result<u32> {
        let path = path.to_owned();
        let file = Arc::new(off_thread(move || File::open(path)).await?);
        let mut read = 0;
        let mut whole = 0;
        while read < size {
            let length = (size - read).min(CHUNK_BYTES as u64) as usize;
            let reading = Arc::clone(&file);
            let chunk = off_thread(move || {
                let mut chunk = vec![0; length];
                (&*reading).read_exact(&mut chunk)?;
                Ok(Bytes::from(chunk))
            })
            .await?;
            read += length as u64;
            digest.update(&chunk);
            whole = crc32c::crc32c_append(whole, &chunk);
            let checksum = crc32c::crc32c(&chunk);
            self.step(&SnapshotFrame::Chunk { checksum }, chunk).await?;
            self.sending.sent(length as u64);
            metric::snapshot_sent_bytes(length);
        }
        Ok(whole)
    }

    /// Sends one frame and waits for its answer; every sign of work starts the deadline anew.
    async fn step(&mut self, frame: &SnapshotFrame, body: Bytes) -> io::Result<SnapshotAnswer> {
        timeout(self.step_deadline, async {
            self.connection.writer.write(frame, &[body]).await?;
            self.connection.writer.flush().await
        })
        .await??;
        loop {
            match timeout(
                self.step_deadline,
                self.connection
                    .reader
                    .read_while::<SnapshotAnswer>(&self.connection.in_force),
            )
            .await??
            .0
            {
                SnapshotAnswer::Working => {}
                SnapshotAnswer::Refused(refusal) => return Err(io::Error::other(refusal)),
                answer => return Ok(answer),
            }
        }
    }
}

/// The digest over a snapshot's files: name, size and bytes of each, in order of their names.
#[derive(Default)]
pub(crate) struct SnapshotDigest {
    hasher: blake3::Hasher,
}

impl SnapshotDigest {
    pub fn begin_file(&mut self, name: &str, size_bytes: u64) {
        self.hasher.update(&(name.len() as u64).to_be_bytes());
        self.hasher.update(name.as_bytes());
        self.hasher.update(&size_bytes.to_be_bytes());
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    pub fn finish(self) -> [u8; 32] {
        self.hasher.finalize().into()
    }
}

/// Runs what blocks off the async threads.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    Runtime::spawn_blocking(work).await?
}
