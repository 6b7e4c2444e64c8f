//! Names and their rules.

use std::fmt;

/// Why a name was refused. The message never repeats the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// A name has at least one byte.
    #[error("the {what} is empty")]
    Empty { what: &'static str },
    /// A name has at most 1,024 bytes.
    #[error("the {what} has {size_bytes} bytes; at most {limit_bytes} are allowed", limit_bytes = LIMIT_BYTES)]
    TooLong { what: &'static str, size_bytes: usize },
    /// A name has no control characters (Unicode category Cc).
    #[error("the {what} contains a control character")]
    ControlCharacter { what: &'static str },
    /// A namespace is a path of non-empty parts.
    #[error("the namespace has an empty part")]
    EmptyPart,
}

/// The longest name, in bytes of UTF-8.
const LIMIT_BYTES: usize = 1024;

/// A secret's name within its store: non-empty UTF-8 of at most 1,024 bytes, no control characters.
/// `/` has no meaning of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

/// A store's name within its namespace; the rules of [`SecretName`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName(String);

/// A namespace's path: parts joined by `/`, none of them empty; the root is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacePath(String);

/// A whole store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    /// Where the store lies.
    pub namespace: NamespacePath,
    /// Its name there.
    pub store: StoreName,
}

/// Where a secret lies, in clear. Ordered by namespace, store, then name, each by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullName {
    /// Where the store lies.
    pub namespace: NamespacePath,
    /// The store within it.
    pub store: StoreName,
    /// The secret within that.
    pub name: SecretName,
}

impl SecretName {
    /// Refuses what breaks the rules.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        checked("secret name", name.into()).map(Self)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl StoreName {
    /// The store of setec's names.
    pub const SETEC: &str = "secret";

    /// Refuses what breaks the rules.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        checked("store name", name.into()).map(Self)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NamespacePath {
    /// The root namespace.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Refuses what breaks the rules. The empty path is the root.
    pub fn new(path: impl Into<String>) -> Result<Self, NameError> {
        let path = path.into();
        if path.is_empty() {
            return Ok(Self::root());
        }
        if path.split('/').any(str::is_empty) {
            return Err(NameError::EmptyPart);
        }
        checked("namespace", path).map(Self)
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl StorePath {
    /// Where setec's names live: the root namespace, store `secret`.
    pub fn setec() -> Self {
        Self {
            namespace: NamespacePath::root(),
            store: StoreName(StoreName::SETEC.to_owned()),
        }
    }

    /// A name in this store.
    pub fn secret(&self, name: SecretName) -> FullName {
        FullName {
            namespace: self.namespace.clone(),
            store: self.store.clone(),
            name,
        }
    }

    /// Whether a name lies in this store.
    pub fn contains(&self, name: &FullName) -> bool {
        name.namespace == self.namespace && name.store == self.store
    }
}

impl FullName {
    /// The place of one of setec's names.
    pub fn setec(name: impl Into<String>) -> Result<Self, NameError> {
        Ok(StorePath::setec().secret(SecretName::new(name)?))
    }

    /// The store that it lies in.
    pub fn store_path(&self) -> StorePath {
        StorePath {
            namespace: self.namespace.clone(),
            store: self.store.clone(),
        }
    }
}

fn checked(what: &'static str, name: String) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > LIMIT_BYTES {
        return Err(NameError::TooLong {
            what,
            size_bytes: name.len(),
        });
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter { what });
    }
    Ok(name)
}

macro_rules! debug_without_the_name {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}

debug_without_the_name!(SecretName, StoreName, NamespacePath, StorePath, FullName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_of_names() {
        let what = "secret name";
        assert_eq!(SecretName::new(""), Err(NameError::Empty { what }));
        assert_eq!(SecretName::new("a\0b"), Err(NameError::ControlCharacter { what }));
        assert_eq!(
            SecretName::new("a\u{85}b"),
            Err(NameError::ControlCharacter { what })
        );
        assert_eq!(SecretName::new("a\nb"), Err(NameError::ControlCharacter { what }));
        assert!(SecretName::new("é".repeat(512)).is_ok());
        assert_eq!(
            SecretName::new("é".repeat(513)),
            Err(NameError::TooLong {
                what,
                size_bytes: 1026
            })
        );
        assert!(SecretName::new(" spaces, //slashes// and *stars* ").is_ok());
    }

    #[test]
    fn rules_of_namespaces() {
        assert_eq!(NamespacePath::new("").unwrap(), NamespacePath::root());
        assert!(NamespacePath::new("team/app").is_ok());
        for path in ["/", "/a", "a/", "a//b"] {
            assert_eq!(NamespacePath::new(path), Err(NameError::EmptyPart));
        }
    }

    #[test]
    fn debug_shows_no_name() {
        let name = FullName::setec("hidden").unwrap();
        assert!(!format!("{name:?} {:?}", name.name).contains("hidden"));
    }

    proptest! {
        #[test]
        fn setec_names_are_kept_byte_for_byte_and_ordered_by_bytes(a in "[^\\p{Cc}]{1,40}", b in "[^\\p{Cc}]{1,40}") {
            let (a_name, b_name) = (FullName::setec(a.clone()).unwrap(), FullName::setec(b.clone()).unwrap());
            prop_assert_eq!(a_name.name.as_str().as_bytes(), a.as_bytes());
            prop_assert_eq!(a_name.cmp(&b_name), a.as_bytes().cmp(b.as_bytes()));
        }
    }
}
