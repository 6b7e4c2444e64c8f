//! Runs a node: listeners, limits, signals.
//!
//! | file               | idea                                                              |
//! |--------------------|-------------------------------------------------------------------|
//! | `node`             | assembles a node from its configuration and runs it               |
//! | `signals`          | SIGHUP reloads, SIGTERM and SIGINT stop                            |
//! | `open_files`       | raises the limit of open files, for anybody can open connections   |
//! | `runtime_file`     | tells which addresses and process a running node has               |
//! | `tls`              | the API's certificates, replaced as a whole on reload              |
//! | `listener`         | accepts connections by TLS and serves HTTP/1.1 and HTTP/2          |
//! | `connection`       | one connection from its first byte to its last                     |
//! | `source_limits`    | how many connections one address may have                          |
//! | `entrance`         | what is refused before the caller is identified                    |
//! | `call`             | one request, with what is known of its connection                  |
//! | `slots`            | how many requests are worked on at once                            |
//! | `large_answers`    | how many bytes of large answers wait to be sent                    |
//! | `reports`          | what strangers bring about is logged once a minute                 |
//! | `answer`           | responses, whose bytes are wiped when they were sent               |
//! | `routes`           | leads each request to its dialect, counts and times it             |
//! | `metrics_listener` | Prometheus, in plain HTTP                                          |

mod answer;
mod call;
mod connection;
mod entrance;
#[cfg(test)]
pub(crate) mod fuzz;
mod large_answers;
mod listener;
mod metrics_listener;
mod node;
mod open_files;
mod reports;
mod routes;
mod runtime_file;
mod signals;
mod slots;
mod source_limits;
mod tls;

pub use answer::Answer;
pub use call::{BodyError, Call, Edge, NotAdmitted};
pub use node::{ConfigSource, RunError, run};
pub use runtime_file::RuntimeFile;
pub use slots::Slots;
pub(crate) use tls::check as check_api_certificates;
