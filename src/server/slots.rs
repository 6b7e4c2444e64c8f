//! How many requests are worked on at once. A request takes its slot once its caller is known and
//! within the caller's own limits, before its body is read, and keeps it until its answer was sent:
//! whoever sends slowly, or takes no answers, uses up only what is his.
//!
//! Callers without any grant, who are refused in the end and of whom anybody with a certificate may be
//! one, have a few slots of their own; so they take none from callers with grants.

use super::large_answers::{LargeAnswers, NoRoom, Room};
use crate::{
    config::LimitsSection,
    operations::{Caller, Permit},
};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots of one node.
pub struct Slots {
    with_grants: Arc<Semaphore>,
    without_grants: Arc<Semaphore>,
    large_answers: Arc<LargeAnswers>,
}

/// A request being worked on, until dropped.
pub struct Slot {
    _node: OwnedSemaphorePermit,
    permit: Permit,
    large_answers: Arc<LargeAnswers>,
    /// Its answer's, once that is there, if it is large.
    room: Option<Room>,
}

impl Slots {
    /// `requests_in_flight` for callers with grants, and a sixteenth of as many, at least one, for the
    /// others.
    pub fn new(limits: &LimitsSection) -> Self {
        Self {
            with_grants: Arc::new(Semaphore::new(limits.requests_in_flight)),
            without_grants: Arc::new(Semaphore::new((limits.requests_in_flight / 16).max(1))),
            large_answers: LargeAnswers::new(limits.body_bytes, limits.large_answer_bytes),
        }
    }

    /// A slot for a request that its caller's limits allow, unless all are taken.
    pub(super) fn take(&self, caller: &Caller, permit: Permit) -> Option<Slot> {
        let slots = if caller.grants.is_empty() {
            &self.without_grants
        } else {
            &self.with_grants
        };
        let node = slots.clone().try_acquire_owned().ok()?;
        Some(Slot {
            _node: node,
            permit,
            large_answers: self.large_answers.clone(),
            room: None,
        })
    }
}

impl Slot {
    /// Makes room for the request's answer, until it was sent.
    pub(super) fn make_room(&mut self, answer_bytes: usize) -> Result<(), NoRoom> {
        self.room = self.large_answers.room(self.permit.principal(), answer_bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        grants::{Grants, WrittenGrant},
        operations::{Admission, Dialect, OperationLimits},
        server::Answer,
    };
    use hyper::StatusCode;
    use tokio::time::Instant;

    fn caller(principal: &str, has_grants: bool) -> Caller {
        let grant: WrittenGrant = serde_json::from_str(r#"{"action": ["audit"]}"#).unwrap();
        let written = if has_grants { vec![grant] } else { Vec::new() };
        Caller {
            principal: principal.parse().unwrap(),
            device: None,
            grants: Arc::new(Grants::from_written(&written).unwrap()),
            remote: "127.0.0.1:1".parse().unwrap(),
            api: Dialect::Setec,
            request_id: "test".into(),
        }
    }

    /// Takes slots as a call does.
    fn take(limits: &LimitsSection) -> impl Fn(&Caller) -> Option<Slot> + use<> {
        let admission = Admission::new(&OperationLimits {
            in_flight_per_principal: limits.requests_in_flight_per_principal,
            ..OperationLimits::default()
        });
        let slots = Slots::new(limits);
        move |caller| {
            let permit = admission.admit(&caller.principal, Instant::now()).ok()?;
            slots.take(caller, permit)
        }
    }

    fn limits(requests_in_flight: usize) -> LimitsSection {
        LimitsSection {
            requests_in_flight,
            ..LimitsSection::default()
        }
    }

    #[test]
    fn callers_without_grants_take_no_slot_from_those_with() {
        let take = take(&limits(3));
        let (stranger, known) = (caller("cn:stranger", false), caller("cn:known", true));
        let held = take(&stranger);
        assert!(held.is_some() && take(&stranger).is_none());
        let slots: Vec<_> = (0..4).map(|_| take(&known)).collect();
        assert_eq!(slots.iter().flatten().count(), 3);
        drop((held, slots));
        assert!(take(&stranger).is_some() && take(&known).is_some());
    }

    #[test]
    fn a_few_principals_cannot_take_every_slot() {
        let take = take(&LimitsSection::default());
        let mut held = Vec::new();
        for number in 0..7 {
            let greedy = caller(&format!("cn:greedy-{number}"), true);
            held.extend(std::iter::from_fn(|| take(&greedy)));
        }
        assert!(take(&caller("cn:modest", true)).is_some());
    }

    #[test]
    fn an_answer_keeps_its_slot_and_its_room_until_its_bytes_are_gone() {
        let take = take(&LimitsSection {
            body_bytes: 4,
            large_answer_bytes: 10,
            ..limits(2)
        });
        let known = caller("cn:known", true);
        let (mut slot, mut other) = (take(&known).unwrap(), take(&known).unwrap());
        let answer = Answer::text(StatusCode::OK, "a value");
        assert_eq!(slot.make_room(answer.body_bytes()), Ok(()));
        let response = answer.holding(Some(slot)).into_response("id");
        let rest = response.into_body().slice(2..);
        assert!(take(&known).is_none());
        assert_eq!(other.make_room(8), Err(NoRoom));
        assert_eq!(other.make_room(4), Ok(()), "what is small needs none");
        drop(rest);
        assert_eq!(other.make_room(8), Ok(()));
        assert!(take(&known).is_some());
    }
}
