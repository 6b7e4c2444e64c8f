//! Commands as an edge would make them, with bytes that stand for sealed ones.

use bytes::Bytes;
use conclave_cluster::{
    command::{
        Activation, Command, Create, Disclosed, Done, Expected, Look, NumberChoice, Operation, Outcome, Put,
        SameValue, Step, Which,
    },
    model::{Action, AuditStub, Place, Sealed, SecretId, SecretSettings, Token, ValueDigest, ValueId},
};

/// A sealed record of who asked.
pub fn stub(action: Action) -> AuditStub {
    AuditStub {
        action,
        principal: Token([3; 16]),
        commitment: [4; 32],
        sealed: sealed(b"who"),
    }
}

pub fn sealed(ciphertext: &[u8]) -> Sealed {
    Sealed {
        key_term: 1,
        value_id: ValueId([5; 16]),
        nonce: [6; 24],
        ciphertext: Bytes::copy_from_slice(ciphertext),
    }
}

pub fn place(number: u32) -> Place {
    let mut name = [0; 16];
    name[..4].copy_from_slice(&number.to_be_bytes());
    name[15] = 1;
    Place {
        namespace: Token([1; 16]),
        store: Token([2; 16]),
        name: Token(name),
    }
}

fn secret(place: Place) -> SecretId {
    SecretId(place.name.0)
}

fn step(operation: Operation, action: Action) -> Command {
    Command {
        guards: vec![],
        steps: vec![Step {
            preconditions: vec![],
            operation,
            audit: Some(stub(action)),
        }],
    }
}

/// Always stores a new version, and activates it.
pub fn put(place: Place, value: &[u8]) -> Command {
    let mut mac = [0; 32];
    mac.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
    step(
        Operation::Put(Put {
            place,
            secret: secret(place),
            create: Some(Create {
                name: sealed(b"name"),
                metadata: None,
                settings: SecretSettings::default(),
            }),
            number: NumberChoice::Next,
            activation: Activation::Always,
            same_value: SameValue::Store,
            check_and_set: None,
            value: sealed(value),
            digest: ValueDigest { key: 1, mac },
            metadata: None,
            lifetime_ms: None,
            disclosures: None,
            on_end: None,
        }),
        Action::Put,
    )
}

pub fn disclose(place: Place) -> Command {
    let at = Expected::At(place);
    step(
        Operation::Disclose {
            at,
            which: Which::Active,
            unless_active_is: None,
        },
        Action::Get,
    )
}

/// The record of an operation on the cluster.
pub fn operate() -> Command {
    step(Operation::Look(Look::Other), Action::Operate)
}

/// The version that a put made.
pub fn made(outcome: &Outcome) -> u32 {
    match outcome {
        Outcome::Done(answers) => match answers.as_slice() {
            [Done::Version { version, .. }] => version.get(),
            other => panic!("no version was made: {other:?}"),
        },
        other => panic!("no version was made: {other:?}"),
    }
}

/// What a disclosure disclosed.
pub fn disclosed(outcome: Outcome) -> Disclosed {
    match outcome {
        Outcome::Done(answers) => match answers.into_iter().next() {
            Some(Done::Disclosed(disclosed)) => *disclosed,
            other => panic!("nothing was disclosed: {other:?}"),
        },
        other => panic!("nothing was disclosed: {other:?}"),
    }
}
