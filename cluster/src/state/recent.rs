//! What whoever applies entries has at hand. All of it follows from the stored rows, and is read from
//! them again where it might not.

use super::{database::Database, recent_proposals::RecentProposals, recent_rows::RecentRows};
use std::io;

/// It agrees with the database, but for what a run that goes on has noted.
pub struct Recent {
    pub rows: RecentRows,
    pub proposals: RecentProposals,
}

impl Recent {
    /// As the database is now.
    pub fn of(database: &Database) -> io::Result<Self> {
        Ok(Self {
            rows: RecentRows::new(),
            proposals: RecentProposals::of(database)?,
        })
    }
}
