//! The tables of the state: one column family per idea.

use super::rows::index_at_start;

/// A table. The numbers are part of the digest: never reorder, only append.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// [`super::meta::Meta`] and the membership.
    Meta = 0,
    /// Place (48 bytes) → `PlaceRecord`.
    Place = 1,
    /// Secret id (16) → `SecretRecord`.
    Secret = 2,
    /// Secret id (16), number (4) → `VersionRecord`.
    Version = 3,
    /// Secret id (16), number (4) → [`super::rows::StoredValue`].
    Value = 4,
    /// Index (8), secret id (16), number (4) → size in bytes of a value that no version shows any
    /// more, and that is kept until the outcomes up to that index have left the window.
    Lingering = 5,
    /// Ids (16) of secrets that were destroyed, so that no id is used twice → nothing.
    SpentSecret = 6,
    /// Proposal id (16) → [`super::rows::WindowRow`].
    Window = 7,
    /// Index (8), position (4) → [`super::rows::WindowOrder`].
    WindowOrder = 8,
    /// `AuditKey` (14) → `AuditRecord`.
    Audit = 9,
    /// Place (48), `AuditKey` (14) → nothing.
    AuditByPlace = 10,
    /// Principal's token (16), `AuditKey` (14) → nothing.
    AuditByPrincipal = 11,
    /// Action (1), outcome (1), `AuditKey` (14) → nothing.
    AuditByKind = 12,
    /// The running digest and the last kept ones. The only table outside the digest.
    Digest = 13,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 14] = [
        Self::Meta,
        Self::Place,
        Self::Secret,
        Self::Version,
        Self::Value,
        Self::Lingering,
        Self::SpentSecret,
        Self::Window,
        Self::WindowOrder,
        Self::Audit,
        Self::AuditByPlace,
        Self::AuditByPrincipal,
        Self::AuditByKind,
        Self::Digest,
    ];

    /// The column family's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Place => "place",
            Self::Secret => "secret",
            Self::Version => "version",
            Self::Value => "value",
            Self::Lingering => "lingering",
            Self::SpentSecret => "spent_secret",
            Self::Window => "window",
            Self::WindowOrder => "window_order",
            Self::Audit => "audit",
            Self::AuditByPlace => "audit_by_place",
            Self::AuditByPrincipal => "audit_by_principal",
            Self::AuditByKind => "audit_by_kind",
            Self::Digest => "digest",
        }
    }

    /// Whether the table's pairs count in the digest.
    pub fn is_digested(self) -> bool {
        self != Self::Digest
    }

    /// The index of the log entry that a key of this table names, where keys name the entry that writes
    /// them: no earlier one can have written the same key.
    pub(super) fn entry_index_of(self, key: &[u8]) -> Option<u64> {
        let offset = match self {
            Self::Lingering | Self::WindowOrder | Self::Audit => 0,
            Self::AuditByKind => 2,
            Self::AuditByPrincipal => 16,
            Self::AuditByPlace => 48,
            Self::Meta
            | Self::Place
            | Self::Secret
            | Self::Version
            | Self::Value
            | Self::SpentSecret
            | Self::Window
            | Self::Digest => return None,
        };
        index_at_start(key.get(offset..)?)
    }

    /// Position in [`Self::ALL`].
    pub(super) fn position(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Action, AuditKey, OutcomeKind, Place, SecretId, Token, Version},
        state::keys,
    };

    #[test]
    fn positions_are_the_numbers() {
        for (position, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table.position(), position);
        }
    }

    #[test]
    fn keys_name_the_entry_that_writes_them() {
        let key = AuditKey {
            index: 0x0102_0304_0506_0708,
            position: 9,
            step: 10,
        };
        let token = Token([0xee; 16]);
        let place = Place {
            namespace: token,
            store: token,
            name: token,
        };
        let in_index = |mut prefix: Vec<u8>| {
            prefix.extend(key.to_key());
            prefix
        };
        let version = Version::FIRST;
        for (table, row_key) in [
            (
                Table::Lingering,
                keys::lingering_key(key.index, SecretId([0xee; 16]), version),
            ),
            (Table::WindowOrder, keys::window_order_key(key.index, 9)),
            (Table::Audit, key.to_key().to_vec()),
            (Table::AuditByPlace, in_index(keys::audit_place_prefix(&place))),
            (
                Table::AuditByPrincipal,
                in_index(keys::audit_principal_prefix(token)),
            ),
            (
                Table::AuditByKind,
                in_index(keys::audit_kind_prefix(Action::Get, OutcomeKind::Done)),
            ),
        ] {
            assert_eq!(table.entry_index_of(&row_key), Some(key.index), "{table:?}");
        }
        assert_eq!(Table::Secret.entry_index_of(&[0; 16]), None);
    }
}
