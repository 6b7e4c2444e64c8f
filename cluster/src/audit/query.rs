//! A filter answered from the indexes.

use super::{AuditFilter, AuditPage};
use crate::{
    model::{Action, AuditKey, AuditRecord, OutcomeKind},
    state::{Cursor, Direction, KeyRange, StateView, Table, keys},
};
use std::io;

/// So many entries and records one page looks at: a page that is cut short says where to go on.
const LOOKS_PER_PAGE: usize = 200_000;

impl StateView {
    /// Audit records from `from` on (newest first when `descending`), at most `limit`.
    pub fn audit(
        &self,
        filter: &AuditFilter,
        from: Option<AuditKey>,
        limit: usize,
        descending: bool,
    ) -> io::Result<AuditPage> {
        let direction = if descending {
            Direction::Descending
        } else {
            Direction::Ascending
        };
        let mut records = Vec::new();
        let Some((first, last)) = bounds(self, filter)? else {
            return Ok(AuditPage { records, next: None });
        };
        let mut orders = orders(self, filter, direction);
        let start = if descending { last } else { first };
        let mut target = match from {
            Some(from) if descending => start.min(from),
            Some(from) => start.max(from),
            None => start,
        };
        // Where an entry's records are found: those about the place, or all.
        let (table, prefix) = match &filter.place {
            Some(place) => (Table::AuditByPlace, keys::audit_place_prefix(place)),
            None => (Table::Audit, Vec::new()),
        };
        let mut looks = 0;
        while let Some(index) = next_entry(&mut orders, target.index, &mut looks)? {
            if index != target.index {
                target = end_of_entry(index, direction);
            }
            if looks > LOOKS_PER_PAGE {
                let next = Some(target);
                return Ok(AuditPage { records, next });
            }
            let of_entry = [&prefix[..], &index.to_be_bytes()].concat();
            let mut cursor = self.cursor(table, &KeyRange::prefix(&of_entry), direction);
            let mut found = cursor.seek(&[&prefix[..], &target.to_key()].concat())?;
            while let Some((key, row)) = found {
                let key = AuditKey::from_key(&key[prefix.len()..])
                    .ok_or_else(|| self.damage(table, "a key is malformed"))?;
                if key < first || key > last {
                    return Ok(AuditPage { records, next: None });
                }
                looks += 1;
                if looks > LOOKS_PER_PAGE {
                    let next = Some(key);
                    return Ok(AuditPage { records, next });
                }
                let record: AuditRecord = match table {
                    Table::Audit => self.decode(Table::Audit, row)?,
                    _ => self
                        .get(Table::Audit, &key.to_key())?
                        .ok_or_else(|| self.damage(table, "it names a record that is missing"))?,
                };
                if filter.matches(&record) {
                    if records.len() >= limit {
                        let next = Some(key);
                        return Ok(AuditPage { records, next });
                    }
                    records.push((key, record));
                }
                found = cursor.next()?;
            }
            let beyond = match direction {
                Direction::Ascending => index.checked_add(1),
                Direction::Descending => index.checked_sub(1),
            };
            match beyond {
                Some(beyond) => target = end_of_entry(beyond, direction),
                None => break,
            }
        }
        Ok(AuditPage { records, next: None })
    }
}

/// The first entry at or beyond `target` that every order has: whichever is ahead says where the others
/// go on. One that only some have once there were more `looks` than a page may take.
fn next_entry(orders: &mut [Order<'_>], mut target: u64, looks: &mut usize) -> io::Result<Option<u64>> {
    let all = orders.len();
    let mut agreed = 0;
    loop {
        for order in &mut *orders {
            *looks += 1;
            let Some(found) = order.seek(target)? else {
                return Ok(None);
            };
            agreed = if found == target { agreed + 1 } else { 1 };
            target = found;
            if agreed >= all || *looks > LOOKS_PER_PAGE {
                return Ok(Some(target));
            }
        }
    }
}

/// Where an entry's records begin in a direction.
fn end_of_entry(index: u64, direction: Direction) -> AuditKey {
    match direction {
        Direction::Ascending => AuditKey {
            index,
            position: 0,
            step: 0,
        },
        Direction::Descending => AuditKey {
            index,
            position: u32::MAX,
            step: u16::MAX,
        },
    }
}

/// Entries in one order: those that the keys of an index name, or all.
struct Order<'v> {
    view: &'v StateView,
    direction: Direction,
    /// One, or several that are merged (actions and outcomes).
    streams: Vec<Stream<'v>>,
}

