//! Connections between simulated machines: turmoil's, watched, and ended where TCP would end them.
//!
//! turmoil delays messages and drops them, and sends none again: a connection that lost one stands still
//! for ever. Over TCP it would go on once the network heals, or be given up after five seconds (the
//! product's own settings: see `tls_network`). Here it is given up, five seconds after the loss began; and
//! where messages are held back instead of dropped, it goes on. Who is at the other end the network knows.

use super::history::{Event, History, Moment, now};
use conclave_raft::transport::{
    in_force::InForce,
    network::{Incoming, Listener, Network, NetworkFault, Proven},
};
use futures::{FutureExt, future::BoxFuture, ready};
use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use turmoil::net::{TcpListener, TcpStream};

/// Where every machine listens.
pub const PORT: u16 = 1;

/// After such a time TCP gives up a connection whose other end does not answer.
const GIVEN_UP_AFTER_US: u64 = 5_000_000;
/// How often a connection that is silent looks whether it should be given up.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The name of a machine.
pub fn name(node: usize) -> String {
    format!("node-{node}")
}

fn number(name: &str) -> io::Result<usize> {
    let number = name.strip_prefix("node-").and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("no machine is called {name}")))
}

/// When messages between two machines were last lost. Clones share it.
#[derive(Clone, Default)]
pub struct Losses(Arc<Mutex<BTreeMap<(usize, usize), Moment>>>);

impl Losses {
    /// Messages between the two may be lost from now on.
    pub fn note(&self, a: usize, b: usize, at: Moment) {
        let mut losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        losses.insert((a.min(b), a.max(b)), at);
    }

    /// Whether a connection that has been there since a moment must be given up.
    fn ended(&self, a: usize, b: usize, since: Moment) -> bool {
        let losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = losses.get(&(a.min(b), a.max(b)));
        lost.is_some_and(|&lost| lost >= since && now() >= lost + GIVEN_UP_AFTER_US)
    }
}

/// One machine's way into the network.
pub struct SimulatedNetwork {
    node: usize,
    losses: Losses,
    history: History,
}

/// The way of others to it.
pub struct SimulatedListener {
    node: usize,
    listener: TcpListener,
    losses: Losses,
    history: History,
}

/// Both ends, on the machine whose turn it is.
pub async fn listen(
    node: usize,
    losses: &Losses,
    history: &History,
) -> io::Result<(SimulatedNetwork, SimulatedListener)> {
    let network = SimulatedNetwork {
        node,
        losses: losses.clone(),
        history: history.clone(),
    };
    let listener = SimulatedListener {
        node,
        listener: TcpListener::bind(("0.0.0.0", PORT)).await?,
        losses: losses.clone(),
        history: history.clone(),
    };
    Ok((network, listener))
}

impl Network for SimulatedNetwork {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<Proven, NetworkFault>> {
        async move {
            let (peer, _) = address.split_once(':').unwrap_or((address, ""));
            let to = number(peer)?;
            let stream = TcpStream::connect((peer.to_owned(), PORT)).await?;
            Ok(proven(stream, self.node, to, &self.losses, &self.history))
        }
        .boxed()
    }
}

impl Listener for SimulatedListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        async {
            let (stream, from) = self.listener.accept().await?;
            let peer = turmoil::reverse_lookup(from.ip());
            let from = number(&peer.ok_or(io::ErrorKind::NotConnected)?)?;
            let proven = proven(stream, self.node, from, &self.losses, &self.history);
            Ok(Incoming {
                from: name(from),
                proving: std::future::ready(Ok(proven)).boxed(),
            })
        }
        .boxed()
    }
}

fn proven(stream: TcpStream, own: usize, peer: usize, losses: &Losses, history: &History) -> Proven {
    let watched = WatchedStream {
        stream,
        own,
        peer,
        since: now(),
        look: Box::pin(sleep(LOOK_EVERY)),
        losses: losses.clone(),
        history: history.clone(),
    };
    Proven {
        node_name: name(peer),
        stream: Box::new(watched),
        in_force: InForce::always(),
    }
}

/// A connection whose bytes are counted.
struct WatchedStream {
    stream: TcpStream,
    own: usize,
    peer: usize,
    since: Moment,
    look: Pin<Box<Sleep>>,
    losses: Losses,
    history: History,
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            self.history.note(Event::Received {
                by: self.own,
                from: self.peer,
                bytes: buffer.filled().len() - before,
            });
            return Poll::Ready(read);
        }
        loop {
            ready!(self.look.as_mut().poll(cx));
            if self.losses.ended(self.own, self.peer, self.since) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.look = Box::pin(sleep(LOOK_EVERY));
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.history.note(Event::Sent {
            from: self.own,
            to: self.peer,
            bytes: written,
        });
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
