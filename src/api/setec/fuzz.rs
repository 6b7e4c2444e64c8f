//! Any bytes in place of a call: its body against a plain reading of the same rules, then its form.

use super::{
    methods::{Method, check_form},
    requests::Request,
};
use crate::{plaintext::Plaintext, server::fuzz::header};
use base64::{Engine, engine::general_purpose::STANDARD};
use conclave_cluster::model::Version;
use conclave_fuzz::{explore, in_bounded_memory};
use hyper::HeaderMap;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use std::fmt;

#[test]
fn bodies() {
    let seeds = [
        r#"{"Name":"a","Version":7,"Value":"aGk=","UpdateIfChanged":true}"#,
        r#"{"name":"b","VERSION":1,"Verſion":null,"Extra":{"Name":["x"]}}"#,
        r#" {"Na\u006de":"a","Name":null,"Value":"aG\nk=","Value":"\/+8="} "#,
        "null",
        "",
        r#"{"Value":"","Version":4294967295,"UpdateIfChanged":null}"#,
    ];
    explore!("bodies", seeds, |input: &[u8]| {
        let read = in_bounded_memory(input.len(), || Request::parse(input).map(Read::of));
        if let Some(plainly) = plainly(input) {
            assert_eq!(read.as_ref().ok(), plainly.as_ref());
        }
        let is_blank = input.iter().all(u8::is_ascii_whitespace);
        assert_eq!(Request::parse_list(input).is_ok(), is_blank || read.is_ok());
        if let Err(error) = read {
            // Only names of fields, numbers of lines and our own words.
            assert!(error.to_string().len() < 100);
        }
    });
}

/// A path, a method, and headers, a line each.
#[test]
fn forms() {
    let seeds = [
        "/api/put\nPOST\ncontent-type:application/json\nsec-x-tailscale-no-browsers:setec",
        "/api/create-version\nPOST\ncontent-type:Application/JSON; charset=utf-8",
        "/api/get/\nGET\n",
    ];
    explore!("forms", seeds, |input: &[u8]| {
        let mut lines = input.split(|byte| *byte == b'\n');
        let path = lines.next().and_then(|line| std::str::from_utf8(line).ok());
        let Some(path) = path else { return };
        if let Some(method) = Method::of_path(path) {
            assert_eq!(path, format!("/api/{}", method.label()));
        }
        let method = lines.next().and_then(|line| hyper::Method::from_bytes(line).ok());
        let Some(method) = method else { return };
        let headers: HeaderMap = lines.filter_map(header).collect();
        if check_form(&method, &headers).is_none() {
            assert_eq!(method, hyper::Method::POST);
            assert_eq!(headers["sec-x-tailscale-no-browsers"], "setec");
            let content_type = headers["content-type"].to_str().expect("it was read as text");
            let media_type = content_type.to_ascii_lowercase();
            assert!(media_type.trim().starts_with("application/json"));
        }
    });
}

/// What was read of a body.
#[derive(PartialEq, Eq, Debug)]
struct Read {
    name: Option<String>,
    version: u32,
    update_if_changed: bool,
    value: Vec<u8>,
}

impl Read {
    fn of(request: Request) -> Self {
        let name = request.name().ok();
        Self {
            name: name.map(|name| name.name.as_str().to_owned()),
            version: request.optional_version().map_or(0, Version::get),
            update_if_changed: request.update_if_changed(),
            value: Plaintext::as_bytes(&request.into_value()).to_vec(),
        }
    }
}

/// The same rules over a whole JSON value. The outer `None`: it cannot be had, for it has strings or
/// numbers, in fields that do not count, of which there is no such value.
fn plainly(body: &[u8]) -> Option<Option<Read>> {
    let fields = match serde_json::from_slice::<Option<Pairs>>(body) {
        Ok(fields) => fields.unwrap_or_default().0,
        Err(_) => return None,
    };
    let (mut name, mut version, mut update_if_changed, mut value) = Default::default();
    for (key, found) in fields {
        let key: String = key.replace('\u{17f}', "s").replace('\u{212a}', "k");
        let field = match key.to_ascii_lowercase().as_str() {
            "name" => &mut name,
            "version" => &mut version,
            "updateifchanged" => &mut update_if_changed,
            "value" => &mut value,
            _ => continue,
        };
        if found != Value::Null {
            *field = Some(found);
        }
    }
    let read = || {
        let name = match name {
            None => String::new(),
            Some(Value::String(name)) => name,
            Some(_) => return None,
        };
        let is_name = (1..=1024).contains(&name.len()) && !name.chars().any(char::is_control);
        Some(Read {
            name: is_name.then_some(name),
            version: match version {
                None => 0,
                Some(version) => version.as_u64()?.try_into().ok()?,
            },
            update_if_changed: match update_if_changed {
                None => false,
                Some(flag) => flag.as_bool()?,
            },
            value: match value {
                None => Vec::new(),
                Some(value) => STANDARD.decode(value.as_str()?.replace(['\r', '\n'], "")).ok()?,
            },
        })
    };
    Some(read())
}

/// The pairs of an object, in order.
#[derive(Default)]
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Object)
    }
}
