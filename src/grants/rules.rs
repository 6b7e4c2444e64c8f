//! Rules of actions and secret patterns, in the JSON form of setec's `acl` (`action`, `secret`).
//!
//! Beside setec's two keys a rule may name a `namespace` (default: the root) and a `store` (default:
//! `secret`), both exact, since a setec name may itself contain any separator.
//!
//! `audit` and `operate` are about the whole cluster. A rule grants them only if it names no secret
//! pattern, or the pattern `*`: beside a narrower pattern they would promise a limit that is not there.

use super::configured::without_quoted;
use crate::name::{FullName, NamespacePath, Pattern, StoreName};
use serde::{Deserialize, Serialize};

/// What a rule can allow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Fetch a value. Does not imply `info`.
    Get,
    /// Read metadata, and see a name in a list. Does not imply `get`.
    Info,
    /// Add a value.
    Put,
    /// Make and activate a version of a chosen number.
    CreateVersion,
    /// Choose the active version.
    Activate,
    /// Delete a version or a whole secret.
    Delete,
    /// Read the audit log.
    Audit,
    /// Operate the cluster, the seal and backups; read the full status.
    Operate,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Grant {
    actions: Vec<Action>,
    patterns: Vec<Pattern>,
    namespace: NamespacePath,
    store: StoreName,
}

/// Everything that a caller may do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grants(Vec<Grant>);

/// Why a rule was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrantError {
    /// Not the form of a rule.
    #[error("malformed grant: {0}")]
    Malformed(String),
    /// An action that is not known. It is not repeated: it may be a secret's name in the wrong place.
    #[error("unknown action; known are {}", Action::ALL.map(Action::as_str).join(", "))]
    UnknownAction,
    /// `audit` or `operate` beside a pattern that would seem to limit it.
    #[error("audit and operate are about the whole cluster: grant them in a rule without `secret`")]
    LimitedClusterAction,
    /// Too many rules, actions or patterns.
    #[error("a caller has at most {limit} rules, each with at most {limit} actions and patterns", limit = LIMIT)]
    TooMany,
}

/// The most rules of a caller, and actions or patterns of a rule.
const LIMIT: usize = 1000;

/// A rule as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenGrant {
    /// Names of actions.
    #[serde(default)]
    pub action: Vec<String>,
    /// Patterns of names.
    #[serde(default)]
    pub secret: Vec<String>,
    /// A namespace; default: the root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// A store; default: `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

impl Action {
    const ALL: [Self; 8] = [
        Self::Get,
        Self::Info,
        Self::Put,
        Self::CreateVersion,
        Self::Activate,
        Self::Delete,
        Self::Audit,
        Self::Operate,
    ];

    /// As rules write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Info => "info",
            Self::Put => "put",
            Self::CreateVersion => "create-version",
            Self::Activate => "activate",
            Self::Delete => "delete",
            Self::Audit => "audit",
            Self::Operate => "operate",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    fn is_about_the_cluster(self) -> bool {
        matches!(self, Self::Audit | Self::Operate)
    }
}

impl Grants {
    /// No rights.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every right on setec's names and over the cluster: what `dev` has.
    pub fn all() -> Self {
        Self(vec![Grant {
            actions: Action::ALL.to_vec(),
            patterns: vec![Pattern::new(Pattern::EVERYTHING)],
            namespace: NamespacePath::root(),
            store: crate::name::StorePath::setec().store,
        }])
    }

