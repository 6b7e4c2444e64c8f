//! Reads the file and lays environment and flags over it.

use super::Config;
use crate::grants::without_quoted;
use serde::de::DeserializeOwned;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A key set outside of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Override {
    /// The key's path, as `api.listen`.
    pub key: String,
    /// Its value: TOML, or a plain string where it is not TOML of the right type.
    pub value: String,
    /// Where it comes from, for messages: `environment variable CONCLAVE_API__LISTEN`, `--set`.
    pub origin: String,
}

/// Why a configuration cannot be used at all. [`super::check`] finds the rest.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    /// The file is not what it should be.
    #[error("{}:{line}: {message}", path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        message: String,
    },
    /// A key set outside of the file is unknown or has a wrong value.
    #[error("{origin}: {message}")]
    Override { origin: String, message: String },
}

impl Override {
    /// Parses `key=value` as given to the flag `--set`.
    pub fn from_flag(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
        Ok(Self {
            key: key.trim().to_owned(),
            value: value.to_owned(),
            origin: format!("--set {key}"),
        })
    }
}

/// Reads a file and lays `overrides` over it, later ones winning.
pub fn load(path: &Path, overrides: &[Override]) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    parse(path, &text, overrides)
}

/// The overrides among environment variables: `CONCLAVE_SECTION__KEY` and, for the keys outside of
/// sections, `CONCLAVE_KEY`. Other variables, such as those of the client commands, are left alone.
pub fn overrides_from_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<Override> {
    const OUTSIDE_OF_SECTIONS: [&str; 4] = ["node_name", "cluster_name", "data_dir", "dev"];
    let mut overrides: Vec<Override> = variables
        .filter_map(|(variable, value)| {
            let key = variable
                .strip_prefix("CONCLAVE_")?
                .to_lowercase()
                .replace("__", ".");
            let ours = key.contains('.') || OUTSIDE_OF_SECTIONS.contains(&key.as_str());
            ours.then(|| Override {
                key,
                value,
                origin: format!("environment variable {variable}"),
            })
        })
        .collect();
    overrides.sort_by(|a, b| a.key.cmp(&b.key));
    overrides
}

pub(super) fn parse(path: &Path, text: &str, overrides: &[Override]) -> Result<Config, ConfigError> {
    let malformed = |error: &toml::de::Error| ConfigError::Malformed {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_at(text, span.start)),
        message: error.message().to_owned(),
    };
    let mut config: Config = toml::from_str(text).map_err(|error| malformed(&error))?;
    let mut table: toml::Table = toml::from_str(text).map_err(|error| malformed(&error))?;
    for setting in overrides {
        (table, config) = lay_over(&table, setting)?;
    }
    config.resolve_paths(path.parent().unwrap_or(Path::new("")));
    Ok(config)
}

/// Sets one key, as TOML where that gives a value of the key's type, else as a string.
fn lay_over(table: &toml::Table, setting: &Override) -> Result<(toml::Table, Config), ConfigError> {
    let string = toml::Value::String(setting.value.clone());
    let as_toml = toml::from_str::<toml::Table>(&format!("value = {}", setting.value));
    let candidates = as_toml
        .ok()
        .and_then(|mut table| table.remove("value"))
        .into_iter()
        .chain([string]);
    let mut message = String::new();
    for value in candidates {
        let mut changed = table.clone();
        set(&mut changed, &setting.key, value).map_err(|message| refused(setting, message))?;
        match deserialize(&changed) {
            Ok(config) => return Ok((changed, config)),
            Err(error) => message = error,
        }
    }
    Err(refused(setting, message))
}

/// Parts of a key that is set outside of the file. Tables are taken apart recursively.
const KEY_PARTS_LIMIT: usize = 32;

fn set(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    let mut parts: Vec<&str> = key.split('.').collect();
    if parts.len() > KEY_PARTS_LIMIT {
        return Err(format!("the key has more than {KEY_PARTS_LIMIT} parts"));
    }
    let last = parts.pop().unwrap_or_default();
    let mut section = table;
    for part in parts {
        let entry = section
            .entry(part.to_owned())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        section = entry
            .as_table_mut()
            .ok_or_else(|| format!("{part} is not a section"))?;
    }
    section.insert(last.to_owned(), value);
    Ok(())
}

fn deserialize<T: DeserializeOwned>(table: &toml::Table) -> Result<T, String> {
    toml::Value::Table(table.clone())
        .try_into()
        .map_err(|error: toml::de::Error| error.message().to_owned())
}

/// Nothing is quoted of a value of `[grants]`: it names secrets, and this is logged.
fn refused(setting: &Override, message: String) -> ConfigError {
    let is_of_grants = setting.key.split('.').next() == Some("grants");
    let message = if is_of_grants {
        without_quoted(&message)
    } else {
        message
    };
    ConfigError::Override {
        origin: setting.origin.clone(),
        message: format!("{}: {message}", setting.key),
    }
}

