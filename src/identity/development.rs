//! Development clusters: callers without a certificate are `dev`, with all rights.
//!
//! Only where the cluster was marked so when it was made, the configuration says so too, every
//! listener is on loopback, and Tailscale is off; so no configuration mistake on a real cluster can
//! open it.

use super::Identity;
use crate::{
    config::Config,
    grants::{Grants, Principal},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whether callers without a certificate are `dev`.
pub struct Development {
    allowed: bool,
    marked: Arc<AtomicBool>,
}

impl Development {
    /// As the configuration allows; in force once [`Self::mark`] told that the cluster is marked.
    pub fn from_config(config: &Config) -> Self {
        let listeners = [config.api.listen, config.cluster.listen, config.metrics.listen];
        let on_loopback = listeners.iter().all(|address| address.ip().is_loopback());
        Self {
            allowed: config.dev && on_loopback && !config.tailscale.enabled,
            marked: Arc::new(AtomicBool::new(false)),
        }
    }

    /// To be set when the cluster, once known, turns out to bear the mark.
    pub fn mark(&self) -> Arc<AtomicBool> {
        self.marked.clone()
    }

    /// Whether the configuration allows it.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    pub(super) fn identity(&self, remote: SocketAddr) -> Option<Identity> {
        let holds = self.allowed && self.marked.load(Ordering::Acquire) && remote.ip().is_loopback();
        holds.then(|| Identity {
            principal: Principal::dev(),
            device: None,
            grants: Arc::new(Grants::all()),
        })
    }

    #[cfg(test)]
    pub(super) fn enabled() -> Self {
        Self {
            allowed: true,
            marked: Arc::new(AtomicBool::new(true)),
        }
    }

    #[cfg(test)]
    pub(super) fn disabled() -> Self {
        Self {
            allowed: false,
            marked: Arc::new(AtomicBool::new(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config {
            dev: true,
            ..Config::default()
        };
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.cluster.listen = "127.0.0.1:1".parse().unwrap();
        config
    }

    fn is_dev(config: &Config, marked: bool, remote: &str) -> bool {
        let development = Development::from_config(config);
        development.mark().store(marked, Ordering::Release);
        development.identity(remote.parse().unwrap()).is_some()
    }

    #[test]
    fn every_condition_is_needed() {
        let local = "127.0.0.1:9";
        assert!(is_dev(&config(), true, local));
        assert!(!is_dev(&config(), false, local));
        assert!(!is_dev(&config(), true, "192.0.2.1:9"));
        assert!(!is_dev(
            &Config {
                dev: false,
                ..config()
            },
            true,
            local
        ));
        let mut open = config();
        open.metrics.listen = "0.0.0.0:8202".parse().unwrap();
        assert!(!is_dev(&open, true, local));
        let mut on_tailnet = config();
        on_tailnet.tailscale.enabled = true;
        assert!(!is_dev(&on_tailnet, true, local));
    }
}
