//! `audit.at_limit`: what happens at the audit's limit, in the words of the configuration, the API and
//! the command line, and as the machine calls it. One place knows how these go together.

use conclave_cluster::command;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What happens at the audit's limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtAuditLimit {
    /// The oldest records are pruned, with a record of the gap.
    #[default]
    PruneOldest,
    /// Disclosures are refused until the limit is raised.
    RefuseDisclosures,
}

impl fmt::Display for AtAuditLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::PruneOldest => "prune-oldest",
            Self::RefuseDisclosures => "refuse-disclosures",
        })
    }
}

impl FromStr for AtAuditLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::PruneOldest, Self::RefuseDisclosures]
            .into_iter()
            .find(|known| known.to_string() == text)
            .ok_or_else(|| "prune-oldest or refuse-disclosures".to_owned())
    }
}

impl From<AtAuditLimit> for command::AtAuditLimit {
    fn from(at_limit: AtAuditLimit) -> Self {
        match at_limit {
            AtAuditLimit::PruneOldest => Self::PruneOldest,
            AtAuditLimit::RefuseDisclosures => Self::RefuseDisclosures,
        }
    }
}

impl From<command::AtAuditLimit> for AtAuditLimit {
    fn from(at_limit: command::AtAuditLimit) -> Self {
        match at_limit {
            command::AtAuditLimit::PruneOldest => Self::PruneOldest,
            command::AtAuditLimit::RefuseDisclosures => Self::RefuseDisclosures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_are_the_same_everywhere() {
        for at_limit in [AtAuditLimit::PruneOldest, AtAuditLimit::RefuseDisclosures] {
            let word = at_limit.to_string();
            assert_eq!(serde_json::to_value(at_limit).unwrap(), word);
            assert_eq!(word.parse(), Ok(at_limit));
            assert_eq!(
                AtAuditLimit::from(command::AtAuditLimit::from(at_limit)),
                at_limit
            );
        }
        assert!("prune".parse::<AtAuditLimit>().is_err());
    }
}
