//! Conclave's edge: everything that may see a name, a value or an actor in clear.
//!
//! It identifies the caller, decides on rights, seals, proposes commands to the blind cluster, and
//! opens the answers. Dialects (`api/*`) only map their wire form onto `operations`.
//!
//! | folder       | idea                                                             |
//! |--------------|------------------------------------------------------------------|
//! | `api`        | the dialects of clients                                           |
//! | `audit`      | records in clear: made, committed to, sealed, queried             |
//! | `bench`      | load on a cluster, and how it bore it                             |
//! | `client`     | the client of a cluster                                           |
//! | `command`    | the `conclave` command                                            |
//! | `config`     | the configuration file, environment and flags                     |
//! | `dev`        | a whole cluster on one machine                                    |
//! | `grants`     | principals and what they may do                                   |
//! | `hardening`  | what the process asks of the operating system                     |
//! | `identity`   | who is at the other end of a connection                           |
//! | `index`      | the ordered index of opened names                                 |
//! | `metric_definitions` | every metric of this crate                                |
//! | `name`       | names of secrets, and the patterns of grants                      |
//! | `operations` | the one small set of operations that every dialect maps to        |
//! | `pki`        | certificate authorities and certificates for people without them  |
//! | `plaintext`  | a value in clear: zeroized, never printed                         |
//! | `seal`       | keys, the keyring, sealing and opening, rotation                  |
//! | `server`     | a node's process: listeners, limits, signals                      |
//! | `telemetry`  | logging                                                           |

pub mod api;
pub mod audit;
pub mod bench;
pub mod client;
pub mod command;
pub mod config;
pub mod dev;
pub mod grants;
pub mod hardening;
pub mod identity;
pub mod index;
pub mod metric_definitions;
pub mod name;
pub mod operations;
pub mod pki;
pub mod plaintext;
pub mod seal;
pub mod server;
pub mod telemetry;
