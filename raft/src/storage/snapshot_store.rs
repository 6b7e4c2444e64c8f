//! The snapshots of the state that this node keeps, as directories of files.
//!
//! There is one current snapshot, named by the file `current`, which is replaced atomically. Others
//! are deleted as soon as nobody sends them any more; what a crash left over is deleted at start.
//!
//! Invariant: what `current` names is complete and synced. A snapshot is only a copy of the state,
//! so a damaged one is reported with its file's name and thrown away; a new one is taken.

use super::{durable_directory::make_durable, record};
use crate::{
    state_machine::{Checkpoint, LogPosition},
    types::{SnapshotMeta, stored_membership},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The snapshots in a directory of their own. Clones share it.
#[derive(Clone)]
pub struct SnapshotStore {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    kept: Mutex<Kept>,
    /// Makes names unique within this process; leftovers of others are deleted at start.
    named: AtomicU64,
}

#[derive(Default)]
struct Kept {
    current: Option<(CurrentRecord, Arc<SnapshotDirectory>)>,
    /// Snapshots that were current once and may still be being sent.
    superseded: Vec<(LogPosition, Weak<SnapshotDirectory>)>,
}

/// What the file `current` says.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct CurrentRecord {
    directory_name: String,
    position: LogPosition,
    membership: Option<(LogPosition, Bytes)>,
    files: Vec<SnapshotFile>,
}

/// A file of a snapshot, as it was when the snapshot was recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Its name in the snapshot's directory.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The CRC-32C of its content.
    pub crc32c: u32,
}

/// A handle to a snapshot's directory, which stays while a handle exists. This is what openraft
/// passes around.
#[derive(Clone, Debug)]
pub struct SnapshotData {
    directory: Arc<SnapshotDirectory>,
    files: Arc<Vec<SnapshotFile>>,
}

/// Deletes its directory with the last handle, unless it is the current snapshot's.
#[derive(Debug)]
struct SnapshotDirectory {
    path: PathBuf,
    keep: AtomicBool,
    damaged: AtomicBool,
    verified: AtomicBool,
}

impl SnapshotStore {
    const CURRENT: &str = "current";

    /// Opens the snapshots in `directory`, makes it if there is none, and deletes what a crash left
    /// over. Blocks on the disk.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn open(directory: &Path) -> io::Result<Self> {
        make_durable(directory)?;
        let current = match read_current(directory) {
            Ok(current) => current,
            Err(error) => {
                tracing::error!(%error, "the current snapshot is thrown away; a new one will be taken");
                fs::remove_file(directory.join(Self::CURRENT))?;
                None
            }
        };
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let wanted = name == Self::CURRENT
                || current
                    .as_ref()
                    .is_some_and(|current| name == current.directory_name.as_str());
            if !wanted {
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        let current = current.map(|record| {
            let path = directory.join(&record.directory_name);
            (record, Arc::new(SnapshotDirectory::new(path, true)))
        });
        let kept = Mutex::new(Kept {
            current,
            ..Kept::default()
        });
        Ok(Self {
            shared: Arc::new(Shared {
                directory: directory.to_owned(),
                kept,
                named: AtomicU64::new(0),
            }),
        })
    }

