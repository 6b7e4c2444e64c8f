//! Audit records that stand for many requests of one caller. Of refusals, the first few in each window
//! get a record each; what is beyond is counted, and shares one record per caller and action when the
//! window ends. So a caller who hammers writes few entries, with the right count. Looks at the status
//! that could not be recorded when they were served are counted likewise.

use super::{KeptSubject, Subject};
use crate::{grants::Principal, operations::Caller};
use conclave_cluster::model::Action;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};
use tokio::time::Instant;

/// Counts requests per caller and action.
pub struct SharedRecords {
    records_per_window: u32,
    callers: BTreeMap<(Principal, Action), Counted>,
}

/// What is to be done about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It gets a record of its own.
    Record,
    /// It was counted, and will be in a shared record.
    Counted,
}

/// Requests that share a record.
pub struct SharedRecord {
    /// The caller, as of its first request.
    pub caller: Caller,
    /// What was asked for.
    pub action: Action,
    /// What all of them were about.
    pub subject: KeptSubject,
    /// How many there were.
    pub attempts: u32,
}

struct Counted {
    window_began: Instant,
    recorded: u32,
    shared: Option<SharedRecord>,
}

impl SharedRecords {
    /// How long requests are counted together.
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

    /// Counts one request, unless it gets a record of its own.
    pub fn count(&mut self, caller: &Caller, action: Action, subject: Subject<'_>, now: Instant) -> Verdict {
        let records_per_window = self.records_per_window;
        let Some(counted) = self.counted(caller, action, now) else {
            return Verdict::Record;
        };
        if counted.recorded < records_per_window {
            counted.recorded += 1;
            return Verdict::Record;
        }
        counted.share(caller, action, subject);
        Verdict::Counted
    }

    /// Counts one request in any case. False: too many callers are counted already.
    #[must_use]
    pub fn share(&mut self, caller: &Caller, action: Action, subject: Subject<'_>, now: Instant) -> bool {
        let counted = self.counted(caller, action, now);
        let is_counted = counted.is_some();
        if let Some(counted) = counted {
            counted.share(caller, action, subject);
        }
        is_counted
    }

    /// Takes what is to be written of windows that have ended.
    pub fn take_ended(&mut self, now: Instant) -> Vec<SharedRecord> {
        self.take(|counted| now.duration_since(counted.window_began) >= Self::WINDOW)
    }

    /// Takes all that is to be written, before the node stops.
    pub fn take_all(&mut self) -> Vec<SharedRecord> {
        self.take(|_| true)
    }

    /// Puts back what could not be written, to be tried with the next.
    pub fn put_back(&mut self, unwritten: SharedRecord, now: Instant) {
        let key = (unwritten.caller.principal.clone(), unwritten.action);
        let counted = self.callers.entry(key).or_insert(Counted {
            window_began: now,
            recorded: self.records_per_window,
            shared: None,
        });
        match &mut counted.shared {
            Some(shared) => shared.add(unwritten.attempts, unwritten.subject.subject()),
            none => *none = Some(unwritten),
        }
    }

    fn counted(&mut self, caller: &Caller, action: Action, now: Instant) -> Option<&mut Counted> {
        let has_room = self.callers.len() < Self::LIMIT;
        match self.callers.entry((caller.principal.clone(), action)) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(entry) => has_room.then(|| {
                entry.insert(Counted {
                    window_began: now,
                    recorded: 0,
                    shared: None,
                })
            }),
        }
    }

    fn take(&mut self, ended: impl Fn(&Counted) -> bool) -> Vec<SharedRecord> {
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

impl Counted {
    fn share(&mut self, caller: &Caller, action: Action, subject: Subject<'_>) {
        match &mut self.shared {
            Some(shared) => shared.add(1, subject),
            none => {
                *none = Some(SharedRecord {
                    caller: caller.clone(),
                    action,
                    subject: subject.into(),
                    attempts: 1,
                });
            }
        }
    }
}

impl SharedRecord {
    fn add(&mut self, attempts: u32, subject: Subject<'_>) {
        self.attempts = self.attempts.saturating_add(attempts);
        if self.subject.subject() != subject {
            self.subject = KeptSubject::Several;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{name::FullName, operations::Dialect};

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
        let mut refusals = SharedRecords::new(3);
        let (began, name) = (Instant::now(), FullName::setec("a").unwrap());
        let mallory = caller("cn:mallory");
        let (mut records, mut attempts) = (0, 0);
        for number in 0..60_000_u64 {
            let now = began + Duration::from_millis(number);
            for shared in refusals.take_ended(now) {
                (records, attempts) = (records + 1, attempts + shared.attempts);
                assert!(shared.subject.subject() == Subject::Secret(&name));
            }
            if refusals.count(&mallory, Action::Get, Subject::Secret(&name), now) == Verdict::Record {
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
        let mut refusals = SharedRecords::new(0);
        let now = Instant::now();
        let (a, b) = (FullName::setec("a").unwrap(), FullName::setec("b").unwrap());
        refusals.count(&caller("cn:x"), Action::Get, Subject::Secret(&a), now);
        refusals.count(&caller("cn:x"), Action::Get, Subject::Secret(&b), now);
        refusals.count(&caller("cn:x"), Action::Put, Subject::Secret(&a), now);
        refusals.count(&caller("cn:y"), Action::Get, Subject::Secret(&a), now);
        assert!(refusals.take_ended(now).is_empty());
        let mut shared = refusals.take_ended(now + SharedRecords::WINDOW);
        assert_eq!(
            shared.iter().map(|shared| shared.attempts).collect::<Vec<_>>(),
            [2, 1, 1]
        );
        assert!(shared[0].subject == KeptSubject::Several);
        assert!(shared[1].subject.subject() == Subject::Secret(&a));

        refusals.count(&caller("cn:x"), Action::Get, Subject::Several, now);
        refusals.put_back(shared.remove(0), now);
        assert_eq!(
            refusals.take_all()[0].attempts,
            3,
            "what could not be written is not lost"
        );
        assert!(refusals.take_all().is_empty());
    }

    #[test]
    fn what_cannot_have_a_record_of_its_own_shares_one_from_the_first_on() {
        let mut looks = SharedRecords::new(10);
        let (now, alice) = (Instant::now(), caller("cn:alice"));
        for _ in 0..3 {
            assert!(looks.share(&alice, Action::Operate, Subject::Other("status"), now));
        }
        let all = looks.take_all();
        assert_eq!((all.len(), all[0].attempts), (1, 3));
        assert!(all[0].subject.subject() == Subject::Other("status"));

        // Only as many callers as are remembered.
        for number in 0..SharedRecords::LIMIT {
            assert!(looks.share(
                &caller(&format!("cn:{number}")),
                Action::Operate,
                Subject::Several,
                now
            ));
        }
        assert!(!looks.share(&alice, Action::Operate, Subject::Several, now));
    }
}
