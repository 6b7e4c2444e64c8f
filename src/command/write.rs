//! `conclave put|create-version|activate|delete|delete-version`: what changes secrets.

use super::{
    Failure,
    connection::Connection,
    input::{Confirmation, ValueSource},
    output::Format,
};
use clap::Args;
use serde_json::json;

/// Adds a value. The first value of a secret becomes active; later ones wait for `activate`. A
/// value equal to the active or the latest one makes no new version.
#[derive(Args, Debug)]
pub struct Put {
    /// The secret's name.
    name: String,
    #[command(flatten)]
    value: ValueSource,
    #[command(flatten)]
    connection: Connection,
}

/// Makes exactly this version and activates it. Refused if the version ever had a value.
#[derive(Args, Debug)]
pub struct CreateVersion {
    /// The secret's name.
    name: String,
    /// The version.
    #[arg(value_name = "VERSION")]
    number: u32,
    #[command(flatten)]
    value: ValueSource,
    #[command(flatten)]
    connection: Connection,
}

/// Makes a version the active one.
#[derive(Args, Debug)]
pub struct Activate {
    /// The secret's name.
    name: String,
    /// The version.
    #[arg(value_name = "VERSION")]
    number: u32,
    #[command(flatten)]
    connection: Connection,
}

/// Destroys a secret with all versions.
#[derive(Args, Debug)]
pub struct Delete {
    /// The secret's name.
    name: String,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    connection: Connection,
}

/// Destroys one version that isn't active.
#[derive(Args, Debug)]
pub struct DeleteVersion {
    /// The secret's name.
    name: String,
    /// The version.
    #[arg(value_name = "VERSION")]
    number: u32,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    connection: Connection,
}

impl Put {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let version = client.put(&self.name, &self.value.read()?).await?;
        format.print(&json!({"name": self.name, "version": version}), || {
            format!("version {version}")
        })
    }
}

impl CreateVersion {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        client
            .create_version(&self.name, self.number, &self.value.read()?)
            .await?;
        format.print(&json!({"name": self.name, "version": self.number}), || {
            format!("version {} is active", self.number)
        })
    }
}

impl Activate {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        self.connection
            .client()?
            .activate(&self.name, self.number)
            .await?;
        format.print(&json!({"name": self.name, "active_version": self.number}), || {
            format!("version {} is active", self.number)
        })
    }
}

impl Delete {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        self.confirmation
            .require(&format!("Every version of {:?} will be destroyed.", self.name))?;
        client.delete(&self.name).await?;
        format.print(&json!({"name": self.name, "deleted": true}), || "deleted".into())
    }
}

impl DeleteVersion {
    pub async fn run(self, format: Format) -> Result<(), Failure> {
        let client = self.connection.client()?;
        self.confirmation.require(&format!(
            "Version {} of {:?} will be destroyed.",
            self.number, self.name
        ))?;
        client.delete_version(&self.name, self.number).await?;
        format.print(
            &json!({"name": self.name, "version": self.number, "deleted": true}),
            || format!("version {} is deleted", self.number),
        )
    }
}
