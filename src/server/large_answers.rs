//! How many bytes of large answers wait to be sent. What fits into a request's limit of bytes is bounded by
//! the slots of requests, of which each answer keeps one; a listing is as long as there are secrets.
//!
//! Invariant: all large answers that wait have at most the configured bytes together, and those of one
//! principal at most a quarter of that, unless it is a single one.

use crate::grants::Principal;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The large answers of one node.
pub(super) struct LargeAnswers {
    /// What has more bytes is large.
    from_bytes: usize,
    limit_bytes: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    bytes: usize,
    /// Only principals of whom some wait.
    by_principal: BTreeMap<Principal, usize>,
}

/// One answer's bytes, until it is sent and this is dropped.
pub(super) struct Room {
    answers: Arc<LargeAnswers>,
    principal: Principal,
    bytes: usize,
}

/// So much waits already that the answer cannot be kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl LargeAnswers {
    pub(super) fn new(from_bytes: usize, limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            from_bytes,
            limit_bytes,
            waiting: Mutex::default(),
        })
    }

    /// Room for an answer of so many bytes; `None`: it is not large and needs none.
    pub(super) fn room(
        self: &Arc<Self>,
        principal: &Principal,
        bytes: usize,
    ) -> Result<Option<Room>, NoRoom> {
        if bytes <= self.from_bytes {
            return Ok(None);
        }
        let mut waiting = self.waiting();
        let own = waiting.by_principal.get(principal).copied().unwrap_or(0);
        let is_within_share = own == 0 || own.saturating_add(bytes) <= self.limit_bytes / 4;
        if !is_within_share || waiting.bytes.saturating_add(bytes) > self.limit_bytes {
            return Err(NoRoom);
        }
        waiting.bytes += bytes;
        waiting.by_principal.insert(principal.clone(), own + bytes);
        Ok(Some(Room {
            answers: self.clone(),
            principal: principal.clone(),
            bytes,
        }))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut waiting = self.answers.waiting();
        waiting.bytes -= self.bytes;
        if let Some(own) = waiting.by_principal.get_mut(&self.principal) {
            *own -= self.bytes;
            if *own == 0 {
                waiting.by_principal.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str) -> Principal {
        format!("cn:{name}").parse().unwrap()
    }

    #[test]
    fn what_waits_is_bounded_for_the_node_and_for_each_principal() {
        let answers = LargeAnswers::new(10, 100);
        let (a, b) = (principal("a"), principal("b"));
        let room = |who: &Principal, bytes| answers.room(who, bytes).map(Option::unwrap);
        let _first = room(&a, 12).ok().unwrap();
        let second = room(&a, 13).ok().unwrap();
        assert!(room(&a, 11).is_err(), "a quarter is taken");
        drop(second);
        let _second = room(&a, 11).ok().unwrap();
        // One may be larger than its principal's share, and none larger than what is left.
        assert!(room(&b, 78).is_err());
        let large = room(&b, 77).ok().unwrap();
        assert!(room(&principal("c"), 11).is_err());
        drop(large);
        assert!(room(&principal("c"), 11).is_ok());
    }

    #[test]
    fn small_answers_need_no_room_and_nothing_is_remembered_of_those_that_are_gone() {
        let answers = LargeAnswers::new(10, 0);
        assert!(answers.room(&principal("a"), 10).is_ok_and(|room| room.is_none()));
        assert!(answers.room(&principal("a"), 11).is_err());
        let answers = LargeAnswers::new(0, 10);
        for name in ["a", "b"] {
            drop(answers.room(&principal(name), 10));
        }
        assert_eq!(answers.waiting().bytes, 0);
        assert!(answers.waiting().by_principal.is_empty());
    }
}
