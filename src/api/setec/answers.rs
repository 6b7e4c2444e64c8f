//! Response bodies, written as Go's `encoding/json` writes them: `{"Value":"…","Version":15}`,
//! `{"Name":"…","Versions":[1,2],"ActiveVersion":2}`, lists, integers, `null`.

use crate::{
    operations::{SecretInfo, SecretValue},
    server::Answer,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use conclave_cluster::model::Version;
use hyper::StatusCode;
use serde::Serialize;
use zeroize::Zeroizing;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info<'a> {
    name: &'a str,
    versions: Vec<u32>,
    active_version: u32,
}

/// A secret's value.
pub(super) fn value(value: &SecretValue) -> Answer {
    write_value(value.value.as_bytes(), value.version)
}

/// A secret's metadata.
pub(super) fn info(info: &SecretInfo) -> Answer {
    Answer::json(StatusCode::OK, &shown(info))
}

/// Metadata of several secrets.
pub(super) fn list(infos: &[SecretInfo]) -> Answer {
    Answer::json(StatusCode::OK, &infos.iter().map(shown).collect::<Vec<_>>())
}

/// A version's number.
pub(super) fn version(version: Version) -> Answer {
    Answer::json(StatusCode::OK, &version.get())
}

/// Done, and there is nothing to say.
pub(super) fn null() -> Answer {
    Answer::json(StatusCode::OK, &())
}

fn shown(info: &SecretInfo) -> Info<'_> {
    Info {
        name: info.name.name.as_str(),
        versions: info.held_versions().map(Version::get).collect(),
        active_version: info.active.map_or(0, Version::get),
    }
}

/// Writes into one buffer of sufficient size, so that no copy of the value stays behind.
fn write_value(value: &[u8], version: Version) -> Answer {
    let encoded_bytes = value.len().div_ceil(3) * 4;
    let mut body = Zeroizing::new(Vec::with_capacity(encoded_bytes + 64));
    body.extend_from_slice(b"{\"Value\":\"");
    let start = body.len();
    body.resize(start + encoded_bytes, 0);
    STANDARD
        .encode_slice(value, &mut body[start..])
        .expect("base64 writes four bytes for three, padded");
    body.extend_from_slice(format!("\",\"Version\":{version}}}").as_bytes());
    Answer::json_bytes(StatusCode::OK, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::FullName;
    use conclave_cluster::{
        command::VersionView,
        model::{EndAction, VersionState},
    };
    use proptest::prelude::*;

    fn text(answer: &Answer) -> &str {
        std::str::from_utf8(answer.body()).unwrap()
    }

    fn secret(states: &[VersionState], active: Option<u32>) -> SecretInfo {
        let version = |number: usize| Version::new(number as u32).unwrap();
        SecretInfo {
            name: FullName::setec("a\"<é").unwrap(),
            active: active.and_then(Version::new),
            made_ms: 0,
            changed_ms: 0,
            versions: states
                .iter()
                .enumerate()
                .map(|(position, state)| VersionView {
                    version: version(position + 1),
                    state: *state,
                    made_ms: 0,
                    changed_ms: 0,
                    expires_ms: None,
                    disclosures_left: None,
                    on_end: EndAction::Disable,
                    metadata: None,
                })
                .collect(),
        }
    }

    #[test]
    fn shapes_are_those_of_the_document() {
        let version = Version::new(15).unwrap();
        assert_eq!(
            text(&write_value(b"hello, world", version)),
            r#"{"Value":"aGVsbG8sIHdvcmxk","Version":15}"#
        );
        assert_eq!(text(&write_value(b"", version)), r#"{"Value":"","Version":15}"#);
        assert_eq!(text(&super::version(version)), "15");
        assert_eq!(text(&null()), "null");
        assert_eq!(text(&list(&[])), "[]");
        let states = [
            VersionState::Enabled,
            VersionState::Destroyed,
            VersionState::Disabled,
        ];
        assert_eq!(
            text(&info(&secret(&states, Some(1)))),
            r#"{"Name":"a\"<é","Versions":[1,3],"ActiveVersion":1}"#
        );
        assert_eq!(
            text(&list(&[secret(&[], None)])),
            r#"[{"Name":"a\"<é","Versions":[],"ActiveVersion":0}]"#
        );
    }

    proptest! {
        #[test]
        fn values_are_read_back_as_json(bytes: Vec<u8>, number in 1_u32..) {
            let answer = write_value(&bytes, Version::new(number).unwrap());
            let json: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
            prop_assert_eq!(json["Version"].as_u64(), Some(number.into()));
            prop_assert_eq!(STANDARD.decode(json["Value"].as_str().unwrap()).unwrap(), bytes);
        }
    }
}
