//! `conclave list|info|get`: what reads secrets.

use super::{
    Failure,
    connection::Connection,
    output::{Format, table, write_bytes, write_line},
};
use crate::client::SecretInfo;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use serde::Serialize;
use std::io::{self, IsTerminal};

/// Lists the secrets whose metadata you may see.
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    connection: Connection,
}

/// Shows one secret's versions.
#[derive(Args, Debug)]
pub struct Info {
    /// The secret's name.
    name: String,
    #[command(flatten)]
    connection: Connection,
}

/// Writes a secret's value to standard output: the exact bytes into a pipe or file, with a newline
/// after them on a terminal.
#[derive(Args, Debug)]
pub struct Get {
    /// The secret's name.
    name: String,
    /// The version; without it, the active one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    /// Write nothing if this version is still the active one. Such a look leaves no audit record.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "version")]
    unless_version: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    versions: &'a [u32],
    active_version: u32,
}

impl<'a> Described<'a> {
    fn of(info: &'a SecretInfo) -> Self {
        Self {
            name: &info.name,
            versions: &info.versions,
            active_version: info.active_version,
        }
    }

    fn row(&self) -> [String; 3] {
        let versions = self
            .versions
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let active = if self.active_version == 0 {
            "-".to_owned()
        } else {
            self.active_version.to_string()
        };
        [self.name.to_owned(), active, versions]
    }
}

const HEADINGS: [&str; 3] = ["NAME", "ACTIVE", "VERSIONS"];

impl List {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let secrets = self.connection.client()?.list().await?;
        let described: Vec<_> = secrets.iter().map(Described::of).collect();
        format.print(&described, || {
            if described.is_empty() {
                return String::new();
            }
            table(
                HEADINGS,
                &described.iter().map(Described::row).collect::<Vec<_>>(),
            )
        })
    }
}

impl Info {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let secret = self.connection.client()?.info(&self.name).await?;
        let described = Described::of(&secret);
        format.print(&described, || table(HEADINGS, &[described.row()]))
    }
}

impl Get {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let disclosed = match self.unless_version {
            Some(version) => match client.get_if_changed(&self.name, version).await? {
                Some(value) => value,
                None => {
                    return match format {
                        Format::Json => format.print(
                            &serde_json::json!({"name": self.name, "unchanged": true}),
                            String::new,
                        ),
                        Format::Text => {
                            eprintln!("version {version} is still the active one");
                            Ok(())
                        }
                    };
                }
            },
            None => client.get(&self.name, self.version).await?,
        };
        match format {
            Format::Json => {
                let value = zeroize::Zeroizing::new(STANDARD.encode(&disclosed.value));
                let json = serde_json::json!({"name": self.name, "version": disclosed.version, "value": value.as_str()});
                write_line(&json.to_string())
            }
            Format::Text => {
                write_bytes(&disclosed.value)?;
                if io::stdout().is_terminal() {
                    write_line("")
                } else {
                    Ok(())
                }
            }
        }
    }
}
