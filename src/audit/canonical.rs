//! Canonical JSON (RFC 8785). Its numbers are doubles, so that integers above 2^53 are written as
//! strings: another program must come to the same bytes.

use serde::Serialize;
use serde_json::{Number, Value};

/// The canonical form of a record. The record must have string keys only, as every `struct` has.
pub fn canonical_json(record: &impl Serialize) -> Vec<u8> {
    let value = serde_json::to_value(record).expect("records have string keys and finite numbers");
    serde_json_canonicalizer::to_vec(&with_large_integers_as_strings(value))
        .expect("a JSON value always has a canonical form")
}

fn with_large_integers_as_strings(value: Value) -> Value {
    match value {
        Value::Number(number) if is_too_large(&number) => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(with_large_integers_as_strings).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, field)| (key, with_large_integers_as_strings(field)))
            .collect(),
        other => other,
    }
}

fn is_too_large(number: &Number) -> bool {
    const EXACT: u64 = 1 << 53;
    number.as_u64().is_some_and(|integer| integer > EXACT)
        || number
            .as_i64()
            .is_some_and(|integer| integer.unsigned_abs() > EXACT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn canonical(value: Value) -> String {
        String::from_utf8(canonical_json(&value)).unwrap()
    }

    #[test]
    fn keys_are_sorted_and_strings_escaped_as_the_rfc_says() {
        assert_eq!(
            canonical(json!({"b": [1, null], "a": "é\u{1}\"", "A": true})),
            "{\"A\":true,\"a\":\"é\\u0001\\\"\",\"b\":[1,null]}"
        );
        // RFC 8785, section 3.2.3: sorted by UTF-16 code units, not by code points.
        assert_eq!(
            canonical(json!({"\u{fb33}": 1, "\u{1f600}": 2})),
            "{\"\u{1f600}\":2,\"\u{fb33}\":1}"
        );
    }

    #[test]
    fn integers_above_2_to_the_53_are_strings() {
        let exact = 1_u64 << 53;
        assert_eq!(
            canonical(json!([exact, exact + 1, u64::MAX])),
            "[9007199254740992,\"9007199254740993\",\"18446744073709551615\"]"
        );
        assert_eq!(
            canonical(json!([-(exact as i64), i64::MIN])),
            "[-9007199254740992,\"-9223372036854775808\"]"
        );
    }
}
