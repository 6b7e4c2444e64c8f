//! The network between nodes, which a test may cut: for each ordered pair of nodes a TCP proxy,
//! through which the first reaches the second.
//!
//! A cut is silent, as in a real network: connections stay, new ones are taken, and nothing gets
//! through. What was under way arrives when the cut is healed, late, as TCP delivers it.

use conclave::dev::Layout;
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener as BlockingListener},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// The proxies of one cluster. They end when it is dropped.
pub struct Network {
    /// `open[from][to]`
    open: Vec<Vec<watch::Sender<bool>>>,
    _proxies: JoinSet<()>,
}

impl Network {
    /// Starts the proxies and lets each node's configuration name them as the other nodes'
    /// addresses.
    pub fn between(layout: &Layout) -> Self {
        let nodes = layout.nodes();
        let mut proxies = JoinSet::new();
        let mut open = Vec::new();
        for (from, node) in nodes.iter().enumerate() {
            let gates: Vec<_> = nodes.iter().map(|_| watch::Sender::new(true)).collect();
            let mut addresses = Vec::new();
            for (to, other) in nodes.iter().enumerate() {
                let real = SocketAddr::from((Ipv4Addr::LOCALHOST, other.ports.cluster));
                if from == to {
                    addresses.push(real);
                    continue;
                }
                let listener = BlockingListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
                addresses.push(listener.local_addr().expect("a bound listener"));
                listener.set_nonblocking(true).expect("a socket");
                let listener = TcpListener::from_std(listener).expect("within a runtime");
                proxies.spawn(serve(listener, real, gates[to].subscribe()));
            }
            open.push(gates);
            name_in_configuration(&node.config, &addresses);
        }
        Self {
            open,
            _proxies: proxies,
        }
    }

    /// Cuts these nodes off from all others; among themselves they still hear each other.
    pub fn cut_off(&self, nodes: &[usize]) {
        for (from, gates) in self.open.iter().enumerate() {
            for (to, gate) in gates.iter().enumerate() {
                if nodes.contains(&from) != nodes.contains(&to) {
                    gate.send_replace(false);
                }
            }
        }
    }

    /// Mends everything.
    pub fn heal(&self) {
        for gate in self.open.iter().flatten() {
            gate.send_replace(true);
        }
    }
}

fn name_in_configuration(config: &std::path::Path, addresses: &[SocketAddr]) {
    let text = fs::read_to_string(config).expect("the configuration");
    let mut table: toml::Table = text.parse().expect("TOML");
    let nodes = table["cluster"]["nodes"].as_array_mut().expect("cluster.nodes");
    for (node, address) in nodes.iter_mut().zip(addresses) {
        node["address"] = address.to_string().into();
    }
    fs::write(config, table.to_string()).expect("the configuration");
}

async fn serve(listener: TcpListener, to: SocketAddr, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((inbound, _)) = accepted {
                    // A connection that breaks is the nodes' business.
                    connections.spawn(forward(inbound, to, open.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(inbound: TcpStream, to: SocketAddr, mut open: watch::Receiver<bool>) {
    if until_open(&mut open).await.is_err() {
        return;
    }
    let Ok(outbound) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
    let (inbound_read, inbound_write) = inbound.into_split();
    let (outbound_read, outbound_write) = outbound.into_split();
    // An error of one direction ends both.
    let _ = tokio::try_join!(
        pump(inbound_read, outbound_write, open.clone()),
        pump(outbound_read, inbound_write, open),
    );
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await;
        until_open(&mut open).await?;
        let count = read?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

async fn until_open(open: &mut watch::Receiver<bool>) -> io::Result<()> {
    match open.wait_for(|open| *open).await {
        Ok(_) => Ok(()),
        Err(_) => Err(io::ErrorKind::NotConnected.into()),
    }
}
