//! Rounds that many share. Whoever asks while a round runs gets the next one: its question must not
//! be answered by messages that were sent before it.

use conclave_raft::runtime::{AsyncRuntime, Runtime};
use std::{
    future::Future,
    sync::{Mutex, PoisonError},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// The most that wait for one round; more wait to be queued.
const WAITERS: usize = 4096;

/// A source of shared rounds, one at a time.
pub(crate) struct SharedRounds<T> {
    ask: mpsc::Sender<oneshot::Sender<T>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Clone + Send + 'static> SharedRounds<T> {
    /// Starts a task that runs `round` whenever somebody asked.
    pub(crate) fn start<F, R>(round: F) -> Self
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = T> + Send,
    {
        let (ask, mut asked) = mpsc::channel::<oneshot::Sender<T>>(WAITERS);
        let task = Runtime::spawn(async move {
            let mut waiting = Vec::new();
            while asked.recv_many(&mut waiting, WAITERS).await > 0 {
                let answer = round().await;
                for waiter in waiting.drain(..) {
                    let _ = waiter.send(answer.clone());
                }
            }
        });
        Self {
            ask,
            task: Mutex::new(Some(task)),
        }
    }

    /// The result of a round that begins after this call. `None` when there are no more rounds.
    pub(crate) async fn next(&self) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.ask.send(answer).await.ok()?;
        answered.await.ok()
    }

    /// Ends the task; nobody gets an answer any more.
    pub(crate) async fn stop(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }
}

impl<T> Drop for SharedRounds<T> {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_question_is_never_answered_by_a_round_that_began_before_it() {
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let rounds = {
            let (begun, gate) = (begun.clone(), gate.clone());
            Arc::new(SharedRounds::start(move || {
                let (begun, gate) = (begun.clone(), gate.clone());
                async move {
                    let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                    gate.acquire().await.unwrap().forget();
                    number
                }
            }))
        };
        let ask = |rounds: &Arc<SharedRounds<usize>>| {
            let rounds = rounds.clone();
            tokio::spawn(async move { rounds.next().await })
        };
        let first = ask(&rounds);
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // These come while the first round runs: they share the second.
        let later: Vec<_> = (0..10).map(|_| ask(&rounds)).collect();
        while rounds.ask.capacity() > WAITERS - 10 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Some(1));
        for waiter in later {
            assert_eq!(waiter.await.unwrap(), Some(2));
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
