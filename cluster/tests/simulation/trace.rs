//! The hash of a history: two runs with the same hash did the same, event for event, at the same moments.
//!
//! Of messages it has the lengths. Their contents are those of appends, votes and answers, which it has
//! as such; a snapshot's files bear random names that RocksDB draws.

use super::history::{Event, Moment};
use std::{fs::File, io::Write};

/// A hash over everything that happened so far.
pub struct Trace {
    hasher: blake3::Hasher,
    events: u64,
    written: Option<File>,
}

impl Trace {
    /// Also writes each event to the file that `SIMULATE_TRACE` names, to see where two runs part.
    pub fn new() -> Self {
        let written = std::env::var_os("SIMULATE_TRACE")
            .map(|path| File::create(path).expect("the file of the trace can be made"));
        Self {
            hasher: blake3::Hasher::new(),
            events: 0,
            written,
        }
    }

    pub fn add(&mut self, at: Moment, event: &Event) {
        let line = format!("{at} {event:?}\n");
        self.hasher.update(line.as_bytes());
        self.events += 1;
        if let Some(file) = &mut self.written {
            file.write_all(line.as_bytes()).expect("the trace can be written");
        }
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_moment_count() {
        let hash = |events: &[(Moment, Event)]| {
            let mut trace = Trace::new();
            events.iter().for_each(|(at, event)| trace.add(*at, event));
            trace.hash()
        };
        let (a, b) = (
            Event::Polled { node: 0, applied: 1 },
            Event::Polled { node: 1, applied: 1 },
        );
        let first = hash(&[(1, a.clone()), (1, b.clone())]);
        assert_eq!(first, hash(&[(1, a.clone()), (1, b.clone())]));
        assert_ne!(first, hash(&[(1, b.clone()), (1, a.clone())]));
        assert_ne!(first, hash(&[(1, a), (2, b)]));
    }
}
