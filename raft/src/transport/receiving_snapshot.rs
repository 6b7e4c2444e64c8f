//! Receives a snapshot into a directory of its own, if there is room for it, checks every chunk and the
//! whole, syncs it, lets the state machine verify it, and only then hands it to Raft, where a fault
//! would be fatal. Whatever fails leaves nothing behind, and the sender hears why.

use super::{
    Transport,
    connection::Connection,
    messages::{Refusal, SnapshotAnswer, SnapshotFrame},
    reports::Subject,
    sending_snapshot::{CHUNK_BYTES, FILES_LIMIT, SnapshotDigest, off_thread},
};
use crate::{
    metric_definitions as metric,
    storage::snapshot_store::SnapshotData,
    types::{self, LogId, SnapshotMeta, Vote},
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::{Component, Path},
    sync::Arc,
    time::Duration,
};
use tokio::time::{interval, timeout};

/// For one chunk to arrive.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);
/// How often the sender hears that installing goes on.
const WORKING_EVERY: Duration = Duration::from_secs(1);

/// Receives one snapshot. Returns why the connection ends.
pub(crate) async fn receive(transport: &Arc<Transport>, mut connection: Connection) -> io::Result<()> {
    let peer = connection.peer.name.clone();
    let received = receive_files(transport, &mut connection).await;
    let answer = match received {
        Ok(received) => conclude(transport, &mut connection, received).await?,
        Err(refusal) => SnapshotAnswer::Refused(refusal),
    };
    if let SnapshotAnswer::Refused(refusal) = &answer {
        metric::snapshot_refused();
        let reason = refusal.to_string();
        if transport
            .reports
            .is_news(&peer, Subject::ReceivingSnapshot, &reason)
        {
            tracing::warn!(%peer, %reason, "a snapshot is refused, and will be until this changes");
        }
    } else {
        transport.reports.is_settled(&peer, Subject::ReceivingSnapshot);
    }
    connection.writer.write(&answer, &[]).await?;
    connection.writer.flush().await
}

struct Received {
    vote: Vote,
    meta: SnapshotMeta,
    data: SnapshotData,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Snapshot(error.to_string())
    }
}

async fn receive_files(transport: &Arc<Transport>, connection: &mut Connection) -> Result<Received, Refusal> {
    let malformed = |what: &str| Refusal::Snapshot(what.to_owned());
    let SnapshotFrame::Begin {
        vote,
        last_log,
        membership,
        files,
    } = next(connection).await?.0
    else {
        return Err(malformed("the snapshot was not announced"));
    };
    if connection.peer.raft_id.is_none_or(|peer| peer.0 != vote.node) {
        return Err(malformed("the snapshot is another leader's"));
    }
    // openraft takes that for granted.
    if last_log.is_none_or(|last_log| last_log.term > vote.term) {
        return Err(malformed("the snapshot is of a later term than its leader"));
    }
    check_names(&files)?;
    let mut left_bytes = files
        .values()
        .try_fold(0_u64, |sum, size| sum.checked_add(*size))
        .ok_or(Refusal::NoSpace)?;
    let membership = membership.map(|(position, bytes)| (position, Bytes::from(bytes)));
    let meta = SnapshotMeta {
        last_log_id: last_log.map(LogId::from),
        last_membership: types::stored_membership(membership.as_ref()).map_err(io::Error::other)?,
    };
    if !transport.host.has_room_for(left_bytes) {
        return Err(Refusal::NoSpace);
    }
    let host = Arc::clone(&transport.host);
    let data = off_thread(move || host.incoming()).await?;
    proceed(connection).await?;
    let mut digest = SnapshotDigest::default();
    for (name, &size) in &files {
        // What else is written meanwhile takes space too.
        if !transport.host.has_room_for(left_bytes) {
            return Err(Refusal::NoSpace);
        }
        left_bytes -= size;
        digest.begin_file(name, size);
        let path = data.directory().join(name);
        let mut file = off_thread(move || File::create_new(path)).await?;
        let mut left = size;
        while left > 0 {
            let (frame, chunk) = next(connection).await?;
            let SnapshotFrame::Chunk { checksum } = frame else {
                return Err(malformed("a chunk is missing"));
            };
            if chunk.is_empty() || chunk.len() > CHUNK_BYTES || chunk.len() as u64 > left {
                return Err(malformed("a chunk has a wrong size"));
            }
            if crc32c::crc32c(&chunk) != checksum {
                return Err(malformed("a chunk is damaged"));
            }
            left -= chunk.len() as u64;
            metric::snapshot_received_bytes(chunk.len());
            digest.update(&chunk);
            file = off_thread(move || file.write_all(&chunk).map(|()| file)).await?;
            proceed(connection).await?;
        }
        sync(file, |reason| transport.host.disk_failed(reason)).await?;
    }
    let SnapshotFrame::End { digest: expected } = next(connection).await?.0 else {
        return Err(malformed("the snapshot was not concluded"));
    };
    if digest.finish() != expected {
        return Err(malformed("the snapshot is damaged"));
    }
    let directory = data.directory().to_owned();
    let directory = off_thread(move || File::open(directory)).await?;
    sync(directory, |reason| transport.host.disk_failed(reason)).await?;
    Ok(Received {
        vote: vote.into(),
        meta,
        data,
    })
}

