//! One call of setec's API to one node, sent once, and honestly what became of it.
//!
//! The node's word is believed, for it is what is tested: an error that does not say that the outcome
//! is unknown claims that nothing was done. Everything that ended without an answer is *info* once
//! bytes may have been sent, and *fail* only where no connection came about.

use crate::{
    HarnessError,
    history::{Answer, Call, Invocation, Listed, Outcome, Recorder},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use conclave::client::Settings;
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// A caller with a certificate and connections of its own.
pub struct Caller {
    http: reqwest::Client,
    recorder: Arc<Recorder>,
    /// Which of all clients it is.
    position: u64,
    /// How many clients there are: Jepsen's process numbers of one client are these apart.
    clients: u64,
    /// How often it did not learn what became of an operation.
    lives: u64,
    principal: String,
    workload: String,
    apis: Vec<String>,
}

/// Who calls.
pub struct CallerOptions {
    pub position: u64,
    pub clients: u64,
    pub principal: String,
    pub workload: String,
    /// `https://…` of each node.
    pub apis: Vec<String>,
    /// How long it waits for an answer.
    pub timeout: Duration,
}

impl Caller {
    /// Makes a caller. Nothing is connected yet.
    ///
    /// # Errors
    /// When its certificate cannot be used.
    pub fn new(
        settings: &Settings,
        recorder: Arc<Recorder>,
        options: CallerOptions,
    ) -> Result<Self, HarnessError> {
        let tls = settings.tls().map_err(|error| HarnessError(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT.min(options.timeout))
            .timeout(options.timeout)
            // Nothing is sent twice: each operation is one request.
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| HarnessError::about("HTTP client", error))?;
        Ok(Self {
            http,
            recorder,
            position: options.position,
            clients: options.clients,
            lives: 0,
            principal: options.principal,
            workload: options.workload,
            apis: options.apis,
        })
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.apis.len()
    }

    /// Calls a node, takes it down, and returns what became of it.
    pub async fn call(&mut self, node: usize, secret: Option<&str>, call: Call) -> Outcome {
        let id = self.recorder.invoke(Invocation {
            process: self.position + self.lives * self.clients,
            principal: &self.principal,
            workload: &self.workload,
            node,
            secret: secret.map(str::to_owned),
            call: call.clone(),
        });
        let (outcome, request_id) = self.send(node, secret, &call).await;
        if matches!(outcome, Outcome::Info { .. }) {
            self.lives += 1;
        }
        self.recorder.complete(id, outcome.clone(), request_id);
        outcome
    }

    async fn send(&self, node: usize, secret: Option<&str>, call: &Call) -> (Outcome, Option<String>) {
        let sending = self
            .http
            .post(format!("{}/api/{}", self.apis[node], method(call)))
            .header(CONTENT_TYPE, "application/json")
            .header("Sec-X-Tailscale-No-Browsers", "setec")
            .body(body(secret, call).to_string());
        let response = match sending.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => {
                let reason = format!("no connection: {}", chain(&error.without_url()));
                return (Outcome::Fail { reason }, None);
            }
            Err(error) => {
                let reason = chain(&error.without_url());
                return (Outcome::Info { reason }, None);
            }
        };
        let status = response.status();
        let header = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let request_id = header("x-request-id");
        let asks_to_try_again = response.headers().contains_key(RETRY_AFTER);
        let outcome = match response.bytes().await {
            Ok(body) => read(call, status, asks_to_try_again, &body),
            Err(error) => Outcome::Info {
                reason: chain(&error.without_url()),
            },
        };
        (outcome, request_id)
    }
}

/// Longer than an election, shorter than most faults: so that clients meet both.
pub const CALL_TIMEOUT: Duration = Duration::from_millis(2_500);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// What a node says where a request may have been carried out.
const UNKNOWN_OUTCOME: &str = "outcome is unknown";
/// The reason of an *info* for which there is no excuse: 500 without `Retry-After`.
pub const INTERNAL_ERROR: &str = "internal error";

fn method(call: &Call) -> &'static str {
    match call {
        Call::Put { .. } => "put",
        Call::CreateVersion { .. } => "create-version",
        Call::Activate { .. } => "activate",
        Call::Get | Call::GetVersion { .. } | Call::Poll { .. } => "get",
        Call::Info => "info",
        Call::DeleteVersion { .. } => "delete-version",
        Call::Delete => "delete",
        Call::List => "list",
    }
}

fn body(secret: Option<&str>, call: &Call) -> Value {
    match call {
        Call::List => json!({}),
        Call::Get | Call::Info | Call::Delete => json!({ "Name": secret }),
        Call::Put { value } => json!({ "Name": secret, "Value": STANDARD.encode(text_of(*value)) }),
        Call::CreateVersion { version, value } => {
            json!({ "Name": secret, "Version": version, "Value": STANDARD.encode(text_of(*value)) })
        }
        Call::Poll { version } => json!({ "Name": secret, "Version": version, "UpdateIfChanged": true }),
        Call::GetVersion { version } | Call::Activate { version } | Call::DeleteVersion { version } => {
            json!({ "Name": secret, "Version": version })
        }
    }
}

/// A value as it is stored. Some are long, so that logs and snapshots grow.
fn text_of(value: u64) -> String {
    let length = match value % 16 {
        0 => 8 << 10,
        1..4 => 512,
        _ => 0,
    };
    format!("{VALUE_PREFIX}{value}{}", ".".repeat(length))
}

