//! Which ports a development cluster listens on.
//!
//! Nodes have to know one another's ports before any of them listens, so "whatever is free" is not
//! enough: between choosing and listening somebody else could take it. With base 0 we take a block
//! of ports outside of the range from which the kernel gives ports to others, and hold the block's
//! first port for as long as we run, so that two clusters never share a block.

use super::DevError;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
};

/// What the user chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortChoice {
    /// Node number n (from 0) listens on base + 10n and the two ports after that.
    From(u16),
    /// Free ones.
    Free,
}

/// Ports for some nodes. With [`PortChoice::Free`] they are ours while this lives.
#[derive(Debug)]
pub struct Ports {
    nodes: Vec<NodePorts>,
    _hold: Option<TcpListener>,
}

/// One node's listeners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodePorts {
    pub api: u16,
    pub cluster: u16,
    pub metrics: u16,
}

impl Ports {
    /// Chooses ports and checks that they are free now.
    pub fn choose(choice: PortChoice, nodes: usize) -> Result<Self, DevError> {
        match choice {
            PortChoice::From(base) => Self::from_base(base, nodes),
            PortChoice::Free => Self::free(nodes),
        }
    }

    /// Whether nobody listens on any of these now.
    pub fn are_free(ports: &[NodePorts]) -> bool {
        ports
            .iter()
            .flat_map(NodePorts::all)
            .all(|port| bind(port).is_ok())
    }

    /// The nodes' ports, in order.
    pub fn nodes(&self) -> &[NodePorts] {
        &self.nodes
    }

    fn from_base(base: u16, nodes: usize) -> Result<Self, DevError> {
        let chosen: Vec<NodePorts> = (0..nodes)
            .map(|node| {
                let first = usize::from(base) + STEP * node;
                u16::try_from(first + 2).ok().map(|last| NodePorts {
                    api: last - 2,
                    cluster: last - 1,
                    metrics: last,
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| DevError(format!("port {base}: too high for {nodes} nodes")))?;
        if base == 0 {
            return Err(DevError("port 0 is no base".into()));
        }
        for port in chosen.iter().flat_map(NodePorts::all) {
            check_free(port)?;
        }
        Ok(Self {
            nodes: chosen,
            _hold: None,
        })
    }

    fn free(nodes: usize) -> Result<Self, DevError> {
        let block_ports = 1 + 3 * nodes;
        let range = range_without_kernel();
        let blocks = range.len() / block_ports;
        if blocks == 0 {
            return Err(DevError(format!("there is no room for {block_ports} ports")));
        }
        // Somewhere at random, so that clusters that start at the same time rarely meet.
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| DevError(format!("randomness: {error}")))?;
        let start = usize::try_from(u64::from_ne_bytes(random) % blocks as u64).unwrap_or(0);
        for block in (0..blocks).map(|offset| (start + offset) % blocks) {
            let first = range.start + u16::try_from(block * block_ports).expect("a block lies in the range");
            let Ok(hold) = bind(first) else { continue };
            let nodes: Vec<NodePorts> = (0..u16::try_from(nodes).expect("fewer nodes than ports"))
                .map(|node| first + 1 + 3 * node)
                .map(|api| NodePorts {
                    api,
                    cluster: api + 1,
                    metrics: api + 2,
                })
                .collect();
            if nodes
                .iter()
                .flat_map(NodePorts::all)
                .all(|port| bind(port).is_ok())
            {
                return Ok(Self {
                    nodes,
                    _hold: Some(hold),
                });
            }
        }
        Err(DevError("no block of free ports was found".into()))
    }
}

impl NodePorts {
    /// All three.
    pub fn all(&self) -> [u16; 3] {
        [self.api, self.cluster, self.metrics]
    }
}

/// Refuses a port that somebody listens on.
pub(super) fn check_free(port: u16) -> Result<(), DevError> {
    bind(port)
        .map(drop)
        .map_err(|error| DevError(format!("port {port} of 127.0.0.1 cannot be used: {error}")))
}

const STEP: usize = 10;

fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// Unprivileged ports that the kernel gives to nobody by itself; where it leaves fewer than a
/// thousand, all unprivileged ones.
fn range_without_kernel() -> Range<u16> {
    const FIRST: u16 = 10_240;
    let kernel = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest: u16 = kernel
        .split_whitespace()
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(32_768);
    if lowest > FIRST + 1_000 {
        FIRST..lowest
    } else {
        FIRST..65_535
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn clusters_never_share_free_ports() {
        let clusters: Vec<Ports> = (0..20)
            .map(|_| Ports::choose(PortChoice::Free, 3).expect("free ports"))
            .collect();
        let mut seen = BTreeSet::new();
        for port in clusters
            .iter()
            .flat_map(|ports| ports.nodes())
            .flat_map(NodePorts::all)
        {
            assert!(seen.insert(port), "{port} was given out twice");
        }
        assert_eq!(seen.len(), 20 * 9);
    }

    #[test]
    fn a_base_gives_the_documented_ports() {
        // The block is ours while `held` lives, so its ports are free as a base.
        let held = Ports::choose(PortChoice::Free, 12).expect("free ports");
        let base = held.nodes()[0].api;
        let ports = Ports::choose(PortChoice::From(base), 3).expect("the block is free");
        assert_eq!(
            ports.nodes()[2],
            NodePorts {
                api: base + 20,
                cluster: base + 21,
                metrics: base + 22
            }
        );
    }

    #[test]
    fn a_taken_port_is_named() {
        let held = Ports::choose(PortChoice::Free, 12).expect("free ports");
        let base = held.nodes()[0].api;
        let _taken = bind(base + 11).expect("the block is free");
        let error = Ports::choose(PortChoice::From(base), 3).expect_err("one is taken");
        assert!(error.0.contains(&(base + 11).to_string()), "{error}");
        assert!(Ports::choose(PortChoice::From(65_530), 3).is_err());
    }
}
