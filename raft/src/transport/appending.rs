//! Sends entries to one follower: pipelined, answered in order, bounded in bytes and requests.
//!
//! One connection serves openraft's streams one after the other, each as a session of its own.
//! Whatever happens to a stream (it may be dropped at any moment), the connection is used again only
//! if it stands between two frames.

use super::{
    Target, Transport,
    connection::{Connection, Writer, dial},
    greeting::Lane,
    in_force::InForce,
    messages::{Append, AppendAnswer, AppendFrame, AppendOutcome, unreachable},
};
use crate::{metric_definitions as metric, runtime::Runtime, state_machine::LogPosition, types::LogTypes};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use openraft::{
    AsyncRuntime,
    errors::RPCError,
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use std::{collections::VecDeque, io, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Requests that wait for an answer on one connection.
const WINDOW_REQUESTS: usize = 64;
/// Bytes of such requests; a single greater one goes alone.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;
/// Without any answer for so long, while some are due, the connection is given up.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

type Outcome = Result<StreamAppendResult<LogTypes>, RPCError<LogTypes>>;

/// The append connection to one incarnation of a follower.
pub(crate) struct Appender {
    transport: Arc<Transport>,
    target: Target,
    connected: Option<Connected>,
}

struct Connected {
    writer: Writer,
    answers: mpsc::Receiver<AppendAnswer>,
    session: u64,
    in_force: Arc<InForce>,
    _reading: AbortOnDropHandle<()>,
}

impl Connected {
    fn is_usable(&self) -> bool {
        !self.in_force.is_withdrawn() && !self.answers.is_closed()
    }
}

/// A request that waits for its answer.
struct Sent {
    bytes: usize,
    term: u64,
    committed: Option<LogPosition>,
}

impl Appender {
    pub fn new(transport: Arc<Transport>, target: Target) -> Self {
        Self {
            transport,
            target,
            connected: None,
        }
    }

    /// Sends a stream of requests; yields their outcomes in order and ends with the first failure.
    pub async fn stream<'s, S>(
        &'s mut self,
        mut input: S,
    ) -> Result<BoxStream<'s, Outcome>, RPCError<LogTypes>>
    where
        S: Stream<Item = AppendEntriesRequest<LogTypes>> + Send + Unpin + 'static,
    {
        // openraft pauses after failures within its stream of requests. Without waiting for the first
        // one, a node that is down would be dialled thousands of times a second.
        let Some(first) = input.next().await else {
            return Ok(stream::empty().boxed());
        };
        let mut connected = match self.connected.take() {
            Some(connected) if connected.is_usable() => connected,
            _ => self.connect().await?,
        };
        connected.session += 1;
        let session = Session {
            appender: self,
            connected: Some(connected),
            input: Some(stream::iter([first]).chain(input)),
            sent: VecDeque::new(),
            sent_bytes: 0,
            due: Instant::now(),
        };
        Ok(stream::unfold(session, |mut session| async {
            let outcome = session.next().await?;
            Some((outcome, session))
        })
        .boxed())
    }

    async fn connect(&self) -> Result<Connected, RPCError<LogTypes>> {
        let Connection {
            mut reader,
            writer,
            in_force,
            ..
        } = dial(&self.transport, &self.target, Lane::Append)
            .await
            .map_err(unreachable)?;
        let in_force = Arc::new(in_force);
        let still_in_force = Arc::clone(&in_force);
        let (answered, answers) = mpsc::channel(WINDOW_REQUESTS * 2);
        let reading = Runtime::spawn(async move {
            while let Ok((answer, _)) = reader.read_while::<AppendAnswer>(&still_in_force).await {
                if answered.send(answer).await.is_err() {
                    break;
                }
            }
        });
        Ok(Connected {
            writer,
            answers,
            session: 0,
            in_force,
            _reading: AbortOnDropHandle::new(reading),
        })
    }
}

/// One of openraft's streams.
struct Session<'s, S> {
    appender: &'s mut Appender,
    /// `None` once the session has ended, and while a frame is half written.
    connected: Option<Connected>,
    input: Option<S>,
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    due: Instant,
}

enum Step {
    Answered(Option<AppendAnswer>),
    Requested(Option<AppendEntriesRequest<LogTypes>>),
    TimedOut,
}

impl<S> Session<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<LogTypes>> + Send + Unpin + 'static,
{
    async fn next(&mut self) -> Option<Outcome> {
        loop {
            let connected = self.connected.as_mut()?;
            let open =
                self.sent.len() < WINDOW_REQUESTS && (self.sent.is_empty() || self.sent_bytes < WINDOW_BYTES);
            if self.input.is_none() && self.sent.is_empty() {
                self.appender.connected = self.connected.take();
                return None;
            }
            let input = &mut self.input;
            let step = tokio::select! {
                biased;
                answer = connected.answers.recv() => Step::Answered(answer),
                request = async { input.as_mut()?.next().await }, if open && input.is_some() => Step::Requested(request),
                () = tokio::time::sleep_until(self.due), if !self.sent.is_empty() => Step::TimedOut,
            };
            match step {
                Step::Requested(None) => self.input = None,
                Step::Requested(Some(request)) => {
                    if let Err(error) = self.send(request).await {
                        return Some(Err(unreachable(error)));
                    }
                }
                Step::Answered(Some(answer)) if answer.session == connected.session => {
                    return Some(self.answered(answer));
                }
                Step::Answered(Some(_)) => {}
                Step::Answered(None) => {
                    self.connected = None;
                    return Some(Err(unreachable("the append connection broke")));
                }
                Step::TimedOut => {
                    self.connected = None;
                    return Some(Err(unreachable("no answer to an append in time")));
                }
            }
        }
    }

    /// Writes a frame. Dropped in between, it leaves no connection that could be used again.
    async fn send(&mut self, request: AppendEntriesRequest<LogTypes>) -> io::Result<()> {
        let (mut append, body) = Append::of(request);
        append.draining = self.appender.transport.host.drains();
        let mut connected = self.connected.take().ok_or(io::ErrorKind::NotConnected)?;
        if connected.in_force.is_withdrawn() {
            return Err(connected.in_force.withdrawn().await);
        }
        let sent = Sent {
            bytes: body.iter().map(bytes::Bytes::len).sum(),
            term: append.vote.term,
            committed: append.committed,
        };
        let frame = AppendFrame {
            session: connected.session,
            append,
        };
        connected.writer.write(&frame, &body).await?;
        connected.writer.flush().await?;
        self.connected = Some(connected);
        if self.sent.is_empty() {
            self.due = Instant::now() + ANSWER_DEADLINE;
        }
        metric::append_sent_bytes(sent.bytes);
        self.sent_bytes += sent.bytes;
        self.sent.push_back(sent);
        Ok(())
    }

    fn answered(&mut self, answer: AppendAnswer) -> Outcome {
        self.due = Instant::now() + ANSWER_DEADLINE;
        let Some(sent) = self.sent.pop_front() else {
            self.connected = None;
            return Err(unreachable("an answer to nothing"));
        };
        self.sent_bytes -= sent.bytes;
        let outcome = match answer.outcome {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.end();
                return Err(unreachable(refusal));
            }
        };
        if let AppendOutcome::Matched(matched) = outcome {
            if let Some(peer) = self.appender.target.raft_id {
                self.appender
                    .transport
                    .acknowledged
                    .appended(peer, sent.term, matched, sent.committed);
            }
        } else {
            self.end();
        }
        Ok(outcome.into())
    }

    /// Ends the session; the connection goes back for the next one.
    fn end(&mut self) {
        self.appender.connected = self.connected.take();
        self.input = None;
    }
}
