//! The tasks of a running node. None ends while the node runs: one that does, or panics, halts the
//! node, because a node without one of its tasks looks well and is not.

use conclave_raft::runtime::Runtime;
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use tokio::task::JoinSet;

/// The tasks, and what halts the node.
pub(super) struct Tasks<H> {
    halt: H,
    running: JoinSet<()>,
}

impl<H: Fn(String) + Clone + Send + 'static> Tasks<H> {
    /// No tasks yet.
    pub(super) fn new(halt: H) -> Self {
        Self {
            halt,
            running: JoinSet::new(),
        }
    }

    /// Runs a task until the node stops. `what` completes "the task that …".
    pub(super) fn spawn(&mut self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let halt = self.halt.clone();
        self.running.spawn(Runtime::inherited(async move {
            let how = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) => "ended",
                Err(_) => "panicked",
            };
            halt(format!("the task that {what} {how}"));
        }));
    }

    /// The tasks, to be ended when the node stops.
    pub(super) fn into_running(self) -> JoinSet<()> {
        self.running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_task_that_ends_or_panics_halts_the_node_and_a_stop_does_not() {
        let (said, mut heard) = mpsc::unbounded_channel();
        let mut tasks = Tasks::new(move |reason| said.send(reason).unwrap());
        tasks.spawn("waits", std::future::pending());
        tasks.spawn("returns", async {});
        assert_eq!(heard.recv().await.unwrap(), "the task that returns ended");
        tasks.spawn("fails", async { panic!("as a test wants") });
        assert_eq!(heard.recv().await.unwrap(), "the task that fails panicked");
        tasks.into_running().shutdown().await;
        assert_eq!(heard.recv().await, None);
    }
}
