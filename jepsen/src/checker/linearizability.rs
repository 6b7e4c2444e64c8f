//! Every secret behaves as one copy: there is an order of the operations that respects real time and
//! in which every answer is what setec's rules say (Herlihy and Wing, *Linearizability*, 1990).
//!
//! The search is Wing and Gong's as Lowe improved it (*Testing for linearizability*, 2017): operations
//! take effect as late as possible, when the first one that needs them returns, and configurations
//! (state, operations that took effect) that were met before are not searched again. Secrets are
//! searched one by one, which is sound: linearizability is local.
//!
//! A write whose outcome is unknown may take effect at any time after its invocation, or never. A
//! read whose answer is unknown says nothing and is left out.

use crate::{
    history::{Answer, Call, Operation, Outcome},
    model::Secret,
};
use std::collections::{BTreeMap, HashSet};

/// One operation on one secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its position in the history.
    pub id: usize,
    pub call: Call,
    /// From when on it may have taken effect.
    pub from_ns: u64,
    /// Until when it took effect, and what was answered; `None`: unknown.
    pub until: Option<(u64, Answer)>,
}

/// What a search came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Search {
    Linearizable,
    /// At this operation's return no order was left.
    Stuck {
        /// The operation.
        id: usize,
        /// States that the secret may have had just before.
        states: Vec<Secret>,
    },
    /// Too many orders were possible.
    GaveUp,
}

/// Configurations that are searched for one secret before giving up.
pub const MOST_CONFIGURATIONS: usize = 4_000_000;

/// Makes entries of a history, by secret. A list is an `info` of every secret that its workload ever
/// named. A 304 may be answered from a state that is `stale_ns` old; it is left out where
/// `stale_ns` is `None`.
pub fn entries(history: &[Operation], stale_ns: Option<u64>) -> BTreeMap<String, Vec<Entry>> {
    let mut named: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for operation in history {
        if let Some(secret) = &operation.secret {
            named.entry(&operation.workload).or_default().insert(secret);
        }
    }
    let mut entries: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    let mut add = |secret: &str, entry: Entry| entries.entry(secret.to_owned()).or_default().push(entry);
    for operation in history {
        let entry = |call: &Call, from_ns: u64, answer: Option<Answer>| Entry {
            id: operation.id,
            call: call.clone(),
            from_ns,
            until: operation.completed_ns.zip(answer),
        };
        match (&operation.secret, &operation.outcome) {
            (_, Outcome::Fail { .. })
            | (
                _,
                Outcome::Ok {
                    answer: Answer::Denied,
                },
            ) => {}
            (Some(secret), Outcome::Info { .. }) if operation.call.writes() => {
                add(secret, entry(&operation.call, operation.invoked_ns, None));
            }
            (_, Outcome::Info { .. }) => {}
            (
                Some(secret),
                Outcome::Ok {
                    answer: Answer::NotModified,
                },
            ) => {
                if let Some(stale_ns) = stale_ns {
                    let from_ns = operation.invoked_ns.saturating_sub(stale_ns);
                    add(secret, entry(&operation.call, from_ns, Some(Answer::NotModified)));
                }
            }
            (Some(secret), Outcome::Ok { answer }) => {
                add(
                    secret,
                    entry(&operation.call, operation.invoked_ns, Some(answer.clone())),
                );
            }
            (
                None,
                Outcome::Ok {
                    answer: Answer::Listing { secrets },
                },
            ) => {
                for secret in named.get(operation.workload.as_str()).into_iter().flatten() {
                    let listed = secrets.iter().find(|listed| listed.name == *secret);
                    let seen = listed.map_or(Answer::NotFound, |listed| Answer::Versions {
                        versions: listed.versions.clone(),
                        active: listed.active,
                    });
                    add(secret, entry(&Call::Info, operation.invoked_ns, Some(seen)));
                }
            }
            (None, Outcome::Ok { .. }) => {}
        }
    }
    entries
}

/// Searches an order for the operations on one secret.
pub fn search(entries: &[Entry]) -> Search {
    search_within(entries, MOST_CONFIGURATIONS)
}

