//! `conclave status`: every known node.

use super::{
    Failure,
    connection::Connection,
    output::{Format, table},
};
use crate::{
    api::conclave::messages::{NodeRole, Status as NodeStatus},
    client::ClientError,
};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;

/// Shows how each node stands.
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let asked = (0..client.addresses().len()).map(|position| {
            // A node that is down must not hold up the others' lines for long.
            let node = client
                .at(position)
                .with_timeout(self.connection.timeout().min(NODE_TIMEOUT));
            async move { node.status().await }
        });
        let answers = futures::future::join_all(asked).await;
        let addresses: Vec<String> = client
            .addresses()
            .map(|url| url.as_str().trim_end_matches('/').to_owned())
            .collect();
        match format {
            Format::Json => {
                for (address, answer) in addresses.iter().zip(&answers) {
                    let line = match answer {
                        Ok(status) => json!({"address": address, "status": status}),
                        Err(error) => json!({"address": address, "error": error.to_string()}),
                    };
                    format.print(&line, String::new)?;
                }
            }
            Format::Text => {
                let rows: Vec<_> = addresses
                    .iter()
                    .zip(&answers)
                    .map(|(address, answer)| row(address, answer))
                    .collect();
                super::output::write_line(&table(HEADINGS, &rows))?;
                for (address, notes) in addresses.iter().zip(answers.iter().map(notes)) {
                    for note in notes {
                        super::output::write_line(&format!("{address}: {note}"))?;
                    }
                }
                if let Some(note) = differing_grants(&addresses, &answers) {
                    super::output::write_line(&note)?;
                }
            }
        }
        conclusion(answers).map_err(Failure::from)
    }
}