/// The number of a value as it was stored; `None`: nobody stored this.
fn number_of(text: &str) -> Option<u64> {
    let number = text
        .strip_prefix(VALUE_PREFIX)?
        .trim_end_matches('.')
        .parse()
        .ok()?;
    (text_of(number) == text).then_some(number)
}

const VALUE_PREFIX: &str = "value ";

fn read(call: &Call, status: StatusCode, asks_to_try_again: bool, body: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(body);
    let ok = |answer| Outcome::Ok { answer };
    let said = format!("{}: {}", status.as_u16(), text.trim());
    match status {
        StatusCode::OK => match answer(call, body) {
            Some(answer) => ok(answer),
            None => ok(Answer::Foreign {
                text: text.chars().take(200).collect(),
            }),
        },
        StatusCode::NOT_MODIFIED => ok(Answer::NotModified),
        StatusCode::NOT_FOUND => ok(Answer::NotFound),
        StatusCode::PRECONDITION_FAILED => ok(Answer::VersionUsed),
        StatusCode::FORBIDDEN => ok(Answer::Denied),
        StatusCode::BAD_REQUEST if matches!(call, Call::DeleteVersion { .. }) => ok(Answer::ActiveVersion),
        StatusCode::INTERNAL_SERVER_ERROR if text.contains(UNKNOWN_OUTCOME) => Outcome::Info { reason: said },
        StatusCode::INTERNAL_SERVER_ERROR if asks_to_try_again => Outcome::Fail { reason: said },
        StatusCode::INTERNAL_SERVER_ERROR => Outcome::Info {
            reason: format!("{INTERNAL_ERROR}: {said}"),
        },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT => {
            Outcome::Fail { reason: said }
        }
        _ => ok(Answer::Foreign { text: said }),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    name: String,
    versions: Vec<u32>,
    active_version: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    value: String,
    version: u32,
}

/// What a node's 200 says; `None`: nothing that fits the call.
fn answer(call: &Call, body: &[u8]) -> Option<Answer> {
    Some(match call {
        Call::Put { .. } => Answer::Version {
            version: serde_json::from_slice(body).ok()?,
        },
        Call::CreateVersion { .. } | Call::Activate { .. } | Call::DeleteVersion { .. } | Call::Delete => {
            let nothing: Value = serde_json::from_slice(body).ok()?;
            nothing.is_null().then_some(Answer::Done)?
        }
        Call::Get | Call::GetVersion { .. } | Call::Poll { .. } => {
            let secret: Secret = serde_json::from_slice(body).ok()?;
            let text = String::from_utf8(STANDARD.decode(secret.value).ok()?).ok()?;
            Answer::Value {
                version: secret.version,
                value: number_of(&text)?,
            }
        }
        Call::Info => {
            let info: Info = serde_json::from_slice(body).ok()?;
            Answer::Versions {
                versions: info.versions,
                active: info.active_version,
            }
        }
        Call::List => {
            let listed: Vec<Info> = serde_json::from_slice(body).ok()?;
            let listed = listed.into_iter().map(|info| Listed {
                name: info.name,
                versions: info.versions,
                active: info.active_version,
            });
            Answer::Listing {
                secrets: listed.collect(),
            }
        }
    })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_known_by_every_byte() {
        for value in 0..40 {
            assert_eq!(number_of(&text_of(value)), Some(value));
        }
        for text in ["", "value ", "value 7..", "value 07", "value 16.", "7", "value x"] {
            assert_eq!(number_of(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_surely_was_not_done_is_a_failure() {
        let is = |status: u16, asks_to_try_again, body: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            read(
                &Call::Put { value: 7 },
                status,
                asks_to_try_again,
                body.as_bytes(),
            )
        };
        let unknown = is(500, true, "no majority answered in time; the outcome is unknown");
        assert!(matches!(unknown, Outcome::Info { .. }));
        assert!(matches!(is(500, true, "nothing was done"), Outcome::Fail { .. }));
        assert!(matches!(is(503, true, "busy"), Outcome::Fail { .. }));
        let Outcome::Info { reason } = is(500, false, "internal error; the log says more") else {
            panic!("an internal error says nothing about what was done");
        };
        assert!(reason.starts_with(INTERNAL_ERROR));
        let answer = Answer::Version { version: 3 };
        assert_eq!(is(200, false, "3"), Outcome::Ok { answer });
        assert!(matches!(
            is(200, false, "null"),
            Outcome::Ok {
                answer: Answer::Foreign { .. }
            }
        ));
        assert!(matches!(
            is(418, false, ""),
            Outcome::Ok {
                answer: Answer::Foreign { .. }
            }
        ));
    }

    #[test]
    fn a_value_that_nobody_put_is_foreign() {
        let body = |text: &str| json!({ "Value": STANDARD.encode(text), "Version": 2 }).to_string();
        let get = |text: &str| read(&Call::Get, StatusCode::OK, false, body(text).as_bytes());
        let answer = Answer::Value { version: 2, value: 4 };
        assert_eq!(get("value 4"), Outcome::Ok { answer });
        assert!(matches!(
            get("valuf 4"),
            Outcome::Ok {
                answer: Answer::Foreign { .. }
            }
        ));
    }
}
