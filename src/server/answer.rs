//! Responses. Their bytes are wiped once they were sent, for they may hold a value; until then they
//! keep their request's slot, so that answers that nobody takes are bounded.

use super::slots::Slot;
use crate::metric_definitions as metrics;
use bytes::Bytes;
use hyper::{
    HeaderMap, Response, StatusCode, header,
    header::{HeaderName, HeaderValue},
};
use serde::Serialize;
use std::time::Duration;
use zeroize::Zeroizing;

/// Where the answer names its request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers that an answer has room for from the start.
const HEADERS: usize = 6;

/// A response before it is one: status, headers, body, and how it is counted.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
    slot: Option<Slot>,
    is_outage: bool,
}

impl Answer {
    /// JSON.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(256));
        serde_json::to_writer(&mut *bytes, body).expect("our messages always have a JSON form");
        Self::json_bytes(status, bytes)
    }

    /// JSON that was written already, in a buffer that never moved.
    pub fn json_bytes(status: StatusCode, body: Zeroizing<Vec<u8>>) -> Self {
        Self::with_type(status, "application/json", body)
    }

    /// Short plain text.
    pub fn text(status: StatusCode, message: impl AsRef<str>) -> Self {
        let body = Zeroizing::new(format!("{}\n", message.as_ref()).into_bytes());
        Self::with_type(status, "text/plain; charset=utf-8", body)
    }

    /// No body.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::with_capacity(HEADERS),
            body: Zeroizing::default(),
            slot: None,
            is_outage: false,
        }
    }

    /// Tells the caller when to try again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        let seconds = after.as_millis().div_ceil(1000).max(1);
        let value = HeaderValue::from_str(&seconds.to_string()).expect("digits are a header value");
        self.headers.insert(header::RETRY_AFTER, value);
        self
    }

    /// Says that the cluster cannot serve now, and when to try again. It is counted as unavailable,
    /// whatever its status.
    pub fn outage(self, retry: Duration) -> Self {
        Self {
            is_outage: true,
            ..self.retry_after(retry)
        }
    }

    /// How it is counted.
    pub fn outcome(&self) -> &'static str {
        if self.is_outage {
            metrics::UNAVAILABLE
        } else {
            metrics::outcome(self.status)
        }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its body.
    #[cfg(test)]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Its headers.
    #[cfg(test)]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// How many bytes its body has.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Keeps its request's slot until it was sent.
    pub(super) fn holding(mut self, slot: Option<Slot>) -> Self {
        self.slot = slot;
        self
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Bytes> {
        let body = WipedAfterUse {
            bytes: self.body,
            _slot: self.slot,
        };
        let mut response = Response::new(Bytes::from_owner(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        if let Ok(request_id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, request_id);
        }
        response
    }

    fn with_type(status: StatusCode, content_type: &'static str, body: Zeroizing<Vec<u8>>) -> Self {
        let mut answer = Self {
            status,
            headers: HeaderMap::with_capacity(HEADERS),
            body,
            slot: None,
            is_outage: false,
        };
        answer
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        answer
    }
}

/// A body, which lives until its last byte was handed to TLS, or its connection or stream ended.
struct WipedAfterUse {
    bytes: Zeroizing<Vec<u8>>,
    _slot: Option<Slot>,
}

impl AsRef<[u8]> for WipedAfterUse {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