/// One node that answers is enough to call the command done; else the most telling reason counts.
fn conclusion(answers: Vec<Result<NodeStatus, ClientError>>) -> Result<(), ClientError> {
    let mut errors = Vec::with_capacity(answers.len());
    for answer in answers {
        match answer {
            Ok(_) => return Ok(()),
            Err(error) => errors.push(error),
        }
    }
    // What somebody answered says more than that nobody did.
    let telling = |error: &ClientError| match error {
        ClientError::Denied(_) | ClientError::Invalid(_) | ClientError::NotFound(_) => 3,
        ClientError::Other(_) => 2,
        ClientError::OutcomeUnknown(_) => 1,
        ClientError::Unavailable(_) => 0,
    };
    errors.sort_by_key(telling);
    match errors.pop() {
        // Looking changes nothing, so that nothing is unknown about it but the answer.
        Some(ClientError::OutcomeUnknown(reason)) => Err(ClientError::Unavailable(reason)),
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A node left behind shows by its digest, also where it reports no error.
fn differing_grants(addresses: &[String], answers: &[Result<NodeStatus, ClientError>]) -> Option<String> {
    let mut holders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (address, status) in addresses.iter().zip(answers) {
        if let Ok(status) = status {
            holders.entry(&status.grants_digest).or_default().push(address);
        }
    }
    if holders.len() < 2 {
        return None;
    }
    let sides: Vec<String> = holders
        .iter()
        .map(|(digest, addresses)| format!("{} on {}", beginning(digest), addresses.join(", ")))
        .collect();
    Some(format!("the grants differ: {}", sides.join("; ")))
}

/// So much of a digest that people can tell it from another.
fn beginning(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

const NODE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

const HEADINGS: [&str; 10] = [
    "ADDRESS", "NODE", "ID", "ROLE", "LEADER", "TERM", "APPLIED", "SEAL", "GRANTS", "VERSION",
];

fn row(address: &str, answer: &Result<NodeStatus, ClientError>) -> [String; 10] {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    match answer {
        Err(_) => {
            let mut row: [String; 10] = std::array::from_fn(|_| "-".to_owned());
            address.clone_into(&mut row[0]);
            "no answer".clone_into(&mut row[3]);
            row
        }
        Ok(status) => [
            address.to_owned(),
            status.node_name.clone(),
            number(status.node_id),
            if status.removed {
                "removed"
            } else {
                role(status.role)
            }
            .to_owned(),
            number(status.leader_id),
            status.term.to_string(),
            number(status.applied_index),
            if status.sealed { "sealed" } else { "open" }.to_owned(),
            beginning(&status.grants_digest).to_owned(),
            status.version.clone(),
        ],
    }
}

fn role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Unformed => "unformed",
        NodeRole::Learner => "learner",
        NodeRole::Follower => "follower",
        NodeRole::Candidate => "candidate",
        NodeRole::Leader => "leader",
    }
}

/// What deserves a sentence of its own.
fn notes(answer: &Result<NodeStatus, ClientError>) -> Vec<String> {
    let status = match answer {
        Err(error) => return vec![error.to_string()],
        Ok(status) => status,
    };
    let mut notes = Vec::new();
    notes.extend(status.halted.as_ref().map(|reason| format!("halted: {reason}")));
    if status.removed {
        notes.push("this node was removed from the cluster; it takes part in nothing".to_owned());
    }
    notes.extend(
        status
            .sealed_reason
            .as_ref()
            .map(|reason| format!("sealed: {reason}")),
    );
    notes.extend(
        status
            .grants_error
            .as_ref()
            .map(|error| format!("the grants are old: {error}")),
    );
    if let Some(progress) = status.verification {
        let (scanned, total) = (progress.scanned_bytes, progress.total_bytes);
        notes.push(format!("verifying: {scanned} of about {total} bytes are read"));
    }
    if status.joint {
        notes.push("a change of the membership is between its two steps".to_owned());
    }
    if status.out_of_space {
        notes.push(format!("no space: {} bytes are free", status.free_bytes));
    }
    if status.clock_refuses_lead {
        let skew_ms = status.clock_skew_ms.unwrap_or_default();
        notes.push(format!(
            "its clock is {skew_ms} ms from the voters' median; it does not lead"
        ));
    }
    notes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A status as a node answers it.
    pub fn status(grants_digest: &str) -> NodeStatus {
        let json = json!({
            "cluster_id": "c", "cluster_name": "dev", "node_id": 1, "node_name": "node-1", "role": "leader",
            "leader_id": 1, "term": 2, "last_log_index": 3, "committed_index": 3, "applied_index": 3,
            "snapshot_index": null, "purged_index": null, "sealed": false, "sealed_reason": null,
            "state_digest": null, "state_digest_index": null, "staleness_ms": 1, "version": "1",
            "rules_version": 1, "dev": true, "state_time_ms": 1, "clock_skew_ms": 0,
            "clock_refuses_lead": false, "joint": false, "grants_digest": grants_digest, "grants_error": null,
            "audit_bytes": 0, "audit_limit_bytes": 1, "free_bytes": 1, "out_of_space": false, "halted": null
        });
        serde_json::from_value(json).expect("a status")
    }

    #[test]
    fn one_answer_is_enough_and_none_is_no_success() {
        let down = || Err(ClientError::Unavailable("refused".into()));
        let hangs = || Err(ClientError::OutcomeUnknown("timed out".into()));
        let denied = || Err(ClientError::Denied("no grant".into()));
        assert_eq!(
            conclusion(vec![down(), Ok(status("a")), hangs(), denied()]),
            Ok(())
        );
        assert!(matches!(
            conclusion(vec![down(), down()]),
            Err(ClientError::Unavailable(_))
        ));
        assert!(matches!(
            conclusion(vec![hangs(), down()]),
            Err(ClientError::Unavailable(_))
        ));
        assert!(matches!(
            conclusion(vec![down(), denied(), hangs()]),
            Err(ClientError::Denied(_))
        ));
    }

    #[test]
    fn a_node_with_other_grants_is_named() {
        let addresses = ["https://a:1", "https://b:1", "https://c:1"].map(str::to_owned);
        let (old, new) = ("0123456789ab", "ba9876543210");
        let alike = [
            Ok(status(new)),
            Ok(status(new)),
            Err(ClientError::Other(String::new())),
        ];
        assert_eq!(differing_grants(&addresses, &alike), None);
        let behind = [Ok(status(new)), Ok(status(old)), Ok(status(new))];
        assert_eq!(
            differing_grants(&addresses, &behind).as_deref(),
            Some("the grants differ: 01234567 on https://b:1; ba987654 on https://a:1, https://c:1")
        );
        assert_eq!(row("https://a:1", &Ok(status(new)))[8], "ba987654");
    }
}
