//! One secret by setec's rules, as `docs/setec-api.md` has them: what each call answers and leaves
//! behind. Checkers compare what clients saw with this.
//!
//! The invariant: numbers that once had a value are never used again, also after a deletion.

use crate::history::{Answer, Call};
use std::collections::BTreeMap;

/// A secret's state. Equal states are equal values, so that a search can remember where it was.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Secret {
    /// Versions that have a value.
    versions: BTreeMap<u32, u64>,
    /// 0: none, for there is no version.
    active: u32,
    /// Ranges of numbers that were ever used, in order, never touching one another.
    used: Vec<(u32, u32)>,
}

impl Secret {
    /// What a call answers, and the state after it where that is another one.
    pub fn apply(&self, call: &Call) -> (Answer, Option<Self>) {
        match call {
            Call::Put { value } => self.put(*value),
            Call::CreateVersion { version, value } => self.create_version(*version, *value),
            Call::Activate { version } => self.activate(*version),
            Call::DeleteVersion { version } => self.delete_version(*version),
            Call::Delete => {
                let deleted = Self {
                    used: self.used.clone(),
                    ..Self::default()
                };
                (Answer::Done, (deleted != *self).then_some(deleted))
            }
            Call::Get => (self.value(self.active), None),
            Call::GetVersion { version } => (self.value(*version), None),
            Call::Poll { version } if *version == self.active => (Answer::NotModified, None),
            Call::Poll { .. } => (self.value(self.active), None),
            Call::Info if self.versions.is_empty() => (Answer::NotFound, None),
            Call::Info => {
                let versions = self.versions.keys().copied().collect();
                let active = self.active;
                (Answer::Versions { versions, active }, None)
            }
            // Lists are taken apart before they come here: see `checker::linearizability`.
            Call::List => (Answer::Listing { secrets: Vec::new() }, None),
        }
    }

    fn put(&self, value: u64) -> (Answer, Option<Self>) {
        let latest = self.versions.last_key_value().map(|(version, _)| *version);
        for version in [Some(self.active), latest].into_iter().flatten() {
            if self.versions.get(&version) == Some(&value) {
                return (Answer::Version { version }, None);
            }
        }
        let version = self.used.last().map_or(1, |(_, highest)| highest + 1);
        let mut next = self.with(version, value);
        if self.active == 0 {
            next.active = version;
        }
        (Answer::Version { version }, Some(next))
    }

    fn create_version(&self, version: u32, value: u64) -> (Answer, Option<Self>) {
        if self
            .used
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&version))
        {
            return (Answer::VersionUsed, None);
        }
        let mut next = self.with(version, value);
        next.active = version;
        (Answer::Done, Some(next))
    }

    fn activate(&self, version: u32) -> (Answer, Option<Self>) {
        if !self.versions.contains_key(&version) {
            return (Answer::NotFound, None);
        }
        let mut next = self.clone();
        next.active = version;
        (Answer::Done, (next != *self).then_some(next))
    }

    fn delete_version(&self, version: u32) -> (Answer, Option<Self>) {
        if !self.versions.contains_key(&version) {
            return (Answer::NotFound, None);
        }
        if version == self.active {
            return (Answer::ActiveVersion, None);
        }
        let mut next = self.clone();
        next.versions.remove(&version);
        (Answer::Done, Some(next))
    }

    fn value(&self, version: u32) -> Answer {
        match self.versions.get(&version) {
            Some(value) => Answer::Value {
                version,
                value: *value,
            },
            None => Answer::NotFound,
        }
    }

    /// The same with a new version.
    fn with(&self, version: u32, value: u64) -> Self {
        let mut next = self.clone();
        next.versions.insert(version, value);
        let position = next.used.partition_point(|(from, _)| *from < version);
        next.used.insert(position, (version, version));
        // Ranges that touch become one.
        next.used.dedup_by(|later, earlier| {
            let touch = earlier.1 + 1 == later.0;
            if touch {
                earlier.1 = later.1;
            }
            touch
        });
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies calls in order and returns their answers.
    fn answers(calls: &[Call]) -> Vec<Answer> {
        let mut secret = Secret::default();
        let mut answers = Vec::new();
        for call in calls {
            let (answer, next) = secret.apply(call);
            answers.push(answer);
            secret = next.unwrap_or(secret);
        }
        answers
    }

    fn version(version: u32) -> Answer {
        Answer::Version { version }
    }

    fn value(version: u32, value: u64) -> Answer {
        Answer::Value { version, value }
    }

    #[test]
    fn the_first_put_activates_and_later_ones_do_not() {
        let calls = [
            Call::Get,
            Call::Put { value: 7 },
            Call::Put { value: 8 },
            Call::Get,
            Call::Activate { version: 2 },
            Call::Poll { version: 1 },
            Call::Poll { version: 2 },
            Call::Activate { version: 3 },
        ];
        let expected = [
            Answer::NotFound,
            version(1),
            version(2),
            value(1, 7),
            Answer::Done,
            value(2, 8),
            Answer::NotModified,
            Answer::NotFound,
        ];
        assert_eq!(answers(&calls), expected);
    }

    #[test]
    fn a_value_of_the_active_or_the_latest_version_is_not_stored_again() {
        let calls = [7, 8, 9, 7, 9, 8].map(|value| Call::Put { value });
        let expected = [1, 2, 3, 1, 3, 4].map(version);
        assert_eq!(answers(&calls), expected);
    }

    #[test]
    fn numbers_are_never_used_twice() {
        let create = |version| Call::CreateVersion { version, value: 5 };
        let calls = [
            Call::Put { value: 7 },
            create(4),
            create(3),
            create(2),
            create(1),
            Call::DeleteVersion { version: 2 },
            Call::DeleteVersion { version: 3 },
            Call::Delete,
            Call::Info,
            create(3),
            Call::Put { value: 7 },
            Call::Info,
        ];
        let (versions, active) = (vec![5], 5);
        let expected = [
            version(1),
            Answer::Done,
            Answer::Done,
            Answer::Done,
            Answer::VersionUsed,
            Answer::ActiveVersion,
            Answer::Done,
            Answer::Done,
            Answer::NotFound,
            Answer::VersionUsed,
            version(5),
            Answer::Versions { versions, active },
        ];
        assert_eq!(answers(&calls), expected);
        let secret = Secret::default().with(1, 7).with(4, 7).with(3, 7);
        assert_eq!(secret.used, [(1, 1), (3, 4)]);
        assert_eq!(secret.with(2, 7).used, [(1, 4)]);
    }
}
