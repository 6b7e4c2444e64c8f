//! An audit record as the core keeps it: what apply knows in clear, who and whence sealed.

use super::{Place, Sealed, SecretId, Token, Version};
use conclave_raft::identity::RaftId;
use serde::{Deserialize, Serialize};

/// What was asked for. Numbers are part of the format: never reorder, only append.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum Action {
    Get = 0,
    Info = 1,
    List = 2,
    Put = 3,
    CreateVersion = 4,
    Activate = 5,
    DeleteVersion = 6,
    Delete = 7,
    Restore = 8,
    Move = 9,
    Configure = 10,
    Reseal = 11,
    AuditRead = 12,
    Operate = 13,
    Login = 14,
    Prune = 15,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 16] = [
        Self::Get,
        Self::Info,
        Self::List,
        Self::Put,
        Self::CreateVersion,
        Self::Activate,
        Self::DeleteVersion,
        Self::Delete,
        Self::Restore,
        Self::Move,
        Self::Configure,
        Self::Reseal,
        Self::AuditRead,
        Self::Operate,
        Self::Login,
        Self::Prune,
    ];
}

/// How it ended. Numbers are part of the format: never reorder, only append.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum OutcomeKind {
    /// Done as asked.
    Done = 0,
    /// Nothing lies there, or no such version.
    NotFound = 1,
    /// The caller has no right to it (the edge refused).
    Denied = 2,
    /// A rule or precondition of the machine refused it.
    Refused = 3,
    /// Part of a command whose other part was refused; nothing of it was done.
    Abandoned = 4,
}

impl OutcomeKind {
    /// Every way.
    pub const ALL: [Self; 5] = [
        Self::Done,
        Self::NotFound,
        Self::Denied,
        Self::Refused,
        Self::Abandoned,
    ];
}

/// What the proposing edge says of the caller, made before the outcome is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditStub {
    /// What was asked for.
    pub action: Action,
    /// The caller's token.
    pub principal: Token,
    /// HMAC-SHA-256 with a fresh 32-byte salt over the canonical plain record (RFC 8785).
    pub commitment: [u8; 32],
    /// The plain record and its salt, sealed.
    pub sealed: Sealed,
}

/// A record's key: where its command lies in the log. Unique, and ordered as things happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AuditKey {
    /// The entry's index.
    pub index: u64,
    /// The command's position in the entry.
    pub position: u32,
    /// The step's number in the command.
    pub step: u16,
}

impl AuditKey {
    /// 14 bytes, big-endian, so that keys sort as records happened.
    pub fn to_key(self) -> [u8; 14] {
        let mut key = [0; 14];
        key[..8].copy_from_slice(&self.index.to_be_bytes());
        key[8..12].copy_from_slice(&self.position.to_be_bytes());
        key[12..].copy_from_slice(&self.step.to_be_bytes());
        key
    }

    /// The inverse of [`Self::to_key`]; `None` for another length.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let key: &[u8; 14] = key.try_into().ok()?;
        let [i0, i1, i2, i3, i4, i5, i6, i7, p0, p1, p2, p3, s0, s1] = *key;
        Some(Self {
            index: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
            position: u32::from_be_bytes([p0, p1, p2, p3]),
            step: u16::from_be_bytes([s0, s1]),
        })
    }
}

/// One record. Its encoding is the preimage of its leaf in the audit tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditRecord {
    /// State time in milliseconds.
    pub time_ms: u64,
    /// What was asked for.
    pub action: Action,
    /// How it ended.
    pub outcome: OutcomeKind,
    /// What it was about. The name is [`Token::NONE`] when it was about a whole store.
    pub place: Option<Place>,
    /// The secret, where one was there.
    pub secret: Option<SecretId>,
    /// The version, where one was meant or found.
    pub version: Option<Version>,
    /// The node whose edge proposed it, stamped by the leader from that node's certificate.
    pub node: RaftId,
    /// The caller's token.
    pub principal: Token,
    /// How many attempts this record stands for (1, or more for refusals beyond a rate).
    pub attempts: u32,
    /// This place's running count; the first record has 1. 0 when it is about no place.
    pub place_count: u64,
    /// The leaf hash of this place's previous record.
    pub previous_leaf: [u8; 32],
    /// The commitment to the sealed part.
    pub commitment: [u8; 32],
    /// Who, from where, by which API, which name, request id: sealed.
    pub sealed: Sealed,
}
