//! How many connections one address may have, so that one caller cannot take them all.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts connections by their source. Knows only sources with open connections.
pub(super) struct SourceLimits {
    limit: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
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
            open: Mutex::new(HashMap::new()),
        })
    }

    /// A share for one more connection, unless the source has its share. An IPv6 source is its
    /// network of 64 bits, for one host has as many addresses as it likes there.
    pub(super) fn acquire(self: &Arc<Self>, address: IpAddr) -> Option<SourcePermit> {
        let source = match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
            address => address,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(SourcePermit {
            limits: self.clone(),
            source,
        })
    }
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = open.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_share_and_gives_it_back() {
        let limits = SourceLimits::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = limits.acquire(address("192.0.2.1")).unwrap();
        let _second = limits.acquire(address("::ffff:192.0.2.1")).unwrap();
        assert!(limits.acquire(address("192.0.2.1")).is_none());
        assert!(limits.acquire(address("192.0.2.2")).is_some());
        drop(first);
        assert!(limits.acquire(address("192.0.2.1")).is_some());

        let _a = limits.acquire(address("2001:db8::1")).unwrap();
        let _b = limits.acquire(address("2001:db8::2")).unwrap();
        assert!(limits.acquire(address("2001:db8::3")).is_none());
        assert_eq!(limits.open.lock().unwrap().len(), 2);
    }
}
