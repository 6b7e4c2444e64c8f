//! How long a connection may be used: as long as the certificates that opened it are in force.
//!
//! A reload of this node's certificates withdraws every connection that was opened before, so that
//! each proves itself anew under the CA that is configured now; so does the end of the time of
//! either side's certificate. A withdrawn connection ends between two frames. What was asked on it
//! and not answered is asked again by whoever asked.

use crate::runtime::Runtime;
use openraft::AsyncRuntime;
use std::{
    io,
    time::{Duration, SystemTime},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// The wall clock is looked at so often, because it can be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Whether a connection's certificates are in force.
pub struct InForce {
    withdrawn: CancellationToken,
    _watching: Option<AbortOnDropHandle<()>>,
}

impl InForce {
    /// For as long as the connection lasts: nothing that expires was needed to open it.
    pub fn always() -> Self {
        Self {
            withdrawn: CancellationToken::new(),
            _watching: None,
        }
    }

    /// From now until the certificates are replaced or their time ends, whichever comes first.
    pub fn begin(replaced: &CancellationToken, expires: SystemTime) -> Self {
        let withdrawn = replaced.child_token();
        let expired = withdrawn.clone();
        if expires <= SystemTime::now() {
            expired.cancel();
        }
        let watching = Runtime::spawn(async move {
            while let Ok(left) = expires.duration_since(SystemTime::now())
                && !left.is_zero()
            {
                tokio::time::sleep(left.min(LOOK_EVERY)).await;
            }
            expired.cancel();
        });
        Self {
            withdrawn,
            _watching: Some(AbortOnDropHandle::new(watching)),
        }
    }

    /// Whether the connection may not be used any more.
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.is_cancelled()
    }

    /// Returns when the connection may not be used any more, with what to say of it.
    pub async fn withdrawn(&self) -> io::Error {
        self.withdrawn.cancelled().await;
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the certificates that opened the connection are no longer in force",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replacement_or_the_end_of_the_certificates_time_withdraws() {
        let replaced = CancellationToken::new();
        let hour = Duration::from_secs(3600);
        let lasting = InForce::begin(&replaced, SystemTime::now() + hour);
        let ending = InForce::begin(&replaced, SystemTime::now() + Duration::from_millis(20));
        let over = InForce::begin(&replaced, SystemTime::now() - hour);
        assert!(over.is_withdrawn());
        assert_eq!(ending.withdrawn().await.kind(), io::ErrorKind::ConnectionAborted);
        assert!(!lasting.is_withdrawn());
        replaced.cancel();
        lasting.withdrawn().await;
        assert!(InForce::begin(&replaced, SystemTime::now() + hour).is_withdrawn());
    }
}
