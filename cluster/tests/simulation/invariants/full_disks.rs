//! Once a node has measured that its disk is nearly full, it takes no ordinary entry below the middle between
//! its reserves, and no proposal at all below the last one (design, section 7; `docs/decisions/full-disks.md`).

use super::Invariant;
use crate::{
    history::{Event, Moment, Weight},
    machine::RESERVES,
};
use std::collections::BTreeMap;

/// Nodes measure twice a second.
const MEASURED_WITHIN_US: u64 = 1_000_000;

#[derive(Default)]
pub struct FullDisks {
    /// What is free on each machine's disk, and since when.
    free: BTreeMap<usize, (u64, Moment)>,
}

impl Invariant for FullDisks {
    fn see(&mut self, at: Moment, event: &Event) -> Result<(), String> {
        match event {
            Event::Space { node, free_bytes } => {
                self.free.insert(*node, (*free_bytes, at));
            }
            Event::Appended {
                directory,
                index,
                weight,
                ..
            } => {
                let Some((free_bytes, since)) = self.free.get(&directory.node) else {
                    return Ok(());
                };
                let last = RESERVES.relieving_bytes;
                let middle = last + (RESERVES.ordinary_bytes - last) / 2;
                let too_full = match weight {
                    Weight::Nothing => false,
                    Weight::Small => *free_bytes < last,
                    Weight::Ordinary => *free_bytes < middle,
                };
                if too_full && at > since + MEASURED_WITHIN_US {
                    return Err(format!(
                        "{directory:?} took entry {index} ({weight:?}) with {free_bytes} bytes free since {since} us"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::made_up::holds, *};
    use crate::history::Directory;

    #[test]
    fn a_full_disk_takes_what_its_reserves_allow() {
        let space = |free_bytes| (0, Event::Space { node: 0, free_bytes });
        let append = |at, weight| {
            let event = Event::Appended {
                directory: Directory { node: 0, wiped: 0 },
                index: 7,
                term: 3,
                previous_term: None,
                content: 5,
                weight,
            };
            (at, event)
        };
        let holds = |free_bytes, weight| {
            let later = [space(free_bytes), append(MEASURED_WITHIN_US + 1, weight)];
            let at_once = [space(free_bytes), append(MEASURED_WITHIN_US, weight)];
            assert!(
                holds(FullDisks::default(), &at_once).is_ok(),
                "it was not measured yet"
            );
            holds(FullDisks::default(), &later).is_ok()
        };
        let last = RESERVES.relieving_bytes;
        assert!(holds(RESERVES.ordinary_bytes, Weight::Ordinary));
        assert!(!holds(last, Weight::Ordinary));
        assert!(holds(last, Weight::Small));
        assert!(!holds(last - 1, Weight::Small));
        assert!(holds(0, Weight::Nothing));
    }
}
