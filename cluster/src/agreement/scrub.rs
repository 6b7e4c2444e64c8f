//! Rescans every stored pair and compares with the digest that was kept while writing: slowly, all
//! the time, and when `conclave cluster verify` asks. Bytes that changed by themselves in a row that
//! nobody reads are found so.

use super::fault::Fault;
use crate::{
    metric_definitions,
    node::{ScanProgress, ScannedDigest},
    state::Store,
};
use conclave_raft::runtime::{AsyncRuntime, Runtime};
use futures::future::BoxFuture;
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

/// The pause between two scrubs of a node.
pub(crate) const PAUSE: Duration = Duration::from_secs(600);

/// The least time between two scrubs that were asked for by members' doubts.
const DOUBTED_PAUSE: Duration = Duration::from_secs(60);

/// How fast a verification reads, for somebody waits for it: as fast as a disk, and slower than what
/// would take a processor for itself.
const VERIFICATION_BYTES_PER_S: u64 = 128 * 1024 * 1024;

/// Rescans on behalf of one node: one scrub at a time, and beside it one verification.
pub(crate) struct Scrub {
    halt: Box<dyn Fn(Fault) -> BoxFuture<'static, ()> + Send + Sync>,
    store: Arc<Store>,
    bytes_per_s: u64,
    one_verification: Mutex<()>,
    /// How far the verification is that runs.
    progress: Arc<std::sync::Mutex<Option<ScanProgress>>>,
}

impl Scrub {
    /// A scrub that reads at most so many bytes per second, and calls `halt` when it finds damage.
    pub(crate) fn new(
        halt: impl Fn(Fault) -> BoxFuture<'static, ()> + Send + Sync + 'static,
        store: Arc<Store>,
        bytes_per_s: u64,
    ) -> Self {
        Self {
            halt: Box::new(halt),
            store,
            bytes_per_s,
            one_verification: Mutex::new(()),
            progress: Arc::default(),
        }
    }

    /// Scrubs for as long as the node runs: with a pause before each scan, and soon when a member
    /// found a snapshot of this node's state to be bad.
    pub(crate) async fn run(self: Arc<Self>, pause: Duration, mut doubts: watch::Receiver<u64>) {
        let mut earliest = Instant::now();
        loop {
            let regular = tokio::time::sleep(pause);
            let doubted = async {
                // The sender of doubts is the node's own.
                let _ = doubts.changed().await;
                tokio::time::sleep_until(earliest).await;
            };
            tokio::select! {
                biased;
                () = regular => {}
                () = doubted => tracing::warn!("a member found this node's snapshot to be bad; looking through the state"),
            }
            doubts.mark_unchanged();
            earliest = Instant::now() + DOUBTED_PAUSE;
            let scanned = self.scan_surely(self.bytes_per_s, |_| {}).await;
            if let Err(fault) = scanned.and_then(ScannedDigest::check) {
                return (self.halt)(fault).await;
            }
        }
    }

    /// Scans, and where something is wrong once more. A state that cannot be read, or is not what was written, halts the node after
    /// the answer was given.
    pub(crate) async fn verify(self: Arc<Self>) -> Result<ScannedDigest, String> {
        let scanned = {
            let _one = self.one_verification.lock().await;
            let running = Running::begin(&self.progress, self.store.view().approximate_bytes());
            let tell = running.teller();
            let bytes_per_s = VERIFICATION_BYTES_PER_S.max(self.bytes_per_s);
            self.scan_surely(bytes_per_s, tell).await
        };
        if let Err(fault) = scanned.clone().and_then(ScannedDigest::check) {
            Runtime::spawn(async move {
                // The answer says which node it is; it should get out first.
                tokio::time::sleep(Duration::from_millis(500)).await;
                (self.halt)(fault).await;
            });
        }
        scanned.map_err(|fault| fault.reason().to_owned())
    }

    /// How far the verification is that runs.
    pub(crate) fn progress(&self) -> Option<ScanProgress> {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn scan_surely(
        &self,
        bytes_per_s: u64,
        tell: impl Fn(u64) + Clone + Send + 'static,
    ) -> Result<ScannedDigest, Fault> {
        let mut rates = [bytes_per_s, VERIFICATION_BYTES_PER_S.max(bytes_per_s)].into_iter();
        let scanned = look_surely(|| {
            let bytes_per_s = rates.next().unwrap_or(bytes_per_s);
            self.scan(bytes_per_s, tell.clone())
        });
        let scanned = scanned.await;
        if !matches!(
            scanned.clone().and_then(ScannedDigest::check),
            Ok(()) | Err(Fault::Passing(_))
        ) {
            metrics::counter!(metric_definitions::DIGESTS_DIFFERING).increment(1);
        }
        scanned
    }

    async fn scan(
        &self,
        bytes_per_s: u64,
        tell: impl Fn(u64) + Send + 'static,
    ) -> Result<ScannedDigest, Fault> {
        let view = self.store.view();
        // The thread ends soon after nobody waits for it any more.
        let waiting = Arc::new(());
        let waited_for = Arc::downgrade(&waiting);
        let scanned = Runtime::spawn_blocking(move || {
            view.scan_digest_telling(Some(bytes_per_s), |bytes| {
                tell(bytes);
                waited_for.strong_count() > 0
            })
        })
        .await
        .map_err(|error| Fault::Passing(format!("the scan of the state broke off: {error}")))?
        .map_err(|error| Fault::of_reading("the state", &error))?
        .ok_or_else(|| Fault::Passing("the scan of the state was given up".to_owned()))?;
        drop(waiting);
        metrics::counter!(metric_definitions::SCRUBS).increment(1);
        Ok(scanned)
    }
}

/// A verification that runs; shown until it is dropped, however it ends.
struct Running(Arc<std::sync::Mutex<Option<ScanProgress>>>);

impl Running {
    fn begin(shown: &Arc<std::sync::Mutex<Option<ScanProgress>>>, total_bytes: u64) -> Self {
        *shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(ScanProgress {
            scanned_bytes: 0,
            total_bytes,
        });
        Self(shown.clone())
    }

