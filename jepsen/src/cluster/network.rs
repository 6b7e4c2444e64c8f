//! A namespace for each node, joined by a bridge, and what the links between them let through.
//!
//! ```text
//! bridge   conclave-jN        10.213.N.1, where the clients are
//! node K   namespace conclave-jN-K, its interface 10.213.N.(10+K) inside, cjNnK at the bridge
//! ```
//! N is the first number that no other harness holds. Everything of a number is removed before it is
//! used, and by [`watch_and_sweep`] when the harness ends, however it ends: nothing is left behind.

use super::{
    files::CLUSTER_PORT,
    slow::{self, OWN_PORTS, Pace, Proxy, SlowLink},
};
use crate::HarnessError;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The network of one run. What it made is removed when it is dropped.
pub struct Network {
    number: u8,
    nodes: usize,
    links: Links,
    /// What slows each node's links, where they are slow.
    proxies: Vec<Option<Proxy>>,
    /// Held as long as the number is ours.
    _lock: File,
    /// Sweeps when its standard input closes.
    sweeper: std::process::Child,
}

/// What each ordered pair of nodes' link lets through.
#[derive(Clone, PartialEq, Debug)]
pub struct Links {
    /// `lost[to][from]`: the share of packets that is lost, 0 to 1.
    lost: Vec<Vec<f64>>,
    /// `slow[from][to]`: how slow the connections are that one makes to the other.
    slow: Vec<Vec<Option<Pace>>>,
}

impl Links {
    /// Everything gets through.
    pub fn open(nodes: usize) -> Self {
        Self {
            lost: vec![vec![0.0; nodes]; nodes],
            slow: vec![vec![None; nodes]; nodes],
        }
    }

    /// Loses this share of what one node sends to another; the greater of two losses counts.
    pub fn lose(&mut self, from: usize, to: usize, share: f64) {
        let lost = &mut self.lost[to][from];
        *lost = lost.max(share);
    }

    /// Lets nothing through from one node to another.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.lose(from, to, 1.0);
    }

    /// Slows the connections that one node makes to another, each way; of two paces the slower counts.
    pub fn slow(&mut self, from: usize, to: usize, pace: Pace) {
        let slow = &mut self.slow[from][to];
        *slow = Some(slow.map_or(pace, |other| other.and(pace)));
    }

    /// Takes also what these take.
    pub fn add(&mut self, others: &Self) {
        for (from, to) in others.slow.iter().enumerate() {
            for (to, pace) in to.iter().enumerate() {
                if let Some(pace) = pace {
                    self.slow(from, to, *pace);
                }
            }
        }
        for (to, from) in others.lost.iter().enumerate() {
            for (from, share) in from.iter().enumerate() {
                self.lose(from, to, *share);
            }
        }
    }

    /// The rules of iptables within one node's namespace.
    fn rules(&self, node: usize, address: impl Fn(usize) -> Ipv4Addr) -> String {
        let mut filter = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n".to_owned();
        for (from, share) in self.lost[node].iter().enumerate() {
            let from = address(from);
            if *share >= 1.0 {
                filter += &format!("-A INPUT -s {from} -j DROP\n");
            } else if *share > 0.0 {
                filter += &format!(
                    "-A INPUT -s {from} -m statistic --mode random --probability {share:.4} -j DROP\n"
                );
            }
        }
        let mut nat =
            "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n".to_owned();
        for (to, pace) in self.slow[node].iter().enumerate() {
            if pace.is_some() {
                let (first, last) = (OWN_PORTS.start(), OWN_PORTS.end());
                let the_nodes_own = format!(
                    "-A OUTPUT -p tcp -d {} --dport {CLUSTER_PORT} ! --sport {first}:{last} -j",
                    address(to)
                );
                nat += &format!("{the_nodes_own} REDIRECT --to-ports {}\n", slow::port(to));
                // What is not redirected was connected before.
                filter += &format!("{the_nodes_own} REJECT --reject-with tcp-reset\n");
            }
        }
        format!("{filter}COMMIT\n{nat}COMMIT\n")
    }

    /// What a node's proxy has to do.
    fn slow_links(&self, node: usize, address: impl Fn(usize) -> Ipv4Addr) -> Vec<SlowLink> {
        let slow = self.slow[node].iter().enumerate();
        slow.filter_map(|(to, pace)| {
            Some(SlowLink {
                port: slow::port(to),
                to: (address(to), CLUSTER_PORT).into(),
                pace: (*pace)?,
            })
        })
        .collect()
    }
}

