//! Refusals of callers without rights. The first few in each window get a record each; what is beyond
//! is counted, and shares one record per caller and action when the window ends. So a caller who
//! hammers writes few entries, with the right count.

use crate::{name::FullName, operations::Caller};
use conclave_cluster::model::Action;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Counts refusals per caller and action.
pub struct Refusals {
    records_per_window: u32,
    callers: BTreeMap<(crate::grants::Principal, Action), Counted>,
}

/// What is to be done about a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It gets a record of its own.
    Record,
    /// It was counted, and will be in a shared record.
    Counted,
}

/// Refusals that share a record.
pub struct SharedRefusals {
    /// The first of these callers' requests.
    pub caller: Caller,
    /// What was asked for.
    pub action: Action,
    /// The secret, where all were about one.
    pub name: Option<FullName>,
    /// How many there were.
    pub attempts: u32,
}

struct Counted {
    window_began: Instant,
    recorded: u32,
    shared: Option<SharedRefusals>,
}

impl Refusals {
    /// How long refusals are counted together.
    pub const WINDOW: Duration = Duration::from_secs(10);
    /// Callers and actions that are counted at once. Beyond, a refusal is recorded alone, which
    /// the limits per caller bound.
    const LIMIT: usize = 16_384;

    /// At most so many records of their own in each window.
    pub fn new(records_per_window: u32) -> Self {
        Self {
            records_per_window,
            callers: BTreeMap::new(),
        }
    }

    /// Counts one refusal.
    pub fn count(
        &mut self,
        caller: &Caller,
        action: Action,
        name: Option<&FullName>,
        now: Instant,
    ) -> Verdict {
        let key = (caller.principal.clone(), action);
        if self.callers.len() >= Self::LIMIT && !self.callers.contains_key(&key) {
            return Verdict::Record;
        }
        let counted = self.callers.entry(key).or_insert(Counted {
            window_began: now,
            recorded: 0,
            shared: None,
        });
        if counted.recorded < self.records_per_window {
            counted.recorded += 1;
            return Verdict::Record;
        }
        match &mut counted.shared {
            Some(shared) => {
                shared.attempts = shared.attempts.saturating_add(1);
                if shared.name.as_ref() != name {
                    shared.name = None;
                }
            }
            none => {
                *none = Some(SharedRefusals {
                    caller: caller.clone(),
                    action,
                    name: name.cloned(),
                    attempts: 1,
                });
            }
        }
        Verdict::Counted
    }

    /// Takes what is to be written of windows that have ended.
    pub fn take_ended(&mut self, now: Instant) -> Vec<SharedRefusals> {
        self.take(|counted| now.duration_since(counted.window_began) >= Self::WINDOW)
    }

    /// Takes all that is to be written, before the node stops.
    pub fn take_all(&mut self) -> Vec<SharedRefusals> {
        self.take(|_| true)
    }

    /// Puts back what could not be written, to be tried with the next.
    pub fn put_back(&mut self, unwritten: SharedRefusals, now: Instant) {
        let key = (unwritten.caller.principal.clone(), unwritten.action);
        let counted = self.callers.entry(key).or_insert(Counted {
            window_began: now,
            recorded: self.records_per_window,
            shared: None,
        });
        match &mut counted.shared {
            Some(shared) => {
                shared.attempts = shared.attempts.saturating_add(unwritten.attempts);
                if shared.name != unwritten.name {
                    shared.name = None;
                }
            }
            none => *none = Some(unwritten),
        }
    }

    fn take(&mut self, ended: impl Fn(&Counted) -> bool) -> Vec<SharedRefusals> {
        let mut taken = Vec::new();
        self.callers.retain(|_, counted| {
            let ended = ended(counted);
            if ended {
                taken.extend(counted.shared.take());
            }
            !ended
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::Dialect;

    fn caller(principal: &str) -> Caller {
        Caller {
            principal: principal.parse().unwrap(),
            device: None,
            grants: Default::default(),
            remote: "192.0.2.7:4711".parse().unwrap(),
            api: Dialect::Setec,
            request_id: "r".to_owned(),
        }
    }

    #[test]
    fn a_flood_writes_few_records_with_the_right_count() {
        let mut refusals = Refusals::new(3);
        let (began, name) = (Instant::now(), FullName::setec("a").unwrap());
        let mallory = caller("cn:mallory");
        let (mut records, mut attempts) = (0, 0);
        for number in 0..60_000_u64 {
            let now = began + Duration::from_millis(number);
            for shared in refusals.take_ended(now) {
                (records, attempts) = (records + 1, attempts + shared.attempts);
                assert!(shared.name.as_ref() == Some(&name));
            }
            if refusals.count(&mallory, Action::Get, Some(&name), now) == Verdict::Record {
                (records, attempts) = (records + 1, attempts + 1);
            }
        }
        for shared in refusals.take_all() {
            (records, attempts) = (records + 1, attempts + shared.attempts);
        }
        assert_eq!((records, attempts), (6 * (3 + 1), 60_000));
    }

    #[test]
    fn callers_and_actions_are_counted_apart_and_names_only_shown_when_equal() {
        let mut refusals = Refusals::new(0);
        let now = Instant::now();
        let (a, b) = (FullName::setec("a").unwrap(), FullName::setec("b").unwrap());
        refusals.count(&caller("cn:x"), Action::Get, Some(&a), now);
        refusals.count(&caller("cn:x"), Action::Get, Some(&b), now);
        refusals.count(&caller("cn:x"), Action::Put, Some(&a), now);
        refusals.count(&caller("cn:y"), Action::Get, Some(&a), now);
        assert!(refusals.take_ended(now).is_empty());
        let mut shared = refusals.take_ended(now + Refusals::WINDOW);
        assert_eq!(
            shared.iter().map(|shared| shared.attempts).collect::<Vec<_>>(),
            [2, 1, 1]
        );
        assert!(shared[0].name.is_none() && shared[1].name.is_some());

        refusals.count(&caller("cn:x"), Action::Get, None, now);
        refusals.put_back(shared.remove(0), now);
        assert_eq!(
            refusals.take_all()[0].attempts,
            3,
            "what could not be written is not lost"
        );
        assert!(refusals.take_all().is_empty());
    }
}
