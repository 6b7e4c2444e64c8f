//! One request, with what is known of its connection, on its way through a dialect.

use super::{
    reports::ReportsByKind,
    slots::{Slot, Slots},
};
use crate::{
    config::LimitsSection,
    grants::ConfiguredGrants,
    identity::{ConnectionIdentity, Identifier, Unidentified},
    operations::{Caller, Dialect, OperationError, Operations},
    seal::{KeyFiles, Sealer},
};
use bytes::Buf;
use conclave_cluster::{model::Action, node::Cluster};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{Request, body::Bytes};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

/// So much of a body that nobody wants is read away, within so long.
const DISCARDED_BYTES: usize = 16 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_millis(200);

/// What dialects work with.
pub struct Edge {
    /// What they map to.
    pub operations: Arc<Operations>,
    /// The node, to be operated and to show its status.
    pub cluster: Cluster,
    /// The node's keys.
    pub sealer: Arc<Sealer>,
    /// The files that it finds its seal key in.
    pub key_files: Arc<KeyFiles>,
    /// Grants of the configuration.
    pub grants: Arc<ConfiguredGrants>,
    /// Who calls.
    pub identifier: Identifier,
    /// How many requests are worked on.
    pub slots: Slots,
    /// Limits of the listener.
    pub limits: LimitsSection,
    /// The configured names.
    pub node_name: String,
    pub cluster_name: String,
}

/// A request's body as it comes in.
pub type RequestBody = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// One request.
pub struct Call {
    /// The request.
    pub request: Request<RequestBody>,
    /// The connection that it came by.
    pub connection: Arc<ConnectionIdentity>,
    /// Its id: in the answer, in logs, in the sealed audit record.
    pub request_id: Arc<str>,
    /// Whether it waits for its body.
    pub(super) reading: ReadingBody,
    /// Its slot, once it was admitted.
    pub(super) slot: Option<Slot>,
}

/// Whether a request waits for its body: then nothing was begun yet. Clones share it.
#[derive(Clone, Default)]
pub(super) struct ReadingBody(Arc<AtomicBool>);

impl ReadingBody {
    pub(super) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn turn(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

/// Why a call was refused before its body was read. The messages are what the caller hears.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotAdmitted {
    /// Logged and counted already, with its reason.
    #[error("access denied: the caller could not be identified; show a client certificate")]
    Unidentified,
    /// The caller is over its own limits.
    #[error(transparent)]
    Limited(OperationError),
    /// All slots are taken.
    #[error("too many requests are being worked on")]
    Busy,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the request body has more than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error("the request body was not sent within {limit_ms} ms")]
    TooSlow { limit_ms: u64 },
    #[error("the request body could not be read")]
    Broken,
}

impl Edge {
    /// When the answer to a request is due whose body has been read: a slow sender does not use up
    /// the time that the answer has.
    pub fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.limits.request_timeout_ms)
    }
}

impl Call {
    /// Identifies the caller and takes a slot for the call, within the caller's limits. To be done
    /// before the body is read: a body may never come. `action` is what is asked for.
    pub async fn admit(&mut self, edge: &Edge, api: Dialect, action: Action) -> Result<Caller, NotAdmitted> {
        let identified = edge.identifier.identify(&self.connection).await;
        let identity = identified.map_err(|reason| {
            crate::metric_definitions::count_unidentified(&reason);
            self.report_unidentified(&reason);
            NotAdmitted::Unidentified
        })?;
        let caller = Caller {
            principal: identity.principal,
            device: identity.device,
            grants: identity.grants,
            remote: self.connection.remote,
            api,
            request_id: self.request_id.clone(),
        };
        let permit = edge.operations.admit(&caller, action);
        let permit = permit.map_err(NotAdmitted::Limited)?;
        let slot = edge.slots.take(&caller, permit);
        self.slot = Some(slot.ok_or(NotAdmitted::Busy)?);
        Ok(caller)
    }

    fn report_unidentified(&self, reason: &Unidentified) {
        static REPORTS: ReportsByKind = ReportsByKind::new();
        let (remote, request_id) = (&self.connection.remote, &self.request_id);
        let what = "refused a caller that could not be identified";
        match REPORTS.count(reason.kind(), Instant::now()) {
            Some(refused) => tracing::warn!(%remote, %request_id, %reason, refused, "{what}"),
            None => tracing::debug!(%remote, %request_id, %reason, "{what}"),
        }
    }

