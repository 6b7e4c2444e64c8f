//! A state machine that remembers every proposal with its index, in one file.

use bytes::Bytes;
use conclave_raft::{
    codec,
    state_machine::{AppliedState, Checkpoint, CommittedEntry, CommittedPayload, LogPosition, StateMachine},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// The state machine.
pub struct Journal {
    directory: PathBuf,
    state: Mutex<State>,
    /// After so many more flushes the disk refuses.
    pub flushes_left: Mutex<Option<u32>>,
    /// So many snapshots that are looked at are not what they claim to be.
    pub disproves: AtomicU32,
    /// How many checkpoints were taken.
    pub checkpoints: AtomicU32,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    position: Option<LogPosition>,
    membership: Option<(LogPosition, Bytes)>,
    proposals: Vec<(u64, Bytes)>,
}

impl Journal {
    const FILE: &str = "journal";

    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let state = match fs::read(directory.join(Self::FILE)) {
            Ok(bytes) => codec::decode(&bytes).unwrap(),
            Err(_) => State::default(),
        };
        Ok(Self {
            directory: directory.to_owned(),
            state: Mutex::new(state),
            flushes_left: Mutex::default(),
            disproves: AtomicU32::new(0),
            checkpoints: AtomicU32::new(0),
        })
    }

    /// Every applied proposal, in order.
    pub fn proposals(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        state.proposals.iter().map(|(_, bytes)| text(bytes)).collect()
    }

    fn write(path: &Path, state: &State) -> io::Result<()> {
        let next = path.with_extension("next");
        fs::write(&next, codec::encode(state))?;
        fs::File::open(&next)?.sync_all()?;
        fs::rename(next, path)
    }
}

impl StateMachine for Journal {
    fn applied(&self) -> io::Result<AppliedState> {
        let state = self.state.lock().unwrap();
        Ok(AppliedState {
            position: state.position,
            membership: state.membership.clone(),
        })
    }

    fn apply(&self, entries: Vec<CommittedEntry>) -> io::Result<Vec<Bytes>> {
        let mut state = self.state.lock().unwrap();
        let apply = |entry: CommittedEntry| {
            assert!(
                state
                    .position
                    .is_none_or(|last| last.index + 1 == entry.position.index)
            );
            state.position = Some(entry.position);
            match entry.payload {
                CommittedPayload::Blank => Bytes::new(),
                CommittedPayload::Membership(bytes) => {
                    state.membership = Some((entry.position, bytes));
                    Bytes::new()
                }
                CommittedPayload::Proposal(bytes) => {
                    state.proposals.push((entry.position.index, bytes));
                    Bytes::from(format!("number {}", state.proposals.len()))
                }
            }
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    fn flush(&self) -> io::Result<Option<LogPosition>> {
        if let Some(left) = &mut *self.flushes_left.lock().unwrap() {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("the disk refuses"))?;
        }
        let state = self.state.lock().unwrap();
        Self::write(&self.directory.join(Self::FILE), &state)?;
        Ok(state.position)
    }

    fn checkpoint(&self, directory: PathBuf) -> io::Result<Checkpoint> {
        self.checkpoints.fetch_add(1, Ordering::SeqCst);
        let state = self.state.lock().unwrap();
        fs::create_dir(&directory)?;
        let file = directory.join(Self::FILE);
        Self::write(&file, &state)?;
        Ok(Checkpoint {
            size_bytes: fs::metadata(file)?.len(),
            directory,
            position: state.position.unwrap(),
            membership: state.membership.clone(),
        })
    }

    fn verify(&self, checkpoint: &Checkpoint, _go_on: &dyn Fn() -> bool) -> io::Result<()> {
        let left = self
            .disproves
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let bytes = fs::read(checkpoint.directory.join(Self::FILE))?;
        let received: State = codec::decode(&bytes).map_err(io::Error::other)?;
        if left.is_ok() || received.position != Some(checkpoint.position) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its pairs do not give its digest",
            ));
        }
        Ok(())
    }

    fn install(&self, checkpoint: Checkpoint) -> io::Result<()> {
        let bytes = fs::read(checkpoint.directory.join(Self::FILE))?;
        let received: State = codec::decode(&bytes).map_err(io::Error::other)?;
        Self::write(&self.directory.join(Self::FILE), &received)?;
        *self.state.lock().unwrap() = received;
        Ok(())
    }
}
