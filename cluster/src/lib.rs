//! The replicated secrets machine: versions, places, lifetimes and audit records of *ciphertext*.
//!
//! It is blind. It holds no key and sees no value, no secret name, no actor: names arrive as keyed
//! tokens, values and metadata sealed, and who asked as a sealed record with a commitment. Time, ids
//! and ciphertext arrive in the entry, so that apply is a pure function of state and entry, and two
//! nodes that applied the same index hold the same state, byte for byte.
//!
//! | folder      | idea                                                             |
//! |-------------|------------------------------------------------------------------|
//! | `model`     | what a secret, a version, a place and an audit record are         |
//! | `command`   | what can be asked of the machine, and what it answers             |
//! | `apply`     | the pure function from state and command to state and outcome     |
//! | `state`     | the RocksDB database that holds the state, and its digest         |
//! | `propose`   | batching, forwarding to the leader, and each proposal once        |
//! | `read`      | read indexes and the staleness bound of follower polling          |
//! | `time`      | the leader's stamps, and the comparison of clocks                 |
//! | `agreement` | replicas prove that they agree: digests exchanged, scrub, verify  |
//! | `audit`     | records in order, filtered and in pages                           |

mod agreement;
pub mod apply;
pub mod audit;
pub mod command;
pub mod metric_definitions;
pub mod model;
pub mod node;
mod propose;
mod read;
pub mod state;
pub mod time;
