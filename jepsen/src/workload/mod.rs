//! What clients ask for. Each workload is one row of weights over a pool of secrets of its own; its
//! clients have rights to these alone, so that a list shows them and nothing else.

mod calls;
mod pool;

pub use pool::{Pool, PoolLimits};

use crate::{
    client::{CALL_TIMEOUT, Caller},
    cluster::ClientAccount,
    history::{Answer, Call, Outcome},
};
use calls::{Kind, Weights};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// A kind of load.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, clap::ValueEnum)]
pub enum Workload {
    /// All calls over a few secrets, which are much contended.
    Registers,
    /// All calls over many secrets.
    Wide,
    /// Unique values that are read much, so that each disclosure can be looked up in the audit.
    Ledger,
    /// Lists beside writes.
    List,
    /// Conditional gets answered by followers, beside few writes.
    Polling,
    /// Somebody without any right asks for what is there.
    Denied,
    /// Impatient clients that stay with a node until it fails them: how long writes and polls stand
    /// still is measured by these.
    Probe,
}

/// How a workload's clients behave.
struct Shape {
    clients: usize,
    limits: PoolLimits,
    weights: Weights,
    /// Of ten puts, how many repeat a value of that secret.
    repeated_of_ten: u32,
    nodes: Nodes,
    /// The mean of the time between two calls of a client.
    think_ms: u64,
}

/// Which nodes a client asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    Any,
    /// With polls one follower, until it fails; anything else at any.
    OneFollower,
    /// One, until it fails.
    Same,
}

/// What all clients share.
pub struct Shared {
    /// The next value that nobody has put yet.
    next_value: AtomicU64,
    /// Set when clients shall stop.
    stop: AtomicBool,
    /// The position of the node that leads, as far as the harness knows.
    leader: watch::Receiver<Option<usize>>,
}

impl Shared {
    /// For clients that shall know the leader.
    pub fn new(leader: watch::Receiver<Option<usize>>) -> Self {
        Self {
            next_value: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            leader,
        }
    }