    /// An empty directory to receive another node's snapshot into. It is deleted with the last
    /// handle; installing copies (links) what it needs. Blocks on the disk.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn incoming(&self) -> io::Result<SnapshotData> {
        let path = self.unused_path("incoming");
        fs::create_dir(&path)?;
        Ok(SnapshotData {
            directory: Arc::new(SnapshotDirectory::new(path, false)),
            files: Arc::default(),
        })
    }

    /// The current snapshot, also while it is known to be damaged and not replaced yet.
    ///
    /// # Errors
    /// Its membership cannot be decoded.
    pub fn current(&self) -> io::Result<Option<(SnapshotMeta, SnapshotData)>> {
        let kept = self.lock();
        let Some((record, directory)) = &kept.current else {
            return Ok(None);
        };
        let data = SnapshotData {
            directory: directory.clone(),
            files: Arc::new(record.files.clone()),
        };
        Ok(Some((meta(record.position, record.membership.as_ref())?, data)))
    }

    /// Whether the current snapshot turned out to be damaged: another is to be taken.
    pub(super) fn is_current_damaged(&self) -> bool {
        self.lock()
            .current
            .as_ref()
            .is_some_and(|(_, directory)| directory.damaged.load(Ordering::Relaxed))
    }

    /// The positions of former snapshots that are still being sent: whoever receives one goes on
    /// from there.
    pub fn superseded_in_use(&self) -> Vec<LogPosition> {
        let mut kept = self.lock();
        kept.superseded
            .retain(|(_, directory)| directory.strong_count() > 0);
        kept.superseded.iter().map(|(position, _)| *position).collect()
    }

    /// Where a checkpoint can be taken into: a path where nothing is.
    pub(super) fn checkpoint_path(&self) -> PathBuf {
        self.unused_path("snapshot")
    }

    /// Copies a received snapshot to a place of its own, by links where the file system allows it.
    pub(super) fn copy_in(&self, received: &SnapshotData) -> io::Result<PathBuf> {
        let path = self.checkpoint_path();
        fs::create_dir(&path)?;
        link_files(received.directory(), &path)?;
        Ok(path)
    }

    /// A copy of a snapshot to look at, for looking leaves files. It is deleted with the last handle.
    /// Blocks on the disk.
    pub(crate) fn copy_to_look_at(&self, snapshot: &SnapshotData) -> io::Result<SnapshotData> {
        let copy = self.incoming()?;
        link_files(snapshot.directory(), copy.directory())?;
        Ok(copy)
    }

    /// Syncs a complete checkpoint in a directory of this store, makes it the current snapshot and
    /// forgets the former one. Blocks on the disk.
    pub(super) fn record(&self, checkpoint: &Checkpoint) -> io::Result<(SnapshotMeta, SnapshotData)> {
        let files = sync_files(&checkpoint.directory, self.undamaged().as_ref())?;
        let record = CurrentRecord {
            directory_name: name_of(&checkpoint.directory)?,
            position: checkpoint.position,
            membership: checkpoint.membership.clone(),
            files,
        };
        let meta = meta(record.position, record.membership.as_ref())?;
        let directory = Arc::new(SnapshotDirectory::new(checkpoint.directory.clone(), true));
        let data = SnapshotData {
            directory: directory.clone(),
            files: Arc::new(record.files.clone()),
        };

        // The lock is held over the replacement, so that the file and the memory agree.
        let mut kept = self.lock();
        replace_file(&self.shared.directory, Self::CURRENT, &record::seal(&record))?;
        if let Some((former, former_directory)) = kept.current.replace((record, directory)) {
            former_directory.keep.store(false, Ordering::Relaxed);
            kept.superseded
                .push((former.position, Arc::downgrade(&former_directory)));
        }
        Ok((meta, data))
    }

    /// The current snapshot, unless it is known to be damaged.
    fn undamaged(&self) -> Option<SnapshotData> {
        let kept = self.lock();
        let (record, directory) = kept.current.as_ref()?;
        let data = SnapshotData {
            directory: directory.clone(),
            files: Arc::new(record.files.clone()),
        };
        (!data.is_damaged()).then_some(data)
    }

    fn unused_path(&self, kind: &str) -> PathBuf {
        loop {
            let number = self.shared.named.fetch_add(1, Ordering::Relaxed);
            let path = self.shared.directory.join(format!("{kind}-{number}"));
            if !path.exists() {
                return path;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().expect("no holder of the lock panics")
    }
}

impl SnapshotData {
    /// The directory that holds the files.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// The files to send, with what they must be. Empty for a snapshot that is being received.
    pub fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// Sum of the files' sizes in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// What was recorded of the file that this path is another link to.
    fn same_file(&self, path: &Path) -> Option<&SnapshotFile> {
        let name = path.file_name()?.to_str()?;
        let recorded = self.files.iter().find(|file| file.name == name)?;
        let identity = |path: &Path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.dev(), metadata.ino(), metadata.len()))
        };
        let found = identity(path)?;
        (identity(&self.directory.path.join(name)) == Some(found) && found.2 == recorded.size_bytes)
            .then_some(recorded)
    }

    /// Whoever sends it found that a file is not what was recorded: it is never sent again, and a
    /// new one is taken in its place.
    pub fn report_damage(&self, file_name: &str) {
        let file = self.directory.path.join(file_name);
        tracing::error!(file = %file.display(), "the snapshot file is damaged; a new snapshot will be taken");
        self.directory.damaged.store(true, Ordering::Relaxed);
    }

    /// A look at it found that it is not the copy of a state that it claims to be, although its files
    /// are what was recorded: as above.
    pub fn report_disproved(&self) {
        self.directory.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether it must not be sent.
    pub fn is_damaged(&self) -> bool {
        self.directory.damaged.load(Ordering::Relaxed)
    }

    /// Whether it was found to be what it claims to be.
    pub(crate) fn is_verified(&self) -> bool {
        self.directory.verified.load(Ordering::Acquire)
    }

    pub(crate) fn mark_verified(&self) {
        self.directory.verified.store(true, Ordering::Release);
    }
}