struct Stream<'v> {
    table: Table,
    prefix: Vec<u8>,
    cursor: Cursor<'v>,
    /// Where it stands, once it was asked.
    head: Option<Option<u64>>,
}

impl<'v> Order<'v> {
    fn new(view: &'v StateView, direction: Direction, table: Table, prefixes: Vec<Vec<u8>>) -> Self {
        let stream = |prefix: Vec<u8>| {
            let cursor = view.cursor(table, &KeyRange::prefix(&prefix), direction);
            Stream {
                table,
                prefix,
                cursor,
                head: None,
            }
        };
        Self {
            view,
            direction,
            streams: prefixes.into_iter().map(stream).collect(),
        }
    }

    /// The first entry at or beyond `target`.
    fn seek(&mut self, target: u64) -> io::Result<Option<u64>> {
        let direction = self.direction;
        let mut nearest = None;
        for stream in &mut self.streams {
            stream.advance(self.view, target, direction)?;
            if let Some(Some(head)) = stream.head {
                nearest = Some(match (nearest, direction) {
                    (None, _) => head,
                    (Some(nearest), Direction::Ascending) => head.min(nearest),
                    (Some(nearest), Direction::Descending) => head.max(nearest),
                });
            }
        }
        Ok(nearest)
    }
}

impl Stream<'_> {
    fn advance(&mut self, view: &StateView, target: u64, direction: Direction) -> io::Result<()> {
        let is_there = |head: u64| match direction {
            Direction::Ascending => head >= target,
            Direction::Descending => head <= target,
        };
        let found = match self.head {
            Some(None) => return Ok(()),
            Some(Some(head)) if is_there(head) => return Ok(()),
            Some(Some(_)) => {
                // Mostly the next one is it.
                let next = self.cursor.next()?;
                match next.map(|(key, _)| keys::index_at_start(&key[self.prefix.len()..])) {
                    Some(Some(next)) if !is_there(next) => self.leap(target, direction)?,
                    next => next,
                }
            }
            None => self.leap(target, direction)?,
        };
        self.head = Some(match found {
            None => None,
            Some(None) => return Err(view.damage(self.table, "a key is malformed")),
            Some(key) => key,
        });
        Ok(())
    }

    fn leap(&mut self, target: u64, direction: Direction) -> io::Result<Option<Option<u64>>> {
        let of_entry = end_of_entry(target, direction).to_key();
        let key = [&self.prefix[..], &of_entry].concat();
        // Keys that only name an entry lie before those of its records.
        let key = match direction {
            Direction::Ascending => &key[..self.prefix.len() + 8],
            Direction::Descending => &key[..],
        };
        let found = self.cursor.seek(key)?;
        Ok(found.map(|(key, _)| keys::index_at_start(&key[self.prefix.len()..])))
    }
}

fn orders<'v>(view: &'v StateView, filter: &AuditFilter, direction: Direction) -> Vec<Order<'v>> {
    let mut orders = Vec::new();
    if let Some(place) = &filter.place {
        orders.push((Table::AuditByPlace, vec![keys::audit_place_prefix(place)]));
    }
    if let Some(principal) = filter.principal {
        orders.push((
            Table::AuditByPrincipal,
            vec![keys::audit_principal_prefix(principal)],
        ));
    }
    if !filter.actions.is_empty() || filter.outcome.is_some() {
        let actions = if filter.actions.is_empty() {
            &Action::ALL[..]
        } else {
            &filter.actions
        };
        let outcomes = filter
            .outcome
            .map_or_else(|| OutcomeKind::ALL.to_vec(), |outcome| vec![outcome]);
        let prefixes = actions
            .iter()
            .flat_map(|&action| {
                outcomes
                    .iter()
                    .map(move |&outcome| keys::audit_kind_prefix(action, outcome))
            })
            .collect();
        orders.push((Table::AuditByKind, prefixes));
    }
    if orders.is_empty() {
        orders.push((Table::Audit, vec![Vec::new()]));
    }
    orders
        .into_iter()
        .map(|(table, prefixes)| Order::new(view, direction, table, prefixes))
        .collect()
}

