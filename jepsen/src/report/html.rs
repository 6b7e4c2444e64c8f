//! One page without anything from elsewhere: the verdict, the faults, and a timeline for each secret
//! that something was found about, and for some others. A bar is an operation, from call to answer, in
//! the row of its client; bands are faults.

use super::{Report, name};
use crate::{
    checker::Verdict,
    history::{Operation, Outcome},
    nemesis::Done,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

/// Writes the page.
pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let summary = &report.summary;
    writeln!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Run {}: {}</title><style>{STYLE}</style>",
        summary.seed,
        name(summary.verdict)
    )?;
    writeln!(
        out,
        "<h1>Seed {}: <span class=\"{class}\">{class}</span></h1><p>{} nodes, {} s of load, workloads {}. {}</p><pre>{}</pre>",
        summary.seed,
        summary.nodes,
        summary.seconds,
        escaped(&summary.workloads.join(", ")),
        escaped(&summary.version),
        escaped(&summary.command),
        class = name(summary.verdict),
    )?;
    write_checks(report, out)?;
    write_faults(report.done, out)?;
    write_timelines(report, out)?;
    writeln!(out, "</html>")
}

const STYLE: &str = "body{font:14px/1.4 sans-serif;margin:2em;max-width:110em}pre{background:#f4f4f4;padding:.6em;\
white-space:pre-wrap}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;\
vertical-align:top}.valid{color:#17803d}.invalid{color:#c01818}.unknown{color:#b06a00}svg{background:#fff;border:1px \
solid #ccc;display:block}svg text{font:10px sans-serif}.ok{fill:#4c8fd6}.write{fill:#17803d}.fail{fill:#bbb}.info{fill:#e6a23c}\
.bad{stroke:#c01818;stroke-width:2.5}.fault{fill:#c01818;opacity:.09}.legend span{padding:0 .5em;margin-right:1em;color:#fff}";

fn write_checks(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "<h2>Checks</h2><table><tr><th>check<th>verdict<th>figures<th>findings"
    )?;
    for check in &report.summary.checks {
        let figures: Vec<String> = check
            .figures
            .iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        let findings: Vec<String> = check
            .findings
            .iter()
            .take(MOST_FINDINGS)
            .map(|finding| {
                let secret = finding.secret.as_deref().unwrap_or("-");
                format!("{secret}: {} (operations {:?})", finding.text, finding.operations)
            })
            .collect();
        writeln!(
            out,
            "<tr><td>{}<td class=\"{class}\">{class}<td>{}<td>{}",
            check.name,
            escaped(&figures.join("\n")).replace('\n', "<br>"),
            escaped(&findings.join("\n")).replace('\n', "<br>"),
            class = name(check.verdict),
        )?;
    }
    writeln!(out, "</table>")
}

fn write_faults(done: &[Done], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "<h2>Faults</h2><table><tr><th>from<th>until<th>fault<th>nodes<th>leader<th>notes"
    )?;
    for fault in done {
        let nodes: Vec<String> = fault.nodes.iter().map(|node| (node + 1).to_string()).collect();
        writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
            seconds(fault.began_ns),
            fault.ended_ns.map_or_else(|| "the end".to_owned(), seconds),
            escaped(&fault.fault),
            nodes.join(" "),
            fault
                .leader
                .map_or_else(|| "?".to_owned(), |leader| (leader + 1).to_string()),
            escaped(&fault.notes.join("; ")),
        )?;
    }
    writeln!(out, "</table>")
}

fn write_timelines(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut by_secret: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &report.history.operations {
        if let Some(secret) = &operation.secret {
            by_secret.entry(secret).or_default().push(operation);
        }
    }
    let mut offending: BTreeSet<usize> = BTreeSet::new();
    let mut first: Vec<&str> = Vec::new();
    for check in report
        .summary
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Invalid)
    {
        for finding in &check.findings {
            offending.extend(&finding.operations);
            let secret = finding.secret.as_deref().filter(|secret| !first.contains(secret));
            first.extend(secret);
        }
    }
    let rest = by_secret.keys().copied().filter(|secret| !first.contains(secret));
    let shown: Vec<&str> = first
        .iter()
        .copied()
        .chain(rest)
        .take(MOST_TIMELINES.max(first.len().min(200)))
        .collect();
    writeln!(
        out,
        "<h2>Timelines</h2><p>{} of {} secrets, offending ones first. Hover over a bar for the operation.</p>\
         <p class=\"legend\"><span style=\"background:#17803d\">write</span><span style=\"background:#4c8fd6\">read</span>\
         <span style=\"background:#e6a23c\">unknown</span><span style=\"background:#bbb\">not done</span>\
         <span style=\"background:#c01818\">outlined: offending</span></p>",
        shown.len(),
        by_secret.len()
    )?;
    for secret in shown {
        if let Some(operations) = by_secret.get(secret) {
            write_timeline(secret, operations, report.done, &offending, out)?;
        }
    }
    Ok(())
}

const MOST_TIMELINES: usize = 24;
const MOST_FINDINGS: usize = 40;
const WIDTH: f64 = 1_600.0;
const ROW: usize = 14;
const TOP: usize = 16;

