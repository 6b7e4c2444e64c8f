//! Lines for who waits, each with the time since the start.

use std::{fmt::Display, sync::OnceLock, time::Instant};

/// Says what happens now.
pub fn say(line: impl Display) {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    let elapsed_s = STARTED.get_or_init(Instant::now).elapsed().as_secs();
    eprintln!("{:>3}:{:02} {line}", elapsed_s / 60, elapsed_s % 60);
}
