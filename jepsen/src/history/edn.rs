//! Jepsen's own format, which its tools and Knossos read: one map an event, in order of time.

use super::{Answer, Call, History, Listed, Operation, Outcome};
use std::io::{self, Write};

/// Writes the events of a history: an `:invoke` for each operation, and what it completed as. The
/// value of an event is `[secret arguments...]`, of an answer `[secret answer...]`.
///
/// # Errors
/// Those of the writer.
pub fn write_edn(history: &History, out: &mut impl Write) -> io::Result<()> {
    let mut events = Vec::new();
    for operation in &history.operations {
        events.push((operation.invoked_ns, operation, "invoke"));
        if let Some(completed_ns) = operation.completed_ns {
            let kind = match operation.outcome {
                Outcome::Ok { .. } => "ok",
                Outcome::Fail { .. } => "fail",
                Outcome::Info { .. } => "info",
            };
            events.push((completed_ns, operation, kind));
        }
    }
    events.sort_by_key(|(time_ns, operation, kind)| (*time_ns, operation.id, *kind != "invoke"));
    for (index, (time_ns, operation, kind)) in events.iter().enumerate() {
        let value = match (&operation.outcome, *kind) {
            (Outcome::Ok { answer }, "ok") => format!("[{} {}]", secret(operation), of_answer(answer)),
            _ => format!("[{} {}]", secret(operation), of_call(&operation.call)),
        };
        let error = match (&operation.outcome, *kind) {
            (_, "invoke") | (Outcome::Ok { .. }, _) => String::new(),
            (Outcome::Fail { reason } | Outcome::Info { reason }, _) => {
                format!(", :error {}", quoted(reason))
            }
        };
        writeln!(
            out,
            "{{:index {index}, :time {time_ns}, :type :{kind}, :process {}, :f :{}, :value {value}, :node {}{error}}}",
            operation.process,
            operation.call.name(),
            operation.node + 1,
        )?;
    }
    Ok(())
}

fn secret(operation: &Operation) -> String {
    operation.secret.as_deref().map_or("nil".to_owned(), quoted)
}

fn of_call(call: &Call) -> String {
    match call {
        Call::Put { value } => value.to_string(),
        Call::CreateVersion { version, value } => format!("{version} {value}"),
        Call::Activate { version }
        | Call::GetVersion { version }
        | Call::Poll { version }
        | Call::DeleteVersion { version } => version.to_string(),
        Call::Get | Call::Info | Call::Delete | Call::List => "nil".to_owned(),
    }
}

fn of_answer(answer: &Answer) -> String {
    match answer {
        Answer::Done => ":done".to_owned(),
        Answer::Version { version } => version.to_string(),
        Answer::Value { version, value } => format!("{version} {value}"),
        Answer::NotModified => ":not-modified".to_owned(),
        Answer::Versions { versions, active } => format!("{} {active}", numbers(versions)),
        Answer::NotFound => ":not-found".to_owned(),
        Answer::VersionUsed => ":version-used".to_owned(),
        Answer::ActiveVersion => ":active-version".to_owned(),
        Answer::Denied => ":denied".to_owned(),
        Answer::Listing { secrets } => {
            let listed = |secret: &Listed| {
                let (name, versions) = (quoted(&secret.name), numbers(&secret.versions));
                format!("[{name} {versions} {}]", secret.active)
            };
            let secrets: Vec<String> = secrets.iter().map(listed).collect();
            format!("[{}]", secrets.join(" "))
        }
        Answer::Foreign { text } => quoted(text),
    }
}

fn numbers(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

/// EDN's strings are escaped as JSON's are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stand_in_order_of_time() {
        let operation = |id, call: Call, invoked_ns, completed_ns, outcome| Operation {
            id,
            process: 3,
            principal: "uri:a".to_owned(),
            workload: "registers".to_owned(),
            node: 0,
            secret: Some("a \"b\"".to_owned()),
            call,
            invoked_ns,
            completed_ns: Some(completed_ns),
            outcome,
            request_id: None,
        };
        let (reason, answer) = ("time-out".to_owned(), Answer::Value { version: 1, value: 8 });
        let history = History {
            operations: vec![
                operation(0, Call::Put { value: 8 }, 1, 30, Outcome::Info { reason }),
                operation(1, Call::Get, 2, 20, Outcome::Ok { answer }),
            ],
        };
        let mut text = Vec::new();
        write_edn(&history, &mut text).expect("written to memory");
        let expected = r#"{:index 0, :time 1, :type :invoke, :process 3, :f :put, :value ["a \"b\"" 8], :node 1}
{:index 1, :time 2, :type :invoke, :process 3, :f :get, :value ["a \"b\"" nil], :node 1}
{:index 2, :time 20, :type :ok, :process 3, :f :get, :value ["a \"b\"" 1 8], :node 1}
{:index 3, :time 30, :type :info, :process 3, :f :put, :value ["a \"b\"" 8], :node 1, :error "time-out"}
"#;
        assert_eq!(String::from_utf8(text).expect("EDN is UTF-8"), expected);
    }
}
