//! The format of what is stored: a change here changes the format on disk, and needs a reason.

use super::fixtures::*;
use crate::{
    command::{Command, Done, Outcome, Refusal, Which},
    model::{
        Action, AuditRecord, Deletion, EndAction, OutcomeKind, PlaceRecord, SecretRecord, SecretSettings,
        Tombstone, VersionRecord, VersionState,
    },
    state::{Meta, StoredValue, WindowOutcome, WindowRow},
};
use conclave_raft::{codec, identity::RaftId};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

#[test]
fn golden_records() {
    let mut golden = Golden::default();
    golden.record("meta", &Meta::default());
    golden.record(
        "place",
        &PlaceRecord {
            secret: Some(id(1)),
            tombstones: vec![Tombstone {
                secret: None,
                used: secret_using(&[1, 2, 5]).used,
            }],
            audit_count: 300,
            last_leaf: [3; 32],
        },
    );
    golden.record(
        "secret",
        &SecretRecord {
            place: None,
            metadata: Some(sealed(2)),
            settings: SecretSettings {
                keep_versions: Some(7),
                protected: true,
                ..Default::default()
            },
            active: Some(version(5)),
            deleted: Some(Deletion {
                place: place(1),
                deleted_ms: 1_000,
                until_ms: 2_000,
            }),
            ..secret_using(&[1, 2, 5])
        },
    );
    golden.record(
        "version",
        &VersionRecord {
            state: VersionState::Deleted {
                until_ms: Some(70_000),
            },
            made_ms: 1,
            changed_ms: 2,
            expires_ms: Some(3),
            disclosures_left: Some(4),
            on_end: EndAction::Destroy,
            metadata: None,
            sealed_revision: 5,
            digest: Some(digest(6)),
        },
    );
    golden.record(
        "value",
        &StoredValue {
            sealed: sealed(1),
            sealed_revision: 2,
        },
    );
    golden.record(
        "window",
        &WindowRow {
            time_ms: 1_000,
            outcomes: vec![WindowOutcome {
                proposal: crate::model::ProposalId([4; 16]),
                outcome: b"an outcome".as_slice().into(),
            }],
        },
    );
    golden.record(
        "outcome",
        &Outcome::Refused {
            step: 1,
            refusal: Refusal::NumberUsed { version: version(2) },
        },
    );
    golden.record(
        "outcome_done",
        &Outcome::Done(vec![Done::Recorded, Done::RaftId(4)]),
    );
    golden.record(
        "audit",
        &AuditRecord {
            time_ms: 1_700_000_000_000,
            action: Action::Get,
            outcome: OutcomeKind::NotFound,
            place: Some(place(1)),
            secret: None,
            version: Some(version(3)),
            node: RaftId(2),
            principal: crate::model::Token([5; 16]),
            attempts: 1,
            place_count: 4,
            previous_leaf: [6; 32],
            commitment: [7; 32],
            sealed: sealed(8),
        },
    );
    golden.record::<Command>(
        "command_put",
        &steps(vec![crate::command::Operation::Put(put(1, 2))]),
    );
    golden.record::<Command>(
        "command_disclose",
        &steps(vec![disclose(at(1), Which::LatestEnabled)]),
    );
    golden.compare();
}

/// Records by name, one a line in hexadecimal.
#[derive(Default)]
struct Golden(String);

impl Golden {
    fn record<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, record: &T) {
        let bytes = codec::encode(record);
        assert_eq!(&codec::decode::<T>(&bytes).unwrap(), record);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push_str(&format!("{name} {hex}\n"));
    }

    /// With `CONCLAVE_WRITE_GOLDEN` set, the file is written anew instead.
    fn compare(&self) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/apply/tests/golden.txt");
        if std::env::var_os("CONCLAVE_WRITE_GOLDEN").is_some() {
            std::fs::write(path, &self.0).unwrap();
        }
        let golden = include_str!("golden.txt");
        for (mine, stored) in self.0.lines().zip(golden.lines()) {
            assert_eq!(mine, stored);
        }
        assert_eq!(self.0, golden);
    }
}