/// The first and the last key within the filter's times; `None` if there is none.
fn bounds(view: &StateView, filter: &AuditFilter) -> io::Result<Option<(AuditKey, AuditKey)>> {
    let pruned = view.meta().audit.pruned_through;
    let start = pruned.map_or_else(Vec::new, |key| [&key.to_key()[..], &[0]].concat());
    let range = KeyRange::from(start);
    let Some(oldest) = head(view, view.cursor(Table::Audit, &range, Direction::Ascending))? else {
        return Ok(None);
    };
    let Some(newest) = head(view, view.cursor(Table::Audit, &range, Direction::Descending))? else {
        return Ok(None);
    };
    let first = match filter.since_ms {
        Some(since_ms) => match first_at(view, (oldest, newest), since_ms)? {
            Some(first) => first,
            None => return Ok(None),
        },
        None => oldest,
    };
    let last = match filter.until_ms {
        Some(until_ms) => match first_at(view, (oldest, newest), until_ms)? {
            Some(after) if after == oldest => return Ok(None),
            Some(after) => match neighbour(after, Direction::Descending) {
                Some(last) => last,
                None => return Ok(None),
            },
            None => newest,
        },
        None => newest,
    };
    Ok((first <= last).then_some((first, last)))
}

/// The first record at or after a time, found by bisection over the log's index.
fn first_at(
    view: &StateView,
    (oldest, newest): (AuditKey, AuditKey),
    time_ms: u64,
) -> io::Result<Option<AuditKey>> {
    let mut cursor = view.cursor(Table::Audit, &KeyRange::default(), Direction::Ascending);
    let mut at_index = |index: u64| -> io::Result<Option<(AuditKey, u64)>> {
        match cursor.seek(&index.to_be_bytes())? {
            Some((key, row)) => {
                let record: AuditRecord = view.decode(Table::Audit, row)?;
                let key =
                    AuditKey::from_key(key).ok_or_else(|| view.damage(Table::Audit, "a key is malformed"))?;
                Ok(Some((key, record.time_ms)))
            }
            None => Ok(None),
        }
    };
    // All records of an entry have one time. Invariant: those before `low` are earlier, and the
    // first at or after `high` is not, or there is none.
    let (mut low, mut high) = (oldest.index, newest.index + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match at_index(middle)? {
            Some((_, found_ms)) if found_ms < time_ms => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(at_index(low)?.map(|(key, _)| key.max(oldest)))
}

fn head(view: &StateView, mut cursor: Cursor<'_>) -> io::Result<Option<AuditKey>> {
    match cursor.next()? {
        Some((key, _)) => match AuditKey::from_key(key) {
            Some(key) => Ok(Some(key)),
            None => Err(view.damage(Table::Audit, "a key is malformed")),
        },
        None => Ok(None),
    }
}

/// The key next to this one, whether or not there is such a record.
fn neighbour(key: AuditKey, direction: Direction) -> Option<AuditKey> {
    let AuditKey {
        index,
        position,
        step,
    } = key;
    match direction {
        Direction::Ascending => match (step.checked_add(1), position.checked_add(1)) {
            (Some(step), _) => Some(AuditKey {
                index,
                position,
                step,
            }),
            (None, Some(position)) => Some(AuditKey {
                index,
                position,
                step: 0,
            }),
            (None, None) => Some(AuditKey {
                index: index.checked_add(1)?,
                position: 0,
                step: 0,
            }),
        },
        Direction::Descending => match (step.checked_sub(1), position.checked_sub(1)) {
            (Some(step), _) => Some(AuditKey {
                index,
                position,
                step,
            }),
            (None, Some(position)) => Some(AuditKey {
                index,
                position,
                step: u16::MAX,
            }),
            (None, None) => Some(AuditKey {
                index: index.checked_sub(1)?,
                position: u32::MAX,
                step: u16::MAX,
            }),
        },
    }
}
