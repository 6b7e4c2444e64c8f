//! At a place a version's number stands for one value for ever, also after the secret was deleted and
//! another made there (design, section 10). Here a value is the number of the operation that put it.

use super::Invariant;
use crate::history::{Answer, Event, Moment, Operation};
use conclave_cluster::model::Action;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct VersionsNeverReused {
    values: BTreeMap<(u32, u32), Operation>,
}

impl Invariant for VersionsNeverReused {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        let (place, version, value) = match event {
            Event::Recorded {
                operation,
                action: Action::Put,
                place: Some(place),
                version: Some(version),
                done: true,
                ..
            } => (*place, *version, *operation),
            Event::Answered { operation, answer } => match answer {
                Answer::Stored { place, version, .. } => (*place, *version, *operation),
                Answer::Disclosed {
                    place,
                    version,
                    value,
                    ..
                } => (*place, *version, *value),
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let known = *self.values.entry((place, version)).or_insert(value);
        if known != value {
            return Err(format!(
                "at place {place} version {version} stands for the values {known} and {value}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};

    #[test]
    fn one_value_a_number() {
        let stored = |operation, version| {
            let answer = Answer::Stored {
                index: operation,
                place: 3,
                version,
            };
            (0, Event::Answered { operation, answer })
        };
        let disclosed = |value| {
            let answer = Answer::Disclosed {
                index: 7,
                place: 3,
                version: 1,
                value,
            };
            (0, Event::Answered { operation: 5, answer })
        };
        let history = [stored(1, 1), stored(2, 2), disclosed(1)];
        assert!(holds(VersionsNeverReused::default(), &history).is_ok());
        assert!(holds(VersionsNeverReused::default(), &[stored(1, 1), stored(2, 1)]).is_err());
        assert!(holds(VersionsNeverReused::default(), &[stored(1, 1), disclosed(2)]).is_err());
    }
}
