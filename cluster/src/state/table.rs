//! The tables of the state: one column family per idea.

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
    /// Index (8), position of the first outcome (4) → [`super::rows::WindowRow`].
    Window = 7,
    /// `AuditKey` (14) → `AuditRecord`.
    Audit = 8,
    /// Place (48), `AuditKey` (14) → nothing.
    AuditByPlace = 9,
    /// Principal's token (16), index (8) of an entry with records of it → nothing.
    AuditByPrincipal = 10,
    /// Action (1), outcome (1), index (8) of an entry with such records → nothing.
    AuditByKind = 11,
    /// The running digest and the last kept ones. The only table outside the digest.
    Digest = 12,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 13] = [
        Self::Meta,
        Self::Place,
        Self::Secret,
        Self::Version,
        Self::Value,
        Self::Lingering,
        Self::SpentSecret,
        Self::Window,
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

    /// Position in [`Self::ALL`].
    pub(super) fn position(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_the_numbers() {
        for (position, table) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table.position(), position);
        }
    }
}
