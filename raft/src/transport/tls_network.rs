//! The network of production: mutual TLS 1.3 over TCP.

use super::{
    network::{Incoming, Listener, Network, NetworkFault, Proven},
    tls::{Configurations, NodeTls, unnamed_server},
};
use futures::{FutureExt, future::BoxFuture};
use rustls_pki_types::CertificateDer;
use std::{io, net, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

/// Bytes that were sent and not acknowledged by the peer's kernel for so long end a connection.
const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// Silence after which the peer's kernel is probed.
const TCP_KEEPALIVE: Duration = Duration::from_secs(5);

/// A [`Network`] of TCP connections, whose ends prove their names with node certificates.
pub struct TlsNetwork {
    tls: Arc<NodeTls>,
}

/// The [`Listener`] that belongs to it.
pub struct TlsListener {
    tls: Arc<NodeTls>,
    listener: TcpListener,
}

/// Both ends of a node that accepts on the given listener. To be called within the tokio runtime.
///
/// # Errors
/// The listener cannot be used.
pub fn over_tcp(tls: NodeTls, listener: net::TcpListener) -> io::Result<(TlsNetwork, TlsListener)> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let tls = Arc::new(tls);
    let accepting = TlsListener {
        tls: Arc::clone(&tls),
        listener,
    };
    Ok((TlsNetwork { tls }, accepting))
}

impl Network for TlsNetwork {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<Proven, NetworkFault>> {
        async move {
            let tcp = TcpStream::connect(address).await?;
            tune(&tcp)?;
            let certificates = self.tls.current();
            let stream = certificates.connector().connect(unnamed_server(), tcp).await?;
            proven(&self.tls, &certificates, stream.into())
        }
        .boxed()
    }

    fn reload(&self) -> Result<(), String> {
        self.tls.reload().map_err(|fault| fault.to_string())
    }
}

impl Listener for TlsListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        async {
            let (tcp, from) = self.listener.accept().await?;
            let tls = Arc::clone(&self.tls);
            let proving = async move {
                tune(&tcp)?;
                let certificates = tls.current();
                let stream = certificates.acceptor().accept(tcp).await?;
                proven(&tls, &certificates, stream.into())
            };
            Ok(Incoming {
                from: from.to_string(),
                proving: proving.boxed(),
            })
        }
        .boxed()
    }
}

fn proven(
    tls: &NodeTls,
    certificates: &Configurations,
    stream: TlsStream<TcpStream>,
) -> Result<Proven, NetworkFault> {
    let proof: Option<&[CertificateDer<'_>]> = stream.get_ref().1.peer_certificates();
    Ok(Proven {
        node_name: tls.peer_name(proof)?,
        in_force: certificates.in_force(proof)?,
        stream: Box::new(stream),
    })
}

/// Small frames leave at once, and a peer that vanished is noticed.
fn tune(tcp: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, TCP_KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(1))?;
    sockopt::set_tcp_user_timeout(tcp, TCP_UNACKNOWLEDGED.as_millis() as u32)?;
    Ok(())
}
