//! Audit records: what happened in clear, who and whence sealed, chained per place, bounded in
//! bytes.

use super::{machine::Machine, subject::Subject};
use crate::{
    command::AtAuditLimit,
    model::{Action, AuditKey, AuditRecord, AuditStub, OutcomeKind, Sealed, Token, ValueId},
    state::{Direction, KeyRange, Meta, Table, keys},
};
use bytes::Bytes;
use conclave_raft::{codec, identity::RaftId};
use sha2::{Digest, Sha256};
use std::{io, ops::ControlFlow};

/// The least limit of the audit in bytes.
pub const AUDIT_LIMIT_BYTES_MIN: u64 = 16 * 1024;

/// Once the limit is reached, the audit is pruned until this part of the limit is free again, so
/// that gaps are few and large.
const FREE_PART: u64 = 16;
/// So many records are pruned in one entry, beside twice as many as it wrote.
const PRUNED_PER_ENTRY: u64 = 2048;

/// A record's leaf hash in the audit tree (RFC 9162, section 2.1.1).
pub fn leaf_hash(encoded_record: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update([0])
        .chain_update(encoded_record)
        .finalize()
        .into()
}

/// Where the setting is to refuse disclosures, so much room is left above the limit for the records
/// of everything else (a part of the limit each).
const ROOM_FOR_REFUSALS: u64 = 8;
const ROOM_FOR_CHANGES: u64 = 4;

/// Whether the audit is at its limit, and disclosures are to be refused there.
pub(super) fn refuses_disclosures(meta: &Meta) -> bool {
    is_above(meta, 0)
}

/// Whether what was refused for the audit's limit is still recorded.
pub(super) fn records_refused(meta: &Meta) -> bool {
    !is_above(meta, meta.retention.limit_bytes / ROOM_FOR_REFUSALS)
}

/// Whether nothing more is recorded, and so nothing more done that has to be, but for a change of
/// the limit itself.
pub(super) fn is_exhausted(meta: &Meta) -> bool {
    is_above(meta, meta.retention.limit_bytes / ROOM_FOR_CHANGES)
}

fn is_above(meta: &Meta, room_bytes: u64) -> bool {
    let retention = meta.retention;
    retention.at_limit == AtAuditLimit::RefuseDisclosures
        && meta.audit.bytes >= retention.limit_bytes.saturating_add(room_bytes)
}

/// Writes the record of one step.
pub(super) fn record(
    machine: &mut Machine<'_, '_>,
    (position, step): (u32, u16),
    node: RaftId,
    stub: &AuditStub,
    subject: &Subject,
    outcome: OutcomeKind,
) -> io::Result<()> {
    #[cfg(feature = "planted-faults")]
    if conclave_raft::planted::is_planted("unrecorded-disclosures")
        && stub.action == Action::Get
        && machine.position.index.is_multiple_of(50)
    {
        return Ok(());
    }
    let key = AuditKey {
        index: machine.position.index,
        position,
        step,
    };
    let record = AuditRecord {
        time_ms: machine.now_ms(),
        action: stub.action,
        outcome,
        place: subject.place,
        secret: subject.secret,
        version: subject.version,
        node,
        principal: stub.principal,
        attempts: subject.attempts,
        place_count: 0,
        previous_leaf: [0; 32],
        commitment: stub.commitment,
        sealed: stub.sealed.clone(),
    };
    append(machine, key, record)
}