    /// Reads the body whole, within the limits of bytes and time.
    pub async fn read_body(&mut self, limits: &LimitsSection) -> Result<Zeroizing<Vec<u8>>, BodyError> {
        let limit_bytes = limits.body_bytes;
        let body = self.request.body_mut();
        let expected = hyper::body::Body::size_hint(body);
        if expected.lower() > limit_bytes as u64 {
            return Err(BodyError::TooLarge { limit_bytes });
        }
        // Of the announced size where that is known, so that the buffer never moves and leaves no
        // copy behind.
        let capacity = expected.exact().map_or(4096, |bytes| bytes as usize);
        let mut whole = Zeroizing::new(Vec::with_capacity(capacity));
        let reading = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| BodyError::Broken)?;
                let Ok(mut data) = frame.into_data() else { continue };
                if whole.len() + data.remaining() > limit_bytes {
                    return Err(BodyError::TooLarge { limit_bytes });
                }
                append(&mut whole, &mut data);
            }
            Ok(())
        };
        let limit_ms = limits.body_timeout_ms;
        self.reading.turn(true);
        let read = timeout(Duration::from_millis(limit_ms), reading).await;
        self.reading.turn(false);
        read.map_err(|_| BodyError::TooSlow { limit_ms })??;
        Ok(whole)
    }

    /// Reads away what is left of a small body, so that whoever was refused unread hears why: with the
    /// rest unread, HTTP/1 closes the connection, and HTTP/2 resets the stream and after about a
    /// thousand of those closes the connection too.
    pub(super) async fn discard_body(&mut self) {
        // Whoever asks first has sent nothing, and is not to be told to go on.
        if self.request.headers().contains_key(hyper::header::EXPECT) {
            return;
        }
        let body = self.request.body_mut();
        if hyper::body::Body::size_hint(body).lower() > DISCARDED_BYTES as u64 {
            return;
        }
        let reading = async {
            let mut left_bytes = DISCARDED_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let Some(left) = left_bytes.checked_sub(bytes) else {
                    return;
                };
                left_bytes = left;
            }
        };
        let _ = timeout(DISCARD_TIMEOUT, reading).await;
    }
}

/// Appends without leaving an unwiped copy behind when the buffer has to grow.
fn append(whole: &mut Zeroizing<Vec<u8>>, data: &mut Bytes) {
    if whole.len() + data.len() > whole.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * (whole.len() + data.len())));
        larger.extend_from_slice(whole);
        *whole = larger;
    }
    whole.extend_from_slice(data);
    data.advance(data.len());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    /// A call for tests of dialects.
    pub(crate) fn call(request: Request<RequestBody>) -> Call {
        let address = "127.0.0.1:1".parse().unwrap();
        Call {
            request,
            connection: Arc::new(ConnectionIdentity::new(address, address, None)),
            request_id: "test".into(),
            reading: ReadingBody::default(),
            slot: None,
        }
    }

    pub(crate) fn full(bytes: impl Into<Bytes>) -> RequestBody {
        Full::new(bytes.into()).map_err(|never| match never {}).boxed()
    }

    fn in_pieces(pieces: Vec<&'static [u8]>) -> RequestBody {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
        StreamBody::new(futures::stream::iter(frames)).boxed()
    }

    fn limits() -> LimitsSection {
        LimitsSection {
            body_bytes: 8,
            body_timeout_ms: 20,
            ..LimitsSection::default()
        }
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_the_limit() {
        for (body, expected) in [
            (full("12345678"), Ok(8)),
            (full("123456789"), Err(BodyError::TooLarge { limit_bytes: 8 })),
            (in_pieces(vec![b"1234", b"5678"]), Ok(8)),
            (
                in_pieces(vec![b"1234", b"5678", b"9"]),
                Err(BodyError::TooLarge { limit_bytes: 8 }),
            ),
            (full(""), Ok(0)),
        ] {
            let read = call(Request::new(body)).read_body(&limits()).await;
            assert_eq!(read.map(|bytes| bytes.len()), expected);
        }
    }

    #[tokio::test]
    async fn slow_and_broken_bodies_are_given_up() {
        let slow = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, _>>()).boxed();
        let read = call(Request::new(slow)).read_body(&limits()).await;
        assert_eq!(read.map(drop), Err(BodyError::TooSlow { limit_ms: 20 }));
        let broken = StreamBody::new(futures::stream::iter([Err::<Frame<Bytes>, _>("reset".into())])).boxed();
        assert_eq!(
            call(Request::new(broken)).read_body(&limits()).await.map(drop),
            Err(BodyError::Broken)
        );
    }
}
