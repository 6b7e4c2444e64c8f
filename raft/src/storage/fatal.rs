//! What happens when a disk fails: the process ends.
//!
//! After a failed sync nobody knows what is durable, and the kernel may report success the next
//! time without having written anything (Rebello et al., "Can Applications Recover from fsync
//! Failures?", 2020). So nothing is retried.

use std::sync::Arc;

/// Called once with the reason when the disk failed. In production it does not return.
#[derive(Clone)]
pub struct OnFatal(Arc<dyn Fn(&str) + Send + Sync>);

impl OnFatal {
    /// Calls `hook`. For tests, which want to see it; afterwards the store refuses everything.
    pub fn new(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    /// Says why, and ends the process at once, without running anything that could touch the disk.
    pub fn exit() -> Self {
        Self::new(|reason| {
            tracing::error!(
                reason,
                "the disk failed; this process ends, because nothing may be retried"
            );
            std::process::abort();
        })
    }

    pub(crate) fn call(&self, reason: &str) {
        (self.0)(reason);
    }
}
