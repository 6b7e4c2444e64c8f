//! What whoever applies entries has at hand. All of it follows from the stored rows, and is read from
//! them again where it might not.

use super::{database::Database, recent_proposals::RecentProposals, recent_rows::RecentRows};
use std::{io, sync::Arc};

/// It agrees with the database, but for what a run that goes on has noted.
pub struct Recent {
    pub rows: Arc<RecentRows>,
    pub proposals: RecentProposals,
}

impl Recent {
    /// As the database is now, with the rows that its readers share.
    pub fn of(database: &Database, rows: Arc<RecentRows>) -> io::Result<Self> {
        Ok(Self {
            rows,
            proposals: RecentProposals::of(database)?,
        })
    }
}
