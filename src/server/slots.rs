//! How many requests are worked on at once. A request takes its slot once its caller is known and
//! within the caller's own limits, before its body is read, and keeps it until its answer was sent:
//! whoever sends slowly, or takes no answers, uses up only what is his.
//!
//! Callers without any grant, who are refused in the end and of whom anybody with a certificate may be
//! one, have a few slots of their own; so they take none from callers with grants.

use crate::operations::Permit;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots of one node.
pub struct Slots {
    with_grants: Arc<Semaphore>,
    without_grants: Arc<Semaphore>,
}

/// A request being worked on, until dropped.
pub struct Slot {
    _node: OwnedSemaphorePermit,
    _principal: Permit,
}

impl Slots {
    /// So many for callers with grants, and a sixteenth of as many, at least one, for the others.
    pub fn new(requests_in_flight: usize) -> Self {
        Self {
            with_grants: Arc::new(Semaphore::new(requests_in_flight)),
            without_grants: Arc::new(Semaphore::new((requests_in_flight / 16).max(1))),
        }
    }

    /// A slot for a request that its caller's limits allow, unless all are taken.
    pub(super) fn take(&self, has_grants: bool, principal: Permit) -> Option<Slot> {
        let slots = if has_grants {
            &self.with_grants
        } else {
            &self.without_grants
        };
        let node = slots.clone().try_acquire_owned().ok()?;
        Some(Slot {
            _node: node,
            _principal: principal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        operations::{Admission, OperationLimits},
        server::Answer,
    };
    use hyper::StatusCode;
    use tokio::time::Instant;

    fn permits() -> impl Fn() -> Permit {
        let admission = Admission::new(&OperationLimits::default());
        let principal = "cn:a".parse().unwrap();
        move || admission.admit(&principal, Instant::now()).unwrap()
    }

    #[test]
    fn callers_without_grants_take_no_slot_from_those_with() {
        let (slots, permit) = (Slots::new(3), permits());
        let stranger = slots.take(false, permit());
        assert!(stranger.is_some() && slots.take(false, permit()).is_none());
        let known: Vec<_> = (0..4).map(|_| slots.take(true, permit())).collect();
        assert_eq!(known.iter().flatten().count(), 3);
        drop((stranger, known));
        assert!(slots.take(false, permit()).is_some() && slots.take(true, permit()).is_some());
    }

    #[test]
    fn an_answer_keeps_its_slot_until_its_bytes_are_gone() {
        let (slots, permit) = (Slots::new(1), permits());
        let slot = slots.take(true, permit());
        let answer = Answer::text(StatusCode::OK, "a value").holding(slot);
        let response = answer.into_response("id");
        let rest = response.into_body().slice(2..);
        assert!(slots.take(true, permit()).is_none());
        drop(rest);
        assert!(slots.take(true, permit()).is_some());
    }
}