/// A state that the secret may have, with the pending operations (by slot) that took effect.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration {
    effective: Slots,
    state: Secret,
}

/// A set of slots.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Slots([u64; Slots::WORDS]);

impl Slots {
    const WORDS: usize = 6;
    /// Operations that are pending at once. Those are many where a 304 may be as old as the bound: all
    /// polls of that time.
    const COUNT: usize = 64 * Self::WORDS;

    fn contains(&self, slot: usize) -> bool {
        self.0[slot / 64] & (1 << (slot % 64)) != 0
    }

    fn with(&self, slot: usize) -> Self {
        let mut with = self.clone();
        with.insert(slot);
        with
    }

    fn insert(&mut self, slot: usize) {
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    fn remove(&mut self, slot: usize) {
        self.0[slot / 64] &= !(1 << (slot % 64));
    }
}

/// Operations that were invoked and have not returned, each in a slot of [`Configuration::effective`].
#[derive(Default)]
struct Pending<'a> {
    slots: Vec<Option<&'a Entry>>,
}

fn search_within(entries: &[Entry], most: usize) -> Search {
    let mut events: Vec<(u64, bool, &Entry)> = Vec::new();
    for entry in entries {
        events.push((entry.from_ns, false, entry));
        if let Some((until_ns, _)) = &entry.until {
            events.push((*until_ns, true, entry));
        }
    }
    // What begins when another ends may have come before it: the milder reading.
    events.sort_by_key(|(time_ns, returns, entry)| (*time_ns, *returns, entry.id));
    let mut pending = Pending::default();
    let mut configurations = HashSet::from([Configuration {
        effective: Slots::default(),
        state: Secret::default(),
    }]);
    let mut searched = 0;
    for (_, returns, entry) in events {
        if !returns {
            if !pending.add(entry) {
                return Search::GaveUp;
            }
            continue;
        }
        let slot = pending.slot(entry);
        let Some(next) = pending.configurations_after(slot, &configurations, &mut searched, most) else {
            return Search::GaveUp;
        };
        if next.is_empty() {
            let mut states: Vec<Secret> = configurations.into_iter().map(|kept| kept.state).collect();
            states.truncate(SHOWN_STATES);
            return Search::Stuck { id: entry.id, states };
        }
        pending.slots[slot] = None;
        configurations = next;
    }
    Search::Linearizable
}

const SHOWN_STATES: usize = 4;

impl<'a> Pending<'a> {
    /// False: there are too many.
    fn add(&mut self, entry: &'a Entry) -> bool {
        let free = self.slots.iter().position(Option::is_none);
        match free {
            Some(slot) => self.slots[slot] = Some(entry),
            None => self.slots.push(Some(entry)),
        }
        self.slots.len() <= Slots::COUNT
    }

    fn slot(&self, entry: &Entry) -> usize {
        let is_it = |slot: &Option<&Entry>| slot.is_some_and(|pending| std::ptr::eq(pending, entry));
        self.slots
            .iter()
            .position(is_it)
            .expect("it was invoked before it returned")
    }

    /// Every configuration that may hold once the operation in this slot has returned, without that
    /// slot. `None`: too many were searched.
    fn configurations_after(
        &self,
        slot: usize,
        before: &HashSet<Configuration>,
        searched: &mut usize,
        most: usize,
    ) -> Option<HashSet<Configuration>> {
        let mut after = HashSet::new();
        let mut seen = HashSet::new();
        let mut open: Vec<Configuration> = before.iter().cloned().collect();
        while let Some(mut configuration) = open.pop() {
            self.let_reads_take_effect(&mut configuration);
            if configuration.effective.contains(slot) {
                configuration.effective.remove(slot);
                after.insert(configuration);
                continue;
            }
            if !seen.insert(configuration.clone()) {
                continue;
            }
            *searched += 1;
            if *searched > most {
                return None;
            }
            for (position, entry) in self.slots.iter().enumerate() {
                let Some(entry) = entry.filter(|_| !configuration.effective.contains(position)) else {
                    continue;
                };
                let (answer, next) = configuration.state.apply(&entry.call);
                let possible = match &entry.until {
                    Some((_, seen)) => *seen == answer,
                    // Without an effect it is as if it never happened.
                    None => next.is_some(),
                };
                if possible {
                    open.push(Configuration {
                        effective: configuration.effective.with(position),
                        state: next.unwrap_or_else(|| configuration.state.clone()),
                    });
                }
            }
        }
        Some(after)
    }

