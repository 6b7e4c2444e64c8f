//! Data directories of nodes that are down, and configurations before their first start.

use crate::support::TestCluster;
use std::{fs, path::Path};
use toml::Table;

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Changes the configuration file of a node that is down.
pub fn configure(cluster: &TestCluster, node: usize, change: impl FnOnce(&mut Table)) {
    let path = &cluster.node(node).config;
    let mut config: Table = fs::read_to_string(path)
        .expect("a configuration")
        .parse()
        .expect("TOML");
    change(&mut config);
    fs::write(path, config.to_string()).expect("a configuration");
}

/// A section of a configuration.
pub fn section<'a>(config: &'a mut Table, name: &str) -> &'a mut Table {
    let section = config.entry(name).or_insert_with(|| Table::new().into());
    section.as_table_mut().expect("a section")
}