    /// From the values of Tailscale's capability `tailscale.com/cap/secrets`, each a rule in JSON.
    /// Actions that we do not know grant nothing, as in setec; a malformed rule refuses them all.
    pub fn from_capability(values: &[serde_json::Value]) -> Result<Self, GrantError> {
        let written = values
            .iter()
            .map(|value| {
                WrittenGrant::deserialize(value)
                    .map_err(|error| GrantError::Malformed(without_quoted(&error.to_string())))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::build(&written, Strictness::SkipUnknown)
    }

    /// From rules as the configuration writes them. Unknown actions and rights that a pattern would
    /// seem to limit are errors.
    pub fn from_written(written: &[WrittenGrant]) -> Result<Self, GrantError> {
        Self::build(written, Strictness::Refuse)
    }

    /// Whether an action on this secret is allowed. Never for `audit` and `operate`, which are not
    /// about a secret.
    pub fn allows(&self, action: Action, name: &FullName) -> bool {
        !action.is_about_the_cluster()
            && self.0.iter().any(|grant| {
                grant.actions.contains(&action)
                    && grant.namespace == name.namespace
                    && grant.store == name.store
                    && grant
                        .patterns
                        .iter()
                        .any(|pattern| pattern.matches(name.name.as_str()))
            })
    }

    /// Whether `audit` or `operate` is allowed. Never for other actions.
    pub fn allows_cluster(&self, action: Action) -> bool {
        action.is_about_the_cluster()
            && self
                .0
                .iter()
                .any(|grant| grant.actions.contains(&action) && !grant.is_limited())
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|grant| grant.actions.is_empty())
    }

    fn build(written: &[WrittenGrant], strictness: Strictness) -> Result<Self, GrantError> {
        if written.len() > LIMIT {
            return Err(GrantError::TooMany);
        }
        written
            .iter()
            .map(|rule| Grant::build(rule, strictness))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    Refuse,
    SkipUnknown,
}

impl Grant {
    fn build(written: &WrittenGrant, strictness: Strictness) -> Result<Self, GrantError> {
        if written.action.len().max(written.secret.len()) > LIMIT {
            return Err(GrantError::TooMany);
        }
        let mut actions = Vec::new();
        for text in &written.action {
            match Action::parse(text) {
                Some(action) => actions.push(action),
                None if strictness == Strictness::SkipUnknown => {}
                None => return Err(GrantError::UnknownAction),
            }
        }
        let malformed = |error: crate::name::NameError| GrantError::Malformed(error.to_string());
        let grant = Self {
            actions,
            patterns: written.secret.iter().map(Pattern::new).collect(),
            namespace: NamespacePath::new(written.namespace.as_str()).map_err(malformed)?,
            store: StoreName::new(written.store.as_deref().unwrap_or(StoreName::SETEC)).map_err(malformed)?,
        };
        if strictness == Strictness::Refuse
            && grant.is_limited()
            && grant.actions.iter().any(|action| action.is_about_the_cluster())
        {
            return Err(GrantError::LimitedClusterAction);
        }
        Ok(grant)
    }

    fn is_limited(&self) -> bool {
        !self.patterns.is_empty()
            && !self
                .patterns
                .iter()
                .any(|pattern| pattern.as_str() == Pattern::EVERYTHING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn grants(value: serde_json::Value) -> Result<Grants, GrantError> {
        let written: Vec<WrittenGrant> = serde_json::from_value(value).unwrap();
        Grants::from_written(&written)
    }

    fn name(text: &str) -> FullName {
        FullName::setec(text).unwrap()
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let grants = grants(json!([{"action": ["get"], "secret": ["dev/*", "one"]}])).unwrap();
        assert!(grants.allows(Action::Get, &name("dev/a/b")));
        assert!(grants.allows(Action::Get, &name("one")));
        assert!(!grants.allows(Action::Info, &name("one")));
        assert!(!grants.allows(Action::Get, &name("two")));
    }

    #[test]
    fn rules_are_not_mixed() {
        let grants =
            grants(json!([{"action": ["get"], "secret": ["a"]}, {"action": ["put"], "secret": ["b"]}]))
                .unwrap();
        assert!(!grants.allows(Action::Get, &name("b")) && !grants.allows(Action::Put, &name("a")));
    }

    #[test]
    fn a_rule_is_about_one_store() {
        let grants = grants(json!([{"action": ["get"], "secret": ["*"]}])).unwrap();
        let mut elsewhere = name("a");
        elsewhere.namespace = NamespacePath::new("team").unwrap();
        assert!(!grants.allows(Action::Get, &elsewhere));
        let mut other_store = name("a");
        other_store.store = StoreName::new("kv").unwrap();
        assert!(!grants.allows(Action::Get, &other_store));
    }

    #[test]
    fn rights_over_the_cluster_need_a_rule_without_a_narrow_pattern() {
        assert!(
            grants(json!([{"action": ["audit"]}]))
                .unwrap()
                .allows_cluster(Action::Audit)
        );
        assert!(
            grants(json!([{"action": ["operate"], "secret": ["*"]}]))
                .unwrap()
                .allows_cluster(Action::Operate)
        );
        let narrow = json!({"action": ["operate", "get"], "secret": ["dev/*"]});
        assert_eq!(
            grants(json!([narrow.clone()])),
            Err(GrantError::LimitedClusterAction)
        );
        let from_capability = Grants::from_capability(&[narrow]).unwrap();
        assert!(!from_capability.allows_cluster(Action::Operate));
        assert!(from_capability.allows(Action::Get, &name("dev/x")));
        assert!(!Grants::all().allows(Action::Operate, &name("dev/x")));
        assert!(!Grants::all().allows_cluster(Action::Get));
    }

    #[test]
    fn unknown_actions_are_refused_in_files_and_grant_nothing_in_capabilities() {
        assert_eq!(
            grants(json!([{"action": ["fetch"], "secret": ["*"]}])),
            Err(GrantError::UnknownAction)
        );
        let grants = Grants::from_capability(&[json!({"action": ["fetch"], "secret": ["*"]})]).unwrap();
        assert!(grants.is_empty());
    }

    #[test]
    fn a_malformed_capability_is_refused() {
        for value in [
            json!("get"),
            json!({"action": "get"}),
            json!({"action": ["get"], "secrets": ["*"]}),
        ] {
            assert!(matches!(
                Grants::from_capability(&[value]),
                Err(GrantError::Malformed(_))
            ));
        }
    }
}
