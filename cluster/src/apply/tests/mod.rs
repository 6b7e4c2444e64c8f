//! The state machine against its promises.
//!
//! | file          | promise                                                             |
//! |---------------|---------------------------------------------------------------------|
//! | `model`       | random commands do what a simple model does                          |
//! | `determinism` | the same entries give the same pairs, however they are cut into runs |
//! | `refusals`    | what breaks a rule is refused, and changes nothing                   |
//! | `secrets`     | places, numbers, lifetimes, disclosures                              |
//! | `bounds`      | nothing that is answered or remembered is large                      |
//! | `unrecorded`  | what may be done without an audit record, and nothing else           |
//! | `once`        | each proposal once, and lost answers given again                     |
//! | `records`     | an audit record for everything, chained, bounded, found              |
//! | `storage`     | checkpoints, installation, damage                                    |
//! | `fuzz`        | any bytes are answered, and alike                                    |
//! | `golden`      | the format of what is stored                                         |

mod bounds;
mod determinism;
pub(crate) mod fixtures;
mod fuzz;
mod golden;
mod model;
mod once;
mod records;
mod refusals;
mod secrets;
mod storage;
mod unrecorded;