/// The 1-based line that holds the byte at `offset`.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsSection;
    use proptest::prelude::*;

    const FILE: &str = "node_name = \"a\"\ndata_dir = \"data\"\n\n[api]\nlisten = \"127.0.0.1:0\"\n";

    fn parsed(text: &str, overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let overrides: Vec<Override> = overrides
            .iter()
            .map(|(key, value)| Override {
                key: (*key).into(),
                value: (*value).into(),
                origin: "--set".into(),
            })
            .collect();
        parse(Path::new("/etc/conclave/node.toml"), text, &overrides)
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parsed(FILE, &[]).unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/conclave/data"));
        assert_eq!(config.tls.api_certificate, Path::new(""));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [
            (format!("{FILE}listne = 1\n"), 6),
            (format!("{FILE}[limits]\nvalue_bytes = \"many\"\n"), 7),
            (format!("{FILE}[nowhere]\n"), 6),
            ("node_name = \n".to_owned(), 1),
        ] {
            match parsed(&text, &[]) {
                Err(ConfigError::Malformed { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn later_layers_win_and_take_the_type_of_the_key() {
        let config = parsed(
            FILE,
            &[
                ("api.listen", "127.0.0.1:1"),
                ("api.listen", "127.0.0.1:2"),
                ("node_name", "12"),
                ("dev", "true"),
            ],
        )
        .unwrap();
        assert_eq!(config.api.listen.port(), 2);
        assert_eq!(config.node_name, "12");
        assert!(config.dev);
        assert!(matches!(
            parsed(FILE, &[("api.nothing", "1")]),
            Err(ConfigError::Override { .. })
        ));
        assert!(matches!(
            parsed(FILE, &[("dev.x", "1")]),
            Err(ConfigError::Override { .. })
        ));
        assert!(matches!(
            parsed(FILE, &[("dev", "perhaps")]),
            Err(ConfigError::Override { .. })
        ));
    }

    #[test]
    fn a_deep_key_is_refused() {
        let key = "a.".repeat(100_000);
        let error = parsed(FILE, &[(&key, "1")]).unwrap_err().to_string();
        assert!(error.contains("more than 32 parts"));
    }

    #[test]
    fn nothing_of_the_grants_is_quoted() {
        for (key, value) in [
            ("grants.principals", "marked"),
            ("grants.principals", "{ \"cn:a\" = [\"marked\"] }"),
            ("grants", "marked"),
        ] {
            let error = parsed(FILE, &[(key, value)]).unwrap_err().to_string();
            assert!(error.contains("grants") && !error.contains("marked"), "{error}");
        }
        let error = parsed(FILE, &[("dev", "perhaps")]).unwrap_err().to_string();
        assert!(error.contains("perhaps"), "{error}");
    }

    #[test]
    fn the_environment_gives_keys_and_leaves_the_clients_variables_alone() {
        let variables = [
            ("CONCLAVE_API__LISTEN", "127.0.0.1:9"),
            ("CONCLAVE_DATA_DIR", "/d"),
            ("CONCLAVE_CA", "/ca"),
            ("PATH", "/bin"),
        ];
        let keys: Vec<String> =
            overrides_from_environment(variables.map(|(k, v)| (k.into(), v.into())).into_iter())
                .into_iter()
                .map(|setting| setting.key)
                .collect();
        assert_eq!(keys, ["api.listen", "data_dir"]);
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = parsed("", &[]).unwrap();
        assert_eq!(config.cluster_name, "conclave");
        assert_eq!(config.api.listen.port(), 8200);
        assert_eq!(config.cluster.listen.port(), 8201);
        assert!(config.metrics.listen.ip().is_loopback() && config.metrics.listen.port() == 8202);
        assert_eq!(config.limits.value_bytes, LimitsSection::default().value_bytes);
        assert_eq!(config.limits.value_bytes, 1_048_576);
    }

    #[test]
    fn every_key_is_in_the_document_with_unit_and_default() {
        let document = include_str!("../../docs/configuration.md");
        let mut config = Config::default();
        config.cluster.advertise = Some(String::new());
        config.tls.client_authority = Some(PathBuf::new());
        config.seal.key_file = Some(PathBuf::new());
        config.grants.file = Some(PathBuf::new());
        let table: toml::Table = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        for (name, value) in table {
            let (heading, keys): (String, Vec<(String, toml::Value)>) = match value {
                toml::Value::Table(section) => (format!("## `[{name}]`\n"), section.into_iter().collect()),
                value => ("## Outside of sections\n".to_owned(), vec![(name, value)]),
            };
            let section = document
                .split_once(&heading)
                .unwrap_or_else(|| panic!("{heading}"))
                .1;
            let section = section.split("\n## ").next().unwrap();
            for (key, value) in keys {
                let row = section
                    .lines()
                    .find(|line| line.starts_with(&format!("| `{key}` | ")))
                    .unwrap_or_else(|| panic!("{heading} {key}"));
                let tells = defaults_as_written(&value)
                    .iter()
                    .any(|written| row.to_lowercase().contains(written));
                assert!(tells, "its default {value} is not in: {row}");
                let unit = [
                    ("_ms", "milliseconds"),
                    ("_bytes", "ytes"),
                    ("_per_s", "per second"),
                ];
                for (ending, unit) in unit {
                    assert!(
                        !key.ends_with(ending) || row.contains(unit),
                        "no {unit} in: {row}"
                    );
                }
            }
        }
    }

    /// The ways, in lower case, in which a row may tell a default.
    fn defaults_as_written(value: &toml::Value) -> Vec<String> {
        match value {
            toml::Value::Integer(number) => {
                let units = [(0, ""), (10, " kib"), (20, " mib"), (30, " gib")];
                let whole = units.iter().filter(|(bits, _)| number % (1_i64 << bits) == 0);
                whole
                    .map(|(bits, unit)| format!("default {}{unit}", number >> bits))
                    .collect()
            }
            toml::Value::Boolean(flag) => vec![format!("default {flag}")],
            toml::Value::String(text) if !text.is_empty() => {
                vec![format!("default `{text}`"), format!("`{text}` (default")]
            }
            _ => ["required.", "default none", "default:"]
                .map(str::to_owned)
                .into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = parsed(FILE, &[("seal.key_file", "/k")]).unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::to_string(&parsed(&text, &[]).unwrap()).unwrap(), text);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text: String, key: String, value: String) {
            let _ = parsed(&text, &[]);
            let _ = parsed(FILE, &[(&key, &value)]);
        }
    }
}
