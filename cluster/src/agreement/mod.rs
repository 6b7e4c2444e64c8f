//! Replicas prove that they agree (design, section 9). It finds accidents: a bad disk, a bad
//! memory, a bug that makes apply differ. The invariant: a node that knows its state to differ from
//! a majority's, or from what it wrote, halts, also while it leads, and does not start on it again while
//! the cluster can do without it.
//!
//! | file       | idea                                                                  |
//! |------------|-----------------------------------------------------------------------|
//! | `fault`    | what is wrong with a state, and how the node halts for it              |
//! | `verdict`  | what digests of several nodes say of this one                          |
//! | `exchange` | asks the others for their kept digests, all the time                   |
//! | `scrub`    | rescans what is stored, slowly all the time and when asked             |

mod exchange;
mod fault;
mod scrub;
mod verdict;

pub(crate) use exchange::DigestExchange;
pub(crate) use fault::{Fault, looking_twice};
pub(crate) use scrub::{PAUSE as SCRUB_PAUSE, Scrub};
