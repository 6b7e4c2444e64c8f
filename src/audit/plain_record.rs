//! What the edge says of a caller.

use serde::{Deserialize, Serialize};

/// Who asked, from where, by which API, about what. Written as canonical JSON (RFC 8785), in which
/// integers above 2^53 are strings. Fields that do not apply are absent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainRecord {
    /// Format of this record: 1.
    pub format: u32,
    /// The caller, as `type:name`.
    pub principal: String,
    /// The tailnet node that it called from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The connection's other end, `address:port`.
    pub remote: String,
    /// By which API.
    pub api: String,
    /// The request's id.
    pub request_id: String,
    /// Name of the node that it called.
    pub node: String,
    /// The namespace of what it was about; empty for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The store of what it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// The secret's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was done, where the action alone does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}
