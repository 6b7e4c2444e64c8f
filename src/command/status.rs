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
            }
        }
        // One node that answers is enough to call the command done.
        match answers.into_iter().find_map(Result::err) {
            Some(error) if !matches!(error, ClientError::Unavailable(_)) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

const NODE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

const HEADINGS: [&str; 9] = [
    "ADDRESS", "NODE", "ID", "ROLE", "LEADER", "TERM", "APPLIED", "SEAL", "VERSION",
];

fn row(address: &str, answer: &Result<NodeStatus, ClientError>) -> [String; 9] {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    match answer {
        Err(_) => {
            let mut row: [String; 9] = std::array::from_fn(|_| "-".to_owned());
            address.clone_into(&mut row[0]);
            "no answer".clone_into(&mut row[3]);
            row
        }
        Ok(status) => [
            address.to_owned(),
            status.node_name.clone(),
            number(status.node_id),
            role(status.role).to_owned(),
            number(status.leader_id),
            status.term.to_string(),
            number(status.applied_index),
            if status.sealed { "sealed" } else { "open" }.to_owned(),
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
