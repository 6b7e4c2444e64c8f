//! Any text as a configuration file, with any variables and flags over it.

use super::{
    Override, is_name,
    layers::{ConfigError, overrides_from_environment, parse},
};
use crate::pki::NodeName;
use conclave_fuzz::{explore, in_bounded_memory};
use std::path::Path;

/// Parts the file, the environment and the flags.
const PART: &str = "\n---\n";

#[test]
fn layers() {
    let file = "node_name = \"a\"\ndata_dir = \"data\"\n\n[api]\nlisten = \"127.0.0.1:0\"\n";
    let seeds = [
        file.to_owned(),
        format!("{file}{PART}CONCLAVE_API__LISTEN=127.0.0.1:9\nCONCLAVE_DATA_DIR=/d\nPATH=/bin"),
        format!("{file}{PART}{PART}node_name=12\ndev=true\nlimits.value_bytes=7"),
        format!("[grants.principals]\n\"cn:a\" = [{{ action = [\"get\"] }}]\n{PART}{PART}grants=NAME"),
        "[limits]\nvalue_bytes = \"many\"\n".to_owned(),
        toml::to_string(&super::Config::default()).expect("the default can be written"),
    ];
    explore!("layers", seeds, |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let mut parts = text.split(PART);
        let file = parts.next().unwrap_or_default();
        let variables = parts.next().unwrap_or_default().lines();
        let variables = variables.filter_map(|line| line.split_once('='));
        let mut overrides =
            overrides_from_environment(variables.map(|(variable, value)| (variable.into(), value.into())));
        for flag in parts.next().unwrap_or_default().lines() {
            overrides.extend(Override::from_flag(flag));
        }
        let path = Path::new("/etc/conclave/node.toml");
        match in_bounded_memory(text.len() * (1 + overrides.len()), || {
            parse(path, file, &overrides)
        }) {
            Ok(config) => {
                let written = toml::to_string(&config).expect("a configuration can be written");
                let again = parse(path, &written, &[]).expect("what was written can be read");
                assert_eq!(toml::to_string(&again).ok(), Some(written));
                assert!(config.data_dir.as_os_str().is_empty() || config.data_dir.is_absolute());
            }
            Err(ConfigError::Malformed { line, .. }) => {
                assert!((1..=file.lines().count() + 1).contains(&line))
            }
            Err(ConfigError::Override { origin, .. }) => {
                assert!(overrides.iter().any(|setting| setting.origin == origin));
            }
            Err(ConfigError::Unreadable { .. }) => panic!("nothing was to be read from a disk"),
        }
    });
}

/// Names of clusters and nodes, which become names in certificates.
#[test]
fn node_names() {
    explore!("node_names", ["a-1", "", "A", "a/b", "é"], |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        assert_eq!(
            is_name(text),
            (1..=63).contains(&input.len()) && input.iter().all(allowed)
        );
        match NodeName::new("c", text) {
            Ok(name) => assert_eq!(name.to_string(), format!("conclave://c/{text}")),
            Err(_) => assert!(!is_name(text)),
        }
    });
}
