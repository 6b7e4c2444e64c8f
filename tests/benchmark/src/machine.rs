//! What was measured, and on what: nobody can read a figure without it.

use crate::{Failure, options::Setup};
use std::{fs, path::Path, process::Command};

/// The machine and the programs' versions, each fact with its name.
pub fn facts(setup: &Setup) -> Result<Vec<(&'static str, String)>, Failure> {
    let conclave = setup.conclave()?;
    Ok(vec![
        ("processor", processor()),
        ("memory", memory()),
        ("disk", disk(&setup.folder)),
        ("kernel", said(Path::new("uname"), &["-sr"])?),
        ("conclave", said(&conclave, &["--version"])?),
        (
            "etcd",
            said(&setup.etcd, &["--version"]).unwrap_or_else(|failure| failure.to_string()),
        ),
    ])
}

/// When, of which commit, and by which command.
pub fn provenance() -> Result<String, Failure> {
    let date = said(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M UTC"])?;
    let commit = said(
        Path::new("git"),
        &["describe", "--always", "--dirty", "--exclude=*"],
    )
    .unwrap_or_else(|_| "an unknown commit".to_owned());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    Ok(format!(
        "{date}, commit {commit}, `conclave-benchmark {}`",
        arguments.join(" ")
    ))
}

/// The first line that a program says.
fn said(program: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", program.display(), output.status).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} × {model}")
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{} MiB", kib / 1024))
}

/// The device and file system of a folder.
fn disk(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found = (0, "unknown".to_owned());
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(at), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if folder.starts_with(at) && at.len() >= found.0 {
            found = (at.len(), format!("{kind} on {device}"));
        }
    }
    found.1
}
