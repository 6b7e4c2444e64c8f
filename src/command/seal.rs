//! `conclave seal generate-key|status|retry|rotate|rekey`: what opens and closes the nodes.

use super::{
    Failure,
    connection::Connection,
    output::{Format, table},
    progress::Progress,
};
use crate::{
    api::conclave::messages::{Rekey, SealStatus},
    client::{Client, ClientError},
    seal::KeyFile,
};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{future::Future, path::PathBuf, time::Duration};

/// Makes seal keys, and shows and changes how the nodes are sealed.
#[derive(Args, Debug)]
pub struct Seal {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Makes a seal key: a file of 32 random bytes with mode 0600. An existing file is never
    /// overwritten. Keep a copy: without it nobody can open the cluster again.
    GenerateKey {
        /// The file to write.
        file: PathBuf,
    },
    /// Shows how each known node's seal stands.
    Status {
        #[command(flatten)]
        connection: Connection,
    },
    /// Lets each known node try its seal key again, once. Exit code 6 when one stays sealed or does
    /// not answer.
    Retry {
        #[command(flatten)]
        connection: Connection,
    },
    /// Adds a data-key term, and seals everything again under it in the background.
    Rotate {
        /// Wait until everything is sealed again. A write that was under way on a node which did not
        /// know of the rotation yet is sealed again about a minute later.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Wraps the keyring under another key file. Give the file to every node first, and let their
    /// configurations name it afterwards. One node does it, which --addresses has to name alone.
    Rekey {
        /// The new key file, by its absolute path on that node.
        key_file: PathBuf,
        #[command(flatten)]
        connection: Connection,
    },
}

impl Seal {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        match self.action {
            Action::GenerateKey { file } => {
                let id = KeyFile::generate(&file).map_err(|error| Failure::Other(error.to_string()))?;
                format.print(&json!({"file": file, "seal_key_id": id}), || {
                    format!("{} holds the seal key {id}", file.display())
                })
            }
            Action::Status { connection } => {
                let answers = each(
                    &connection.client()?,
                    |node| async move { node.seal_status().await },
                )
                .await;
                show(&answers, format)?;
                all_answered(answers).map(drop)
            }
            Action::Retry { connection } => {
                let answers = each(
                    &connection.client()?,
                    |node| async move { node.seal_retry().await },
                )
                .await;
                show(&answers, format)?;
                none_is_sealed(&all_answered(answers)?)
            }
            Action::Rotate { wait, connection } => {
                let client = connection.client()?;
                let mut status = client.seal_rotate().await?;
                if wait {
                    status = wait_until_resealed(&client, &status, format).await?;
                }
                format.print(&status, || {
                    let term = status
                        .key_term
                        .map_or_else(|| "?".to_owned(), |term| term.to_string());
                    format!("data-key term {term}; {}", progress_of(&status))
                })
            }
            Action::Rekey { key_file, connection } => {
                let key_file = key_file
                    .into_os_string()
                    .into_string()
                    .map_err(|_| Failure::Usage("the key file's path must be UTF-8".into()))?;
                let client = connection.client()?;
                let mut addresses = client
                    .addresses()
                    .map(|url| url.as_str().trim_end_matches('/').to_owned());
                let (Some(address), None) = (addresses.next(), addresses.next()) else {
                    // The path is one of one node's, so no other may answer in its place.
                    let message =
                        "the key file is looked for on one node: name that one alone with --addresses";
                    return Err(Failure::Usage(message.into()));
                };
                let status = client.seal_rekey(&Rekey { key_file }).await?;
                format.print(&json!({"address": address, "seal": status}), || {
                    format!(
                        "{address}: the keyring is wrapped under the seal key {}",
                        status.seal_key_id.as_deref().unwrap_or("?")
                    )
                })
            }
        }
    }
}

/// What one node answered.
struct NodeAnswer {
    address: String,
    answer: Result<SealStatus, ClientError>,
}

/// Asks each known node.
async fn each<F: Future<Output = Result<SealStatus, ClientError>>>(
    client: &Client,
    ask: impl Fn(Client) -> F,
) -> Vec<NodeAnswer> {
    let answers =
        futures::future::join_all((0..client.addresses().len()).map(|position| ask(client.at(position))))
            .await;
    let addresses = client
        .addresses()
        .map(|url| url.as_str().trim_end_matches('/').to_owned());
    addresses
        .zip(answers)
        .map(|(address, answer)| NodeAnswer { address, answer })
        .collect()
}

