//! Audit records that stand for many requests of one caller. Of refusals, the first few get a record
//! each; what is beyond is counted, and shares one record per caller and action after ten seconds. Looks
//! at the status that could not be recorded when they were served are counted likewise.
//!
//! Both kinds of records have a budget that fills slowly, per caller and action. So a caller who hammers
//! writes few entries, with the right count, and one who goes on for days cannot push everybody else's
//! records over the audit's limit: once the budget is spent, one shared record stands for five minutes.

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
    own_records: u32,
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
    own: Budget,
    shared: Budget,
    /// Since when requests are counted together, and which.
    pending: Option<(Instant, SharedRecord)>,
}

/// Records that may be written now.
struct Budget {
    most: u32,
    left: u32,
    filled: Instant,
}

impl SharedRecords {
    /// How long requests are counted together, at least.
    pub const WINDOW: Duration = Duration::from_secs(10);
    /// In so long a budget gains one record.
    const REFILL: Duration = Duration::from_secs(300);
    /// Shared records of one caller and action at once: five minutes of windows.
    const SHARED: u32 = 30;
    /// Callers and actions that are counted at once. Beyond, a refusal is recorded alone, which
    /// the limits per caller bound.
    const LIMIT: usize = 16_384;

    /// With so many records of their own for each caller and action at once.
    pub fn new(own_records: u32) -> Self {
        Self {
            own_records,
            callers: BTreeMap::new(),
        }
    }

    /// Counts one request, unless it gets a record of its own.
    pub fn count(&mut self, caller: &Caller, action: Action, subject: Subject<'_>, now: Instant) -> Verdict {
        let Some(counted) = self.counted(caller, action, now) else {
            return Verdict::Record;
        };
        if counted.own.take(now) {
            return Verdict::Record;
        }
        counted.share(caller, action, subject, now);
        Verdict::Counted
    }

    /// Counts one request in any case. False: too many callers are counted already.
    #[must_use]
    pub fn share(&mut self, caller: &Caller, action: Action, subject: Subject<'_>, now: Instant) -> bool {
        let counted = self.counted(caller, action, now);
        let is_counted = counted.is_some();
        if let Some(counted) = counted {
            counted.share(caller, action, subject, now);
        }
        is_counted
    }

    /// Takes what is to be written of windows that have ended.
    pub fn take_ended(&mut self, now: Instant) -> Vec<SharedRecord> {
        let mut taken = Vec::new();
        self.callers.retain(|_, counted| {
            taken.extend(counted.take_ended(now));
            !counted.rests(now)
        });
        taken
    }

    /// Takes all that is to be written, before the node stops.
    pub fn take_all(&mut self) -> Vec<SharedRecord> {
        let callers = std::mem::take(&mut self.callers);
        let pending = callers.into_values().filter_map(|counted| counted.pending);
        pending.map(|(_, shared)| shared).collect()
    }

    /// Puts back what could not be written, to be tried with the next.
    pub fn put_back(&mut self, unwritten: SharedRecord, now: Instant) {
        let key = (unwritten.caller.principal.clone(), unwritten.action);
        let own_records = self.own_records;
        let counted = self
            .callers
            .entry(key)
            .or_insert_with(|| Counted::new(own_records, now));
        counted.shared.give_back();
        match &mut counted.pending {
            Some((_, shared)) => shared.add(unwritten.attempts, unwritten.subject.subject()),
            none => *none = Some((now, unwritten)),
        }
    }

    /// How many requests are counted and not yet recorded.
    pub fn attempts(&self) -> u64 {
        let pending = self
            .callers
            .values()
            .filter_map(|counted| counted.pending.as_ref());
        pending.map(|(_, shared)| u64::from(shared.attempts)).sum()
    }

    fn counted(&mut self, caller: &Caller, action: Action, now: Instant) -> Option<&mut Counted> {
        let has_room = self.callers.len() < Self::LIMIT;
        match self.callers.entry((caller.principal.clone(), action)) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(entry) => has_room.then(|| entry.insert(Counted::new(self.own_records, now))),
        }
    }
}

impl Counted {
    fn new(own_records: u32, now: Instant) -> Self {
        Self {
            own: Budget::full(own_records, now),
            shared: Budget::full(SharedRecords::SHARED, now),
            pending: None,
        }
    }

    fn share(&mut self, caller: &Caller, action: Action, subject: Subject<'_>, now: Instant) {
        match &mut self.pending {
            Some((_, shared)) => shared.add(1, subject),
            none => {
                let shared = SharedRecord {
                    caller: caller.clone(),
                    action,
                    subject: subject.into(),
                    attempts: 1,
                };
                *none = Some((now, shared));
            }
        }
    }

    fn take_ended(&mut self, now: Instant) -> Option<SharedRecord> {
        let (began, _) = self.pending.as_ref()?;
        let has_ended = now.saturating_duration_since(*began) >= SharedRecords::WINDOW;
        if has_ended && self.shared.take(now) {
            self.pending.take().map(|(_, shared)| shared)
        } else {
            None
        }
    }

    /// Nothing of it is worth remembering.
    fn rests(&mut self, now: Instant) -> bool {
        self.pending.is_none() && self.own.is_full(now) && self.shared.is_full(now)
    }
}

impl Budget {
    fn full(most: u32, now: Instant) -> Self {
        Self {
            most,
            left: most,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let has_one = self.left > 0;
        self.left -= u32::from(has_one);
        has_one
    }

    fn give_back(&mut self) {
        self.left = self.most.min(self.left + 1);
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left == self.most
    }

    fn fill(&mut self, now: Instant) {
        while self.left < self.most && now.saturating_duration_since(self.filled) >= SharedRecords::REFILL {
            self.left += 1;
            self.filled += SharedRecords::REFILL;
        }
        if self.left == self.most {
            self.filled = now;
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
            request_id: "r".into(),
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
        assert_eq!((records, attempts), (3 + 6, 60_000));
    }

    #[test]
    fn a_flood_of_days_writes_little_more_and_a_pause_gives_little_back() {
        const DAYS: u64 = 2;
        let mallory = caller("cn:mallory");
        // Every ten seconds twenty attempts; without a break, and with one after each ten seconds.
        for pause_windows in [1, 2] {
            let mut refusals = SharedRecords::new(10);
            let (began, mut records, mut attempts) = (Instant::now(), 0_u64, 0_u64);
            let mut asked = 0;
            for window in (0..DAYS * 8_640).step_by(pause_windows) {
                let now = began + SharedRecords::WINDOW * u32::try_from(window).unwrap();
                for shared in refusals.take_ended(now) {
                    (records, attempts) = (records + 1, attempts + u64::from(shared.attempts));
                }
                for _ in 0..20 {
                    asked += 1;
                    if refusals.count(&mallory, Action::Get, Subject::Several, now) == Verdict::Record {
                        (records, attempts) = (records + 1, attempts + 1);
                    }
                }
            }
            assert_eq!(attempts + refusals.attempts(), asked);
            let refilled = DAYS * 86_400 / SharedRecords::REFILL.as_secs();
            let most = 10 + u64::from(SharedRecords::SHARED) + 2 * refilled;
            assert!(records <= most && most < asked / 100, "{records} of {asked}");
            // Who rests is forgotten, and has all of it again.
            let rested = began + Duration::from_secs((DAYS + 1) * 86_400);
            refusals.take_ended(rested);
            refusals.take_ended(rested + SharedRecords::REFILL);
            assert!(refusals.callers.is_empty());
        }
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
