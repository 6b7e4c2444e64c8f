//! One connection over TLS that speaks gRPC: HTTP/2, a message in a frame of its own, the status in the
//! trailers (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). One request at a time, as the
//! generator's other connections.

use bytes::{BufMut, Bytes, BytesMut};
use conclave::bench::Target;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{fmt::Display, time::Duration};
use tokio::time::timeout;

/// For connecting, and for one answer; as the generator's own.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a connection failed.
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_LIMIT_BYTES: usize = 4 << 20;
/// Whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// Made when it is first used, and made again after it failed.
pub struct GrpcConnection {
    target: Target,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl GrpcConnection {
    /// HTTP/2, as ALPN names it.
    pub const HTTP_2: &str = "h2";

    /// Connects to nothing yet.
    pub fn new(target: Target) -> Self {
        Self { target, sender: None }
    }

    /// Calls a method such as `/etcdserverpb.KV/Put` with one message, and returns the answer's.
    ///
    /// # Errors
    /// In words, when there was no answer, or one with another status than OK.
    pub async fn call(&mut self, method: &str, message: &[u8]) -> Result<Bytes, String> {
        let answered = timeout(PATIENCE, self.try_call(method, message)).await;
        let answer = answered.unwrap_or_else(|_| Err("no answer for 60 s".into()));
        if answer.is_err() {
            self.sender = None;
            tokio::time::sleep(PAUSE).await;
        }
        answer
    }

    async fn try_call(&mut self, method: &str, message: &[u8]) -> Result<Bytes, String> {
        let sender = match &mut self.sender {
            Some(sender) => sender,
            None => self.sender.insert(speak_http_2(&self.target).await?),
        };
        sender.ready().await.map_err(said)?;
        let uri = format!("https://{}{method}", self.target.authority());
        let request = Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(framed(message)?))
            .map_err(said)?;
        let (head, body) = sender.send_request(request).await.map_err(said)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("HTTP status {}", head.status.as_u16()));
        }
        let body = Limited::new(body, ANSWER_LIMIT_BYTES)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        // An answer without a message has its status in the headers.
        check_status(body.trailers().unwrap_or(&head.headers))?;
        unframed(body.to_bytes())
    }
}

async fn speak_http_2(target: &Target) -> Result<SendRequest<Full<Bytes>>, String> {
    let tls = target.connect().await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
        .await
        .map_err(said)?;
    // It ends with its sender; how is seen by the request that it failed.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn framed(message: &[u8]) -> Result<Bytes, String> {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).map_err(said)?);
    frame.put_slice(message);
    Ok(frame.freeze())
}

fn unframed(mut body: Bytes) -> Result<Bytes, String> {
    if body.len() < FRAME_HEAD_BYTES {
        return Err("an answer without a message".into());
    }
    let message = body.split_off(FRAME_HEAD_BYTES);
    let length = u32::from_be_bytes([body[1], body[2], body[3], body[4]]);
    if body[0] != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err("an answer that is not one plain message".into());
    }
    Ok(message)
}

fn check_status(headers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        status => Err(format!(
            "grpc-status {}: {}",
            status.unwrap_or("missing"),
            text("grpc-message").unwrap_or_default()
        )),
    }
}

fn said(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stands_in_a_frame() {
        let framed = framed(b"etcd").expect("a message");
        assert_eq!(&framed[..], b"\0\0\0\0\x04etcd");
        assert_eq!(unframed(framed), Ok(Bytes::from_static(b"etcd")));
        for wrong in [&b""[..], b"\0\0\0\0\x05etcd", b"\x01\0\0\0\x04etcd"] {
            assert!(unframed(Bytes::copy_from_slice(wrong)).is_err());
        }
    }

    #[test]
    fn only_status_0_is_a_success() {
        let with = |status: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", status.parse().expect("a header"));
            headers
        };
        assert_eq!(check_status(&with("0")), Ok(()));
        assert!(check_status(&with("14")).is_err());
        assert!(check_status(&HeaderMap::new()).is_err());
    }
}
