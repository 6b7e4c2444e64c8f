//! Request bodies, read as Go's `encoding/json` reads them: known fields are matched without regard
//! to case, the last of several wins, unknown ones are ignored, `null` leaves a field at its zero.
//!
//! Stricter than Go in three ways: bytes after the JSON value are refused, so are strings that are
//! no Unicode (Go puts a replacement character into them, which would make two names one), and a
//! `Value` must be a string. No message repeats anything of the body, which may hold a value.

use crate::{name::FullName, plaintext::Plaintext};
use base64::{DecodeSliceError, Engine, engine::general_purpose::STANDARD};
use conclave_cluster::model::Version;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};
use std::fmt;
use zeroize::Zeroizing;

/// A request with the fields of all methods. Each method takes those that it knows.
#[derive(Default)]
pub(super) struct Request {
    name: String,
    version: u32,
    update_if_changed: bool,
    value: Option<Plaintext>,
}

/// Why a body is no request. The message names the field.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid request: {0}")]
pub(super) struct Malformed(String);

impl Request {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if std::str::from_utf8(body).is_err() {
            return Err(Malformed("the body is not UTF-8".to_owned()));
        }
        let fields: Option<Fields> = serde_json::from_slice(body).map_err(|error| {
            Malformed(match error.classify() {
                Category::Eof if body.is_empty() => "the body is empty".to_owned(),
                Category::Data => "the body must be a JSON object or null".to_owned(),
                Category::Io | Category::Syntax | Category::Eof => {
                    format!(
                        "malformed JSON at line {} column {}",
                        error.line(),
                        error.column()
                    )
                }
            })
        })?;
        fields.unwrap_or_default().read()
    }

    /// Reads the body of `list`, which may also be empty.
    pub(super) fn parse_list(body: &[u8]) -> Result<(), Malformed> {
        if body.iter().all(u8::is_ascii_whitespace) {
            Ok(())
        } else {
            Self::parse(body).map(drop)
        }
    }

    /// The secret's name.
    pub(super) fn name(&self) -> Result<FullName, Malformed> {
        FullName::setec(self.name.as_str()).map_err(|error| Malformed(format!("Name: {error}")))
    }

    /// The version; `None` for 0, which stands for the active one.
    pub(super) fn optional_version(&self) -> Option<Version> {
        Version::new(self.version)
    }

    /// The version, which must be greater than 0.
    pub(super) fn version(&self) -> Result<Version, Malformed> {
        self.optional_version()
            .ok_or_else(|| Malformed("Version must be greater than 0".to_owned()))
    }

    /// Whether only another version than this one is wanted.
    pub(super) fn update_if_changed(&self) -> bool {
        self.update_if_changed
    }

    /// The value; none given is the empty one.
    pub(super) fn into_value(self) -> Plaintext {
        self.value.unwrap_or_else(|| Plaintext::new(Vec::new()))
    }
}

/// The known fields of an object, unread.
#[derive(Default)]
struct Fields<'a> {
    name: Option<&'a RawValue>,
    version: Option<&'a RawValue>,
    update_if_changed: Option<&'a RawValue>,
    value: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn read(self) -> Result<Request, Malformed> {
        fn field<'a, T: Deserialize<'a> + Default>(
            raw: Option<&'a RawValue>,
            rule: &str,
        ) -> Result<T, Malformed> {
            let Some(raw) = raw else { return Ok(T::default()) };
            let value: Option<T> = serde_json::from_str(raw.get()).map_err(|_| Malformed(rule.to_owned()))?;
            Ok(value.unwrap_or_default())
        }
        Ok(Request {
            name: field(self.name, "Name must be a string")?,
            version: field(self.version, "Version must be an integer from 0 to 4294967295")?,
            update_if_changed: field(self.update_if_changed, "UpdateIfChanged must be true or false")?,
            value: self.value.map(|raw| read_value(raw.get())).transpose()?.flatten(),
        })
    }
}