impl SnapshotDirectory {
    fn new(path: PathBuf, keep: bool) -> Self {
        Self {
            path,
            keep: AtomicBool::new(keep),
            damaged: AtomicBool::new(false),
            verified: AtomicBool::new(false),
        }
    }
}

impl Drop for SnapshotDirectory {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            // The next start deletes it.
            tracing::warn!(directory = %self.path.display(), %error, "could not delete an old snapshot");
        }
    }
}

fn link_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if fs::hard_link(entry.path(), &to).is_err() {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

fn meta(position: LogPosition, membership: Option<&(LogPosition, Bytes)>) -> io::Result<SnapshotMeta> {
    let last_membership = stored_membership(membership).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a snapshot's membership: {error}"),
        )
    })?;
    Ok(SnapshotMeta {
        last_log_id: Some(position.into()),
        last_membership,
    })
}

fn read_current(directory: &Path) -> io::Result<Option<CurrentRecord>> {
    let path = directory.join(SnapshotStore::CURRENT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: CurrentRecord = record::open(
        &bytes,
        &directory.display().to_string(),
        "the record of the snapshot",
    )?;
    for file in &record.files {
        let path = directory.join(&record.directory_name).join(&file.name);
        let found = fs::metadata(&path).map(|metadata| metadata.len());
        if found.as_ref().ok() != Some(&file.size_bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "snapshot file {} should have {} bytes: {found:?}",
                    path.display(),
                    file.size_bytes
                ),
            ));
        }
    }
    Ok(Some(record))
}

/// Syncs every file and the directories, and says what the files are. A file that is the very same as
/// one of the former snapshot (another link to it) was read and synced for that, and nobody has changed
/// it since: so the work follows what is new, not how large the state is.
fn sync_files(directory: &Path, former: Option<&SnapshotData>) -> io::Result<Vec<SnapshotFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some(same) = former.and_then(|former| former.same_file(&path)) {
            files.push(same.clone());
            continue;
        }
        let mut file = fs::File::open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is not a file", path.display())));
        }
        let (size_bytes, crc32c) = checksum(&mut file)?;
        file.sync_all()?;
        files.push(SnapshotFile {
            name: name_of(&path)?,
            size_bytes,
            crc32c,
        });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    fs::File::open(directory)?.sync_all()?;
    Ok(files)
}

fn checksum(file: &mut fs::File) -> io::Result<(u64, u32)> {
    let mut buffer = vec![0; 256 * 1024];
    let (mut size_bytes, mut checksum) = (0, 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size_bytes, checksum));
        }
        size_bytes += read as u64;
        checksum = crc32c::crc32c_append(checksum, &buffer[..read]);
    }
}

/// Replaces a file durably: a crash leaves the old content or the new one.
pub(crate) fn replace_file(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    fs::write(&temporary, content)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    fs::File::open(directory)?.sync_all()
}

