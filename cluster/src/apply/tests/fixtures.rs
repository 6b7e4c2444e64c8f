//! A state machine on a disk of its own, and what its entries are built from.

use crate::{
    command::{
        Activation, Command, Create, Disclosed, Done, Entry, EntryResponse, Expected, NumberChoice,
        Operation, Outcome, Proposal, Put, Refusal, SameValue, SecretView, Stamp, Step, Which,
    },
    model::{
        Action, AuditStub, NumberRanges, Place, ProposalId, Sealed, SecretId, SecretRecord, SecretSettings,
        Token, ValueDigest, ValueId, Version,
    },
    state::{Store, Table},
};
use bytes::Bytes;
use conclave_raft::{
    codec,
    identity::RaftId,
    state_machine::{CommittedEntry, CommittedPayload, LogPosition, StateMachine},
};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;

pub(crate) const TERM: u64 = 3;

/// One node's state machine, fed by hand.
pub(crate) struct Bench {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
    /// The index of the next entry.
    pub(crate) index: u64,
    /// The stamp of the next entry.
    pub(crate) time_ms: u64,
    /// Everything that was applied.
    pub(crate) log: Vec<CommittedEntry>,
    proposals: u128,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("state")).unwrap();
        Self {
            directory,
            store,
            index: 1,
            time_ms: 1_000,
            log: Vec::new(),
            proposals: 0,
        }
    }

    /// A proposal with an id of its own, made just now.
    pub(crate) fn proposal(&mut self, command: &Command) -> Proposal {
        self.proposals += 1;
        Proposal {
            id: ProposalId(self.proposals.to_be_bytes()),
            made_at_index: self.index - 1,
            node: RaftId(1),
            command: codec::encode(command).into(),
        }
    }

    /// Applies one entry with these proposals.
    pub(crate) fn apply(&mut self, proposals: Vec<Proposal>) -> Vec<Outcome> {
        let stamp = Stamp {
            term: TERM,
            time_ms: self.time_ms,
        };
        let entry = codec::encode(&Entry { stamp, proposals });
        self.apply_payload(CommittedPayload::Proposal(entry.into()))
            .outcomes
            .into_iter()
            .map(|outcome| outcome.expect("the answers of a test are small"))
            .collect()
    }

    pub(crate) fn apply_payload(&mut self, payload: CommittedPayload) -> EntryResponse {
        let entry = CommittedEntry {
            position: LogPosition {
                term: TERM,
                index: self.index,
            },
            payload,
            answered: true,
        };
        self.index += 1;
        self.log.push(entry.clone());
        let response = self.store.apply(vec![entry]).unwrap().remove(0);
        if response.is_empty() {
            return EntryResponse {
                time_ms: 0,
                outcomes: Vec::new(),
            };
        }
        codec::decode(&response).unwrap()
    }

    /// Applies one entry with one command.
    pub(crate) fn command(&mut self, command: &Command) -> Outcome {
        let proposal = self.proposal(command);
        self.apply(vec![proposal]).remove(0)
    }

    /// Applies one entry with one command of one operation, which must be done.
    #[track_caller]
    pub(crate) fn run(&mut self, operation: Operation) -> Done {
        match self.command(&steps(vec![operation])) {
            Outcome::Done(mut answers) => answers.remove(0),
            Outcome::Refused { refusal, .. } => panic!("refused: {refusal}"),
        }
    }

    /// Applies one entry with one command of one operation, which must be refused.
    #[track_caller]
    pub(crate) fn refused(&mut self, operation: Operation) -> Refusal {
        let before = self.secret_pairs();
        match self.command(&steps(vec![operation])) {
            Outcome::Done(answers) => panic!("done: {answers:?}"),
            Outcome::Refused { refusal, .. } => {
                assert_eq!(self.secret_pairs(), before, "a refused command changed something");
                refusal
            }
        }
    }

    #[track_caller]
    pub(crate) fn disclose(&mut self, at: Expected, which: Which) -> Disclosed {
        match self.run(Operation::Disclose {
            at,
            which,
            unless_active_is: None,
        }) {
            Done::Disclosed(disclosed) => *disclosed,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn put(&mut self, put: Put) -> u32 {
        match self.run(Operation::Put(put)) {
            Done::Version { version, .. } => version.get(),
            other => panic!("{other:?}"),
        }
    }

    /// What is seen of a secret.
    #[track_caller]
    pub(crate) fn secret(&self, byte: u8) -> SecretView {
        self.store
            .view()
            .secret_view(&id(byte))
            .unwrap()
            .expect("the secret is there")
    }

    /// Every stored pair, digests included.
    pub(crate) fn pairs(&self) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        pairs_of(&self.store, &Table::ALL)
    }

    /// The stored pairs that make up secrets.
    fn secret_pairs(&self) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
        pairs_of(
            &self.store,
            &[Table::Secret, Table::Version, Table::Value, Table::SpentSecret],
        )
    }

    /// The scanned digest, which must be the running one.
    #[track_caller]
    pub(crate) fn scanned_digest(&self) -> [u8; 32] {
        let digest = self.store.view().scan_digest(None, || true).unwrap().unwrap();
        assert_eq!(digest.scanned, digest.running);
        digest.scanned
    }
}

