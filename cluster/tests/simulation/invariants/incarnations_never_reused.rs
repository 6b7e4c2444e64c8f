//! A Raft id belongs to one data directory, and a data directory has one (design, section 4).

use super::Invariant;
use crate::history::{Directory, Event, Moment};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct IncarnationsNeverReused {
    directories: BTreeMap<u64, Directory>,
    ids: BTreeMap<Directory, u64>,
}

impl Invariant for IncarnationsNeverReused {
    fn see(&mut self, _at: Moment, event: &Event) -> Result<(), String> {
        let Event::Identified { directory, raft_id } = event else {
            return Ok(());
        };
        let known = *self.directories.entry(*raft_id).or_insert(*directory);
        if known != *directory {
            return Err(format!("{known:?} and {directory:?} both have the id {raft_id}"));
        }
        let known = *self.ids.entry(*directory).or_insert(*raft_id);
        if known != *raft_id {
            return Err(format!("{directory:?} had the id {known} and has {raft_id}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};

    #[test]
    fn one_id_a_directory() {
        let identified = |node, wiped, raft_id| {
            let directory = Directory { node, wiped };
            (0, Event::Identified { directory, raft_id })
        };
        let history = [identified(0, 0, 1), identified(0, 0, 1), identified(0, 1, 4)];
        assert!(holds(IncarnationsNeverReused::default(), &history).is_ok());
        let wiped = [identified(0, 0, 1), identified(0, 1, 1)];
        assert!(holds(IncarnationsNeverReused::default(), &wiped).is_err());
        let changed = [identified(0, 0, 1), identified(0, 0, 2)];
        assert!(holds(IncarnationsNeverReused::default(), &changed).is_err());
    }
}
