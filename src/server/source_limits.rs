//! How many connections one address may have, so that one caller cannot take them all.

use super::reports::Unreported;
use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;

/// Counts connections by their source. Knows only sources with open connections.
pub(super) struct SourceLimits {
    limit: usize,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

struct Source {
    open: usize,
    refused: Unreported,
}

/// The source has its share. Holds what is to be reported of its refused connections, if that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SourceFull {
    pub(super) to_report: Option<u64>,
}

/// One connection's share. Given back when dropped.
pub(super) struct SourcePermit {
    limits: Arc<SourceLimits>,
    source: IpAddr,
}

impl SourceLimits {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            sources: Mutex::new(HashMap::new()),
        })
    }

    /// Connections that one source may have.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A share for one more connection, unless the source has its share. An IPv6 source is its
    /// network of 64 bits, for one host has as many addresses as it likes there.
    pub(super) fn acquire(
        self: &Arc<Self>,
        address: IpAddr,
        now: Instant,
    ) -> Result<SourcePermit, SourceFull> {
        let source = match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            address => address,
        };
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let state = sources.entry(source).or_insert(Source {
            open: 0,
            refused: Unreported::new(),
        });
        if state.open < self.limit {
            state.open += 1;
            return Ok(SourcePermit {
                limits: self.clone(),
                source,
            });
        }
        Err(SourceFull {
            to_report: state.refused.count(now),
        })
    }
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        let mut sources = self.limits.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut source) = sources.entry(self.source) {
            source.get_mut().open -= 1;
            if source.get().open == 0 {
                source.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_source_has_its_own_share_and_gives_it_back() {
        let limits = SourceLimits::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let acquire = |address: IpAddr| limits.acquire(address, Instant::now());
        let first = acquire(address("192.0.2.1")).unwrap();
        let _second = acquire(address("::ffff:192.0.2.1")).unwrap();
        assert!(acquire(address("192.0.2.1")).is_err());
        assert!(acquire(address("192.0.2.2")).is_ok());
        drop(first);
        assert!(acquire(address("192.0.2.1")).is_ok());

        let _a = acquire(address("2001:db8::1")).unwrap();
        let _b = acquire(address("2001:db8::2")).unwrap();
        assert!(acquire(address("2001:db8::3")).is_err());
        assert_eq!(limits.sources.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_source_beyond_its_share_is_reported_once_a_minute() {
        let limits = SourceLimits::new(1);
        let (address, begin) = ("192.0.2.1".parse().unwrap(), Instant::now());
        let _open = limits.acquire(address, begin).ok().unwrap();
        let mut reports = Vec::new();
        for second in 0..=120 {
            let now = begin + Duration::from_secs(second);
            reports.extend(limits.acquire(address, now).err().unwrap().to_report);
        }
        assert_eq!(reports, [1, 60, 60]);
        let other = limits.acquire("192.0.2.2".parse().unwrap(), begin);
        assert!(other.is_ok());
    }
}