fn write_timeline(
    secret: &str,
    operations: &[&Operation],
    faults: &[Done],
    offending: &BTreeSet<usize>,
    out: &mut impl Write,
) -> io::Result<()> {
    let begin_ns = operations
        .iter()
        .map(|operation| operation.invoked_ns)
        .min()
        .unwrap_or(0);
    let end = |operation: &Operation| operation.completed_ns.unwrap_or(operation.invoked_ns);
    let end_ns = operations
        .iter()
        .map(|operation| end(operation))
        .max()
        .unwrap_or(0)
        .max(begin_ns + 1);
    let scale = WIDTH / nanoseconds(end_ns - begin_ns);
    let x = |at_ns: u64| nanoseconds(at_ns.clamp(begin_ns, end_ns) - begin_ns) * scale;
    let mut rows: Vec<&str> = operations
        .iter()
        .map(|operation| operation.principal.as_str())
        .collect();
    rows.sort_unstable();
    rows.dedup();
    writeln!(out, "<h3>{}</h3>", escaped(secret))?;
    writeln!(
        out,
        "<svg width=\"{WIDTH}\" height=\"{}\"><text x=\"2\" y=\"11\">{} s</text><text x=\"{}\" y=\"11\">{} s</text>",
        TOP + rows.len() * ROW + 4,
        seconds(begin_ns),
        WIDTH - 60.0,
        seconds(end_ns),
    )?;
    for fault in faults {
        let until_ns = fault.ended_ns.unwrap_or(end_ns);
        if until_ns > begin_ns && fault.began_ns < end_ns {
            writeln!(
                out,
                "<rect class=\"fault\" x=\"{:.1}\" y=\"0\" width=\"{:.1}\" height=\"100%\"><title>{}</title></rect>",
                x(fault.began_ns),
                (x(until_ns) - x(fault.began_ns)).max(1.0),
                escaped(&fault.fault),
            )?;
        }
    }
    for operation in operations {
        let row = rows
            .iter()
            .position(|row| *row == operation.principal)
            .unwrap_or(0);
        let class = match &operation.outcome {
            Outcome::Ok { .. } if operation.call.writes() => "write",
            Outcome::Ok { .. } => "ok",
            Outcome::Fail { .. } => "fail",
            Outcome::Info { .. } => "info",
        };
        let bad = if offending.contains(&operation.id) {
            " bad"
        } else {
            ""
        };
        writeln!(
            out,
            "<rect class=\"{class}{bad}\" x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\"><title>{}</title></rect>",
            x(operation.invoked_ns),
            TOP + row * ROW,
            (x(end(operation)) - x(operation.invoked_ns)).max(1.5),
            ROW - 3,
            escaped(&described(operation)),
        )?;
    }
    writeln!(out, "</svg>")
}

fn described(operation: &Operation) -> String {
    let completed = operation.completed_ns.map_or_else(|| "never".to_owned(), seconds);
    format!(
        "{} by {} at node {}, {} to {}: {:?} gave {:?}",
        operation.id,
        operation.principal,
        operation.node + 1,
        seconds(operation.invoked_ns),
        completed,
        operation.call,
        operation.outcome,
    )
}

fn seconds(at_ns: u64) -> String {
    format!("{}.{:03}", at_ns / 1_000_000_000, at_ns / 1_000_000 % 1_000)
}

/// For drawing: a run has far fewer nanoseconds than a float has exact integers.
fn nanoseconds(time_ns: u64) -> f64 {
    std::time::Duration::from_nanos(time_ns).as_secs_f64()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checker::{Check, Finding},
        history::{Answer, Call, History},
        report::Summary,
        schedule::{Fault, Schedule},
    };
    use std::time::Duration;

    #[test]
    fn offending_operations_and_faults_are_drawn() {
        let operation = |id, secret: &str| Operation {
            id,
            process: 0,
            principal: "uri:<a>".to_owned(),
            workload: "registers".to_owned(),
            node: 0,
            secret: Some(secret.to_owned()),
            call: Call::Get,
            invoked_ns: 10_000_000,
            completed_ns: Some(20_000_000),
            outcome: Outcome::Ok {
                answer: Answer::NotFound,
            },
            request_id: None,
        };
        let history = History {
            operations: vec![operation(0, "good"), operation(1, "bad")],
        };
        let done = [Done {
            fault: "kill-leader".to_owned(),
            nodes: vec![0],
            leader: Some(0),
            began_ns: 12_000_000,
            ended_ns: None,
            notes: Vec::new(),
        }];
        let finding = Finding {
            secret: Some("bad".to_owned()),
            operations: vec![1],
            text: "lost".to_owned(),
        };
        let report = Report {
            history: &history,
            schedule: &Schedule::draw(1, Duration::from_secs(1), &Fault::all(), false),
            done: &done,
            audit: &[],
            summary: Summary {
                verdict: Verdict::Invalid,
                seed: 1,
                nodes: 3,
                seconds: 1,
                mixed: false,
                workloads: vec!["registers".to_owned()],
                version: "conclave".to_owned(),
                command: "conclave-jepsen".to_owned(),
                checks: vec![Check::of("linearizability", vec![finding], Vec::new())],
            },
        };
        let mut page = Vec::new();
        write(&report, &mut page).expect("written to memory");
        let page = String::from_utf8(page).expect("the page is UTF-8");
        assert!(page.find("<h3>bad</h3>") < page.find("<h3>good</h3>"));
        assert_eq!(page.matches("class=\"ok bad\"").count(), 1);
        assert_eq!(page.matches("class=\"fault\"").count(), 2);
        assert!(!page.contains("uri:<a>") && page.contains("uri:&lt;a&gt;"));
        assert!(!page.contains("http"), "nothing is fetched from elsewhere");
    }
}
