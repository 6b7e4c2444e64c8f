//! At a place, no version number is ever used twice.
//!
//! What earlier secrets used at a place stays there as tombstones. A secret that may come back
//! (moved away, or deleted recoverably) owns its tombstone; the others merge into one. Where a
//! limit is reached, numbers that were never used are given up rather than that one is used twice.

use crate::model::{NumberRanges, PlaceRecord, SecretId, SecretRecord, Tombstone, Version};

/// The most ranges of numbers of one secret or tombstone.
pub(super) const RANGES_MAX: usize = 4096;
/// The most tombstones at a place that still have an owner.
const OWNED_TOMBSTONES_MAX: usize = 64;

/// The highest number that was ever used at the place, by the secret that lies there or before it.
pub(super) fn highest_used(place: &PlaceRecord, secret: Option<&SecretRecord>) -> Option<Version> {
    let earlier = place
        .tombstones
        .iter()
        .filter_map(|tombstone| tombstone.used.highest());
    earlier
        .chain(secret.and_then(|secret| secret.used.highest()))
        .max()
}

/// Whether a number was ever used at the place.
pub(super) fn is_used(place: &PlaceRecord, secret: Option<&SecretRecord>, number: Version) -> bool {
    place
        .tombstones
        .iter()
        .any(|tombstone| tombstone.used.contains(number))
        || secret.is_some_and(|secret| secret.used.contains(number))
}

/// Whether a secret may lie at the place: none of its numbers was used there by another.
pub(super) fn may_arrive(place: &PlaceRecord, id: SecretId, secret: &SecretRecord) -> bool {
    let mut others = place
        .tombstones
        .iter()
        .filter(|tombstone| tombstone.secret != Some(id));
    !others.any(|tombstone| tombstone.used.intersects(&secret.used))
}

/// Puts a secret at the place. Its own tombstone goes: the numbers are among the secret's.
pub(super) fn arrive(place: &mut PlaceRecord, id: SecretId) {
    place.tombstones.retain(|tombstone| tombstone.secret != Some(id));
    place.secret = Some(id);
}

/// Takes a secret, which may come back, away from the place.
pub(super) fn leave(place: &mut PlaceRecord, id: SecretId, secret: &SecretRecord) {
    place.secret = None;
    place.tombstones.push(Tombstone {
        secret: Some(id),
        used: secret.used.clone(),
    });
    let owned = |tombstone: &Tombstone| tombstone.secret.is_some();
    if place
        .tombstones
        .iter()
        .filter(|tombstone| owned(tombstone))
        .count()
        > OWNED_TOMBSTONES_MAX
        && let Some(oldest) = place.tombstones.iter_mut().find(|tombstone| owned(tombstone))
    {
        // That secret can no longer come back to this place.
        oldest.secret = None;
        merge(place);
    }
}

/// A secret that is at the place, or owns a tombstone there, will never come back.
pub(super) fn bury(place: &mut PlaceRecord, id: SecretId, secret: &SecretRecord) {
    if place.secret == Some(id) {
        place.secret = None;
    }
    place.tombstones.retain(|tombstone| tombstone.secret != Some(id));
    place.tombstones.push(Tombstone {
        secret: None,
        used: secret.used.clone(),
    });
    merge(place);
}

fn merge(place: &mut PlaceRecord) {
    let mut merged = NumberRanges::default();
    place.tombstones.retain(|tombstone| {
        if tombstone.secret.is_none() {
            merged.extend(&tombstone.used);
        }
        tombstone.secret.is_some()
    });
    if merged.ranges().len() > RANGES_MAX {
        merged.fill();
    }
    if !merged.is_empty() {
        place.tombstones.insert(
            0,
            Tombstone {
                secret: None,
                used: merged,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::tests::fixtures::secret_using;

    fn id(byte: u8) -> SecretId {
        SecretId([byte; 16])
    }

    fn number(number: u32) -> Version {
        Version::new(number).unwrap()
    }

    #[test]
    fn tombstones_without_an_owner_merge() {
        let mut place = PlaceRecord::default();
        arrive(&mut place, id(1));
        bury(&mut place, id(1), &secret_using(&[1, 2]));
        arrive(&mut place, id(2));
        bury(&mut place, id(2), &secret_using(&[3, 7]));
        assert_eq!(place.tombstones.len(), 1);
        assert_eq!(place.tombstones[0].used.ranges(), [(1, 3), (7, 7)]);
        assert_eq!(highest_used(&place, None), Some(number(7)));
        assert!(is_used(&place, None, number(2)) && !is_used(&place, None, number(5)));
    }

    #[test]
    fn a_secret_comes_back_only_while_its_numbers_are_its_own() {
        let mut place = PlaceRecord::default();
        arrive(&mut place, id(1));
        leave(&mut place, id(1), &secret_using(&[1, 2]));
        assert!(may_arrive(&place, id(1), &secret_using(&[1, 2, 3])));
        assert!(!may_arrive(&place, id(2), &secret_using(&[2])));
        arrive(&mut place, id(2));
        bury(&mut place, id(2), &secret_using(&[3]));
        assert!(!may_arrive(&place, id(1), &secret_using(&[1, 2, 3])));
        assert!(may_arrive(&place, id(1), &secret_using(&[1, 2])));
    }

    #[test]
    fn tombstones_are_bounded_and_forget_no_number() {
        let mut place = PlaceRecord::default();
        for n in 1..=200_u8 {
            arrive(&mut place, id(n));
            leave(&mut place, id(n), &secret_using(&[u32::from(n) * 2]));
        }
        assert_eq!(place.tombstones.len(), OWNED_TOMBSTONES_MAX + 1);
        assert!((1..=200).all(|n| is_used(&place, None, number(n * 2))));
        assert!(!may_arrive(&place, id(1), &secret_using(&[2])));
        assert!(may_arrive(&place, id(200), &secret_using(&[400])));
    }
}