/// Decodes a value's string without leaving a copy of it behind.
fn read_value(raw: &str) -> Result<Option<Plaintext>, Malformed> {
    let malformed = || Malformed("Value must be a string in standard base64".to_owned());
    if raw == "null" {
        return Ok(None);
    }
    let inner = raw
        .strip_prefix('"')
        .and_then(|raw| raw.strip_suffix('"'))
        .ok_or_else(malformed)?;
    // Base64 needs no escapes but `\/` and the line breaks that Go ignores.
    let unescaped: Zeroizing<String>;
    let mut text = inner;
    if inner.contains(['\\', '\r', '\n']) {
        let mut string: Zeroizing<String> =
            Zeroizing::new(serde_json::from_str(raw).map_err(|_| malformed())?);
        string.retain(|character| !matches!(character, '\r' | '\n'));
        unescaped = string;
        text = unescaped.as_str();
    }
    let mut bytes = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let length = STANDARD
        .decode_slice(text, &mut bytes)
        .map_err(|error| match error {
            DecodeSliceError::DecodeError(_) | DecodeSliceError::OutputSliceTooSmall => malformed(),
        })?;
    bytes.truncate(length);
    Ok(Some(bytes.into()))
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(key) = map.next_key::<Key>()? {
                    let field = match key {
                        Key::Name => &mut fields.name,
                        Key::Version => &mut fields.version,
                        Key::UpdateIfChanged => &mut fields.update_if_changed,
                        Key::Value => &mut fields.value,
                        Key::Unknown => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    let raw: &RawValue = map.next_value()?;
                    // As in Go, a later null leaves the field as it is.
                    if raw.get() != "null" {
                        *field = Some(raw);
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

enum Key {
    Name,
    Version,
    UpdateIfChanged,
    Value,
    Unknown,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
                let is = |name: &str| folded(key).eq(name.chars());
                Ok(if is("name") {
                    Key::Name
                } else if is("version") {
                    Key::Version
                } else if is("updateifchanged") {
                    Key::UpdateIfChanged
                } else if is("value") {
                    Key::Value
                } else {
                    Key::Unknown
                })
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// Folds case as Go does for keys: by Unicode's simple folding, in which two characters outside of
/// ASCII fold to a letter within.
fn folded(key: &str) -> impl Iterator<Item = char> + '_ {
    key.chars().map(|character| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        character => character.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(body: &str) -> Result<Request, String> {
        Request::parse(body.as_bytes()).map_err(|error| error.to_string())
    }

    fn error(body: &str) -> String {
        parsed(body)
            .err()
            .unwrap_or_else(|| panic!("{body} was accepted"))
    }

    #[test]
    fn fields_are_matched_as_go_matches_them() {
        for body in [
            r#"{"Name":"a","Version":7,"Value":"aGk=","UpdateIfChanged":true}"#,
            r#"{"name":"a","VERSION":7,"vAlue":"aGk=","updateifchanged":true}"#,
            r#"{"Name":"b","name":"a","Verſion":7,"Extra":{"Name":["x"]},"Value":"aGk=","UpdateIfChanged":true}"#,
            r#" {"Na\u006de":"a","Version":7,"Name":null,"Value":"aG\nk=","UpdateIfChanged":true} "#,
        ] {
            let request = parsed(body).unwrap();
            assert_eq!(request.name().unwrap().name.as_str(), "a", "{body}");
            assert_eq!(request.version().unwrap().get(), 7);
            assert!(request.update_if_changed());
            assert_eq!(request.into_value().as_bytes(), b"hi");
        }
    }

    #[test]
    fn what_is_absent_or_null_is_zero() {
        for body in [
            "{}",
            "null",
            r#"{"Name":null,"Version":null,"Value":null,"UpdateIfChanged":null}"#,
        ] {
            let request = parsed(body).unwrap();
            assert!(request.name().is_err() && request.version().is_err(), "{body}");
            assert!(request.optional_version().is_none() && !request.update_if_changed());
            assert!(request.into_value().is_empty());
        }
    }

    #[test]
    fn messages_name_the_field() {
        for version in [
            "-1",
            "4294967296",
            "1e30",
            "1.5",
            "1.0",
            "\"1\"",
            "true",
            "[1]",
            "{}",
        ] {
            let message = error(&format!(r#"{{"Version":{version}}}"#));
            assert_eq!(
                message, "invalid request: Version must be an integer from 0 to 4294967295",
                "{version}"
            );
        }
        assert!(parsed(r#"{"Version":4294967295}"#).is_ok());
        for value in [
            "1",
            "[104,105]",
            "\"aGk\"",
            "\"a Gk=\"",
            "\"aGk=aGk=\"",
            "\"\\u0000\"",
            "\"aGl=\"",
            "true",
        ] {
            assert!(
                error(&format!(r#"{{"Value":{value}}}"#)).contains("Value must be a string in"),
                "{value}"
            );
        }
        assert!(error(r#"{"Name":1}"#).contains("Name must be a string"));
        assert!(error(r#"{"Name":"\ud800"}"#).contains("Name must be a string"));
        assert!(error(r#"{"UpdateIfChanged":"yes"}"#).contains("UpdateIfChanged must be"));
        let named = |name: &str| {
            parsed(&format!(r#"{{"Name":"{name}"}}"#))
                .unwrap()
                .name()
                .unwrap_err()
                .to_string()
        };
        assert!(named("").contains("Name: the secret name is empty"));
        assert!(named("a\\u0000b").contains("Name: "));
        assert!(named(&"n".repeat(1025)).contains("Name: "));
    }

    #[test]
    fn malformed_bodies_are_refused_without_being_repeated() {
        for body in [
            "",
            "{",
            "[]",
            "1",
            "\"hidden\"",
            "{\"Name\":\"hidden\"",
            "{\"Name\":hidden}",
            "{} {}",
            "{}x",
        ] {
            assert!(!error(body).contains("hidden"), "{body}");
        }
        assert_eq!(
            Request::parse(b"{\"Name\":\"\xff\"}").err().unwrap().to_string(),
            "invalid request: the body is not UTF-8"
        );
    }

    #[test]
    fn list_takes_null_nothing_and_objects() {
        for body in ["", " \n", "null", "{}", r#"{"x":1}"#] {
            assert_eq!(Request::parse_list(body.as_bytes()), Ok(()), "{body}");
        }
        for body in ["[]", "1", "{", "\"x\""] {
            assert!(Request::parse_list(body.as_bytes()).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back(bytes: Vec<u8>, name in "[^\\p{Cc}]{1,40}", version: u32) {
            let body = serde_json::json!({"Name": name, "Version": version, "Value": STANDARD.encode(&bytes)});
            let request = parsed(&body.to_string()).unwrap();
            let parsed_name = request.name().unwrap();
            prop_assert_eq!(parsed_name.name.as_str(), name.as_str());
            prop_assert_eq!(request.optional_version().map_or(0, Version::get), version);
            let value = request.into_value();
            prop_assert_eq!(value.as_bytes(), bytes.as_slice());
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, text in "[{}\\[\\]\":,naNveVlu0-9\\\\]{0,60}") {
            let _ = Request::parse(&bytes);
            let _ = Request::parse_list(&bytes);
            if let Ok(request) = Request::parse(text.as_bytes()) {
                let _ = (request.name(), request.version(), request.into_value());
            }
        }
    }
}