    /// Lets all clients stop after the call that they make.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Registers,
        Self::Wide,
        Self::Ledger,
        Self::List,
        Self::Polling,
        Self::Denied,
        Self::Probe,
    ];

    /// Its name in histories, grants and secrets' names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Wide => "wide",
            Self::Ledger => "ledger",
            Self::List => "list",
            Self::Polling => "polling",
            Self::Denied => "denied",
            Self::Probe => "probe",
        }
    }

    /// Its clients. Those of [`Workload::Denied`] have rights that cover none of the secrets they ask for.
    pub fn accounts(self) -> Vec<ClientAccount> {
        let account = |client| ClientAccount {
            name: format!("{}-{client}", self.name()),
            secrets: Some(match self {
                Self::Denied => "elsewhere/*".to_owned(),
                _ => format!("{}/*", self.name()),
            }),
            operates: false,
        };
        (0..self.shape().clients).map(account).collect()
    }

    /// The secrets that its clients share. Those of [`Workload::Denied`] ask for a secret of the
    /// ledger's.
    pub fn pool(self) -> Pool {
        let prefix = match self {
            Self::Denied => Self::Ledger.name(),
            _ => self.name(),
        };
        Pool::new(prefix, self.shape().limits)
    }

    /// How long its clients wait for an answer.
    pub fn call_timeout(self) -> Duration {
        match self {
            Self::Probe => PROBE_TIMEOUT,
            _ => CALL_TIMEOUT,
        }
    }

    /// Makes one call after the other until told to stop.
    pub async fn run(self, mut caller: Caller, pool: Arc<Pool>, shared: Arc<Shared>, seed: u64) {
        let shape = self.shape();
        let mut random = StdRng::seed_from_u64(seed);
        let mut same = random.random_range(0..caller.nodes());
        // As a real poller it knows of changes by its own polls alone.
        let mut held: HashMap<String, u32> = HashMap::new();
        while !shared.stop.load(Ordering::Relaxed) {
            let kind = shape.weights.draw(&mut random);
            let node = choose_node(&shape, kind, (same, caller.nodes()), &shared, &mut random);
            if kind == Kind::List {
                caller.call(node, None, Call::List).await;
            } else {
                let secret = pool.draw(&mut random);
                let repeats = random.random_range(0..10) < shape.repeated_of_ten;
                let new = || shared.next_value.fetch_add(1, Ordering::Relaxed);
                let mut call = secret.call(kind, repeats, new, &mut random);
                if let (Call::Poll { version }, Nodes::OneFollower) = (&mut call, shape.nodes) {
                    *version = held.get(&secret.name).copied().unwrap_or(1);
                }
                let outcome = caller.call(node, Some(&secret.name), call.clone()).await;
                secret.learn(&call, &outcome);
                if let (
                    Call::Poll { .. },
                    Outcome::Ok {
                        answer: Answer::Value { version, .. },
                    },
                ) = (&call, &outcome)
                {
                    held.insert(secret.name.clone(), *version);
                }
                let stays = kind == Kind::Poll || shape.nodes == Nodes::Same;
                if stays && !matches!(outcome, Outcome::Ok { .. }) {
                    same = (same + 1) % caller.nodes();
                }
                if matches!(outcome, Outcome::Fail { .. }) {
                    // Whoever was refused asks another node a little later.
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
            let think_ms = random.random_range(0..=2 * shape.think_ms);
            tokio::time::sleep(Duration::from_millis(think_ms)).await;
        }
    }

    fn shape(self) -> Shape {
        let everything = Weights([
            (Kind::Put, 24),
            (Kind::CreateVersion, 6),
            (Kind::Activate, 14),
            (Kind::Get, 16),
            (Kind::GetVersion, 8),
            (Kind::Poll, 12),
            (Kind::Info, 8),
            (Kind::DeleteVersion, 8),
            (Kind::Delete, 3),
            (Kind::List, 0),
        ]);
        let some = |weights: &[(Kind, u32)]| Weights::of(weights);
        match self {
            Self::Registers => Shape {
                clients: 6,
                limits: PoolLimits {
                    secrets: 3,
                    calls: 160,
                    unknown: 4,
                },
                weights: everything,
                repeated_of_ten: 3,
                nodes: Nodes::Any,
                think_ms: 20,
            },
            Self::Wide => Shape {
                clients: 3,
                limits: PoolLimits {
                    secrets: 150,
                    calls: 160,
                    unknown: 6,
                },
                weights: everything,
                repeated_of_ten: 2,
                nodes: Nodes::Any,
                think_ms: 20,
            },
            Self::Ledger => Shape {
                clients: 3,
                limits: PoolLimits {
                    secrets: 3,
                    calls: 160,
                    unknown: 4,
                },
                weights: some(&[
                    (Kind::Put, 25),
                    (Kind::Activate, 20),
                    (Kind::Get, 35),
                    (Kind::GetVersion, 15),
                    (Kind::Poll, 5),
                ]),
                repeated_of_ten: 0,
                nodes: Nodes::Any,
                think_ms: 20,
            },
            Self::List => Shape {
                clients: 2,
                limits: PoolLimits {
                    secrets: 8,
                    calls: 120,
                    unknown: 4,
                },
                weights: some(&[
                    (Kind::Put, 30),
                    (Kind::Activate, 15),
                    (Kind::DeleteVersion, 10),
                    (Kind::Delete, 5),
                    (Kind::List, 15),
                ]),
                repeated_of_ten: 1,
                nodes: Nodes::Any,
                think_ms: 40,
            },
            Self::Polling => Shape {
                clients: 3,
                limits: PoolLimits {
                    secrets: 3,
                    calls: 300,
                    unknown: 4,
                },
                weights: some(&[(Kind::Put, 4), (Kind::Activate, 6), (Kind::Poll, 90)]),
                repeated_of_ten: 0,
                nodes: Nodes::OneFollower,
                think_ms: 15,
            },
            Self::Probe => Shape {
                clients: 3,
                limits: PoolLimits {
                    secrets: 3,
                    calls: 160,
                    unknown: 4,
                },
                weights: some(&[(Kind::Put, 1), (Kind::Poll, 1)]),
                repeated_of_ten: 0,
                nodes: Nodes::Same,
                think_ms: 12,
            },
            Self::Denied => Shape {
                clients: 1,
                limits: PoolLimits {
                    secrets: 1,
                    calls: u32::MAX,
                    unknown: u32::MAX,
                },
                weights: some(&[(Kind::Get, 1)]),
                repeated_of_ten: 0,
                nodes: Nodes::Any,
                // A node keeps a record of its own for ten refusals in ten seconds.
                think_ms: 1_500,
            },
        }
    }
}

/// Of a probe: so much too long its figures may be.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);
const AFTER_FAILURE: Duration = Duration::from_millis(40);

fn choose_node(
    shape: &Shape,
    kind: Kind,
    (same, nodes): (usize, usize),
    shared: &Shared,
    random: &mut StdRng,
) -> usize {
    let leader = *shared.leader.borrow();
    match (shape.nodes, leader) {
        (Nodes::Same, _) => same,
        (Nodes::OneFollower, leader) if kind == Kind::Poll => match leader {
            Some(leader) if leader == same => (same + 1) % nodes,
            _ => same,
        },
        _ => random.random_range(0..nodes),
    }
}

impl pool::PooledSecret {
    /// A call of this kind that makes sense for what is known of the secret.
    fn call(&self, kind: Kind, repeats: bool, new: impl Fn() -> u64, random: &mut StdRng) -> Call {
        let highest = self.highest_version();
        // Now and then one that is not there.
        let version = random.random_range(1..=highest + 1);
        match kind {
            Kind::Put => Call::Put {
                value: self.known_value(random).filter(|_| repeats).unwrap_or_else(new),
            },
            Kind::CreateVersion => Call::CreateVersion {
                version: random.random_range(1..=highest + 3),
                value: new(),
            },
            Kind::Activate => Call::Activate { version },
            Kind::Get | Kind::List => Call::Get,
            Kind::GetVersion => Call::GetVersion { version },
            Kind::Poll => Call::Poll {
                version: self
                    .polled_version()
                    .filter(|_| random.random_range(0..10) < 8)
                    .unwrap_or(version),
            },
            Kind::Info => Call::Info,
            Kind::DeleteVersion => Call::DeleteVersion { version },
            Kind::Delete => Call::Delete,
        }
    }

    /// Remembers what an answer says, so that later calls make sense. No checker relies on it.
    fn learn(&self, call: &Call, outcome: &Outcome) {
        let answer = match outcome {
            Outcome::Ok { answer } => answer,
            Outcome::Info { .. } if call.writes() => return self.saw_unknown(),
            Outcome::Info { .. } | Outcome::Fail { .. } => return,
        };
        match (answer, call) {
            (Answer::Version { version }, Call::Put { value }) => self.saw_value(*version, *value),
            (Answer::Done, Call::CreateVersion { version, value }) => {
                self.saw_value(*version, *value);
                self.saw_active(*version);
            }
            (Answer::Done, Call::Activate { version }) => self.saw_active(*version),
            (Answer::Value { version, .. }, Call::Get | Call::Poll { .. }) => self.saw_active(*version),
            _ => {}
        }
    }
}
