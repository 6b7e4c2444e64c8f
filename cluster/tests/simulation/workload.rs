//! What clients do: each node has a few, as its edge would stand for them. They put, read, delete and poll
//! a few secrets, under commands that carry numbers of their own, and note what they were told.

use super::{
    dice::Dice,
    history::{Answer, Event, History, Operation, now},
    machine::{Mark, World},
};
use bytes::Bytes;
use conclave_cluster::{
    command::{
        Activation, Command, Create, Done, Expected, Look, NumberChoice, Operation as Ask, Outcome, Put,
        SameValue, Step, Which,
    },
    model::{Action, AuditStub, Place, Sealed, SecretId, SecretSettings, Token, ValueDigest, ValueId},
    node::{self, Cluster, ProposeError},
};
use conclave_raft::runtime::{AsyncRuntime, Runtime};
use rand::Rng;
use std::time::Duration;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// How busy clients are, in one simulation.
pub struct Workload {
    pub clients_per_node: usize,
    pub places: u32,
    /// The longest pause between two commands of a client, in milliseconds.
    pub pause_ms: u64,
    /// Nothing is asked any more.
    pub quiet: Mark,
}

/// The clients of a node.
pub struct Clients(JoinSet<()>);

impl Clients {
    /// Ends them, whatever they wait for.
    pub async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

/// Starts a node's clients. They are busy until the node stops, or everyone is to be quiet.
pub fn serve(number: usize, node: &Cluster, world: &World) -> Clients {
    let mut clients = JoinSet::new();
    for _ in 0..world.workload.clients_per_node {
        let mut client = Client {
            number,
            node: node.clone(),
            world: world.clone(),
            dice: Dice::new(Runtime::thread_rng().next_u64()),
        };
        clients.spawn(Runtime::inherited(async move { client.work().await }));
    }
    Clients(clients)
}

struct Client {
    number: usize,
    node: Cluster,
    world: World,
    dice: Dice,
}

impl Client {
    async fn work(&mut self) {
        while !self.world.workload.quiet.is_set() {
            let pause_ms = self.dice.between(1, self.world.workload.pause_ms);
            sleep(Duration::from_millis(pause_ms)).await;
            let deadline = Instant::now() + Duration::from_millis(self.dice.between(500, 5_000));
            let place = u32::try_from(self.dice.between(1, u64::from(self.world.workload.places)))
                .expect("a few places");
            let ask = match self.dice.between(1, 100) {
                1..=40 => self.put(place),
                41..=65 => disclose(place),
                66..=67 => delete(place),
                68..=71 => look(place),
                72..=85 => {
                    self.poll(deadline).await;
                    continue;
                }
                86..=99 => {
                    self.read(deadline).await;
                    continue;
                }
                _ => {
                    self.transfer(deadline).await;
                    continue;
                }
            };
            if self.dice.percent(10) {
                self.copies(ask, place, deadline).await;
            } else {
                self.command(ask, place, deadline).await;
            }
        }
    }

    async fn command(&mut self, ask: (Ask, Action), place: u32, deadline: Instant) {
        let (operation, command) = numbered(&self.world.history, ask);
        let answer = self.node.propose(command, deadline).await;
        self.answered(operation, place, answer);
    }

    /// Delivered several times, as a network that repeats what it carries would.
    async fn copies(&mut self, ask: (Ask, Action), place: u32, deadline: Instant) {
        let (operation, command) = numbered(&self.world.history, ask);
        let copies = self.dice.index(2) + 2;
        for answer in self.node.propose_copies(command, copies, deadline).await {
            self.answered(operation, place, answer);
        }
    }

    fn answered(&self, operation: Operation, place: u32, answer: Result<node::Answer, ProposeError>) {
        let answer = answer.map_or(Answer::Failed, |answer| told(answer, place));
        self.world.history.note(Event::Answered { operation, answer });
    }

    async fn poll(&mut self, deadline: Instant) {
        if self.node.poll_barrier(deadline).await.is_ok() {
            let applied = self.node.view().applied_index().unwrap_or(0);
            let node = self.number;
            self.world.history.note(Event::Polled { node, applied });
        }
    }

    async fn read(&mut self, deadline: Instant) {
        let asked = now();
        if self.node.read_barrier(deadline).await.is_ok() {
            let applied = self.node.view().applied_index().unwrap_or(0);
            let node = self.number;
            self.world.history.note(Event::Read { node, asked, applied });
        }
    }

