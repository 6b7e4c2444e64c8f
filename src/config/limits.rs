//! `[limits]`: what the API listener accepts, and what it answers beyond that.

use serde::{Deserialize, Serialize};

/// `[limits]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Bytes of one secret value. Default 1 MiB; more is answered 400.
    pub value_bytes: usize,
    /// Bytes of one request body. Default 2 MiB (a value in base64 takes a third more than the
    /// value itself); more is answered 400 in setec's API, 413 in Conclave's own.
    pub body_bytes: usize,
    /// Bytes of a request's line and headers. Default 16 KiB, at least 8 KiB; more is answered 431.
    pub header_bytes: usize,
    /// Open connections. Default 4096; more wait in the kernel's queue until one closes. The node does
    /// not start where their files and its own are more than the process may have open.
    pub connections: usize,
    /// Open connections of one address. Default 512; more are closed at once.
    pub connections_per_source: usize,
    /// Requests being worked on, from the reading of their bodies until their answers were sent.
    /// Default 1024; more are answered 503 with `Retry-After`. Callers without grants have a
    /// sixteenth of as many (at least one) for themselves, and none of these; health needs none.
    pub requests_in_flight: usize,
    /// Requests of one principal being worked on, in the same sense. Default 128, an eighth of
    /// `requests_in_flight`, so that a few principals cannot take all; more are answered 429.
    pub requests_in_flight_per_principal: usize,
    /// Bytes of large answers that wait to be sent: of those that have more bytes than `body_bytes`, such
    /// as long listings. Default 256 MiB, of which one principal may have a quarter, but always one answer
    /// that there is room for; more are answered 503 with `Retry-After`.
    pub large_answer_bytes: usize,
    /// Requests of one principal in a second, on this node. Default 10000; more are answered 429.
    pub requests_per_s_per_principal: u32,
    /// Refusals of one principal for want of a right to one action that get an audit record of their
    /// own, on this node. Default 10 at once, and one more in each five minutes; more share a record
    /// with a count, and so do all that were answered 429.
    pub refusal_records_per_10_s: u32,
    /// Time for the TLS handshake, in milliseconds. Default 5000; then the connection closes.
    pub handshake_timeout_ms: u64,
    /// Time to send a request's headers, also the time that a connection may idle between two
    /// requests, in milliseconds. Default 30000; then the connection closes.
    pub header_timeout_ms: u64,
    /// Time to send a request's body, in milliseconds. Default 10000; then 408.
    pub body_timeout_ms: u64,
    /// Time for an answer, in milliseconds. Default 5000; then the outcome is reported unknown.
    pub request_timeout_ms: u64,
    /// Time that a client may take for an answer that waits to be sent, in milliseconds. Default
    /// 30000; then the connection closes.
    pub send_timeout_ms: u64,
    /// Time that a stopping node gives to requests that it accepted, in milliseconds; also the time
    /// that a connection has to end in once its certificate expired, or certificates were read
    /// again. Default 10000.
    pub shutdown_grace_ms: u64,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            value_bytes: 1 << 20,
            body_bytes: 2 << 20,
            header_bytes: 16 << 10,
            connections: 4_096,
            connections_per_source: 512,
            requests_in_flight: 1_024,
            requests_in_flight_per_principal: 128,
            large_answer_bytes: 256 << 20,
            requests_per_s_per_principal: 10_000,
            refusal_records_per_10_s: 10,
            handshake_timeout_ms: 5_000,
            header_timeout_ms: 30_000,
            body_timeout_ms: 10_000,
            request_timeout_ms: 5_000,
            send_timeout_ms: 30_000,
            shutdown_grace_ms: 10_000,
        }
    }
}
