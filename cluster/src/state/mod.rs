//! The state as it is stored: one RocksDB database whose every pair counts in the digest.
//!
//! | file          | idea                                                            |
//! |---------------|-----------------------------------------------------------------|
//! | `table`       | which column families there are                                 |
//! | `rows`        | keys, and rows that are no records of the model                 |
//! | `meta`        | what the state knows of itself                                  |
//! | `digest`      | the multiset hash by which replicas prove that they agree       |
//! | `transaction` | reads and writes of apply, until one batch carries them         |
//! | `recent`      | what apply is to find quickly: rows, and remembered proposals   |
//! | `store`       | the state machine that the log feeds                            |
//! | `view`        | the state at one index, for readers                             |
//! | `upkeep`      | when time alone would end something                             |
//! | `generation`  | which directory is in use, replaced atomically                  |
//! | `database`    | RocksDB, its options and errors                                 |

mod database;
mod digest;
mod generation;
mod meta;
mod recent;
mod recent_proposals;
mod recent_rows;
mod rows;
mod store;
mod table;
mod transaction;
mod upkeep;
mod view;

pub use crate::audit::{AuditFilter, AuditPage};
pub use digest::{DIGEST_INTERVAL, DIGESTS_KEPT};
pub use meta::{AuditMeta, DEFAULT_AUDIT_LIMIT_BYTES, Meta, WindowMeta};
pub use store::Store;
pub use view::StateView;

pub(crate) use database::{Cursor, Direction, KeyRange};
pub(crate) use meta::{JOINED_KEY, Joined, MEMBERSHIP_KEY, META_KEY};
pub(crate) use rows::{StoredValue, WindowOutcome, WindowRow};
pub(crate) use table::Table;
pub(crate) use transaction::Transaction;
pub(crate) mod keys {
    //! Keys of rows.
    pub(crate) use super::rows::{
        audit_kind_prefix, audit_place_prefix, audit_principal_prefix, index_at_start, lingering_key,
        version_key, version_of_key, window_key,
    };
}
