//! Slow links without loss. netem is not in every kernel, so a proxy within a node's namespace carries
//! what that node sends to others, and what comes back, with a delay and at a rate.
//!
//! ```text
//! node K ──▶ peer:8201   REDIRECT   ▶ 127.0.0.1:(9000 + peer)   this program   ──delay──▶ peer:8201
//! ```
//! The proxy's own connections are told from the node's by their local ports, and pass. Connections that
//! were there before are reset when the delay begins, and the proxy's when it ends: the rules are
//! `Links::rules`.

use crate::HarnessError;
use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

/// How slow a link is, each way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    pub delay_ms: u64,
    /// Each connection's rate; `None`: any.
    pub kib_per_s: Option<u64>,
}

impl Pace {
    /// The slower of two in each respect.
    pub(super) fn and(self, other: Self) -> Self {
        let rates = self.kib_per_s.into_iter().chain(other.kib_per_s);
        Self {
            delay_ms: self.delay_ms.max(other.delay_ms),
            kib_per_s: rates.min(),
        }
    }
}

/// One link that a proxy slows: `PORT/ADDRESS/DELAY_MS/KIB_PER_S`, 0 for any rate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlowLink {
    /// Where the proxy listens.
    pub port: u16,
    pub to: SocketAddr,
    pub pace: Pace,
}

impl std::fmt::Display for SlowLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Pace { delay_ms, kib_per_s } = self.pace;
        write!(
            f,
            "{}/{}/{delay_ms}/{}",
            self.port,
            self.to,
            kib_per_s.unwrap_or(0)
        )
    }
}

impl FromStr for SlowLink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is not PORT/ADDRESS/DELAY_MS/KIB_PER_S");
        let parts: Vec<&str> = text.split('/').collect();
        let &[port, to, delay_ms, rate] = &parts[..] else {
            return Err(malformed());
        };
        let rate: u64 = rate.parse().map_err(|_| malformed())?;
        Ok(Self {
            port: port.parse().map_err(|_| malformed())?,
            to: to.parse().map_err(|_| malformed())?,
            pace: Pace {
                delay_ms: delay_ms.parse().map_err(|_| malformed())?,
                kib_per_s: (rate > 0).then_some(rate),
            },
        })
    }
}

/// A proxy that runs within a namespace. Ends when this is dropped, or the harness ends.
pub(super) struct Proxy {
    child: Child,
}

impl Proxy {
    /// Starts one, and returns once it listens.
    pub(super) fn start(namespace: &str, links: &[SlowLink]) -> Result<Self, HarnessError> {
        let program = std::env::current_exe().map_err(|error| HarnessError::about("this program", error))?;
        let about = |error: std::io::Error| HarnessError::about(program.display(), error);
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(&program)
            .arg("slow-links")
            .args(links.iter().map(SlowLink::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(about)?;
        let mut listens = [0];
        let mut said = child.stdout.take().expect("its output is ours");
        let heard = said.read_exact(&mut listens);
        let proxy = Self { child };
        heard.map_err(about)?;
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a node's proxy listens for what goes to a peer.
pub(super) fn port(peer: usize) -> u16 {
    FIRST_PORT + u16::try_from(peer).expect("there are few nodes")
}

/// The local ports of a proxy's own connections, below those that the kernel gives out.
pub(super) const OWN_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;
const FIRST_PORT: u16 = 9_001;
/// What one connection may hold each way while it waits.
const PIECE_BYTES: usize = 16 << 10;
const PIECES: usize = 256;

/// Is the proxy of [`Proxy`]: says a byte once it listens, and ends when its standard input closes.
///
/// # Errors
/// When it cannot listen.
pub fn slow_links(links: &[SlowLink]) -> Result<(), HarnessError> {
    // At a terminal, Ctrl-C is for the harness.
    let _ = rustix::process::setsid();
    let about = |error: std::io::Error| HarnessError::about("slow links", error);
    tokio::runtime::Runtime::new().map_err(about)?.block_on(async {
        for link in links {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, link.port));
            tokio::spawn(serve(listener.await.map_err(about)?, link.to, link.pace));
        }
        let mut out = tokio::io::stdout();
        out.write_all(b".").await.map_err(about)?;
        out.flush().await.map_err(about)?;
        let mut rest = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut rest).await;
        // Its thread would wait for input for ever, were the runtime dropped.
        std::process::exit(0)
    })
}

async fn serve(listener: TcpListener, to: SocketAddr, pace: Pace) {
    loop {
        if let Ok((inner, _)) = listener.accept().await {
            tokio::spawn(async move {
                // As a connection over such a link takes its round trip.
                sleep(Duration::from_millis(2 * pace.delay_ms)).await;
                if let Ok(outer) = connect(to).await {
                    relay(inner, outer, pace).await;
                }
            });
        }
    }
}

/// Connects from one of [`OWN_PORTS`].
async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = OWN_PORTS.end() - OWN_PORTS.start() + 1;
    let mut tries = 0;
    loop {
        tries += 1;
        let own = OWN_PORTS.start() + NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::UNSPECIFIED, own).into())?;
        match socket.connect(to).await {
            // Still in use for a connection that ended a little while ago.
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable && tries < 100 => {}
            connected => return connected,
        }
    }
}

