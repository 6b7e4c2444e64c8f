//! The dialects that clients speak. Each only maps requests to operations and outcomes to answers.

pub mod conclave;
