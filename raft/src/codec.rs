//! The one codec: every record on disk and on the wire starts with a format version.
//!
//! A record is `[format: u8][body: bincode 2, standard configuration]`. The format byte names the
//! encoding of the body, so that bincode can be replaced (see `docs/decisions`) while old records
//! stay readable. Decoding never panics, takes memory in proportion to the record rather than to the
//! lengths that it claims, and refuses trailing bytes: a record is read whole or refused.

use bincode::{
    config::{Configuration, Limit, LittleEndian, Varint},
    error::DecodeError,
};
use serde::{Serialize, de::DeserializeOwned};

/// The format that this build writes: bincode 2 with variable-length integers.
pub const FORMAT_BINCODE_2: u8 = 1;

/// Hard limit on one decoded record: 64 MiB. Every caller has a smaller limit of its own.
pub const RECORD_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Up to this length a record is decoded under a limit of its own: bincode takes memory for as many bytes
/// as a length claims, before it finds them missing.
const SHORT_RECORD_BYTES: usize = 64 * 1024;
/// That limit. It counts what numbers take in memory: at most 16 bytes for one byte of the record.
const SHORT_RECORD_LIMIT_BYTES: usize = 16 * SHORT_RECORD_BYTES;

/// Room for most records, so that encoding them seldom grows the buffer.
const MOST_RECORDS_BYTES: usize = 512;

/// Why a record could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The record has no format byte.
    #[error("the record is empty")]
    Empty,
    /// The record was written by a format that this build does not know.
    #[error("record format {0} is unknown to this version")]
    UnknownFormat(u8),
    /// The body is not a well-formed record of the expected type.
    #[error("malformed record: {0}")]
    Malformed(String),
    /// Bytes follow the record.
    #[error("{0} bytes follow the record")]
    Trailing(usize),
}

/// Encodes a record with its format version in front.
pub fn encode<T: Serialize + ?Sized>(record: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MOST_RECORDS_BYTES);
    encode_into(record, &mut bytes);
    bytes
}

/// As [`encode`], appended to `bytes`: for whoever has to bound where copies come to lie.
pub fn encode_into<T: Serialize + ?Sized>(record: &T, bytes: &mut Vec<u8>) {
    bytes.push(FORMAT_BINCODE_2);
    bincode::serde::encode_into_std_write(record, bytes, configuration::<RECORD_LIMIT_BYTES>())
        .expect("writing into memory cannot fail, and our record types serialise totally");
}

/// Decodes a whole record.
///
/// # Errors
/// Any input that is no whole record of this type is refused. There may be several for one value:
/// [`encode`] writes the shortest.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (&format, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if format != FORMAT_BINCODE_2 {
        return Err(CodecError::UnknownFormat(format));
    }
    let decoded = if body.len() <= SHORT_RECORD_BYTES {
        decode_body::<T, SHORT_RECORD_LIMIT_BYTES>(body)
    } else {
        decode_body::<T, RECORD_LIMIT_BYTES>(body)
    };
    let (record, read) = decoded.map_err(|error| CodecError::Malformed(error.to_string()))?;
    match body.len() - read {
        0 => Ok(record),
        trailing => Err(CodecError::Trailing(trailing)),
    }
}

fn decode_body<T: DeserializeOwned, const LIMIT_BYTES: usize>(
    body: &[u8],
) -> Result<(T, usize), DecodeError> {
    bincode::serde::decode_from_slice(body, configuration::<LIMIT_BYTES>())
}

fn configuration<const LIMIT_BYTES: usize>() -> Configuration<LittleEndian, Varint, Limit<LIMIT_BYTES>> {
    bincode::config::standard().with_limit::<LIMIT_BYTES>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn golden_record() {
        let record = (7_u64, "place".to_owned(), vec![1_u8, 2, 300_u16 as u8]);
        let bytes = encode(&record);
        assert_eq!(bytes, [1, 7, 5, b'p', b'l', b'a', b'c', b'e', 3, 1, 2, 44]);
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes).unwrap(), record);
    }

    #[test]
    fn unknown_formats_and_trailing_bytes_are_refused() {
        assert!(matches!(decode::<u8>(&[]), Err(CodecError::Empty)));
        assert!(matches!(decode::<u8>(&[9, 1]), Err(CodecError::UnknownFormat(9))));
        assert!(matches!(decode::<u8>(&[1, 1, 1]), Err(CodecError::Trailing(1))));
    }

    #[test]
    fn a_length_that_is_only_claimed_takes_no_memory() {
        // 48 MiB of bytes, of a text and of a list, of which nothing follows.
        let claimed = [&[1, 252][..], &(48_u32 << 20).to_le_bytes()].concat();
        conclave_fuzz::in_bounded_memory(claimed.len(), || {
            assert!(decode::<Bytes>(&claimed).is_err());
            assert!(decode::<String>(&claimed).is_err());
            assert!(decode::<Vec<u128>>(&claimed).is_err());
        });
    }

    #[test]
    fn short_records_of_long_numbers_are_read() {
        for length in [
            0,
            SHORT_RECORD_BYTES - 4,
            SHORT_RECORD_BYTES,
            SHORT_RECORD_BYTES + 9,
        ] {
            let numbers = vec![7_u128; length];
            assert_eq!(decode::<Vec<u128>>(&encode(&numbers)).unwrap(), numbers);
            let bytes = Bytes::from(vec![7; length]);
            assert_eq!(decode::<Bytes>(&encode(&bytes)).unwrap(), bytes);
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(a: u64, b: Vec<u8>, c: Option<(u32, String)>) {
            let record = (a, b, c);
            prop_assert_eq!(decode::<(u64, Vec<u8>, Option<(u32, String)>)>(&encode(&record)).unwrap(), record);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = decode::<(u64, Vec<u8>, Option<(u32, String)>)>(&bytes);
        }
    }
}
