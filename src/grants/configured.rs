//! Grants from the configuration: principals and their rules, replaced as a whole on reload.
//!
//! A table that cannot be read leaves the old one in force, and the error is shown, so that a node
//! that was left behind is seen; the digest tells whether two nodes have the same table.

use super::{GrantError, Grants, Principal, WrittenGrant};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

/// Principals (`type:name`) and their rules, as written: in TOML
/// `"email:alice@example.org" = [{ action = ["get"], secret = ["dev/*"] }]`, in JSON alike.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantsTable(pub BTreeMap<String, Vec<WrittenGrant>>);

/// The grants in force. Reading is cheap and never waits for a reload.
pub struct ConfiguredGrants {
    state: RwLock<State>,
}

/// What is in force, for status and metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantsStatus {
    /// SHA-256, in hex, of the canonical form (RFC 8785) of the table in force.
    pub digest: String,
    /// Why the last reload failed, if it did.
    pub load_error: Option<String>,
}

struct State {
    grants: BTreeMap<Principal, Arc<Grants>>,
    status: GrantsStatus,
}

impl GrantsTable {
    /// The most bytes of a file of grants.
    pub const FILE_LIMIT_BYTES: usize = 4 * 1024 * 1024;

    /// Reads TOML. The error names the line and quotes nothing of it, for it is logged, and a line
    /// names secrets.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(before).filter(|byte| *byte == b'\n').count();
            format!("line {line}: {}", without_quoted(error.message()))
        })
    }

    /// Reads JSON. The error names the line and quotes nothing of it.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| without_quoted(&error.to_string()))
    }

    /// Checks every rule. The error names the principal, and quotes nothing else.
    pub fn check(&self) -> Result<(), String> {
        self.resolve().map(drop)
    }

    fn resolve(&self) -> Result<BTreeMap<Principal, Arc<Grants>>, String> {
        self.0
            .iter()
            .map(|(principal, rules)| {
                let described = |reason: String| format!("grants of {principal:?}: {reason}");
                // A key that is no principal may be a secret's name in the wrong place.
                let parsed = principal
                    .parse()
                    .map_err(|error: super::PrincipalError| format!("a key is not a principal: {error}"))?;
                let grants =
                    Grants::from_written(rules).map_err(|error: GrantError| described(error.to_string()))?;
                Ok((parsed, Arc::new(grants)))
            })
            .collect()
    }

    fn digest(&self) -> String {
        let canonical =
            serde_json_canonicalizer::to_vec(self).expect("a table of strings always has a canonical form");
        Sha256::digest(canonical)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl ConfiguredGrants {
    /// The first table. One that is not valid leaves every principal without rights, and says so.
    pub fn new(table: Result<GrantsTable, String>) -> Self {
        let empty = GrantsTable::default();
        let state = State {
            grants: BTreeMap::new(),
            status: GrantsStatus {
                digest: empty.digest(),
                load_error: None,
            },
        };
        let configured = Self {
            state: RwLock::new(state),
        };
        configured.reload(table);
        configured
    }

    /// Puts another table in force, or keeps the old one and remembers why.
    pub fn reload(&self, table: Result<GrantsTable, String>) -> GrantsStatus {
        let resolved = table.and_then(|table| Ok((table.resolve()?, table.digest())));
        let mut state = self
            .state
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match resolved {
            Ok((grants, digest)) => {
                *state = State {
                    grants,
                    status: GrantsStatus {
                        digest,
                        load_error: None,
                    },
                }
            }
            Err(reason) => state.status.load_error = Some(reason),
        }
        state.status.clone()
    }

    /// A principal's grants; nobody who is not in the table has any.
    pub fn of(&self, principal: &Principal) -> Arc<Grants> {
        let state = self.state.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.grants.get(principal).cloned().unwrap_or_default()
    }

    /// What is in force.
    pub fn status(&self) -> GrantsStatus {
        self.state
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .status
            .clone()
    }
}

/// A parser's message without what it quotes of the text: all from the first to the last quotation
/// mark.
pub(crate) fn without_quoted(message: &str) -> String {
    let is_mark = |c: char| matches!(c, '"' | '`' | '\'');
    match (message.find(is_mark), message.rfind(is_mark)) {
        (Some(first), Some(last)) => format!("{}…{}", &message[..first], &message[last + 1..]),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{grants::Action, name::FullName};

    const TABLE: &str = r#"
        "email:alice@example.org" = [{ action = ["get"], secret = ["dev/*"] }]
        "cn:auditor" = [{ action = ["audit"] }]
    "#;

    fn alice() -> Principal {
        "email:alice@example.org".parse().unwrap()
    }

    #[test]
    fn a_broken_table_keeps_the_old_one_and_is_seen() {
        let configured = ConfiguredGrants::new(GrantsTable::from_toml(TABLE));
        let digest = configured.status().digest;
        let name = FullName::setec("dev/x").unwrap();
        assert!(configured.of(&alice()).allows(Action::Get, &name));
        for broken in [
            "\"alice\" = []",
            "\"cn:x\" = [{ action = [\"fetch\"] }]",
            "\"cn:x\" = [{ secrets = [] }]",
            "=",
        ] {
            let status = configured.reload(GrantsTable::from_toml(broken));
            assert!(status.load_error.is_some(), "{broken}");
            assert_eq!(status.digest, digest);
            assert!(configured.of(&alice()).allows(Action::Get, &name));
        }
        let status = configured.reload(GrantsTable::from_toml(""));
        assert_eq!(status.load_error, None);
        assert_ne!(status.digest, digest);
        assert!(configured.of(&alice()).is_empty());
    }

    #[test]
    fn an_error_names_the_line_and_nothing_that_stands_there() {
        for (broken, named) in [
            (
                "\n\"cn:a\" = [{ action = [\"get\"], secret = [\"marked/*\" }]\n",
                "line 2",
            ),
            (
                "\"cn:a\" = []\n\"cn:b\" = [{ action = [\"get\"], secret = \"marked\" }]",
                "line 2: invalid type",
            ),
            (
                "\"cn:a\" = [{ action = [\"get\"], marked = [\"*\"] }]",
                "line 1: unknown field",
            ),
            (
                "\"cn:a\" = [{ action = [\"marked\"] }]",
                "\"cn:a\": unknown action",
            ),
            ("\"marked\" = [{ action = [\"get\"] }]", "not a principal"),
            ("\"cn:a\" = [\"ma\\\"rked\"]", "line 1: invalid type"),
        ] {
            let error = GrantsTable::from_toml(broken)
                .and_then(|table| table.check())
                .unwrap_err();
            assert!(error.contains(named), "{broken}: {error}");
            assert!(
                !error.contains("marked") && !error.contains("rked\""),
                "{broken}: {error}"
            );
        }
        for (broken, named) in [
            ("{\n\"cn:a\": [{\"secret\": \"marked\"}]}", "line 2"),
            ("{\"cn:a\": [{\"marked\": 1}]}", "unknown field"),
            ("{\"cn:a\": [\"marked]}", "line 1"),
        ] {
            let error = GrantsTable::from_json(broken).unwrap_err();
            assert!(
                error.contains(named) && !error.contains("marked"),
                "{broken}: {error}"
            );
        }
    }

    #[test]
    fn the_digest_is_of_the_canonical_form() {
        let json = r#"{"cn:auditor":[{"action":["audit"]}],
            "email:alice@example.org":[{"secret":["dev/*"],"action":["get"]}]}"#;
        assert_eq!(
            GrantsTable::from_toml(TABLE).unwrap().digest(),
            GrantsTable::from_json(json).unwrap().digest()
        );
    }
}
