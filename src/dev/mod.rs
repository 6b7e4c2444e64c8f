//! `conclave dev`: a whole cluster on one machine, for developers and for programs.
//!
//! Each node is a process of its own that runs from its own configuration file, exactly as in
//! production; only the certificates, keys and ports were chosen here. Everything lies in one folder
//! that bears our mark, and nothing outside of a marked folder is ever deleted.

mod announcement;
mod folder;
mod layout;
mod ports;
mod process;
mod readiness;
mod stray;

pub use announcement::{Announcement, NodeAnnouncement};
pub use folder::{Folder, default_folder};
pub use layout::{Layout, LayoutOptions, NodeLayout};
pub use ports::{NodePorts, PortChoice, Ports};
pub use process::{NodeProcess, Stopped};
pub use readiness::{Readiness, wait_until_serving};
pub use stray::{Stray, find_strays};

/// Why a development cluster could not be made or started. The message names the file, port or node.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DevError(pub String);

impl DevError {
    fn at(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}
