//! What the kernel counts for a process.

use crate::Failure;
use std::{fs, time::Duration};

/// Totals of a process since it started, and its memory now.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time, in user and kernel mode, of all threads.
    pub processor: Duration,
    /// Bytes that it caused to be sent to the disk.
    pub written_bytes: u64,
    /// Memory that is its own, and that of files which it maps.
    pub resident_bytes: u64,
    /// The part of that which belongs to no file.
    pub anonymous_bytes: u64,
}

impl Usage {
    /// Of a process, from `/proc/PID/stat`, `io` and `status`.
    ///
    /// # Errors
    /// When there is no such process, or it is not ours to look into.
    pub fn of(pid: u32) -> Result<Self, Failure> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let stat = read("stat")?;
        // The second field is the program's name in brackets, and may hold anything.
        let after_name = stat.rsplit_once(") ").ok_or("a stat without a name")?.1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        let ticks = ticks(11).zip(ticks(12)).ok_or("a stat without times")?;
        let ticks_per_s = rustix::param::clock_ticks_per_second();
        let io = read("io")?;
        let status = read("status")?;
        Ok(Self {
            processor: Duration::from_micros((ticks.0 + ticks.1) * 1_000_000 / ticks_per_s),
            written_bytes: field(&io, "write_bytes:")?,
            resident_bytes: field(&status, "VmRSS:")? << 10,
            anonymous_bytes: field(&status, "RssAnon:")? << 10,
        })
    }
}

fn field(text: &str, name: &str) -> Result<u64, Failure> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next());
    let figure = figure.and_then(|figure| figure.parse().ok());
    figure.ok_or_else(|| format!("{name} is missing").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(std::process::id()).expect("our own process");
        assert!(usage.resident_bytes >= usage.anonymous_bytes && usage.anonymous_bytes > 0);
    }
}
