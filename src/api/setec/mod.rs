//! setec's API: `POST /api/<method>`, JSON both ways, errors as short plain text.
//!
//! | file       | idea                                                                     |
//! |------------|--------------------------------------------------------------------------|
//! | `methods`  | the eight methods, and the order in which a call is checked               |
//! | `requests` | request bodies, read as Go's `encoding/json` reads them                   |
//! | `answers`  | response bodies, written as Go's `encoding/json` writes them              |
//! | `errors`   | which status each failure has                                             |
//!
//! Differences from upstream and their reasons are in `docs/setec-api.md`.

mod answers;
mod errors;
#[cfg(test)]
mod fuzz;
mod methods;
mod requests;

pub(crate) use methods::{Method, NO_BROWSERS, NO_BROWSERS_VALUE, handle};