    async fn transfer(&mut self, deadline: Instant) {
        let (operation, command) = numbered(&self.world.history, (Ask::Look(Look::Other), Action::Operate));
        let Ok(answer) = self.node.propose(command, deadline).await else {
            return;
        };
        self.answered(operation, 0, Ok(answer.clone()));
        if !self.node.wait_applied(answer.index, deadline).await {
            return;
        }
        let record = self.node.record_of(&answer).expect("the state can be read");
        if let Some(record) = record {
            // Whoever leads afterwards: it may also fail.
            let _ = self.node.transfer_leadership(None, record, deadline).await;
        }
    }

    /// A put as an edge would make it that looked at what it has applied.
    fn put(&mut self, number: u32) -> (Ask, Action) {
        let view = self.node.view();
        let lies_there = view.place(&place(number)).expect("the state can be read");
        let secret = lies_there.and_then(|record| record.secret);
        let mut fresh = [0; 16];
        fresh[..8].copy_from_slice(&self.dice.number().to_be_bytes());
        fresh[8..].copy_from_slice(&self.dice.number().to_be_bytes());
        let put = Put {
            place: place(number),
            secret: secret.unwrap_or(SecretId(fresh)),
            create: Some(Create {
                name: sealed(Bytes::from_static(b"name")),
                metadata: None,
                settings: SecretSettings::default(),
            }),
            number: NumberChoice::Next,
            activation: Activation::Always,
            same_value: SameValue::Store,
            check_and_set: None,
            // The operation's number comes here.
            value: sealed(Bytes::new()),
            digest: ValueDigest { key: 1, mac: [0; 32] },
            metadata: None,
            lifetime_ms: None,
            disclosures: None,
            on_end: None,
        };
        (Ask::Put(put), Action::Put)
    }
}

fn disclose(number: u32) -> (Ask, Action) {
    let ask = Ask::Disclose {
        at: Expected::At(place(number)),
        which: Which::Active,
        unless_active_is: None,
    };
    (ask, Action::Get)
}

fn delete(number: u32) -> (Ask, Action) {
    let ask = Ask::Delete {
        at: Expected::At(place(number)),
        recoverable_ms: None,
    };
    (ask, Action::Delete)
}

fn look(number: u32) -> (Ask, Action) {
    let ask = Ask::Look(Look::Secret(Expected::At(place(number))));
    (ask, Action::Info)
}

/// The command with a number of its own: in the record's commitment, and as the value.
fn numbered(history: &History, (mut ask, action): (Ask, Action)) -> (Operation, Command) {
    let operation = history.next_operation();
    if let Ask::Put(put) = &mut ask {
        put.value = sealed(Bytes::copy_from_slice(&operation.to_be_bytes()));
        put.digest.mac[..8].copy_from_slice(&operation.to_be_bytes());
    }
    let mut commitment = [0; 32];
    commitment[..8].copy_from_slice(&operation.to_be_bytes());
    let stub = AuditStub {
        action,
        principal: Token([3; 16]),
        commitment,
        sealed: sealed(Bytes::from_static(b"who")),
    };
    let command = Command {
        guards: vec![],
        steps: vec![Step {
            preconditions: vec![],
            operation: ask,
            audit: Some(stub),
        }],
    };
    (operation, command)
}

/// The number in a record's commitment.
pub fn operation_of(commitment: &[u8; 32]) -> Operation {
    Operation::from_be_bytes(*commitment.first_chunk().expect("it has 32 bytes"))
}

fn told(answer: node::Answer, place: u32) -> Answer {
    let index = answer.index;
    let answers = match answer.outcome {
        Outcome::Done(answers) => answers,
        Outcome::Refused { .. } => return Answer::Refused { index },
    };
    match answers.into_iter().next() {
        Some(Done::Version { version, .. }) => Answer::Stored {
            index,
            place,
            version: version.get(),
        },
        Some(Done::Disclosed(disclosed)) => {
            let value = disclosed.value.ciphertext.first_chunk();
            Answer::Disclosed {
                index,
                place,
                version: disclosed.version.get(),
                value: Operation::from_be_bytes(*value.expect("a put's value is a number")),
            }
        }
        _ => Answer::Done { index },
    }
}

fn sealed(ciphertext: Bytes) -> Sealed {
    Sealed {
        key_term: 1,
        value_id: ValueId([5; 16]),
        nonce: [6; 24],
        ciphertext,
    }
}

fn place(number: u32) -> Place {
    let mut name = [0; 16];
    name[..4].copy_from_slice(&number.to_be_bytes());
    name[15] = 1;
    Place {
        namespace: Token([1; 16]),
        store: Token([2; 16]),
        name: Token(name),
    }
}

/// The number of a place.
pub fn number_of(place: &Place) -> u32 {
    u32::from_be_bytes(*place.name.0.first_chunk().expect("it has 16 bytes"))
}
