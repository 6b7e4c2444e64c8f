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
    /// Lets each known node try its seal key again.
    Retry {
        #[command(flatten)]
        connection: Connection,
    },
    /// Adds a data-key term, and seals everything again under it in the background.
    Rotate {
        /// Wait until everything is sealed again.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Wraps the keyring under another key file. Give the file to every node first, and let their
    /// configurations name it afterwards.
    Rekey {
        /// The new key file, by its path on the node that is asked.
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
                each(&connection.client()?, format, |node| async move {
                    node.seal_status().await
                })
                .await
            }
            Action::Retry { connection } => {
                each(&connection.client()?, format, |node| async move {
                    node.seal_retry().await
                })
                .await
            }
            Action::Rotate { wait, connection } => {
                let client = connection.client()?;
                let mut status = client.seal_rotate().await?;
                if wait {
                    status = wait_until_resealed(&client, format).await?;
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
                let status = connection.client()?.seal_rekey(&Rekey { key_file }).await?;
                format.print(&status, || {
                    format!(
                        "the keyring is wrapped under the seal key {}",
                        status.seal_key_id.as_deref().unwrap_or("?")
                    )
                })
            }
        }
    }
}

/// Asks each known node.
async fn each<F: Future<Output = Result<SealStatus, ClientError>>>(
    client: &Client,
    format: Format,
    ask: impl Fn(Client) -> F,
) -> Result<(), Failure> {
    let answers =
        futures::future::join_all((0..client.addresses().len()).map(|position| ask(client.at(position))))
            .await;
    let addresses = client
        .addresses()
        .map(|url| url.as_str().trim_end_matches('/').to_owned());
    let answers: Vec<_> = addresses.zip(answers).collect();
    match format {
        Format::Json => {
            for (address, answer) in &answers {
                let line = match answer {
                    Ok(status) => json!({"address": address, "seal": status}),
                    Err(error) => json!({"address": address, "error": error.to_string()}),
                };
                format.print(&line, String::new)?;
            }
        }
        Format::Text => {
            let rows: Vec<_> = answers
                .iter()
                .map(|(address, answer)| row(address, answer))
                .collect();
            super::output::write_line(&table(["ADDRESS", "SEAL", "KEY", "TERM", "NOTE"], &rows))?;
        }
    }
    match answers.into_iter().find_map(|(_, answer)| answer.err()) {
        Some(error) => Err(error.into()),
        None => Ok(()),
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

/// Each look is an operation with a record of its own, so there are few.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Each node reports only its own work, so all are asked until none works any more.
async fn wait_until_resealed(client: &Client, format: Format) -> Result<SealStatus, Failure> {
    let progress = Progress::start(format, "sealing again".into());
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
            Some(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            None => return Err(ClientError::Unavailable("no node answers any more".into()).into()),
        }
    }
}
