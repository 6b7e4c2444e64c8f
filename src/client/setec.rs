//! setec's eight methods, as its HTTP API has them.

use super::{
    Client, ClientError, Repetition,
    transport::{Accept, Request, Response},
};
use crate::api::setec::{NO_BROWSERS, NO_BROWSERS_VALUE};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// A secret's metadata.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SecretInfo {
    /// The full name.
    pub name: String,
    /// Every version that has a value, in order.
    pub versions: Vec<u32>,
    /// The version that a plain get answers; 0 when none is active.
    pub active_version: u32,
}

/// A value. Erased from memory when dropped.
pub struct SecretValue {
    /// The bytes as they were put.
    pub value: Zeroizing<Vec<u8>>,
    /// The version that they belong to.
    pub version: u32,
}

impl Client {
    /// Every secret that the caller may see, in order of names.
    pub async fn list(&self) -> Result<Vec<SecretInfo>, ClientError> {
        let response = self
            .call("list", Bytes::from_static(b"{}"), Repetition::Harmless)
            .await?;
        decode::<Option<Vec<SecretInfo>>>(&response).map(Option::unwrap_or_default)
    }

    /// One secret's metadata.
    pub async fn info(&self, name: &str) -> Result<SecretInfo, ClientError> {
        let body = encode(&Named { name, version: None });
        decode(&self.call("info", body, Repetition::Harmless).await?)
    }

    /// A value: of the given version, or of the active one.
    pub async fn get(&self, name: &str, version: Option<u32>) -> Result<SecretValue, ClientError> {
        let body = encode(&Named { name, version });
        decode_value(&self.call("get", body, Repetition::Harmless).await?)
    }

    /// The active value unless `version` is the active one: `None` then, and no record.
    pub async fn get_if_changed(&self, name: &str, version: u32) -> Result<Option<SecretValue>, ClientError> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Conditional<'a> {
            name: &'a str,
            version: u32,
            update_if_changed: bool,
        }
        let body = encode(&Conditional {
            name,
            version,
            update_if_changed: true,
        });
        let response = self.call("get", body, Repetition::Harmless).await?;
        if response.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        decode_value(&response).map(Some)
    }

    /// Adds a value and returns its version. Putting it again makes no new version while it is the
    /// active or the latest one, so a put is repeated freely.
    pub async fn put(&self, name: &str, value: &[u8]) -> Result<u32, ClientError> {
        let body = encode_with_value(name, None, value);
        decode(&self.call("put", body, Repetition::Harmless).await?)
    }

    /// Makes and activates exactly this version, which must never have had a value.
    pub async fn create_version(&self, name: &str, version: u32, value: &[u8]) -> Result<(), ClientError> {
        let body = encode_with_value(name, Some(version), value);
        self.call("create-version", body, Repetition::Harmful)
            .await
            .map(drop)
    }

    /// Makes a version the active one.
    pub async fn activate(&self, name: &str, version: u32) -> Result<(), ClientError> {
        let body = encode(&Named {
            name,
            version: Some(version),
        });
        self.call("activate", body, Repetition::Harmless).await.map(drop)
    }

    /// Destroys a version that isn't active.
    pub async fn delete_version(&self, name: &str, version: u32) -> Result<(), ClientError> {
        let body = encode(&Named {
            name,
            version: Some(version),
        });
        self.call("delete-version", body, Repetition::Harmful)
            .await
            .map(drop)
    }

    /// Destroys all versions. Deleting what isn't there succeeds.
    pub async fn delete(&self, name: &str) -> Result<(), ClientError> {
        let body = encode(&Named { name, version: None });
        self.call("delete", body, Repetition::Harmless).await.map(drop)
    }

    async fn call(&self, method: &str, body: Bytes, repetition: Repetition) -> Result<Response, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(NO_BROWSERS, HeaderValue::from_static(NO_BROWSERS_VALUE));
        let path = format!("/api/{method}");
        let request = Request {
            method: Method::POST,
            path,
            headers,
            body,
            repetition,
            accept: Accept::Served,
        };
        let response = self.send(request).await?;
        match response.status {
            StatusCode::OK | StatusCode::NOT_MODIFIED => Ok(response),
            status => Err(refusal(status, String::from_utf8_lossy(&response.body).trim())),
        }
    }
}