fn name_of(path: &Path) -> io::Result<String> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("{} has no plain name", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(store: &SnapshotStore, index: u64) -> SnapshotData {
        let directory = store.checkpoint_path();
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("state"), format!("state at {index}")).unwrap();
        let position = LogPosition { term: 1, index };
        store
            .record(&Checkpoint {
                directory,
                position,
                membership: None,
                size_bytes: 0,
            })
            .unwrap()
            .1
    }

    fn current_index(store: &SnapshotStore) -> Option<u64> {
        store
            .current()
            .unwrap()
            .map(|(meta, _)| meta.last_log_id.unwrap().index)
    }

    fn directories(folder: &Path) -> usize {
        fs::read_dir(folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    }

    #[test]
    fn golden_record() {
        let record = CurrentRecord {
            directory_name: "snapshot-1".into(),
            position: LogPosition { term: 2, index: 9 },
            membership: Some((LogPosition { term: 1, index: 3 }, Bytes::from_static(b"m"))),
            files: vec![SnapshotFile {
                name: "f".into(),
                size_bytes: 5,
                crc32c: 7,
            }],
        };
        let sealed = record::seal(&record);
        let golden = [
            &[1, 10][..],
            b"snapshot-1",
            &[2, 9, 1, 1, 3, 1, b'm', 1, 1, b'f', 5, 7],
        ]
        .concat();
        assert_eq!(sealed[..sealed.len() - 4], golden);
    }

    #[test]
    fn what_the_former_snapshot_has_is_read_again_only_where_that_one_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        let first = take(&store, 5);
        let link = |index| {
            let directory = store.checkpoint_path();
            fs::create_dir(&directory).unwrap();
            fs::hard_link(first.directory().join("state"), directory.join("state")).unwrap();
            fs::write(directory.join("new"), "new").unwrap();
            let position = LogPosition { term: 1, index };
            let checkpoint = Checkpoint {
                directory,
                position,
                membership: None,
                size_bytes: 0,
            };
            store.record(&checkpoint).unwrap().1
        };
        // It spoils on the disk: what it should be is still told, so that whoever sends it finds that out.
        fs::write(first.directory().join("state"), "state at 6").unwrap();
        let second = link(6);
        assert_eq!(second.files()[0].name, "new");
        assert_eq!(second.files()[1], first.files()[0]);
        second.report_damage("state");
        let third = link(7);
        assert_ne!(third.files()[1], first.files()[0]);
        // Another file of that name and size is another one.
        let fourth = take(&store, 8);
        assert_eq!(fourth.files()[0].size_bytes, third.files()[1].size_bytes);
        assert_ne!(fourth.files()[0], third.files()[1]);
    }

    #[test]
    fn the_current_snapshot_survives_a_restart_and_leftovers_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        assert_eq!(current_index(&store), None);
        drop(take(&store, 5));
        fs::create_dir(folder.path().join("snapshot-99")).unwrap();
        fs::write(folder.path().join("current.new"), "half").unwrap();
        drop(store);

        let store = SnapshotStore::open(folder.path()).unwrap();
        assert_eq!(current_index(&store), Some(5));
        assert_eq!(directories(folder.path()), 1);
        assert!(!folder.path().join("current.new").exists());
        let (_, data) = store.current().unwrap().unwrap();
        assert_eq!(
            fs::read_to_string(data.directory().join("state")).unwrap(),
            "state at 5"
        );
        assert_eq!(data.files()[0].crc32c, crc32c::crc32c(b"state at 5"));
    }

    #[test]
    fn a_snapshot_that_is_being_sent_stays_until_it_was_sent() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        let sending = take(&store, 5);
        drop(take(&store, 6));
        assert_eq!(current_index(&store), Some(6));
        assert_eq!(store.superseded_in_use(), [LogPosition { term: 1, index: 5 }]);
        assert!(sending.directory().join("state").exists());
        drop(sending);
        assert_eq!(store.superseded_in_use(), []);
        assert_eq!(directories(folder.path()), 1);
    }

    #[test]
    fn a_truncated_or_damaged_snapshot_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        let file = take(&store, 5).directory().join("state");
        fs::write(&file, "short").unwrap();
        assert!(
            read_current(folder.path())
                .err()
                .unwrap()
                .to_string()
                .contains(file.to_str().unwrap())
        );
        assert_eq!(current_index(&SnapshotStore::open(folder.path()).unwrap()), None);

        let store = SnapshotStore::open(folder.path()).unwrap();
        take(&store, 7).report_damage("state");
        assert!(store.is_current_damaged());
        drop(take(&store, 8));
        assert!(!store.is_current_damaged());

        let current = folder.path().join("current");
        let mut bytes = fs::read(&current).unwrap();
        bytes[3] ^= 1;
        fs::write(&current, bytes).unwrap();
        assert_eq!(current_index(&SnapshotStore::open(folder.path()).unwrap()), None);
    }

    #[test]
    fn what_is_received_is_deleted_with_its_last_handle() {
        let folder = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(folder.path()).unwrap();
        let received = store.incoming().unwrap();
        fs::write(received.directory().join("state"), "theirs").unwrap();
        let copy = store.copy_in(&received).unwrap();
        drop(received);
        assert_eq!(directories(folder.path()), 1);
        assert_eq!(fs::read_to_string(copy.join("state")).unwrap(), "theirs");
    }
}
