//! `conclave version`.

use super::{Failure, output::Format};
use clap::Args;

/// Shows the version.
#[derive(Args, Debug)]
pub struct Version {}

impl Version {
    pub fn run(self, format: Format) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        format.print(&serde_json::json!({"version": version}), || {
            format!("conclave {version}")
        })
    }
}
