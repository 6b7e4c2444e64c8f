//! The frame of every record in the `log` database: `[codec record][crc32c of it: u32, little-endian]`.
//!
//! The codec gives the format version, the checksum says whether the disk still holds what was
//! written. A record that does not match is never interpreted.

use crate::codec;
use serde::{Serialize, de::DeserializeOwned};
use std::io;

const CHECKSUM_BYTES: usize = 4;

/// Encodes a record with its checksum.
pub(crate) fn seal<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = codec::encode(record);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Checks and decodes a record.
///
/// # Errors
/// `location` and `what` name the record in the error.
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8], location: &str, what: &str) -> io::Result<T> {
    let damaged = |reason: String| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{what} in {location} is damaged: {reason}"),
        )
    };
    let (record, checksum) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or_else(|| damaged(format!("{} bytes are too few", bytes.len())))?;
    if crc32c::crc32c(record) != u32::from_le_bytes(*checksum) {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    codec::decode(record).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_record() {
        assert_eq!(seal(&7_u8), [1, 7, 78, 139, 9, 54]);
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found(value: (u64, String), at: prop::sample::Index, bit in 0_u8..8) {
            let mut bytes = seal(&value);
            prop_assert_eq!(&open::<(u64, String)>(&bytes, "d", "r").unwrap(), &value);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let error = open::<(u64, String)>(&bytes, "directory", "record").unwrap_err();
            prop_assert!(error.to_string().contains("record in directory"));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = open::<(u64, String)>(&bytes, "d", "r");
        }
    }
}