/// Verifies and installs; the sender hears meanwhile that the work goes on.
async fn conclude(
    transport: &Transport,
    connection: &mut Connection,
    received: Received,
) -> io::Result<SnapshotAnswer> {
    let concluding = verify_and_install(transport, received);
    tokio::pin!(concluding);
    let mut working = interval(WORKING_EVERY);
    loop {
        tokio::select! {
            biased;
            concluded = &mut concluding => return Ok(match concluded {
                Ok(vote) => SnapshotAnswer::Done(vote.into()),
                Err(refusal) => SnapshotAnswer::Refused(refusal),
            }),
            _ = working.tick() => {
                connection.writer.write(&SnapshotAnswer::Working, &[]).await?;
                connection.writer.flush().await?;
            }
        }
    }
}

async fn verify_and_install(transport: &Transport, received: Received) -> Result<Vote, Refusal> {
    let Received { vote, meta, data } = received;
    let verified = transport.host.verify_snapshot(meta.clone(), data.clone()).await;
    verified.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Refusal::SnapshotDisproved(error.to_string()),
        _ => Refusal::Snapshot(error.to_string()),
    })?;
    let raft = transport.host.raft().ok_or(Refusal::Unformed)?;
    raft.install(vote, meta, data).await.map_err(Refusal::Snapshot)
}

/// Makes a file or directory durable. A failure is told at once, for nothing more may be asked of the
/// disk: what was received is not just thrown away and sent again.
async fn sync(file: File, failed: impl FnOnce(&str)) -> io::Result<()> {
    let synced = off_thread(move || file.sync_all()).await;
    synced.inspect_err(|error| failed(&format!("a received snapshot could not be synced: {error}")))
}

async fn next(connection: &mut Connection) -> io::Result<(SnapshotFrame, Bytes)> {
    let next = connection.reader.read_while(&connection.in_force);
    timeout(CHUNK_DEADLINE, next).await?
}

async fn proceed(connection: &mut Connection) -> io::Result<()> {
    connection.writer.write(&SnapshotAnswer::Continue, &[]).await?;
    connection.writer.flush().await
}

/// Names of files that stay within the directory.
fn check_names(files: &BTreeMap<String, u64>) -> io::Result<()> {
    let plain = |name: &str| {
        let mut components = Path::new(name).components();
        matches!(components.next(), Some(Component::Normal(only)) if only == name)
            && components.next().is_none()
    };
    if files.len() > FILES_LIMIT || !files.keys().all(|name| plain(name)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the snapshot's file names are not acceptable",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_sync_is_told_as_the_disks_failure() {
        let folder = tempfile::tempdir().unwrap();
        let told = std::cell::RefCell::new(Vec::new());
        let tell = |reason: &str| told.borrow_mut().push(reason.to_owned());
        sync(File::create(folder.path().join("file")).unwrap(), tell)
            .await
            .unwrap();
        sync(File::open(folder.path()).unwrap(), tell).await.unwrap();
        assert!(told.borrow().is_empty());
        // Linux syncs no device without a disk behind it.
        sync(File::open("/dev/null").unwrap(), tell).await.unwrap_err();
        assert!(told.borrow()[0].contains("could not be synced"));
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        let named = |name: &str| check_names(&BTreeMap::from([(name.to_owned(), 1)]));
        assert!(named("CURRENT").is_ok());
        assert!(named("000007.sst").is_ok());
        for name in ["", "/etc/x", "../x", "a/../../x", "./x", "a/b", "x/"] {
            assert!(named(name).is_err(), "{name:?}");
        }
    }
}
