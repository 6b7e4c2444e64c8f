//! A network in memory: it knows every node, and says who is at the other end.

use conclave_raft::transport::{
    in_force::InForce,
    network::{Incoming, Listener, Network, NetworkFault, Proven},
};
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};
use tokio::{io::DuplexStream, sync::mpsc};

/// Bytes that may be under way in one direction of a connection.
const BUFFER_BYTES: usize = 64 * 1024;

type Arrivals = mpsc::Receiver<(String, DuplexStream)>;

/// Who listens where. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    listening: Arc<Mutex<BTreeMap<String, Listening>>>,
}

#[derive(Clone)]
struct Listening {
    node_name: String,
    connecting: mpsc::Sender<(String, DuplexStream)>,
}

/// One node's way into the network.
struct MemoryPort {
    node_name: String,
    network: MemoryNetwork,
}

/// The way of others to one node.
struct MemoryListener {
    arrivals: Arrivals,
}

impl MemoryNetwork {
    /// Lets a node listen at an address.
    pub fn port(&self, node_name: &str, address: &str) -> (Arc<dyn Network>, Box<dyn Listener>) {
        let (connecting, arrivals) = mpsc::channel(64);
        let listening = Listening {
            node_name: node_name.to_owned(),
            connecting,
        };
        self.listening
            .lock()
            .unwrap()
            .insert(address.to_owned(), listening);
        let port = MemoryPort {
            node_name: node_name.to_owned(),
            network: self.clone(),
        };
        (Arc::new(port), Box::new(MemoryListener { arrivals }))
    }
}

impl Network for MemoryPort {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<Proven, NetworkFault>> {
        async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let found = self.network.listening.lock().unwrap().get(address).cloned();
            let listening = found.ok_or_else(refused)?;
            let (near, far) = tokio::io::duplex(BUFFER_BYTES);
            let arriving = listening.connecting.send((self.node_name.clone(), far));
            arriving.await.map_err(|_| refused())?;
            Ok(Proven {
                node_name: listening.node_name,
                stream: Box::new(near),
                in_force: InForce::always(),
            })
        }
        .boxed()
    }
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Incoming>> {
        async {
            let arrived = self.arrivals.recv().await;
            let (node_name, stream) = arrived.ok_or(io::ErrorKind::NotConnected)?;
            let proven = Proven {
                node_name: node_name.clone(),
                stream: Box::new(stream),
                in_force: InForce::always(),
            };
            Ok(Incoming {
                from: node_name,
                proving: std::future::ready(Ok(proven)).boxed(),
            })
        }
        .boxed()
    }
}