/// Prunes the oldest records when the audit is at its limit, and records the gap.
pub(super) fn prune(machine: &mut Machine<'_, '_>) -> io::Result<()> {
    let retention = machine.meta.retention;
    if retention.at_limit != AtAuditLimit::PruneOldest {
        machine.meta.audit.pruning = false;
        return Ok(());
    }
    if machine.meta.audit.bytes > retention.limit_bytes {
        machine.meta.audit.pruning = true;
    }
    if !machine.meta.audit.pruning {
        return Ok(());
    }
    let target_bytes = retention.limit_bytes - retention.limit_bytes / FREE_PART;
    let most = PRUNED_PER_ENTRY + 2 * machine.recorded;
    let mut excess_bytes = machine.meta.audit.bytes.saturating_sub(target_bytes);
    let entry_index = machine.position.index;
    let mut pruned: Vec<(AuditKey, AuditRecord, u64)> = Vec::new();
    let start = machine
        .meta
        .audit
        .pruned_through
        .map_or_else(Vec::new, |key| key.to_key().to_vec());
    machine.rows.scan(
        Table::Audit,
        &KeyRange::from(start),
        Direction::Ascending,
        |key, row| {
            let size_bytes = (key.len() + row.len()) as u64;
            let key = AuditKey::from_key(key)
                .ok_or_else(|| machine.rows.damage(Table::Audit, "a key is malformed"))?;
            // An entry's records go together: the indexes name entries. Its own are left to a later one.
            let begins_entry = pruned.last().is_none_or(|(last, ..)| last.index != key.index);
            let is_enough = excess_bytes == 0 || pruned.len() as u64 >= most;
            if begins_entry && (is_enough || key.index == entry_index) {
                return Ok(ControlFlow::Break(()));
            }
            excess_bytes = excess_bytes.saturating_sub(size_bytes);
            pruned.push((key, machine.rows.decode(Table::Audit, row)?, size_bytes));
            Ok(ControlFlow::Continue(()))
        },
    )?;
    machine.meta.audit.pruning = excess_bytes > 0;
    // A gap that is pruned itself becomes part of the new one.
    let mut gap: u32 = 0;
    for (key, record, size_bytes) in &pruned {
        gap = gap.saturating_add(if record.action == Action::Prune {
            record.attempts
        } else {
            1
        });
        machine.rows.delete(Table::Audit, &key.to_key());
        for (table, index_key) in index_keys(*key, record) {
            machine.rows.delete(table, &index_key);
        }
        machine.meta.audit.bytes -= size_bytes;
        machine.meta.audit.records -= 1;
        machine.meta.audit.pruned_through = Some(*key);
    }
    if gap == 0 {
        Ok(())
    } else {
        append_gap(machine, gap)
    }
}

fn append_gap(machine: &mut Machine<'_, '_>, records: u32) -> io::Result<()> {
    let key = AuditKey {
        index: machine.position.index,
        position: u32::MAX,
        step: u16::MAX,
    };
    let nothing = Sealed {
        key_term: 0,
        value_id: ValueId([0; 16]),
        nonce: [0; 24],
        ciphertext: Bytes::new(),
    };
    let record = AuditRecord {
        time_ms: machine.now_ms(),
        action: Action::Prune,
        outcome: OutcomeKind::Done,
        place: None,
        secret: None,
        version: None,
        node: RaftId(0),
        principal: Token::NONE,
        attempts: records,
        place_count: 0,
        previous_leaf: [0; 32],
        commitment: [0; 32],
        sealed: nothing,
    };
    append(machine, key, record)
}

fn append(machine: &mut Machine<'_, '_>, key: AuditKey, mut record: AuditRecord) -> io::Result<()> {
    let encoded = match record.place {
        Some(place) => {
            let mut chain = machine.place(place)?;
            chain.audit_count += 1;
            record.place_count = chain.audit_count;
            record.previous_leaf = chain.last_leaf;
            let encoded = codec::encode(&record);
            chain.last_leaf = leaf_hash(&encoded);
            machine.put_place(place, &chain);
            encoded
        }
        None => codec::encode(&record),
    };
    for (table, index_key) in index_keys(key, &record) {
        machine.rows.put_new_bytes(table, &index_key, Bytes::new());
    }
    let row_key = key.to_key();
    machine.meta.audit.bytes += (row_key.len() + encoded.len()) as u64;
    machine.meta.audit.records += 1;
    machine.recorded += 1;
    machine.rows.put_new_bytes(Table::Audit, &row_key, encoded.into());
    Ok(())
}

/// A record's keys in the indexes. By principal and kind they name only its entry: many records of an
/// entry share those, and few a place.
fn index_keys(key: AuditKey, record: &AuditRecord) -> impl Iterator<Item = (Table, Vec<u8>)> {
    let entry = key.index.to_be_bytes();
    let by_place = record.place.map(|place| {
        let prefix = keys::audit_place_prefix(&place);
        (Table::AuditByPlace, [&prefix[..], &key.to_key()].concat())
    });
    let of_principal = keys::audit_principal_prefix(record.principal);
    let of_kind = keys::audit_kind_prefix(record.action, record.outcome);
    by_place.into_iter().chain([
        (Table::AuditByPrincipal, [&of_principal[..], &entry].concat()),
        (Table::AuditByKind, [&of_kind[..], &entry].concat()),
    ])
}