/// Ends both connections once either does.
async fn relay(inner: TcpStream, outer: TcpStream, pace: Pace) {
    for stream in [&inner, &outer] {
        // Only the delay shall delay.
        let _ = stream.set_nodelay(true);
    }
    let (from_inner, to_inner) = inner.into_split();
    let (from_outer, to_outer) = outer.into_split();
    tokio::select! {
        () = carry(from_inner, to_outer, pace) => {}
        () = carry(from_outer, to_inner, pace) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, pace: Pace) {
    let (came, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            match from.read(&mut piece).await {
                Ok(bytes) if bytes > 0 => piece.truncate(bytes),
                _ => return,
            }
            let due = Instant::now() + Duration::from_millis(pace.delay_ms);
            if came.send((due, piece)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = waiting.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            if let Some(kib_per_s) = pace.kib_per_s {
                let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                sleep(Duration::from_micros(
                    bytes.saturating_mul(977) / kib_per_s.max(1),
                ))
                .await;
            }
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_was_said() {
        for kib_per_s in [None, Some(64)] {
            let link = SlowLink {
                port: port(1),
                to: "10.213.0.12:8201".parse().expect("an address"),
                pace: Pace {
                    delay_ms: 50,
                    kib_per_s,
                },
            };
            assert_eq!(link.to_string().parse(), Ok(link));
        }
        assert!("9001/10.213.0.12/50/0".parse::<SlowLink>().is_err());
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_and_late() {
        let there = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let to = there.local_addr().expect("its address");
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let at = proxy.local_addr().expect("its address");
        let pace = Pace {
            delay_ms: 100,
            kib_per_s: None,
        };
        let serving = tokio::spawn(serve(proxy, to, pace));
        let began = Instant::now();
        let mut here = TcpStream::connect(at).await.expect("it connects");
        here.write_all(b"one two").await.expect("it writes");
        let (mut other, _) = there.accept().await.expect("a connection");
        let mut heard = [0; 7];
        other.read_exact(&mut heard).await.expect("it arrives");
        assert_eq!(&heard, b"one two");
        other.write_all(b"three").await.expect("it answers");
        let mut answer = [0; 5];
        here.read_exact(&mut answer).await.expect("it comes back");
        assert_eq!(&answer, b"three");
        // A round trip for the connection, then one way and the other.
        assert!(began.elapsed() >= Duration::from_millis(400));
        drop(other);
        assert_eq!(here.read(&mut answer).await.expect("an end"), 0);
        serving.abort();
    }
}
