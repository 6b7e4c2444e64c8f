//! Any bytes in place of what the log's disk holds. Checksums are right, as a defect or somebody who
//! wants to do harm would leave them; that a wrong one is found is the tests' of [`super::record`].

use super::{
    engine::{Batch, Durability, LogEngine},
    fatal::OnFatal,
    identity_store::{Identity, IdentityStore},
    log_store::{self, COMMITTED_KEY, PURGED_KEY, VOTE_KEY, entry_key},
    simulated_engine::SimulatedEngine,
    snapshot_store::CurrentRecord,
    write_ahead_log::{Examined, HEADER_BYTES, checksum, examine},
};
use crate::{
    codec,
    types::{decode_membership, encode_membership},
};
use bytes::Bytes;
use conclave_fuzz::{explore, in_bounded_memory, read_alike};
use std::sync::Arc;

#[test]
fn log_disks() {
    explore!("log_disks", log_disk_seeds(), |input: &[u8]| {
        let mut parts = Parts(input);
        let mut batch = Batch::default();
        for key in [VOTE_KEY, COMMITTED_KEY, PURGED_KEY] {
            put_sealed(&mut batch, Bytes::from_static(key), parts.next());
        }
        let identity = parts.next();
        put_sealed(&mut batch, Bytes::from_static(IdentityStore::KEY), identity);
        let first = parts.next().and_then(|part| part.first_chunk()).copied();
        let first = first.map_or(1, u64::from_be_bytes);
        let mut last = first;
        for record in parts.take_while(|part| !part.is_empty()) {
            put_sealed(&mut batch, entry_key(last), Some(record));
            last = last.wrapping_add(1);
        }
        let engine = Arc::new(SimulatedEngine::default());
        let written = engine.write(batch, Durability::Synced);
        written.expect("memory can be written");

        let opened = in_bounded_memory(input.len(), || log_store::load(&*engine));
        if opened.is_ok() && first < last {
            // What a start accepts is there for replication and apply.
            let entries = log_store::read_entries(&*engine, first..last).expect("they were read before");
            let indexes: Vec<u64> = entries.iter().map(|entry| entry.log_id.index).collect();
            assert_eq!(indexes, (first..last).collect::<Vec<_>>());
        }

        let identities = IdentityStore::new(engine, OnFatal::exit());
        match in_bounded_memory(input.len(), || identities.load()) {
            Ok(found) => assert_eq!(found == Identity::Empty, identity.is_none_or(<[u8]>::is_empty)),
            Err(_) => assert!(identity.is_some()),
        }
    });
}

#[test]
fn memberships() {
    let seed = [
        1, 1, 2, 1, 2, 2, 1, 1, b'a', 3, b'h', b':', b'1', 2, 1, b'b', 3, b'h', b':', b'1',
    ];
    explore!("memberships", [seed], |input: &[u8]| {
        read_alike(input, decode_membership, |membership| {
            encode_membership(membership).to_vec()
        });
    });
}

/// The record of a snapshot, whose names become paths.
#[test]
fn snapshot_records() {
    let seed = [
        &[1, 10][..],
        b"snapshot-1",
        &[2, 9, 0, 1, 10],
        b"000012.sst",
        &[251, 44, 1, 7],
    ];
    explore!("snapshot_records", [seed.concat()], |input: &[u8]| {
        read_alike(
            input,
            codec::decode::<CurrentRecord>,
            codec::encode::<CurrentRecord>,
        );
    });
}

