//! The options by which every client command finds its cluster.

use super::Failure;
use crate::client::{Client, Settings};
use clap::Args;
use std::{path::PathBuf, time::Duration};

/// Where the cluster is and who we are.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The nodes' API addresses (https://host:port), separated by commas. When one cannot serve,
    /// the next is asked.
    #[arg(long, env = "CONCLAVE_ADDRESSES", value_delimiter = ',', value_name = "URL,…")]
    addresses: Vec<String>,
    /// PEM file of the CA that signs the nodes' API certificates.
    #[arg(long, env = "CONCLAVE_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of the client certificate. Without it the cluster has to know the caller by other
    /// means (Tailscale, dev mode).
    #[arg(
        long,
        env = "CONCLAVE_CLIENT_CERT",
        value_name = "FILE",
        requires = "client_key"
    )]
    client_cert: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    #[arg(
        long,
        env = "CONCLAVE_CLIENT_KEY",
        value_name = "FILE",
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
    /// How many seconds a request may take, over all nodes and repetitions.
    #[arg(long, env = "CONCLAVE_TIMEOUT_S", value_name = "SECONDS", default_value_t = Settings::DEFAULT_TIMEOUT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_s: u64,
}

impl Connection {
    /// Makes the client.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.settings()?)?)
    }

    /// What a client is made from.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let addresses: Vec<String> = self
            .addresses
            .iter()
            .filter(|text| !text.trim().is_empty())
            .cloned()
            .collect();
        if addresses.is_empty() {
            return Err(Failure::Usage(
                "no address is given: set CONCLAVE_ADDRESSES or --addresses (for a dev cluster: eval \"$(conclave dev env)\")".into(),
            ));
        }
        let authority = self.ca.clone().ok_or_else(|| {
            Failure::Usage("no CA is given: set CONCLAVE_CA or --ca to the PEM file that signs the nodes' API certificates".into())
        })?;
        let identity = self.client_cert.clone().zip(self.client_key.clone());
        Ok(Settings {
            addresses,
            authority,
            identity,
            timeout: self.timeout(),
        })
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}