/// The same kinds as of our own API: what the caller has to change is invalid.
fn refusal(status: StatusCode, message: &str) -> ClientError {
    let message = message.to_owned();
    match status {
        StatusCode::NOT_FOUND => ClientError::NotFound(message),
        StatusCode::FORBIDDEN => ClientError::Denied(message),
        StatusCode::BAD_REQUEST
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::PRECONDITION_FAILED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ClientError::Invalid(message),
        status => ClientError::Other(format!("the node answered {status}: {message}")),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Named<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
}

fn encode(request: &impl Serialize) -> Bytes {
    serde_json::to_vec(request)
        .expect("names and numbers are always JSON")
        .into()
}

/// Written by hand so that the only copies of the value are erased when dropped.
fn encode_with_value(name: &str, version: Option<u32>, value: &[u8]) -> Bytes {
    let name = serde_json::to_string(name).expect("a string is always JSON");
    let version = version
        .map(|version| format!("\"Version\":{version},"))
        .unwrap_or_default();
    let frame = format!("{{\"Name\":{name},{version}\"Value\":\"");
    let base64_length = value.len().div_ceil(3) * 4;
    let mut body = Zeroizing::new(Vec::with_capacity(frame.len() + base64_length + 2));
    body.extend_from_slice(frame.as_bytes());
    body.resize(frame.len() + base64_length, 0);
    let written = STANDARD
        .encode_slice(value, &mut body[frame.len()..])
        .expect("the buffer has base64's length");
    debug_assert_eq!(written, base64_length);
    body.extend_from_slice(b"\"}");
    Bytes::from_owner(body)
}

fn decode<T: DeserializeOwned>(response: &Response) -> Result<T, ClientError> {
    serde_json::from_slice(&response.body)
        .map_err(|error| ClientError::Other(format!("the node's answer cannot be understood: {error}")))
}

fn decode_value(response: &Response) -> Result<SecretValue, ClientError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Encoded<'a> {
        #[serde(borrow)]
        value: Option<std::borrow::Cow<'a, str>>,
        version: u32,
    }
    let refuse = |reason: &dyn std::fmt::Display| {
        ClientError::Other(format!("the node's answer cannot be understood: {reason}"))
    };
    let encoded: Encoded<'_> = serde_json::from_slice(&response.body).map_err(|error| refuse(&error))?;
    // Go writes an empty byte slice as "" or null.
    let base64 = encoded.value.as_deref().unwrap_or_default();
    let value = STANDARD.decode(base64).map_err(|error| refuse(&error))?;
    Ok(SecretValue {
        value: Zeroizing::new(value),
        version: encoded.version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(body: &str) -> Response {
        Response {
            status: StatusCode::OK,
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn what_the_caller_has_to_change_is_invalid() {
        for status in [400, 408, 412, 413, 421, 431] {
            let status = StatusCode::from_u16(status).expect("a status");
            let refused = refusal(status, "why");
            assert_eq!(refused, ClientError::Invalid("why".into()), "{status}");
        }
        let defect = refusal(StatusCode::INTERNAL_SERVER_ERROR, "why");
        assert!(matches!(defect, ClientError::Other(_)));
    }

    #[test]
    fn answers_as_go_writes_them() {
        let value = decode_value(&response(r#"{"Value":"aGVsbG8sIHdvcmxk","Version":15}"#))
            .unwrap_or_else(|error| panic!("a value: {error}"));
        assert_eq!((&value.value[..], value.version), (&b"hello, world"[..], 15));
        let empty = decode_value(&response(r#"{"Value":null,"Version":1}"#))
            .unwrap_or_else(|error| panic!("an empty value: {error}"));
        assert!(empty.value.is_empty());
        assert!(decode_value(&response(r#"{"Value":"?","Version":1}"#)).is_err());
        let info: SecretInfo = decode(&response(
            r#"{"Name":"example","Versions":[1,2,3],"ActiveVersion":2}"#,
        ))
        .expect("an info");
        assert_eq!((info.versions, info.active_version), (vec![1, 2, 3], 2));
        assert_eq!(
            decode::<Option<Vec<SecretInfo>>>(&response("null")).expect("null"),
            None
        );
    }

    proptest! {
        #[test]
        fn a_put_is_json_with_the_exact_bytes(name in ".*", version: Option<u32>, value: Vec<u8>) {
            let body = encode_with_value(&name, version, &value);
            let parsed: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            prop_assert_eq!(parsed["Name"].as_str(), Some(name.as_str()));
            prop_assert_eq!(parsed["Version"].as_u64(), version.map(u64::from));
            let decoded = STANDARD.decode(parsed["Value"].as_str().expect("base64")).expect("base64");
            prop_assert_eq!(decoded, value);
        }
    }
}