fn show(answers: &[NodeAnswer], format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => {
            for NodeAnswer { address, answer } in answers {
                let line = match answer {
                    Ok(status) => json!({"address": address, "seal": status}),
                    Err(error) => json!({"address": address, "error": error.to_string()}),
                };
                format.print(&line, String::new)?;
            }
            Ok(())
        }
        Format::Text => {
            let rows: Vec<_> = answers
                .iter()
                .map(|node| row(&node.address, &node.answer))
                .collect();
            super::output::write_line(&table(["ADDRESS", "SEAL", "KEY", "TERM", "NOTE"], &rows))
        }
    }
}

/// The nodes with how their seals stand; fails with the first error.
fn all_answered(answers: Vec<NodeAnswer>) -> Result<Vec<(String, SealStatus)>, Failure> {
    answers
        .into_iter()
        .map(|node| Ok((node.address, node.answer?)))
        .collect()
}

fn none_is_sealed(nodes: &[(String, SealStatus)]) -> Result<(), Failure> {
    let sealed: Vec<String> = nodes
        .iter()
        .filter(|(_, status)| status.sealed)
        .map(|(address, status)| {
            let reason = status.reason.as_deref().unwrap_or("it says no reason");
            format!("{address} stays sealed: {reason}")
        })
        .collect();
    if sealed.is_empty() {
        Ok(())
    } else {
        Err(ClientError::Unavailable(sealed.join("; ")).into())
    }
}

fn row(address: &str, answer: &Result<SealStatus, ClientError>) -> [String; 5] {
    match answer {
        Err(error) => [
            address.to_owned(),
            "?".into(),
            "-".into(),
            "-".into(),
            error.to_string(),
        ],
        Ok(status) => [
            address.to_owned(),
            if status.sealed { "sealed" } else { "open" }.to_owned(),
            status.seal_key_id.clone().unwrap_or_else(|| "-".to_owned()),
            status
                .key_term
                .map_or_else(|| "-".to_owned(), |term| term.to_string()),
            status.reason.clone().unwrap_or_else(|| progress_of(status)),
        ],
    }
}

fn progress_of(status: &SealStatus) -> String {
    match &status.reseal {
        None => "nothing is being sealed again".to_owned(),
        Some(reseal) if reseal.finished => format!("everything is sealed under term {}", reseal.key_term),
        Some(reseal) => {
            let (seen, replaced) = (reseal.secrets_seen, reseal.parts_resealed);
            format!(
                "sealing again under term {}: {seen} secrets seen, {replaced} parts replaced",
                reseal.key_term
            )
        }
    }
}

/// Each look is an operation with a record of its own, so there are few after the first.
const FIRST_LOOK_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Each node reports only its own work, so all are asked until none works any more and each that has
/// keys has the new one.
async fn wait_until_resealed(
    client: &Client,
    rotated: &SealStatus,
    format: Format,
) -> Result<SealStatus, Failure> {
    let progress = Progress::start(format, "sealing again".into());
    let mut interval = FIRST_LOOK_INTERVAL;
    loop {
        let mut last = None;
        let mut working = false;
        for position in 0..client.addresses().len() {
            let Ok(status) = client
                .at(position)
                .with_timeout(Duration::from_secs(2))
                .seal_status()
                .await
            else {
                continue;
            };
            working |= status.key_term.is_some() && status.key_term < rotated.key_term;
            if let Some(reseal) = &status.reseal {
                working |= !reseal.finished;
                progress.say(progress_of(&status));
                last = Some(status);
            } else if last.is_none() {
                last = Some(status);
            }
        }
        match last {
            Some(status) if !working => return Ok(status),
            Some(_) => tokio::time::sleep(interval).await,
            None => return Err(ClientError::Unavailable("no node answers any more".into()).into()),
        }
        interval = (interval * 2).min(LONGEST_LOOK_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stays_sealed_is_named_with_its_reason() {
        let open = SealStatus {
            sealed: false,
            reason: None,
            seal_key_id: None,
            keyring_id: None,
            key_term: None,
            reseal: None,
            warning: None,
        };
        let sealed = SealStatus {
            sealed: true,
            reason: Some("no seal key is configured".to_owned()),
            ..open.clone()
        };
        let named = |address: &str, status: &SealStatus| (address.to_owned(), status.clone());
        assert!(none_is_sealed(&[named("a", &open)]).is_ok());
        let failure = none_is_sealed(&[named("a", &open), named("b", &sealed)]).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "unavailable: b stays sealed: no seal key is configured"
        );
    }
}
