//! Which entry applied a proposal whose outcome is remembered: the window's rows by proposal. Nearly
//! every proposal is none of them, which is told here without a search in RocksDB.

use super::{
    database::{Database, Direction, KeyRange},
    rows::{WindowRow, index_at_start},
    table::Table,
};
use crate::model::ProposalId;
use rocksdb::ReadOptions;
use std::{collections::HashMap, io};

/// Every proposal in the window, with its entry's index. Only ever asked for one: its order is none.
pub struct RecentProposals(HashMap<ProposalId, u64>);

impl RecentProposals {
    /// Those in the stored window.
    pub fn of(database: &Database) -> io::Result<Self> {
        let mut proposals = HashMap::new();
        let mut rows = database.cursor(
            Table::Window,
            &KeyRange::default(),
            Direction::Ascending,
            ReadOptions::default(),
        );
        while let Some((key, row)) = rows.next()? {
            let index =
                index_at_start(key).ok_or_else(|| database.damage(Table::Window, "a key is malformed"))?;
            let row: WindowRow = database.decode(Table::Window, row)?;
            proposals.extend(row.outcomes.iter().map(|outcome| (outcome.proposal, index)));
        }
        Ok(Self(proposals))
    }

    /// The entry that applied a proposal, if its outcome is remembered.
    pub fn entry_of(&self, proposal: ProposalId) -> Option<u64> {
        self.0.get(&proposal).copied()
    }

    /// A proposal was applied.
    pub fn remember(&mut self, proposal: ProposalId, index: u64) {
        self.0.insert(proposal, index);
    }

    /// Its outcome left the window.
    pub fn forget(&mut self, proposal: ProposalId) {
        self.0.remove(&proposal);
    }
}
