//! One request over several nodes: which is asked, when the next is tried, when we give up.

use super::{ClientError, Settings, SettingsError};
use crate::api::conclave::messages::ErrorBody;
use bytes::Bytes;
use reqwest::{
    Method, StatusCode, Url,
    header::{HeaderMap, RETRY_AFTER},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// A client of one cluster. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    addresses: Arc<[Url]>,
    /// Index of the node that served last, so that a dead one is not tried first every time.
    preferred: Arc<AtomicUsize>,
    timeout: Duration,
}

/// Whether a request may be sent again when it may have been carried out already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repetition {
    /// Twice is the same as once: reads (a repeated one is recorded twice, which is true), and
    /// writes that name the state they lead to. setec's put is one of these: a value equal to the
    /// active or the latest version's makes no new version.
    Harmless,
    /// A second time would fail or do more; sent again only when certainly not carried out.
    Harmful,
}

/// A request to whichever node serves it.
pub(super) struct Request {
    pub method: Method,
    /// Absolute path with query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub repetition: Repetition,
    /// Which answers end the search for a node.
    pub accept: Accept,
}

/// Which answers end the search for a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accept {
    /// Those that do not say that another node, or a later time, would do better.
    Served,
    /// All: the question is about the node itself.
    Any,
}

/// A node's answer: one that says more than "ask another".
pub(super) struct Response {
    pub status: StatusCode,
    pub body: Zeroizing<Vec<u8>>,
}

/// What one attempt at one node came to.
enum Attempt {
    Answered(Response),
    /// Certainly not carried out.
    NotDone(String, Option<Duration>),
    /// Sent; perhaps carried out.
    Unknown(String),
}

impl Client {
    /// Makes a client. Nothing is connected yet.
    ///
    /// # Errors
    /// When an address or a PEM file cannot be used; the message names it.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(settings.tls()?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("conclave/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| SettingsError(format!("HTTP client: {}", chain(&error))))?;
        Ok(Self {
            http,
            addresses: settings.base_urls()?.into(),
            preferred: Arc::new(AtomicUsize::new(0)),
            timeout: settings.timeout,
        })
    }

    /// The nodes that this client knows.
    pub fn addresses(&self) -> impl ExactSizeIterator<Item = &Url> {
        self.addresses.iter()
    }

    /// The same client, for only the node at this position in [`Self::addresses`].
    ///
    /// # Panics
    /// When there is no such position.
    pub fn at(&self, position: usize) -> Self {
        Self {
            addresses: [self.addresses[position].clone()].into(),
            preferred: Arc::default(),
            ..self.clone()
        }
    }

    /// How long a request may take over all nodes and repetitions.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The same client with another limit on a request's time.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// Sends a request to the nodes in turn until one answers or the time is up.
    pub(super) async fn send(&self, request: Request) -> Result<Response, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut pause = FIRST_PAUSE;
        let mut unknown = None;
        loop {
            let mut reasons = Vec::new();
            let mut wait = pause;
            for offset in 0..self.addresses.len() {
                let position = (first + offset) % self.addresses.len();
                let address = &self.addresses[position];
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    reasons.push("the time is up".to_owned());
                    break;
                }
                match self
                    .attempt(address, &request, self.attempt_time(left, request.repetition))
                    .await
                {
                    Attempt::Answered(response) => {
                        self.preferred.store(position, Ordering::Relaxed);
                        return Ok(response);
                    }
                    Attempt::NotDone(reason, retry_after) => {
                        reasons.push(format!("{}: {reason}", origin(address)));
                        wait = wait.max(retry_after.unwrap_or_default().min(LONGEST_PAUSE));
                    }
                    Attempt::Unknown(reason) => {
                        let reason = format!("{}: {reason}", origin(address));
                        if request.repetition == Repetition::Harmful {
                            return Err(ClientError::OutcomeUnknown(reason));
                        }
                        unknown = Some(reason.clone());
                        reasons.push(reason);
                    }
                }
            }
            if Instant::now() + wait >= deadline {
                let reasons = reasons.join("; ");
                return Err(match unknown {
                    Some(_) => ClientError::OutcomeUnknown(reasons),
                    None => ClientError::Unavailable(reasons),
                });
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// How long one node may take: all that is left when the request must not be repeated, else a
    /// part of it, so that a node that hangs leaves time for the others.
    fn attempt_time(&self, left: Duration, repetition: Repetition) -> Duration {
        match repetition {
            Repetition::Harmful => left,
            Repetition::Harmless if self.addresses.len() == 1 => left,
            Repetition::Harmless => left.min((self.timeout / 3).max(SHORTEST_ATTEMPT)),
        }
    }

    async fn attempt(&self, address: &Url, request: &Request, time: Duration) -> Attempt {
        let url = address
            .join(&request.path)
            .expect("an origin and an absolute path are a URL");
        let sending = self
            .http
            .request(request.method.clone(), url)
            .headers(request.headers.clone())
            .body(request.body.clone())
            .timeout(time)
            .send();
        let mut response = match sending.await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Attempt::NotDone(chain(&error.without_url()), None),
            Err(error) if error.is_builder() => return Attempt::NotDone(chain(&error.without_url()), None),
            Err(error) => return Attempt::Unknown(chain(&error.without_url())),
        };
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).map(|value| {
            value
                .to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .map_or(FIRST_PAUSE, Duration::from_secs)
        });
        let mut body = Zeroizing::new(Vec::new());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > LARGEST_RESPONSE_BYTES => {
                    return Attempt::Unknown(format!(
                        "the answer has more than {LARGEST_RESPONSE_BYTES} bytes"
                    ));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Attempt::Unknown(chain(&error.without_url())),
            }
        }
        if request.accept == Accept::Any || !asks_to_try_again(status, retry_after.is_some()) {
            return Attempt::Answered(Response { status, body });
        }
        let reason = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => body.error.message,
            Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
        };
        if reason.contains(UNKNOWN_OUTCOME) {
            Attempt::Unknown(reason)
        } else {
            Attempt::NotDone(reason, retry_after)
        }
    }
}

/// For one node: on one machine or within a site.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A list of 100,000 secrets fits.
const LARGEST_RESPONSE_BYTES: usize = 256 << 20;
/// The words by which a node says that a request may have been carried out.
const UNKNOWN_OUTCOME: &str = "outcome is unknown";

/// setec's document leaves "cannot serve now" no status of its own but 500; ours carries
/// `Retry-After` then.
fn asks_to_try_again(status: StatusCode, has_retry_after: bool) -> bool {
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => has_retry_after,
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => true,
        _ => false,
    }
}

fn origin(address: &Url) -> &str {
    address.as_str().trim_end_matches('/')
}

/// An error with its causes, without the URL, which the caller adds.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_say_so_are_tried_elsewhere() {
        assert!(asks_to_try_again(StatusCode::INTERNAL_SERVER_ERROR, true));
        assert!(!asks_to_try_again(StatusCode::INTERNAL_SERVER_ERROR, false));
        assert!(asks_to_try_again(StatusCode::SERVICE_UNAVAILABLE, false));
        assert!(!asks_to_try_again(StatusCode::NOT_FOUND, true));
        assert!(!asks_to_try_again(StatusCode::OK, true));
    }
}
