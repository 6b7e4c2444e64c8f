//! Limits of one caller: what it may have in flight, and how much it may ask per second.

use super::OperationError;
use crate::grants::Principal;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// Limits of the operations, all configurable.
#[derive(Clone, Debug)]
pub struct OperationLimits {
    /// Bytes of a value. Default 1 MiB.
    pub value_bytes: usize,
    /// Requests of one principal in flight on this node. Default 128.
    pub in_flight_per_principal: usize,
    /// Requests of one principal per second on this node. Default 10,000.
    pub requests_per_second_per_principal: u32,
    /// Refusals of one principal and action that get a record of their own, in ten seconds, and one more
    /// in each five minutes. What is beyond shares records with a count. Default 10.
    pub refusal_records_per_ten_seconds: u32,
}

impl Default for OperationLimits {
    fn default() -> Self {
        Self {
            value_bytes: 1024 * 1024,
            in_flight_per_principal: 128,
            requests_per_second_per_principal: 10_000,
            refusal_records_per_ten_seconds: 10,
        }
    }
}

/// Admits requests by principal.
pub(crate) struct Admission {
    in_flight: usize,
    per_second: f64,
    principals: Mutex<BTreeMap<Principal, Allowance>>,
}

/// One request of a principal in flight, until dropped.
pub struct Permit {
    admission: Arc<Admission>,
    principal: Principal,
}

/// A token bucket that holds one second's requests.
struct Allowance {
    in_flight: usize,
    tokens: f64,
    filled: Instant,
}

impl Admission {
    /// Principals that are remembered before those that rest are forgotten.
    const REMEMBERED: usize = 4096;

    /// With these limits.
    pub fn new(limits: &OperationLimits) -> Arc<Self> {
        Arc::new(Self {
            in_flight: limits.in_flight_per_principal.max(1),
            per_second: f64::from(limits.requests_per_second_per_principal.max(1)),
            principals: Mutex::default(),
        })
    }

    /// Admits one request, until the permit is dropped.
    pub fn admit(self: &Arc<Self>, principal: &Principal, now: Instant) -> Result<Permit, OperationError> {
        let mut principals = self
            .principals
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if principals.len() >= Self::REMEMBERED && !principals.contains_key(principal) {
            // A full bucket is what a newcomer gets as well.
            principals.retain(|_, allowance| {
                allowance.in_flight > 0 || now.duration_since(allowance.filled) < Duration::from_secs(1)
            });
        }
        let fresh = Allowance {
            in_flight: 0,
            tokens: self.per_second,
            filled: now,
        };
        let allowance = principals.entry(principal.clone()).or_insert(fresh);
        let elapsed = now.saturating_duration_since(allowance.filled).as_secs_f64();
        allowance.tokens = (allowance.tokens + elapsed * self.per_second).min(self.per_second);
        allowance.filled = now;
        if allowance.tokens < 1.0 || allowance.in_flight >= self.in_flight {
            return Err(OperationError::RateLimited {
                retry_after: Duration::from_secs(1),
            });
        }
        allowance.tokens -= 1.0;
        allowance.in_flight += 1;
        Ok(Permit {
            admission: self.clone(),
            principal: principal.clone(),
        })
    }
}

impl Permit {
    /// Whose request it is.
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut principals = self
            .admission
            .principals
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(allowance) = principals.get_mut(&self.principal) {
            allowance.in_flight -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(in_flight: usize, per_second: u32) -> Arc<Admission> {
        Admission::new(&OperationLimits {
            in_flight_per_principal: in_flight,
            requests_per_second_per_principal: per_second,
            ..OperationLimits::default()
        })
    }

    fn principal(name: &str) -> Principal {
        format!("cn:{name}").parse().unwrap()
    }

    #[test]
    fn requests_in_flight_are_bounded_per_principal() {
        let (admission, now) = (admission(2, 100), Instant::now());
        let a = principal("a");
        let permits = [admission.admit(&a, now), admission.admit(&a, now)];
        assert!(permits.iter().all(Result::is_ok));
        assert!(matches!(
            admission.admit(&a, now),
            Err(OperationError::RateLimited { .. })
        ));
        assert!(admission.admit(&principal("b"), now).is_ok(), "others are unhurt");
        drop(permits);
        assert!(admission.admit(&a, now).is_ok());
    }

    #[test]
    fn requests_per_second_are_bounded_per_principal() {
        let (admission, began) = (admission(10, 5), Instant::now());
        let a = principal("a");
        let admitted = |now| (0..20).filter(|_| admission.admit(&a, now).is_ok()).count();
        assert_eq!(admitted(began), 5);
        assert_eq!(admitted(began + Duration::from_millis(400)), 2);
        assert_eq!(
            admitted(began + Duration::from_secs(60)),
            5,
            "a rest saves up one second's worth"
        );
    }

    #[test]
    fn principals_that_rest_are_forgotten() {
        let (admission, began) = (admission(10, 5), Instant::now());
        for number in 0..3 * Admission::REMEMBERED {
            let now = began + Duration::from_millis(number as u64);
            drop(admission.admit(&principal(&number.to_string()), now));
        }
        assert!(admission.principals.lock().unwrap().len() <= Admission::REMEMBERED);
    }
}
