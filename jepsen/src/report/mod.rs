//! What a run leaves: a folder that tells everything about it.
//!
//! ```text
//! verdict.json      what every checker said, and the figures
//! schedule.json     the seed, the faults that were planned, and what was really done
//! history.edn       every event in Jepsen's format
//! history.jsonl     every operation with its answer
//! report.html       the verdict and timelines, for people
//! audit.jsonl       the audit as it was read at the end
//! cluster/logs/     what each node said
//! cluster/disks/    the nodes' file systems, unless the verdict is valid: mount them with `-o loop`
//! ```

mod html;

use crate::{
    HarnessError,
    checker::{Check, Verdict},
    history::{History, write_edn},
    nemesis::Done,
    schedule::Schedule,
};
use conclave::api::conclave::messages::AuditEntry;
use serde::Serialize;
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

/// Everything about a run.
pub struct Report<'a> {
    pub history: &'a History,
    pub schedule: &'a Schedule,
    pub done: &'a [Done],
    pub audit: &'a [AuditEntry],
    pub summary: Summary,
}

/// What the run was and what came out.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub verdict: Verdict,
    pub seed: u64,
    pub nodes: usize,
    pub seconds: u64,
    pub mixed: bool,
    pub workloads: Vec<String>,
    /// `conclave version` of the program under test.
    pub version: String,
    /// The line that repeats it.
    pub command: String,
    pub checks: Vec<Check>,
}

impl Report<'_> {
    /// Writes it all into a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), HarnessError> {
        let file = |name: &str, write: &dyn Fn(&mut BufWriter<File>) -> std::io::Result<()>| {
            let path = folder.join(name);
            let written = File::create(&path).and_then(|file| {
                let mut out = BufWriter::new(file);
                write(&mut out)?;
                out.flush()
            });
            written.map_err(|error| HarnessError::about(path.display(), error))
        };
        file("verdict.json", &|out| {
            Ok(serde_json::to_writer_pretty(out, &self.summary)?)
        })?;
        file("schedule.json", &|out| {
            let both = serde_json::json!({ "planned": self.schedule, "done": self.done });
            Ok(serde_json::to_writer_pretty(out, &both)?)
        })?;
        file("history.edn", &|out| write_edn(self.history, out))?;
        file("history.jsonl", &|out| self.history.write_json_lines(out))?;
        file("audit.jsonl", &|out| {
            for record in self.audit {
                serde_json::to_writer(&mut *out, record)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        })?;
        file("report.html", &|out| html::write(self, out))
    }
}

impl Summary {
    /// What stands on the last lines of a run.
    pub fn for_people(&self) -> String {
        let verdict = name(self.verdict).to_uppercase();
        format!(
            "{}seed {}: {verdict}\n",
            checks_for_people(&self.checks),
            self.seed
        )
    }
}

/// Each check with its verdict and the first of its findings.
pub fn checks_for_people(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        text += &format!("{:18} {}\n", check.name, name(check.verdict));
        for finding in check.findings.iter().take(SHOWN_FINDINGS) {
            let secret = finding.secret.as_deref().unwrap_or("-");
            text += &format!(
                "    {secret}: {} (operations {:?})\n",
                finding.text, finding.operations
            );
        }
        if check.findings.len() > SHOWN_FINDINGS {
            text += &format!("    and {} more\n", check.findings.len() - SHOWN_FINDINGS);
        }
    }
    text
}

const SHOWN_FINDINGS: usize = 5;

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Unknown => "unknown",
        Verdict::Invalid => "invalid",
    }
}