impl Network {
    /// Makes the namespaces of so many nodes. Needs root, and the programs `ip` and `iptables`.
    ///
    /// # Errors
    /// When one of those is missing, with what to do; when the kernel refuses.
    pub fn make(nodes: usize) -> Result<Self, HarnessError> {
        require_tools()?;
        fs::create_dir_all(LOCKS).map_err(|error| HarnessError::about(LOCKS, error))?;
        for number in 0..=MOST_NUMBER {
            let Some(lock) = hold(number)? else { continue };
            sweep(number);
            let program =
                std::env::current_exe().map_err(|error| HarnessError::about("this program", error))?;
            let sweeper = Command::new(&program)
                .args(["sweep", "--when-input-closes", &number.to_string()])
                .stdin(Stdio::piped())
                .spawn()
                .map_err(|error| HarnessError::about(program.display(), error))?;
            let network = Self {
                number,
                nodes,
                links: Links::open(nodes),
                proxies: (0..nodes).map(|_| None).collect(),
                _lock: lock,
                sweeper,
            };
            network.build()?;
            return Ok(network);
        }
        Err(HarnessError(format!("{} harnesses run already", MOST_NUMBER)))
    }

    /// Where a node is reached.
    pub fn address(&self, node: usize) -> Ipv4Addr {
        address(self.number, node)
    }