/// A file of RocksDB's write-ahead log. Checksums are made right where the lengths leave room for it.
#[test]
fn write_ahead_logs() {
    let write = |kind: u8, payload: &[u8]| {
        let length = u16::try_from(payload.len())
            .expect("a seed is short")
            .to_le_bytes();
        [&[0; 4][..], &length, &[kind], payload].concat()
    };
    let numbered = [&7_u64.to_le_bytes()[..], &1_u32.to_le_bytes(), b"put"].concat();
    let seeds = [
        write(1, &numbered),
        [write(1, &numbered), write(1, &numbered)].concat(),
        [write(2, &numbered), write(3, b"middle"), write(4, b"last")].concat(),
        [write(1, &numbered), vec![0; 40]].concat(),
        [write(2, &numbered), write(1, &numbered)].concat(),
    ];
    explore!("write_ahead_logs", seeds, |input: &[u8]| {
        let mut file = input.to_vec();
        correct_checksums(&mut file);
        let found = in_bounded_memory(file.len(), || examine(&file));
        if let Some(from) = found.bad_from {
            assert!(from <= file.len());
            // What is left after the cut is whole, and says the same of its writes.
            let left = examine(&file[..from]);
            let whole = Examined {
                bad_from: None,
                writes_after: false,
                ..found
            };
            assert_eq!(left, whole);
        }
    });
}

fn correct_checksums(file: &mut [u8]) {
    let mut rest = file;
    while let Some((header, after)) = rest.split_first_chunk_mut::<HEADER_BYTES>() {
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let Some((payload, after)) = after.split_at_mut_checked(length) else {
            return;
        };
        let covered = [&[header[6]], &*payload].concat();
        header[..4].copy_from_slice(&checksum(&covered).to_le_bytes());
        rest = after;
    }
}

/// Parts of an input, each behind a byte with its length; an empty one stands for none.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        let (part, rest) = rest.split_at(usize::from(length).min(rest.len()));
        self.0 = rest;
        Some(part)
    }
}

fn put_sealed(batch: &mut Batch, key: Bytes, record: Option<&[u8]>) {
    if let Some(record) = record
        && !record.is_empty()
    {
        let checksum = crc32c::crc32c(record).to_le_bytes();
        batch.put(key, [record, &checksum].concat());
    }
}

fn log_disk_seeds() -> Vec<Vec<u8>> {
    let vote: &[u8] = &[1, 5, 2, 1];
    let committed: &[u8] = &[1, 1, 5, 9];
    let purged: &[u8] = &[1, 5, 6];
    let first = 7_u64.to_be_bytes();
    let entries: [&[u8]; 3] = [&[1, 5, 7, 0], &[1, 5, 8, 1, 2, 0xca, 0xfe], &[1, 5, 9, 0]];
    let join = |parts: &[&[u8]]| -> Vec<u8> {
        let with_length = |part: &&[u8]| {
            let length = u8::try_from(part.len()).expect("a seed's parts are short");
            [&[length], *part].concat()
        };
        parts.iter().flat_map(with_length).collect()
    };
    let fresh = join(&[
        vote,
        committed,
        &[],
        &identity(),
        &1_u64.to_be_bytes(),
        &[1, 5, 1, 0],
    ]);
    let purged = join(&[&[vote, committed, purged, &identity(), &first], &entries[..]].concat());
    // Nothing follows the last of all indexes.
    let last_of_all: &[u8] = &[1, 5, 253, 255, 255, 255, 255, 255, 255, 255, 255];
    let beyond = join(&[
        vote,
        committed,
        last_of_all,
        &[],
        &0_u64.to_be_bytes(),
        &[1, 5, 0, 0],
    ]);
    vec![join(&[vote]), fresh, purged, beyond]
}

fn identity() -> Vec<u8> {
    use super::identity_store::{Formation, IdentityRecord};
    use crate::identity::{ClusterId, RaftId};
    codec::encode(&IdentityRecord::Member(Formation {
        cluster_id: ClusterId([9; 16]),
        cluster_name: "c".to_owned(),
        node_name: "a".to_owned(),
        raft_id: RaftId(1),
        members: [("a".to_owned(), (RaftId(1), "h:1".to_owned()))].into(),
        dev: false,
        proposer: true,
        initialised: true,
    }))
}
