//! Reads that are no entries: read indexes confirmed by a quorum, and the staleness bound of polls
//! (design, section 6).
//!
//! Every confirmation notes this node's boot clock before it asks. Once the index that comes back
//! is applied here, the local state is as fresh as the noted time, whatever any other clock says.
//! The invariant: no poll is answered from a state whose noted time is older than the bound, on a
//! leader as on a follower; nor from one that lacks a change which this very node answered, so that
//! whoever talks to one node sees what it wrote.
//!
//! | file     | idea                                                                  |
//! |----------|-----------------------------------------------------------------------|
//! | `round`  | questions asked together share a round that began after each of them  |

mod round;

pub(crate) use round::SharedRounds;

use crate::{
    metric_definitions,
    node::{
        Freshness, Leadership, ProposeError,
        peer_message::{PeerAnswer, PeerRequest},
    },
    state::Store,
    time::{BootTime, Clocks, LeaderClock},
};
use bytes::Bytes;
use conclave_raft::{codec, node::RaftNode};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// How long one round may take. Longer than any healthy quorum, shorter than the default bound.
const ROUND_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after a round that failed while the leader stays the same.
const PAUSE: Duration = Duration::from_millis(20);

/// A read index that a quorum confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadIndex {
    /// Every entry committed when the question was asked has an index up to this.
    pub(crate) index: u64,
    /// The leader's time in milliseconds when it confirmed.
    pub(crate) time_ms: u64,
}

/// A read index with the time by this node's boot clock before which it was not asked for.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    read_index: ReadIndex,
    asked: BootTime,
}

/// The parts that a confirmation needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Confirmations {
    pub(crate) raft: RaftNode,
    pub(crate) clock: Arc<LeaderClock>,
    pub(crate) clocks: Arc<dyn Clocks>,
    pub(crate) store: Arc<Store>,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

/// This node's barriers.
pub(crate) struct Barriers {
    raft: RaftNode,
    clocks: Arc<dyn Clocks>,
    leadership: watch::Receiver<Leadership>,
    /// Rounds that only run while this node leads: its own and those of followers that ask.
    leading: Arc<SharedRounds<Option<ReadIndex>>>,
    /// Rounds wherever the leader is.
    anywhere: SharedRounds<Option<Confirmed>>,
    latest: Arc<Mutex<Option<Confirmed>>>,
    /// The index of the last change that this node answered.
    changed: AtomicU64,
    bound: Duration,
}

impl Barriers {
    /// Starts the rounds' tasks, which end with the barriers.
    pub(crate) fn start(confirmations: Confirmations, bound: Duration) -> Self {
        let (raft, leadership) = (confirmations.raft.clone(), confirmations.leadership.clone());
        let clocks = confirmations.clocks.clone();
        let latest = Arc::new(Mutex::new(None));
        let here = confirmations.clone();
        let leading = Arc::new(SharedRounds::start(move || {
            let here = here.clone();
            async move { here.as_leader().await }
        }));
        let (shared, keep) = (leading.clone(), latest.clone());
        let anywhere = SharedRounds::start(move || {
            let (confirmations, shared, keep) = (confirmations.clone(), shared.clone(), keep.clone());
            async move {
                // Noted before anything is asked: the state is at least this fresh.
                let asked = confirmations.clocks.boot_time();
                let read_index = confirmations.wherever_the_leader_is(&shared).await?;
                let confirmed = Confirmed { read_index, asked };
                *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(confirmed);
                Some(confirmed)
            }
        });
        Self {
            raft,
            clocks,
            leadership,
            leading,
            anywhere,
            latest,
            changed: AtomicU64::new(0),
            bound,
        }
    }

    /// Linearizable: everything committed before the call is applied here on return.
    pub(crate) async fn read(&self, deadline: Instant) -> Result<Freshness, ProposeError> {
        let confirmed = self.confirm(deadline).await?;
        self.applied(confirmed, deadline).await
    }

    /// Within the bound: one confirmation serves every poll until it is used up.
    pub(crate) async fn poll(&self, deadline: Instant) -> Result<Freshness, ProposeError> {
        let mut confirmed = self.latest();
        loop {
            if let Some(confirmed) = confirmed.filter(|confirmed| self.age(confirmed) <= self.bound) {
                let freshness = self.applied(confirmed, deadline).await?;
                // Waiting took time, and perhaps the machine was suspended.
                if self.age(&confirmed) <= self.bound {
                    metrics::counter!(metric_definitions::POLLS_SERVED).increment(1);
                    return Ok(freshness);
                }
            }
            confirmed = Some(self.confirm(deadline).await?);
        }
    }

