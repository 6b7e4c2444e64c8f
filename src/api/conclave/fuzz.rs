//! Any bytes in place of a body, a path and a cursor.

use super::{
    audit,
    messages::{AddMember, AuditLimit, AuditListRequest, MemberId, Rekey, TransferLeadership, Verify},
    routes::{Route, read_message},
};
use conclave_fuzz::{explore, in_bounded_memory};
use serde::{Serialize, de::DeserializeOwned};

#[test]
fn messages() {
    let seeds = [
        r#"{"since_ms":1,"until_ms":2,"secret":"a/b","principal":"cn:app","action":"get","outcome":"done","limit":7,"cursor":"7-0-1","newest_first":true}"#,
        r#"{"limit_bytes":65536,"at_limit":"prune-oldest"}"#,
        r#"{"name":"n4","timeout_ms":5}"#,
        r#"{"id":3,"timeout_ms":null}"#,
        r#"{"to":2}"#,
        r#"{"key_file":"/k"}"#,
        "",
        " {} ",
    ];
    explore!("messages", seeds, |input: &[u8]| {
        fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(input: &[u8]) -> Option<T> {
            match in_bounded_memory(input.len(), || read_message::<T>(input)) {
                Ok(message) => {
                    let written = serde_json::to_vec(&message).expect("messages have a JSON form");
                    let again = read_message::<T>(&written).ok();
                    assert_eq!(again.as_ref(), Some(&message));
                    Some(message)
                }
                Err(failure) => {
                    assert_eq!(failure.answer().status(), 400);
                    None
                }
            }
        }
        read::<AuditLimit>(input);
        read::<AddMember>(input);
        read::<MemberId>(input);
        read::<TransferLeadership>(input);
        read::<Verify>(input);
        read::<Rekey>(input);
        if let Some(request) = read::<AuditListRequest>(input) {
            match audit::query(&request) {
                Ok(query) => {
                    let principal = query.principal.map(|principal| principal.to_string());
                    assert_eq!(principal, request.principal);
                    let name = query.name.map(|name| name.name.as_str().to_owned());
                    assert_eq!(name, request.secret);
                    let cursor = query.cursor.map(|cursor| audit::read(&audit::written(&cursor)));
                    assert_eq!(cursor, cursor.map(|_| query.cursor));
                }
                Err(failure) => assert_eq!(failure.answer().status(), 400),
            }
        }
    });
}

#[test]
fn paths() {
    let seeds = [
        "/conclave/v1/health",
        "/conclave/v1/audit/list",
        "/conclave/v1//seal",
    ];
    explore!("paths", seeds, |input: &[u8]| {
        let Ok(path) = std::str::from_utf8(input) else {
            return;
        };
        if let Some(route) = Route::of_path(path) {
            assert_eq!(path, format!("/conclave/v1/{}", route.label()));
        }
        // Two dialects never have one path.
        assert!(Route::of_path(path).is_none() || crate::api::setec::Method::of_path(path).is_none());
    });
}
