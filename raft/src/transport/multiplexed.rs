//! Questions and answers over one connection, many at once and in any order.
//!
//! A link outlives its connections: it connects when it is first asked, and after a failure waits
//! with growing, jittered pauses in which questions fail at once. Whoever asked may give up at any
//! time; the connection is unaffected.

use super::{
    Target, Transport,
    connection::{Connection, dial},
    greeting::Lane,
    messages::{Answer, Question, Reply, Request},
};
use crate::{node::RaftNode, runtime::Runtime};
use bytes::Bytes;
use openraft::AsyncRuntime;
use rand::RngExt;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout_at},
};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A handle to ask one node. Cheap to clone; the last one closes the connection.
#[derive(Clone)]
pub(crate) struct Link {
    asked: mpsc::Sender<Asked>,
    in_flight: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) enum LinkFault {
    /// No connection, or it broke.
    Unreachable(String),
    /// The deadline passed.
    TimedOut,
    /// Too much waits for that node already.
    Busy,
}

impl std::fmt::Display for LinkFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(reason) => f.write_str(reason),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Busy => f.write_str("too much is waiting"),
        }
    }
}

impl Link {
    /// Makes a link; it connects when it is first asked.
    pub fn start(transport: &Arc<Transport>, target: Target, lane: Lane) -> Self {
        let (asked, questions) = mpsc::channel(RaftNode::CALLS_IN_FLIGHT);
        let link = Self {
            asked,
            in_flight: Arc::new(Semaphore::new(RaftNode::CALLS_IN_FLIGHT)),
        };
        let speaker = Speaker {
            transport: Arc::downgrade(transport),
            target,
            lane,
            questions,
        };
        transport.spawn(speaker.run());
        link
    }

    /// Asks, and waits for the answer until the deadline.
    pub async fn ask(
        &self,
        question: Question,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(Reply, Bytes), LinkFault> {
        let permit = Arc::clone(&self.in_flight)
            .try_acquire_owned()
            .map_err(|_| LinkFault::Busy)?;
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            question,
            body,
            waiting: Waiting {
                answer,
                _permit: permit,
            },
        };
        self.asked.try_send(asked).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LinkFault::Busy,
            mpsc::error::TrySendError::Closed(_) => LinkFault::Unreachable("this node is stopping".into()),
        })?;
        match timeout_at(deadline, answered).await {
            Err(_) => Err(LinkFault::TimedOut),
            Ok(Err(_)) => Err(LinkFault::Unreachable("the connection was closed".into())),
            Ok(Ok(answer)) => answer,
        }
    }
}

struct Asked {
    question: Question,
    body: Bytes,
    waiting: Waiting,
}

/// Whoever waits for an answer.
struct Waiting {
    answer: oneshot::Sender<Result<(Reply, Bytes), LinkFault>>,
    _permit: OwnedSemaphorePermit,
}

impl Waiting {
    fn fail(self, reason: &str) {
        // Nobody may wait any more.
        let _ = self.answer.send(Err(LinkFault::Unreachable(reason.to_owned())));
    }
}

/// The task behind a link.
struct Speaker {
    transport: Weak<Transport>,
    target: Target,
    lane: Lane,
    questions: mpsc::Receiver<Asked>,
}

impl Speaker {
    async fn run(mut self) {
        let mut pause = Pause::default();
        let mut reason = String::new();
        while let Some(first) = self.questions.recv().await {
            if pause.is_on() {
                first.waiting.fail(&reason);
                continue;
            }
            let Some(transport) = self.transport.upgrade() else {
                return;
            };
            let connected = dial(&transport, &self.target, self.lane).await;
            drop(transport);
            let ended = match connected {
                Ok(connection) => {
                    if reason.is_empty() {
                        tracing::debug!(peer = %self.target.name, lane = ?self.lane, "connected");
                    } else {
                        tracing::info!(peer = %self.target.name, lane = ?self.lane, "connected to node again");
                    }
                    pause = Pause::default();
                    reason.clear();
                    converse(connection, first, &mut self.questions).await
                }
                Err(fault) => {
                    first.waiting.fail(&fault.to_string());
                    fault.to_string()
                }
            };
            if ended != reason {
                tracing::warn!(peer = %self.target.name, lane = ?self.lane, reason = %ended, "no connection to node");
                reason = ended;
            }
            pause.lengthen();
            while let Ok(asked) = self.questions.try_recv() {
                asked.waiting.fail(&reason);
            }
        }
    }
}

/// Speaks until the connection breaks; says why it did.
async fn converse(connection: Connection, first: Asked, questions: &mut mpsc::Receiver<Asked>) -> String {
    let Connection {
        mut reader,
        mut writer,
        in_force,
        ..
    } = connection;
    let waiting = Mutex::new(BTreeMap::<u64, Waiting>::new());
    let locked = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let write = async {
        let mut next_id = 0_u64;
        let mut next = Some(first);
        loop {
            let asked = match next.take() {
                Some(asked) => asked,
                None => match questions.recv().await {
                    Some(asked) => asked,
                    None => return Ok(()),
                },
            };
            if !asked.waiting.answer.is_closed() {
                next_id += 1;
                {
                    let mut waiting = locked();
                    waiting.retain(|_, waiting| !waiting.answer.is_closed());
                    waiting.insert(next_id, asked.waiting);
                }
                let request = Request {
                    id: next_id,
                    question: asked.question,
                };
                writer.write(&request, &[asked.body]).await?;
            }
            next = questions.try_recv().ok();
            if next.is_none() {
                writer.flush().await?;
            }
        }
    };
    let read = async {
        loop {
            let (answer, body) = reader.read::<Answer>().await?;
            if let Some(waiting) = locked().remove(&answer.id) {
                // Nobody may wait any more.
                let _ = waiting.answer.send(Ok((answer.reply, body)));
            }
        }
    };
    let ended: io::Result<()> = tokio::select! {
        biased;
        ended = read => ended,
        ended = write => ended,
        withdrawn = in_force.withdrawn() => Err(withdrawn),
    };
    let reason = ended.map_or_else(
        |error| format!("the connection broke: {error}"),
        |()| "closed".into(),
    );
    for (_, waiting) in std::mem::take(&mut *locked()) {
        waiting.fail(&reason);
    }
    reason
}

/// How long to wait before connecting again.
#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
}

impl Pause {
    fn is_on(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    fn lengthen(&mut self) {
        self.length = (self.length * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.until = Some(Instant::now() + jittered(self.length));
    }
}

/// Between three quarters and five quarters of a length, so that nodes do not act in step.
pub(crate) fn jittered(length: Duration) -> Duration {
    length * Runtime::thread_rng().random_range(768..1280) / 1024
}
