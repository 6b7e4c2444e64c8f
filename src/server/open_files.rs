//! How many files this process may have open (RLIMIT_NOFILE). Each connection is one, and anybody can
//! make connections: if they took all, RocksDB could not make its next file, and the node would halt.
//!
//! Invariant: as many connections as the configuration allows leave the node the files of its own. So
//! the limit is raised as far as the system lets it, and a node that it does not suffice does not start.

use crate::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most files that a node has open without its clients: three states (the one in use, one that a
/// reader still holds, a snapshot that is looked through) of 512 table files each, the log's 256, 256
/// connections that other nodes may have, and as many again, twice, for all else.
const OF_THE_NODE: u64 = 3 * 512 + 256 + 256 + 512;

/// Raises the limit, and refuses a configuration that does not fit into it.
pub(super) fn provide(config: &Config) -> Result<(), String> {
    let connections = u64::try_from(config.limits.connections).unwrap_or(u64::MAX);
    // The daemon may be asked about each of them at once.
    let files_each = if config.tailscale.enabled { 2 } else { 1 };
    check(raise(), connections, files_each)
}

/// Raises the soft limit to the hard one, which only a privileged process may exceed. Returns what is in
/// force then; `None` is no limit.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

fn check(limit: Option<u64>, connections: u64, files_each: u64) -> Result<(), String> {
    let needed = connections.saturating_mul(files_each).saturating_add(OF_THE_NODE);
    match limit {
        Some(limit) if limit < needed => Err(format!(
            "limits.connections: {connections} connections and the node's own files need {needed} open files, \
             and this process may have {limit}; raise its hard limit (LimitNOFILE= of systemd, ulimit -Hn) or \
             allow at most {} connections",
            limit.saturating_sub(OF_THE_NODE) / files_each
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let lowered = Rlimit {
            // Enough for the tests beside this one.
            current: Some(maximum.map_or(4096, |maximum| maximum - 1)),
            maximum,
        };
        setrlimit(Resource::Nofile, lowered).unwrap();
        assert_eq!(raise(), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn connections_leave_the_node_its_own_files() {
        assert_eq!(check(None, u64::MAX, 2), Ok(()));
        assert_eq!(check(Some(OF_THE_NODE + 10), 10, 1), Ok(()));
        assert_eq!(check(Some(OF_THE_NODE + 10), 5, 2), Ok(()));
        for (limit, connections, files_each, fits) in [
            (OF_THE_NODE + 10, 11, 1, "at most 10 connections"),
            (OF_THE_NODE + 11, 6, 2, "at most 5 connections"),
            (1_024, 512, 1, "at most 0 connections"),
            (1_024, u64::MAX, 2, "at most 0 connections"),
        ] {
            let refused = check(Some(limit), connections, files_each).unwrap_err();
            assert!(refused.contains(fits), "{refused}");
        }
    }
}