    /// A read whose answer fits may take effect at once: nothing that is possible otherwise becomes
    /// impossible by that. (Not so a write that would change nothing now: it may be needed later.)
    fn let_reads_take_effect(&self, configuration: &mut Configuration) {
        for (position, entry) in self.slots.iter().enumerate() {
            if let Some(entry) = entry
                && !entry.call.writes()
                && let Some((_, seen)) = &entry.until
                && configuration.state.apply(&entry.call).0 == *seen
            {
                configuration.effective.insert(position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: usize, call: Call, from_ns: u64, until: Option<(u64, Answer)>) -> Entry {
        Entry {
            id,
            call,
            from_ns,
            until,
        }
    }

    fn put(value: u64) -> Call {
        Call::Put { value }
    }

    fn version(at: u64, version: u32) -> Option<(u64, Answer)> {
        Some((at, Answer::Version { version }))
    }

    fn value(at: u64, version: u32, value: u64) -> Option<(u64, Answer)> {
        Some((at, Answer::Value { version, value }))
    }

    #[test]
    fn what_one_copy_would_answer_is_accepted() {
        let history = [
            entry(0, put(7), 0, version(10, 1)),
            entry(1, put(8), 2, version(8, 2)),
            entry(2, Call::Get, 5, value(9, 1, 7)),
            entry(3, Call::Activate { version: 2 }, 11, Some((15, Answer::Done))),
            entry(4, Call::Get, 12, value(20, 1, 7)),
            entry(5, Call::Get, 12, value(20, 2, 8)),
        ];
        assert_eq!(search(&history), Search::Linearizable);
    }

    #[test]
    fn an_acknowledged_write_that_is_not_seen_later_is_caught() {
        let lost = [
            entry(0, put(7), 0, version(1, 1)),
            entry(1, Call::Get, 2, Some((3, Answer::NotFound))),
        ];
        let states = vec![Secret::default().apply(&put(7)).1.expect("it was stored")];
        assert_eq!(search(&lost), Search::Stuck { id: 1, states });
    }

    #[test]
    fn a_write_that_changes_nothing_now_may_be_needed_later() {
        let activate = |version| Call::Activate { version };
        let history = [
            entry(0, put(7), 0, version(1, 1)),
            entry(1, put(8), 2, version(3, 2)),
            entry(2, activate(1), 4, Some((20, Answer::Done))),
            entry(3, activate(2), 4, Some((9, Answer::Done))),
            entry(4, Call::Get, 5, value(10, 2, 8)),
            entry(5, Call::Get, 30, value(31, 1, 7)),
        ];
        assert_eq!(search(&history), Search::Linearizable);
    }

    #[test]
    fn a_stale_read_and_a_read_that_goes_back_are_caught() {
        let activated = entry(2, Call::Activate { version: 2 }, 4, Some((9, Answer::Done)));
        let first = [
            entry(0, put(7), 0, version(1, 1)),
            entry(1, put(8), 2, version(3, 2)),
        ];
        let mut stale = first.to_vec();
        stale.extend([activated.clone(), entry(3, Call::Get, 10, value(11, 1, 7))]);
        assert!(matches!(search(&stale), Search::Stuck { id: 3, .. }));
        let mut back = first.to_vec();
        back.extend([
            activated,
            entry(3, Call::Get, 5, value(6, 2, 8)),
            entry(4, Call::Get, 7, value(8, 1, 7)),
        ]);
        assert!(matches!(search(&back), Search::Stuck { id: 4, .. }));
    }

    #[test]
    fn a_write_of_unknown_outcome_may_come_late_or_never_but_not_twice() {
        let unknown = entry(1, put(8), 2, None);
        let first = entry(0, put(7), 0, version(1, 1));
        let never = entry(2, put(9), 30, version(31, 2));
        let late = entry(2, put(9), 30, version(31, 3));
        assert_eq!(
            search(&[first.clone(), unknown.clone(), never]),
            Search::Linearizable
        );
        assert_eq!(
            search(&[first.clone(), unknown.clone(), late]),
            Search::Linearizable
        );
        let versions = |at, versions: &[u32]| {
            let (versions, active) = (versions.to_vec(), 1);
            Some((at, Answer::Versions { versions, active }))
        };
        let twice = entry(2, Call::Info, 30, versions(31, &[1, 2, 3]));
        assert!(matches!(
            search(&[first.clone(), unknown.clone(), twice]),
            Search::Stuck { id: 2, .. }
        ));
        let gone_again = [
            first,
            unknown,
            entry(2, Call::Info, 30, versions(31, &[1, 2])),
            entry(3, Call::Info, 32, versions(33, &[1])),
        ];
        assert!(matches!(search(&gone_again), Search::Stuck { id: 3, .. }));
    }

    #[test]
    fn a_not_modified_may_be_as_old_as_the_bound_and_no_older() {
        let operation = |id, call: Call, invoked_ns, completed_ns, answer| Operation {
            id,
            process: 0,
            principal: String::new(),
            workload: "polling".to_owned(),
            node: 0,
            secret: Some("a".to_owned()),
            call,
            invoked_ns,
            completed_ns: Some(completed_ns),
            outcome: Outcome::Ok { answer },
            request_id: None,
        };
        let history = [
            operation(0, put(7), 0, 1, Answer::Version { version: 1 }),
            operation(1, put(8), 2, 3, Answer::Version { version: 2 }),
            operation(2, Call::Activate { version: 2 }, 10, 20, Answer::Done),
            operation(3, Call::Poll { version: 1 }, 30, 40, Answer::NotModified),
        ];
        let within = |stale_ns| search(&entries(&history, stale_ns)["a"]);
        assert_eq!(within(Some(10)), Search::Linearizable);
        assert!(matches!(within(Some(9)), Search::Stuck { id: 3, .. }));
        assert_eq!(within(None), Search::Linearizable);
    }

    #[test]
    fn a_list_is_a_look_at_each_secret() {
        let operation = |id, secret: Option<&str>, call: Call, at, answer| Operation {
            id,
            process: 0,
            principal: String::new(),
            workload: "list".to_owned(),
            node: 0,
            secret: secret.map(str::to_owned),
            call,
            invoked_ns: at,
            completed_ns: Some(at + 1),
            outcome: Outcome::Ok { answer },
            request_id: None,
        };
        let listed = |name: &str| crate::history::Listed {
            name: name.to_owned(),
            versions: vec![1],
            active: 1,
        };
        let stored = Answer::Version { version: 1 };
        let mut history = vec![
            operation(0, Some("a"), put(7), 0, stored.clone()),
            operation(1, Some("b"), put(8), 2, stored),
            operation(
                2,
                None,
                Call::List,
                4,
                Answer::Listing {
                    secrets: vec![listed("a"), listed("b")],
                },
            ),
        ];
        let wrong = |history: &[Operation]| {
            let by_secret = entries(history, None);
            by_secret
                .values()
                .filter(|entries| search(entries) != Search::Linearizable)
                .count()
        };
        assert_eq!(wrong(&history), 0);
        history.push(operation(
            3,
            None,
            Call::List,
            6,
            Answer::Listing {
                secrets: vec![listed("a")],
            },
        ));
        assert_eq!(wrong(&history), 1);
    }

    #[test]
    fn a_search_that_is_too_wide_is_given_up() {
        let unknown = (0..20).zip(0..).map(|(id, value)| entry(id, put(value), 0, None));
        let seen = Some((
            90,
            Answer::Versions {
                versions: vec![1, 2, 3],
                active: 3,
            },
        ));
        let history: Vec<Entry> = unknown.chain([entry(20, Call::Info, 80, seen)]).collect();
        assert_eq!(search_within(&history, 1_000), Search::GaveUp);
    }
}