    /// Takes how many bytes were read. Does nothing once the verification has ended.
    fn teller(&self) -> impl Fn(u64) + Clone + Send + use<> {
        let shown = self.0.clone();
        move |scanned_bytes| {
            if let Some(progress) = &mut *shown.lock().unwrap_or_else(PoisonError::into_inner) {
                progress.scanned_bytes = scanned_bytes;
                // The total is an estimate.
                progress.total_bytes = progress.total_bytes.max(scanned_bytes);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Looks a second time where the first found damage: a whole scan reads much, and only what is bad
/// again is stored so.
async fn look_surely<Look>(mut look: impl FnMut() -> Look) -> Result<ScannedDigest, Fault>
where
    Look: Future<Output = Result<ScannedDigest, Fault>>,
{
    let first = look().await;
    let Err(Fault::Damaged(reason)) = first.clone().and_then(ScannedDigest::check) else {
        return first;
    };
    tracing::error!(
        reason,
        "the state seems to be damaged; looking through it once more"
    );
    let second = look().await;
    if second.clone().and_then(ScannedDigest::check).is_ok() {
        tracing::error!(
            "at the second look the state is what was written: this machine reads wrongly now and then"
        );
    }
    second
}

impl ScannedDigest {
    fn check(self) -> Result<(), Fault> {
        if self.scanned == self.running {
            return Ok(());
        }
        Err(Fault::Damaged(format!(
            "the stored state at index {} is not what was written: a rescan gives another digest",
            self.index
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::tests::fixtures::{Bench, put},
        state::Table,
    };
    use futures::FutureExt;
    use tokio::sync::mpsc;

    #[test]
    fn a_verification_shows_how_far_it_is_until_it_ends() {
        let shown = Arc::default();
        let running = Running::begin(&shown, 100);
        let tell = running.teller();
        let progress = |shown: &std::sync::Mutex<Option<ScanProgress>>| *shown.lock().unwrap();
        tell(60);
        assert_eq!(
            progress(&shown),
            Some(ScanProgress {
                scanned_bytes: 60,
                total_bytes: 100
            })
        );
        tell(120);
        assert_eq!(progress(&shown).map(|progress| progress.total_bytes), Some(120));
        drop(running);
        tell(130);
        assert_eq!(progress(&shown), None);
    }

    #[tokio::test]
    async fn only_what_is_bad_twice_is_damage() {
        let whole = ScannedDigest {
            index: 9,
            scanned: [1; 32],
            running: [1; 32],
        };
        let other = ScannedDigest {
            scanned: [2; 32],
            ..whole
        };
        let unreadable = Err(Fault::Damaged("a block is bad".into()));
        let failed = Err(Fault::Passing("no descriptor".into()));
        for (looks, found, looked) in [
            (vec![Ok(whole), Ok(other)], Ok(whole), 1),
            (vec![Ok(other), Ok(whole)], Ok(whole), 2),
            (vec![unreadable.clone(), Ok(whole)], Ok(whole), 2),
            (vec![Ok(other), Ok(other), Ok(whole)], Ok(other), 2),
            (vec![unreadable.clone(), unreadable.clone()], unreadable, 2),
            (vec![failed.clone(), Ok(whole)], failed, 1),
        ] {
            let (all, mut looks) = (looks.len(), looks.into_iter());
            let surely = look_surely(|| std::future::ready(looks.next().unwrap())).await;
            assert_eq!((surely, all - looks.len()), (found, looked));
        }
    }

    #[tokio::test]
    async fn it_scans_by_itself_and_halts_when_a_stored_pair_changed() {
        let mut bench = Bench::new();
        bench.put(put(1, 10));
        let Bench { store, directory, .. } = bench;
        let store = Arc::new(store);
        let (halted, mut reasons) = mpsc::unbounded_channel();
        let halt = move |fault| {
            halted.send(fault).expect("the test waits for it");
            std::future::ready(()).boxed()
        };
        let scrub = Arc::new(Scrub::new(halt, store.clone(), u64::MAX));
        let doubts = watch::Sender::new(0);
        let running = tokio::spawn(scrub.clone().run(Duration::from_millis(1), doubts.subscribe()));
        let sound = scrub.clone().verify().await.expect("a sound state is scanned");
        assert_eq!(sound.scanned, sound.running);
        assert!(!running.is_finished() && reasons.is_empty());
        store.overwrite_for_test(Table::Value, b"cold", b"changed");
        let fault = reasons.recv().await.expect("it halts");
        assert!(matches!(&fault, Fault::Damaged(reason) if reason.contains("not what was written")));
        running.await.expect("it ends");
        drop(directory);
    }
}
