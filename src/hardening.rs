//! What the process asks of the operating system so that plaintext stays in its memory: no core
//! dumps, not traceable by other processes of the same user, and memory locked where that is allowed.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};

/// Hardens this process. Returns what could not be done, to be logged as warnings: a node goes on
/// without, since containers often forbid some of it.
pub fn harden() -> Vec<String> {
    let mut warnings = Vec::new();
    let mut attempt = |what: &str, result: Result<(), String>| {
        if let Err(reason) = result {
            warnings.push(format!("{what}: {reason}"));
        }
    };
    attempt("core dumps could not be switched off", forbid_core_dumps());
    attempt(
        "the process could not be made non-dumpable",
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| error.to_string()),
    );
    attempt("memory is not locked and may be swapped out", lock_memory());
    warnings
}

fn forbid_core_dumps() -> Result<(), String> {
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )
    .map_err(|error| error.to_string())
}

/// Locks present and future memory, each page when it is first used. Under a finite limit a later
/// allocation would fail and abort the process, so that nothing is locked then.
fn lock_memory() -> Result<(), String> {
    if getrlimit(Resource::Memlock).current.is_some() && !may_exceed_memory_lock_limit() {
        return Err("the limit of locked memory (ulimit -l) is finite".to_owned());
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| error.to_string())
}

/// Whether the capability `CAP_IPC_LOCK` is effective (capabilities(7)).
fn may_exceed_memory_lock_limit() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|capabilities| capabilities & (1 << CAP_IPC_LOCK) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of this process that are locked in memory.
    fn locked_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let size = line.unwrap().trim().strip_suffix("kB").unwrap();
        size.trim().parse().unwrap()
    }

    #[test]
    fn core_dumps_are_off_and_memory_is_locked_where_that_is_allowed() {
        let warnings = harden();
        assert!(
            warnings
                .iter()
                .all(|warning| warning.starts_with("memory is not locked")),
            "{warnings:?}"
        );
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(
            rustix::process::dumpable_behavior().unwrap(),
            DumpableBehavior::NotDumpable
        );
        assert_eq!(locked_kb() > 0, warnings.is_empty(), "{warnings:?}");
    }
}
