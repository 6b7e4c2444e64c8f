//! `conclave audit list`: who did what, and what was refused. `conclave audit limit`: how much of
//! that is kept.

use super::{
    Failure,
    connection::Connection,
    input::Confirmation,
    output::{Format, table, write_line},
};
use crate::{
    api::conclave::messages::{AuditEntry, AuditLimit, AuditListRequest},
    config::AtAuditLimit,
};
use clap::{Args, Subcommand};
use jiff::{Span, Timestamp, Zoned};

/// Reads the audit log.
#[derive(Args, Debug)]
pub struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    List(List),
    Limit(Limit),
}

/// Sets how much audit the cluster keeps, and what happens at that limit.
#[derive(Args, Debug)]
#[group(id = "what", required = true, multiple = true, args = ["bytes", "at_limit"])]
struct Limit {
    /// So many bytes of records and their keys, at least 16384.
    #[arg(long, value_name = "N")]
    bytes: Option<u64>,
    /// There, `prune-oldest` (a record of the gap stays) or `refuse-disclosures`.
    #[arg(long, value_name = "WHAT")]
    at_limit: Option<AtAuditLimit>,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    connection: Connection,
}

/// Lists records, the newest first, as a table or (--json) one JSON object a line. With --json, and
/// more records than --limit, the last line is {"next": …}, for --cursor.
#[derive(Args, Debug)]
struct List {
    /// From this time on: 2026-01-31T12:00:00Z, or as long ago as: 90m, 12h, 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Before this time, likewise.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
    /// About the secret with this name.
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// By this principal, as: uri:…, email:…, dns:…, cn:…, tailscale:…, dev.
    #[arg(long)]
    principal: Option<String>,
    /// Of this action, as: get, info, list, put, create-version, activate, delete-version, delete,
    /// audit-read, operate.
    #[arg(long)]
    action: Option<String>,
    /// With this outcome, as: done, not-found, denied, refused.
    #[arg(long)]
    outcome: Option<String>,
    /// At most so many records; 0: all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Go on where an earlier list ended.
    #[arg(long)]
    cursor: Option<String>,
    /// The oldest first.
    #[arg(long)]
    oldest_first: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Audit {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        match self.action {
            Action::List(list) => list.run(format).await,
            Action::Limit(limit) => limit.run(format).await,
        }
    }
}

impl Limit {
    async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        self.confirmation
            .require("Audit records beyond the limit will be removed, or values refused.")?;
        let request = AuditLimit {
            limit_bytes: self.bytes,
            at_limit: self.at_limit,
        };
        let now = client.set_audit_limit(&request).await?;
        format.print(&now, || {
            let at_limit = now.at_limit.unwrap_or_default();
            format!("{} bytes, then {at_limit}", now.limit_bytes.unwrap_or_default())
        })
    }
}

impl List {
    async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let mut left = if self.limit == 0 { usize::MAX } else { self.limit };
        let mut request = AuditListRequest {
            since_ms: self.since.map(milliseconds),
            until_ms: self.until.map(milliseconds),
            secret: self.secret,
            principal: self.principal,
            action: self.action,
            outcome: self.outcome,
            limit: None,
            cursor: self.cursor,
            newest_first: !self.oldest_first,
        };
        let mut first_page = true;
        loop {
            request.limit = Some(left.min(PAGE_RECORDS));
            let page = client.audit_list(&request).await?;
            left = left.saturating_sub(page.records.len());
            match format {
                Format::Json => {
                    for record in &page.records {
                        format.print(record, String::new)?;
                    }
                }
                Format::Text if first_page || !page.records.is_empty() => {
                    let rows: Vec<_> = page.records.iter().map(row).collect();
                    write_line(&table(HEADINGS, &rows))?;
                }
                Format::Text => {}
            }
            first_page = false;
            match page.next {
                None => return Ok(()),
                Some(next) if left == 0 => {
                    if format == Format::Text {
                        eprintln!("There are more: --limit 0 shows all, --cursor {next} goes on here.");
                    }
                    return format.print(&serde_json::json!({"next": next}), String::new);
                }
                Some(next) => request.cursor = Some(next),
            }
        }
    }
}

/// The server's limit.
const PAGE_RECORDS: usize = 1_000;

const HEADINGS: [&str; 9] = [
    "TIME",
    "PRINCIPAL",
    "FROM",
    "ACTION",
    "SECRET",
    "VERSION",
    "OUTCOME",
    "TIMES",
    "DETAIL",
];

fn row(record: &AuditEntry) -> [String; 9] {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let time = i64::try_from(record.time_ms)
        .ok()
        .and_then(|time_ms| Timestamp::from_millisecond(time_ms).ok());
    [
        time.map_or_else(|| record.time_ms.to_string(), |time| format!("{time:.3}")),
        known(&record.principal),
        match (&record.device, &record.remote) {
            (Some(device), Some(remote)) => format!("{remote} ({device})"),
            (None, remote) => known(remote),
            (device, None) => known(device),
        },
        record.action.clone(),
        known(&record.secret),
        record
            .version
            .map_or_else(|| "-".to_owned(), |version| version.to_string()),
        record.outcome.clone(),
        record.attempts.to_string(),
        match (&record.detail, &record.error) {
            (Some(detail), _) => detail.clone(),
            (None, Some(error)) => format!("cannot be opened: {error}"),
            (None, None) => "-".to_owned(),
        },
    ]
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

/// A point in time, or how long ago it was.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago: Span = text
        .parse()
        .map_err(|_| "neither a time like 2026-01-31T12:00:00Z nor a span like 12h".to_owned())?;
    Zoned::now()
        .checked_sub(ago)
        .map(|time| time.timestamp())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_was_done_and_from_where() {
        let record = |detail: Option<&str>, error: Option<&str>| AuditEntry {
            id: "7-0-0".into(),
            time_ms: 1_000,
            action: "operate".into(),
            outcome: "done".into(),
            secret: None,
            version: None,
            principal: Some("tailscale:ada@example.org".into()),
            device: Some("laptop".into()),
            remote: Some("100.64.0.1:7".into()),
            api: Some("conclave".into()),
            request_id: None,
            node: None,
            node_id: 1,
            detail: detail.map(str::to_owned),
            attempts: 1,
            error: error.map(str::to_owned),
        };
        let shown = row(&record(Some("cluster remove 3"), None));
        assert_eq!(
            (&*shown[2], &*shown[8]),
            ("100.64.0.1:7 (laptop)", "cluster remove 3")
        );
        assert_eq!(
            row(&record(None, Some("wrong key")))[8],
            "cannot be opened: wrong key"
        );
        assert_eq!(row(&record(None, None))[8], "-");
    }

    #[test]
    fn times_are_points_or_spans() {
        assert_eq!(parse_time("1970-01-01T00:00:01Z").map(milliseconds), Ok(1_000));
        let (hour_ago, day_ago) = (
            parse_time("1h").expect("a span"),
            parse_time("1d").expect("a span"),
        );
        assert!(day_ago < hour_ago && hour_ago < Timestamp::now());
        assert!(parse_time("yesterday").is_err());
    }
}