/// Reads any bytes as a record: see [`conclave_fuzz::read_alike`].
pub(crate) fn read<T: Serialize + DeserializeOwned>(input: &[u8]) -> Option<T> {
    conclave_fuzz::read_alike(input, codec::decode::<T>, codec::encode::<T>)
}

pub(crate) fn pairs_of(store: &Store, tables: &[Table]) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let view = store.view();
    let mut pairs = Vec::new();
    for &table in tables {
        let mut cursor = view.cursor(table, &Default::default(), crate::state::Direction::Ascending);
        while let Some((key, value)) = cursor.next().unwrap() {
            pairs.push((table, key.to_vec(), value.to_vec()));
        }
    }
    pairs
}

pub(crate) fn id(byte: u8) -> SecretId {
    SecretId([byte; 16])
}

pub(crate) fn place(byte: u8) -> Place {
    Place {
        namespace: Token([1; 16]),
        store: Token([2; 16]),
        name: Token([byte; 16]),
    }
}

pub(crate) fn at(byte: u8) -> Expected {
    Expected::At(place(byte))
}

pub(crate) fn version(number: u32) -> Version {
    Version::new(number).expect("not 0")
}

/// Ciphertext that is told apart by one byte.
pub(crate) fn sealed(byte: u8) -> Sealed {
    Sealed {
        key_term: 1,
        value_id: ValueId([byte; 16]),
        nonce: [byte; 24],
        ciphertext: Bytes::from(vec![byte; 24]),
    }
}

pub(crate) fn digest(byte: u8) -> ValueDigest {
    ValueDigest {
        key: 1,
        mac: [byte; 32],
    }
}

pub(crate) fn create(settings: SecretSettings) -> Create {
    Create {
        name: sealed(200),
        metadata: None,
        settings,
    }
}

/// A put of `value` for the secret `secret` at the place of the same byte, which makes the secret
/// if it is not there.
pub(crate) fn put(secret: u8, value: u8) -> Put {
    Put {
        place: place(secret),
        secret: id(secret),
        create: Some(create(SecretSettings::default())),
        number: NumberChoice::Next,
        activation: Activation::WhenNoneActive,
        same_value: SameValue::Store,
        check_and_set: None,
        value: sealed(value),
        digest: digest(value),
        metadata: None,
        lifetime_ms: None,
        disclosures: None,
        on_end: None,
    }
}

pub(crate) fn stub(action: Action) -> AuditStub {
    AuditStub {
        action,
        principal: Token([9; 16]),
        commitment: [8; 32],
        sealed: sealed(7),
    }
}

pub(crate) fn step(operation: Operation) -> Step {
    let is_own = matches!(
        operation,
        Operation::AllocateRaftId | Operation::RaiseRules { .. }
    );
    let action = match operation {
        Operation::Put(_) => Action::Put,
        Operation::Disclose { .. } => Action::Get,
        Operation::Look(_) => Action::Info,
        Operation::Delete { .. } => Action::Delete,
        _ => Action::Operate,
    };
    Step {
        preconditions: Vec::new(),
        operation,
        audit: Some(stub(action)).filter(|_| !is_own),
    }
}

pub(crate) fn steps(operations: Vec<Operation>) -> Command {
    Command {
        guards: Vec::new(),
        steps: operations.into_iter().map(step).collect(),
    }
}

pub(crate) fn disclose(at: Expected, which: Which) -> Operation {
    Operation::Disclose {
        at,
        which,
        unless_active_is: None,
    }
}

pub(crate) fn tick() -> Command {
    Command {
        guards: Vec::new(),
        steps: vec![Step {
            preconditions: Vec::new(),
            operation: Operation::Tick,
            audit: None,
        }],
    }
}

/// What is seen of a secret whose sealed name has so many bytes.
pub(crate) fn view_of(name_bytes: usize) -> SecretView {
    let mut view = secret_using(&[]).view(id(1), Vec::new());
    view.name.ciphertext = vec![0; name_bytes].into();
    view
}

/// A secret that used these numbers.
pub(crate) fn secret_using(numbers: &[u32]) -> SecretRecord {
    let mut used = NumberRanges::default();
    numbers.iter().for_each(|&number| used.insert(version(number)));
    SecretRecord {
        place: None,
        name: sealed(0),
        metadata: None,
        settings: SecretSettings::default(),
        made_ms: 0,
        changed_ms: 0,
        active: None,
        used,
        revision: 0,
        sealed_revision: 0,
        deleted: None,
    }
}
