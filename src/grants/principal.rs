//! Principals keep their type: `email:a@b` and `cn:a@b` are two, whoever they are.

use std::{fmt, str::FromStr, sync::Arc};

/// Where a principal's name comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PrincipalKind {
    /// A URI name of a client certificate.
    Uri,
    /// An e-mail name of a client certificate.
    Email,
    /// A DNS name of a client certificate.
    Dns,
    /// The common name of a client certificate.
    Cn,
    /// A tailnet user's login, or a tagged node's tags.
    Tailscale,
    /// The one caller without a name of a development cluster.
    Dev,
}

/// Who calls: a type and a name without control characters, written `type:name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    kind: PrincipalKind,
    /// Shared: each request has its caller's.
    name: Arc<str>,
}

/// Why a principal was refused. The message does not repeat the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrincipalError {
    /// The type is none that is known.
    #[error("a principal starts with uri:, email:, dns:, cn: or tailscale:, or is dev")]
    UnknownKind,
    /// There is no name.
    #[error("the principal's name is empty")]
    Empty,
    /// At most 1,024 bytes.
    #[error("the principal's name has more than 1024 bytes")]
    TooLong,
    /// No control characters.
    #[error("the principal's name contains a control character")]
    ControlCharacter,
}

impl PrincipalKind {
    /// The type as written before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uri => "uri",
            Self::Email => "email",
            Self::Dns => "dns",
            Self::Cn => "cn",
            Self::Tailscale => "tailscale",
            Self::Dev => "dev",
        }
    }
}

impl Principal {
    /// The caller without a certificate in a development cluster.
    pub fn dev() -> Self {
        Self {
            kind: PrincipalKind::Dev,
            name: Arc::default(),
        }
    }

    /// Refuses names that are empty, longer than 1,024 bytes, or have control characters.
    /// Of the type `dev` there is only [`Self::dev`].
    pub fn new(kind: PrincipalKind, name: impl Into<Arc<str>>) -> Result<Self, PrincipalError> {
        let name = name.into();
        if kind == PrincipalKind::Dev {
            return if name.is_empty() {
                Ok(Self::dev())
            } else {
                Err(PrincipalError::UnknownKind)
            };
        }
        if name.is_empty() {
            return Err(PrincipalError::Empty);
        }
        if name.len() > 1024 {
            return Err(PrincipalError::TooLong);
        }
        if name.chars().any(char::is_control) {
            return Err(PrincipalError::ControlCharacter);
        }
        Ok(Self { kind, name })
    }

    /// Its type.
    pub fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// Its name, without the type.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PrincipalKind::Dev => f.write_str("dev"),
            kind => write!(f, "{}:{}", kind.as_str(), self.name),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Principal({}:…)", self.kind.as_str())
    }
}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        if text == "dev" {
            return Ok(Self::dev());
        }
        let (kind, name) = text.split_once(':').ok_or(PrincipalError::UnknownKind)?;
        let kind = [
            PrincipalKind::Uri,
            PrincipalKind::Email,
            PrincipalKind::Dns,
            PrincipalKind::Cn,
            PrincipalKind::Tailscale,
        ]
        .into_iter()
        .find(|candidate| candidate.as_str() == kind)
        .ok_or(PrincipalError::UnknownKind)?;
        Self::new(kind, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_and_read_alike() {
        for text in [
            "uri:spiffe://x/y",
            "email:a@b.c",
            "dns:h.example",
            "cn:A B",
            "tailscale:tag:prod",
            "dev",
        ] {
            assert_eq!(text.parse::<Principal>().unwrap().to_string(), text);
        }
        for text in ["", "alice", "dev:x", "ldap:x"] {
            assert_eq!(
                text.parse::<Principal>(),
                Err(PrincipalError::UnknownKind),
                "{text}"
            );
        }
        assert_eq!("cn:".parse::<Principal>(), Err(PrincipalError::Empty));
        assert_eq!(
            "cn:a\nb".parse::<Principal>(),
            Err(PrincipalError::ControlCharacter)
        );
    }

    #[test]
    fn equal_names_of_two_types_are_two_principals() {
        assert_ne!(
            "email:a@b".parse::<Principal>().unwrap(),
            "cn:a@b".parse::<Principal>().unwrap()
        );
    }
}
