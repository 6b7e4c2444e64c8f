//! Answers other nodes.
//!
//! Each connection belongs to one greeted peer and is served according to its lane. A peer speaks
//! only for its own Raft id: a vote, append or transfer in another's name is malformed. What waits is
//! bounded: connections, requests of a connection, bytes of appends between reading and Raft. Whoever
//! has proven nothing yet takes no place from a peer: where too many come at once, those go that have
//! been silent for longest.

use super::{
    Transport,
    connection::{ConnectFault, Connection, Writer, accept},
    greeting::Lane,
    host::Endpoint,
    messages::{Answer, Append, AppendAnswer, AppendFrame, Question, Refusal, Reply, Request, Transfer},
    network::{Incoming, Listener},
    receiving_snapshot,
};
use crate::{
    identity::RaftId,
    node::Peer,
    types::{LogId, LogTypes},
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest};
use std::{collections::VecDeque, future::Future, io, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

/// Connections that are served at once; nodes need four each.
const CONNECTIONS: usize = 256;
/// Connections at once whose other end has not greeted yet, and so may be anybody's.
const STRANGERS: usize = 256;
/// Requests of one multiplexed connection that are at work at once.
const REQUESTS: usize = 1024;
/// Bytes of appends of one connection between being read and being durable.
const APPEND_BYTES: usize = 32 * 1024 * 1024;
/// For what was read to find room among what is at work.
const ROOM_DEADLINE: Duration = Duration::from_secs(30);

/// Accepts connections until the transport stops.
pub(crate) async fn serve(transport: Arc<Transport>, mut listener: Box<dyn Listener>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut strangers = Strangers::default();
    loop {
        match listener.accept().await {
            Ok(incoming) => {
                let (serving, connections) = (Arc::clone(&transport), Arc::clone(&connections));
                let displaced = strangers.admit();
                transport.spawn(async move {
                    let from = incoming.from.clone();
                    match serve_connection(&serving, incoming, displaced, connections).await {
                        Ok(()) => {}
                        Err(
                            fault @ (ConnectFault::Io(_) | ConnectFault::TimedOut | ConnectFault::Displaced),
                        ) => {
                            tracing::info!(%from, reason = %fault, "a node's connection ended");
                        }
                        Err(fault) => {
                            tracing::warn!(%from, reason = %fault, "a node's connection was refused");
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Those who have not greeted yet, in the order in which they came.
#[derive(Default)]
struct Strangers {
    here: VecDeque<oneshot::Sender<()>>,
}

impl Strangers {
    /// Takes one more in. What it waits on ends when it is displaced; it lets go of that once it has
    /// greeted.
    fn admit(&mut self) -> oneshot::Receiver<()> {
        if self.here.len() >= STRANGERS {
            self.here.retain(|stranger| !stranger.is_closed());
        }
        if self.here.len() >= STRANGERS {
            self.here.pop_front();
        }
        let (stays, displaced) = oneshot::channel();
        self.here.push_back(stays);
        displaced
    }
}

async fn serve_connection(
    transport: &Arc<Transport>,
    incoming: Incoming,
    displaced: oneshot::Receiver<()>,
    connections: Arc<Semaphore>,
) -> Result<(), ConnectFault> {
    let (lane, connection) = tokio::select! {
        biased;
        accepted = accept(transport, incoming) => accepted?,
        _ = displaced => return Err(ConnectFault::Displaced),
    };
    let _place = connections
        .try_acquire_owned()
        .map_err(|_| ConnectFault::TooMany)?;
    tracing::debug!(peer = %connection.peer.name, ?lane, "a node connected");
    let served = match lane {
        Lane::Control | Lane::Service => serve_questions(transport, connection).await,
        Lane::Append => serve_appends(transport, connection).await,
        Lane::Snapshot => receiving_snapshot::receive(transport, connection).await,
    };
    match served {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(()),
    }
}

async fn serve_questions(transport: &Arc<Transport>, connection: Connection) -> io::Result<()> {
    let Connection {
        peer,
        mut reader,
        writer,
        in_force,
    } = connection;
    let requests = Arc::new(Semaphore::new(REQUESTS));
    let (answered, answers) = mpsc::channel(REQUESTS);
    let read = async {
        loop {
            let (request, body) = reader.read_while::<Request>(&in_force).await?;
            let permit = room(Arc::clone(&requests).acquire_owned()).await?;
            let (serving, peer, answered) = (Arc::clone(transport), peer.clone(), answered.clone());
            transport.spawn(async move {
                let (reply, body) = reply(&serving, peer, request.question, body).await;
                let answer = Answer {
                    id: request.id,
                    reply,
                };
                // The connection may be gone.
                let _ = answered.send((answer, body, permit)).await;
            });
        }
    };
    tokio::select! {
        biased;
        ended = write_answers(writer, answers) => ended,
        ended = read => ended,
    }
}

async fn write_answers(
    mut writer: Writer,
    mut answers: mpsc::Receiver<(Answer, Bytes, OwnedSemaphorePermit)>,
) -> io::Result<()> {
    while let Some(first) = answers.recv().await {
        let mut next = Some(first);
        while let Some((answer, body, _permit)) = next {
            writer.write(&answer, &[body]).await?;
            next = answers.try_recv().ok();
        }
        writer.flush().await?;
    }
    Ok(())
}

async fn reply(transport: &Arc<Transport>, peer: Peer, question: Question, body: Bytes) -> (Reply, Bytes) {
    let host = &transport.host;
    match question {
        Question::Service => {
            return match host.service() {
                Ok(service) => (Reply::Service, service.handle(peer, body).await),
                Err(_) => (Reply::Refused(Refusal::Stopping), Bytes::new()),
            };
        }
        Question::Formation(request) => {
            let answer = Arc::clone(host).form(peer, request).await;
            return (Reply::Formation(answer), Bytes::new());
        }
        _ => {}
    }
    let reply = match (peer.raft_id, host.raft()) {
        (None, _) => Err(Refusal::NotMember),
        (_, None) => Err(Refusal::Unformed),
        (Some(peer), Some(raft)) => raft_reply(transport, peer, &*raft, question).await,
    };
    (reply.unwrap_or_else(Reply::Refused), Bytes::new())
}

async fn raft_reply(
    transport: &Transport,
    peer: RaftId,
    raft: &dyn Endpoint,
    question: Question,
) -> Result<Reply, Refusal> {
    let in_own_name = |node: u64| {
        if node == peer.0 {
            Ok(())
        } else {
            Err(Refusal::Malformed)
        }
    };
    // Whoever was removed stands for no election. Appends it may still send: a leader that removes
    // itself has to bring the entry that does so, and only a quorum makes a leader.
    let stands = |node: u64| {
        in_own_name(node)?;
        if transport.host.was_removed(peer) {
            return Err(Refusal::Removed);
        }
        Ok(())
    };
    let stopping = |_| Refusal::Stopping;
    Ok(match question {
        Question::Vote(ballot) => {
            stands(ballot.vote.node)?;
            // A candidate has stored its vote before it asks for another's.
            transport.acknowledged.voted(peer, ballot.vote.term);
            Reply::Vote(raft.vote(ballot.into()).await.map_err(stopping)?.into())
        }
        Question::PreVote(ballot) => {
            stands(ballot.vote.node)?;
            Reply::Vote(raft.pre_vote(ballot.into()).await.map_err(stopping)?.into())
        }
        Question::Heartbeat(append) => {
            in_own_name(append.vote.node)?;
            if !append.entries.is_empty() {
                return Err(Refusal::Malformed);
            }
            let request = append
                .into_request(Bytes::new())
                .map_err(|_| Refusal::Malformed)?;
            let outcome = raft.heartbeat(request).await.map_err(stopping)?;
            Reply::Heartbeat {
                outcome,
                out_of_space: transport.host.out_of_space(),
            }
        }
        Question::TransferLeader(transfer) => {
            in_own_name(transfer.from.node)?;
            let to_this = transport
                .host
                .incarnation()
                .is_some_and(|(_, raft_id)| raft_id.0 == transfer.to);
            if to_this && !transport.host.may_lead() {
                return Err(Refusal::MayNotLead);
            }
            let Transfer { from, to, last_log } = transfer;
            let request = TransferLeaderRequest::new(from.into(), to, last_log.map(LogId::from));
            let response = raft.transfer(request).await.map_err(stopping)?;
            Reply::TransferLeader(response.map_err(Into::into))
        }
        Question::Service | Question::Formation(_) => return Err(Refusal::Malformed),
    })
}

/// What the writer of an append connection has to say, in order.
enum Outgoing {
    /// The outcomes of a session's requests.
    Session {
        session: u64,
        outcomes: BoxStream<'static, Result<StreamAppendResult<LogTypes>, String>>,
        window: Arc<Semaphore>,
        sizes: mpsc::UnboundedReceiver<OwnedSemaphorePermit>,
    },
    /// Why the session goes no further.
    Refused { session: u64, refusal: Refusal },
}

async fn serve_appends(transport: &Arc<Transport>, connection: Connection) -> io::Result<()> {
    let Connection {
        peer,
        mut reader,
        writer,
        in_force,
    } = connection;
    let Some(peer) = peer.raft_id else {
        return Err(io::Error::other("a node without a Raft id sends no entries"));
    };
    let window = Arc::new(Semaphore::new(APPEND_BYTES));
    let (outgoing, going) = mpsc::channel(4);
    let read = async {
        let mut present = None::<AppendSession>;
        loop {
            let (AppendFrame { session, append }, body) = reader.read_while::<AppendFrame>(&in_force).await?;
            if append.vote.node != peer.0 {
                return Err(io::Error::other("an append in another's name"));
            }
            if present.as_ref().is_none_or(|present| present.session != session) {
                let Some(raft) = transport.host.raft() else {
                    let refusal = Refusal::Unformed;
                    send(&outgoing, Outgoing::Refused { session, refusal }).await?;
                    continue;
                };
                let (started, outcomes) = AppendSession::start(session, &*raft, &window);
                present = Some(started);
                send(&outgoing, outcomes).await?;
            }
            let Some(open) = &mut present else { continue };
            if let Some(refusal) = open.append(transport, append, body, &window).await? {
                send(&outgoing, Outgoing::Refused { session, refusal }).await?;
            }
        }
    };
    tokio::select! {
        biased;
        ended = write_outcomes(writer, going) => ended,
        ended = read => ended,
    }
}

async fn send(outgoing: &mpsc::Sender<Outgoing>, message: Outgoing) -> io::Result<()> {
    room(outgoing.send(message)).await
}

/// Waits for room, within the deadline.
async fn room<T, E>(waiting: impl Future<Output = Result<T, E>>) -> io::Result<T> {
    match timeout(ROOM_DEADLINE, waiting).await {
        Ok(Ok(room)) => Ok(room),
        Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no room for a request within {} s", ROOM_DEADLINE.as_secs()),
        )),
    }
}

/// The requests of one session on their way to Raft.
struct AppendSession {
    session: u64,
    /// `None` once the session has ended: what still comes for it is void.
    input: Option<Input>,
}

struct Input {
    requests: mpsc::Sender<AppendEntriesRequest<LogTypes>>,
    sizes: mpsc::UnboundedSender<OwnedSemaphorePermit>,
}

impl AppendSession {
    fn start(session: u64, raft: &dyn Endpoint, window: &Arc<Semaphore>) -> (Self, Outgoing) {
        let (requests, mut requested) = mpsc::channel(1);
        // Bounded by the window: each element holds a part of it.
        let (sized, sizes) = mpsc::unbounded_channel();
        let requested = futures::stream::poll_fn(move |context| requested.poll_recv(context));
        let outcomes = raft.append(requested.boxed());
        let input = Some(Input {
            requests,
            sizes: sized,
        });
        let outgoing = Outgoing::Session {
            session,
            outcomes,
            window: Arc::clone(window),
            sizes,
        };
        (Self { session, input }, outgoing)
    }

    /// Hands one request on. A refusal ends the session.
    async fn append(
        &mut self,
        transport: &Transport,
        append: Append,
        body: Bytes,
        window: &Arc<Semaphore>,
    ) -> io::Result<Option<Refusal>> {
        let Some(input) = &self.input else { return Ok(None) };
        let bytes = body.len().clamp(1, APPEND_BYTES) as u32;
        let draining = append.draining;
        let request = append.into_request(body)?;
        if !request.entries.is_empty() && !transport.host.admits(&request, draining) {
            self.input = None;
            return Ok(Some(Refusal::NoSpace));
        }
        let permit = room(Arc::clone(window).acquire_many_owned(bytes)).await?;
        let handed_on = input.sizes.send(permit).is_ok()
            && match room(input.requests.send(request)).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                handed_on => handed_on.is_ok(),
            };
        if !handed_on {
            self.input = None;
        }
        Ok(None)
    }
}

async fn write_outcomes(mut writer: Writer, mut outgoing: mpsc::Receiver<Outgoing>) -> io::Result<()> {
    while let Some(message) = outgoing.recv().await {
        match message {
            Outgoing::Session {
                session,
                mut outcomes,
                window: _window,
                mut sizes,
            } => {
                while let Some(outcome) = outcomes.next().await {
                    // Its part of the window is free again.
                    drop(sizes.try_recv());
                    let outcome = outcome.map(Into::into).map_err(|_| Refusal::Stopping);
                    write_outcome(&mut writer, AppendAnswer { session, outcome }).await?;
                }
            }
            Outgoing::Refused { session, refusal } => {
                let outcome = Err(refusal);
                write_outcome(&mut writer, AppendAnswer { session, outcome }).await?;
            }
        }
    }
    Ok(())
}

async fn write_outcome(writer: &mut Writer, answer: AppendAnswer) -> io::Result<()> {
    writer.write(&answer, &[]).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    /// So that a peer that greets at once gets in, however many say nothing.
    #[test]
    fn who_has_been_silent_for_longest_makes_room() {
        let mut strangers = Strangers::default();
        let mut here: VecDeque<_> = (0..STRANGERS).map(|_| strangers.admit()).collect();
        let greeted = here.pop_front();
        drop(greeted);
        here.push_back(strangers.admit());
        assert!(
            here.iter_mut()
                .all(|one| one.try_recv() == Err(TryRecvError::Empty))
        );
        let newest = strangers.admit();
        let displaced = here
            .iter_mut()
            .map(|one| one.try_recv() == Err(TryRecvError::Closed));
        let expected = (0..STRANGERS).map(|number| number == 0);
        assert!(displaced.eq(expected));
        drop(newest);
    }
}