    /// Notes that this node answers a change, which was applied elsewhere at `index`.
    pub(crate) fn changed(&self, index: u64) {
        self.changed.fetch_max(index, Ordering::Release);
    }

    /// Answers a follower, if this node leads: a quorum confirms after this call began.
    pub(crate) async fn answer_as_leader(&self) -> Option<ReadIndex> {
        self.leading.next().await.flatten()
    }

    /// How old the last confirmation is, once there was one.
    pub(crate) fn staleness(&self) -> Option<Duration> {
        self.latest().map(|confirmed| self.age(&confirmed))
    }

    /// Confirms all the time, so that polls find a fresh confirmation and the status shows whether
    /// a quorum answers. Never returns.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            let started = Instant::now();
            let _ = self.anywhere.next().await;
            tokio::time::sleep_until(started + self.bound / 2).await;
        }
    }

    /// Ends the rounds' tasks, and with them their hold on the state.
    pub(crate) async fn stop(&self) {
        self.anywhere.stop().await;
        self.leading.stop().await;
    }

    fn latest(&self) -> Option<Confirmed> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self, confirmed: &Confirmed) -> Duration {
        #[cfg(feature = "planted-faults")]
        if conclave_raft::planted::is_planted("unbounded-polls") {
            return Duration::ZERO;
        }
        self.clocks.elapsed_since(confirmed.asked)
    }

    async fn confirm(&self, deadline: Instant) -> Result<Confirmed, ProposeError> {
        let mut leadership = self.leadership.clone();
        loop {
            let seen = leadership.borrow_and_update().clone();
            if seen.stopped {
                return Err(ProposeError::Stopping);
            }
            match timeout_at(deadline, self.anywhere.next()).await {
                Ok(Some(Some(confirmed))) => return Ok(confirmed),
                Ok(None) => return Err(ProposeError::Stopping),
                Err(_) => return Err(ProposeError::NoLeader),
                Ok(Some(None)) if Instant::now() >= deadline => return Err(ProposeError::NoLeader),
                Ok(Some(None)) => {}
            }
            tokio::select! {
                biased;
                _ = leadership.changed() => leadership.mark_changed(),
                () = tokio::time::sleep_until(deadline.min(Instant::now() + PAUSE)) => {}
            }
        }
    }

    async fn applied(&self, confirmed: Confirmed, deadline: Instant) -> Result<Freshness, ProposeError> {
        let ReadIndex { index, time_ms } = confirmed.read_index;
        let index = index.max(self.changed.load(Ordering::Acquire));
        if !self.raft.wait_applied(index, deadline).await {
            return Err(ProposeError::NoLeader);
        }
        let age_ms = u64::try_from(self.age(&confirmed).as_millis()).unwrap_or(u64::MAX);
        Ok(Freshness {
            index,
            time_ms,
            age_ms,
        })
    }
}

impl Confirmations {
    async fn wherever_the_leader_is(&self, leading: &SharedRounds<Option<ReadIndex>>) -> Option<ReadIndex> {
        let mut leadership = self.leadership.clone();
        let seen = leadership.borrow_and_update().clone();
        let leader = seen.leader?;
        let asked = async {
            if seen.leads_here() {
                return leading.next().await.flatten();
            }
            let request = Bytes::from(codec::encode(&PeerRequest::ReadIndex));
            let answer = self
                .raft
                .call(leader, request, Instant::now() + ROUND_TIMEOUT)
                .await
                .ok()?;
            match codec::decode(&answer).ok()? {
                PeerAnswer::ReadIndex { index, time_ms } => Some(ReadIndex { index, time_ms }),
                _ => None,
            }
        };
        tokio::select! {
            biased;
            read_index = asked => read_index,
            _ = leadership.changed() => None,
        }
    }

    async fn as_leader(&self) -> Option<ReadIndex> {
        let seen = self.leadership.borrow().clone();
        if !seen.leads_here() {
            return None;
        }
        metrics::counter!(metric_definitions::READ_ROUNDS).increment(1);
        let index = self.raft.read_index(Instant::now() + ROUND_TIMEOUT).await.ok()?;
        // Before this term's first stamp the state's time is the leader's.
        let time_ms = self.clock.stamp(seen.term).map_or(0, |stamp| stamp.time_ms);
        Some(ReadIndex {
            index,
            time_ms: time_ms.max(self.store.view().time_ms()),
        })
    }
}
