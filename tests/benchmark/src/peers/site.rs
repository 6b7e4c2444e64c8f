//! Certificates, ports and folders of a program's nodes, made anew: those of a cluster of Conclave's, which
//! serve the other programs as well.

use crate::Failure;
use conclave::{
    bench::Target,
    client::Settings,
    dev::{Folder, Layout, LayoutOptions, NodeLayout, PortChoice, Ports},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A folder with everything that nodes need before they start.
pub struct Site {
    pub layout: Layout,
    folder: Folder,
    _ports: Ports,
}

impl Site {
    /// Makes it. What an earlier one left in the folder is deleted.
    ///
    /// # Errors
    /// When the folder holds something else, or cannot be written to.
    pub fn make(folder: &Path, nodes: usize, settings: &[(&str, &str)]) -> Result<Self, Failure> {
        let folder = Folder::open(folder)?;
        folder.empty()?;
        let ports = Ports::choose(PortChoice::Free, nodes)?;
        let options = LayoutOptions {
            nodes,
            settings: settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            dev: false,
        };
        let layout = Layout::make(&folder, &ports, &options)?;
        Ok(Self {
            layout,
            folder,
            _ports: ports,
        })
    }

    /// Where it lies, absolute.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A node's.
    pub fn node(&self, node: usize) -> &NodeLayout {
        &self.layout.nodes()[node]
    }

    /// A file beside a node's configuration.
    pub fn file(&self, node: usize, name: &str) -> PathBuf {
        self.node(node).config.with_file_name(name)
    }

    /// What clients of all nodes are made from.
    pub fn settings(&self) -> Settings {
        Settings {
            addresses: self.layout.nodes().iter().map(NodeLayout::api).collect(),
            authority: self.layout.authority(),
            identity: Some(self.layout.client()),
            timeout: Duration::from_secs(15),
        }
    }

    /// Each node, for a generator that speaks this protocol.
    ///
    /// # Errors
    /// When a certificate cannot be used.
    pub fn targets(&self, protocol: &str) -> Result<Vec<Target>, Failure> {
        Ok(Target::all(&self.settings(), protocol)?)
    }
}