    /// Starts the program of its arguments within a node's namespace, as the same process: a script
    /// that is written into `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn program_within(
        &self,
        node: usize,
        program: &Path,
        folder: &Path,
    ) -> Result<PathBuf, HarnessError> {
        let script = folder.join("conclave-in-namespace");
        let text = format!(
            "#!/bin/sh\nexec ip netns exec {} '{}' \"$@\"\n",
            namespace(self.number, node),
            program.display()
        );
        let written = fs::write(&script, text).and_then(|()| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o700))
        });
        written.map_err(|error| HarnessError::about(script.display(), error))?;
        Ok(script)
    }

    /// Lets the links between nodes be these from now on.
    ///
    /// # Errors
    /// When iptables refuses.
    pub fn set_links(&mut self, links: Links) -> Result<(), HarnessError> {
        for node in 0..self.nodes {
            let slow_links = |links: &Links| links.slow_links(node, |to| self.address(to));
            let slow = slow_links(&links);
            let other_pace = slow != slow_links(&self.links);
            if other_pace {
                self.proxies[node] = None;
                if !slow.is_empty() {
                    self.proxies[node] = Some(Proxy::start(&namespace(self.number, node), &slow)?);
                }
            }
            let rules = links.rules(node, |from| self.address(from));
            if rules != self.links.rules(node, |from| self.address(from)) {
                self.restore(node, &rules)?;
            }
        }
        self.links = links;
        Ok(())
    }

    fn build(&self) -> Result<(), HarnessError> {
        let (number, bridge) = (self.number, bridge(self.number));
        run(&["ip", "link", "add", &bridge, "type", "bridge"])?;
        run(&[
            "ip",
            "address",
            "add",
            &format!("10.213.{number}.1/24"),
            "dev",
            &bridge,
        ])?;
        run(&["ip", "link", "set", &bridge, "up"])?;
        for node in 0..self.nodes {
            let (namespace, outside) = (namespace(number, node), interface(number, node));
            run(&["ip", "netns", "add", &namespace])?;
            run(&[
                "ip", "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &namespace,
            ])?;
            run(&["ip", "link", "set", &outside, "master", &bridge, "up"])?;
            let inside = format!("{}/24", self.address(node));
            run(&["ip", "-n", &namespace, "address", "add", &inside, "dev", "eth0"])?;
            run(&["ip", "-n", &namespace, "link", "set", "lo", "up"])?;
            run(&["ip", "-n", &namespace, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    fn restore(&self, node: usize, rules: &str) -> Result<(), HarnessError> {
        let about = |error: String| HarnessError::about("iptables-restore", error);
        let mut restore = Command::new("ip")
            .args(["netns", "exec", &namespace(self.number, node), "iptables-restore"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| about(error.to_string()))?;
        let mut input = restore.stdin.take().expect("its input is ours");
        input
            .write_all(rules.as_bytes())
            .map_err(|error| about(error.to_string()))?;
        drop(input);
        let output = restore
            .wait_with_output()
            .map_err(|error| about(error.to_string()))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(about(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Its input closes, it sweeps, and then it is gone.
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}

/// Waits until standard input closes, and removes what was made under a number: so that a harness
/// that was killed leaves nothing behind.
pub fn watch_and_sweep(number: u8) {
    // At a terminal, Ctrl-C is for the harness.
    let _ = rustix::process::setsid();
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    sweep(number);
}

/// Removes what dead harnesses left. Those that run are left alone.
///
/// # Errors
/// When a lock's file cannot be opened.
pub fn sweep_all() -> Result<(), HarnessError> {
    fs::create_dir_all(LOCKS).map_err(|error| HarnessError::about(LOCKS, error))?;
    for number in 0..=MOST_NUMBER {
        if let Some(_lock) = hold(number)? {
            sweep(number);
        }
    }
    Ok(())
}

const LOCKS: &str = "/run/conclave-jepsen";
const MOST_NUMBER: u8 = 31;
/// Nodes that a number has at most.
const MOST_NODES: usize = 9;

fn hold(number: u8) -> Result<Option<File>, HarnessError> {
    let path = Path::new(LOCKS).join(number.to_string());
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| HarnessError::about(path.display(), error))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(HarnessError::about(path.display(), error)),
    }
}

/// Ends what runs within the namespaces of a number, and removes them and their bridge.
fn sweep(number: u8) {
    if !Path::new(&format!("/sys/class/net/{}", bridge(number))).exists() {
        return;
    }
    for node in 0..MOST_NODES {
        let namespace = namespace(number, node);
        if !Path::new("/run/netns").join(&namespace).exists() {
            continue;
        }
        let within = Command::new("ip").args(["netns", "pids", &namespace]).output();
        let within = within.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for pid in within.unwrap_or_default().lines() {
            let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // The kernel takes its time over a namespace; its interface's name is wanted again at once.
        let _ = run(&["ip", "link", "del", &interface(number, node)]);
        let _ = run(&["ip", "netns", "del", &namespace]);
    }
    let _ = run(&["ip", "link", "del", &bridge(number)]);
}

fn require_tools() -> Result<(), HarnessError> {
    if !rustix::process::geteuid().is_root() {
        return Err(HarnessError(
            "network namespaces need root: run this as root, or with sudo".to_owned(),
        ));
    }
    for (tool, package) in [("ip", "iproute2"), ("iptables-restore", "iptables")] {
        let found = Command::new(tool).arg("-V").output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Err(HarnessError(format!(
                "{tool} is missing: install the package {package} (scripts/install-jepsen-needs does)"
            )));
        }
    }
    Ok(())
}

fn run(words: &[&str]) -> Result<(), HarnessError> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .map_err(|error| HarnessError::about(words[0], error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(HarnessError::about(words.join(" "), said.trim()))
}

fn bridge(number: u8) -> String {
    format!("conclave-j{number}")
}

fn namespace(number: u8, node: usize) -> String {
    format!("conclave-j{number}-{}", node + 1)
}

fn interface(number: u8, node: usize) -> String {
    format!("cj{number}n{}", node + 1)
}

fn address(number: u8, node: usize) -> Ipv4Addr {
    let last = u8::try_from(11 + node).expect("there are few nodes");
    Ipv4Addr::new(10, 213, number, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_what_is_lost_and_what_is_slow() {
        let mut links = Links::open(3);
        links.lose(0, 1, 0.25);
        links.lose(2, 1, 0.5);
        links.cut(2, 1);
        let pace = |delay_ms| Pace {
            delay_ms,
            kib_per_s: None,
        };
        links.slow(0, 2, pace(50));
        links.slow(0, 2, pace(200));
        links.slow(0, 2, pace(100));
        let rules = |to| links.rules(to, |node| address(7, node));
        let around = |filter: &str, nat: &str| {
            format!(
                "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n{filter}COMMIT\n\
                 *nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n{nat}COMMIT\n"
            )
        };
        assert_eq!(rules(2), around("", ""));
        let expected = "-A INPUT -s 10.213.7.11 -m statistic --mode random --probability 0.2500 -j DROP\n\
                        -A INPUT -s 10.213.7.13 -j DROP\n";
        assert_eq!(rules(1), around(expected, ""));
        let own = "-A OUTPUT -p tcp -d 10.213.7.13 --dport 8201 ! --sport 20000:29999 -j";
        assert_eq!(
            rules(0),
            around(
                &format!("{own} REJECT --reject-with tcp-reset\n"),
                &format!("{own} REDIRECT --to-ports 9003\n")
            )
        );
        let slow = links.slow_links(0, |node| address(7, node));
        assert_eq!(slow.len(), 1);
        assert_eq!(slow[0].to_string(), "9003/10.213.7.13:8201/200/0");
        assert!(links.slow_links(2, |node| address(7, node)).is_empty());
    }
}
