//! The little of Protocol Buffers that etcd's messages need
//! (<https://protobuf.dev/programming-guides/encoding/>): fields of bytes written, and fields found. No
//! code is generated from schemas, for what generates it would be larger than this.

use bytes::{BufMut, Bytes, BytesMut};

/// A message of fields of bytes, in the order given: (number, bytes).
pub fn message(fields: &[(u8, &[u8])]) -> Bytes {
    let mut message = BytesMut::new();
    for (number, bytes) in fields {
        message.put_u8(number << 3 | LENGTH_DELIMITED);
        put_varint(&mut message, bytes.len());
        message.put_slice(bytes);
    }
    message.freeze()
}

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Every field with this number, in order.
///
/// # Errors
/// When it is no message.
pub fn fields(mut message: &[u8], wanted: u64) -> Result<Vec<Value<'_>>, String> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let value = match (key & 7) as u8 {
            VARINT => Value::Number(varint(&mut message)?),
            LENGTH_DELIMITED => {
                let length = usize::try_from(varint(&mut message)?).map_err(|error| error.to_string())?;
                let (bytes, rest) = message.split_at_checked(length).ok_or("a field is cut off")?;
                message = rest;
                Value::Bytes(bytes)
            }
            other => return Err(format!("a field of wire type {other}")),
        };
        if key >> 3 == wanted {
            found.push(value);
        }
    }
    Ok(found)
}

/// The number in a field; 0 where there is none, as everywhere in version 3.
///
/// # Errors
/// When it is no message.
pub fn number(message: &[u8], wanted: u64) -> Result<u64, String> {
    match fields(message, wanted)?.last() {
        Some(Value::Number(number)) => Ok(*number),
        Some(Value::Bytes(_)) => Err(format!("field {wanted} is no number")),
        None => Ok(0),
    }
}

/// The bytes, or message, in a field; empty where there is none.
///
/// # Errors
/// When it is no message.
pub fn bytes(message: &[u8], wanted: u64) -> Result<&[u8], String> {
    match fields(message, wanted)?.last() {
        Some(Value::Bytes(bytes)) => Ok(bytes),
        Some(Value::Number(_)) => Err(format!("field {wanted} is a number")),
        None => Ok(&[]),
    }
}

const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

fn put_varint(message: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        message.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    message.put_u8(number as u8);
}

fn varint(message: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = message.split_first().ok_or("a number is cut off")?;
        *message = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found() {
        let value = [7; 300];
        let message = message(&[(1, b"key"), (2, &value)]);
        assert_eq!(&message[..8], b"\x0a\x03key\x12\xac\x02");
        assert_eq!(bytes(&message, 1), Ok(&b"key"[..]));
        assert_eq!(bytes(&message, 2), Ok(&value[..]));
        assert_eq!((bytes(&message, 3), number(&message, 3)), (Ok(&[][..]), Ok(0)));
        assert_eq!(number(b"\x20\xac\x02", 4), Ok(300));
        for cut in [1, 4, 6, 100] {
            assert!(fields(&message[..cut], 1).is_err(), "{cut}");
        }
    }
}
