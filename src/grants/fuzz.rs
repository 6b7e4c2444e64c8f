//! Any text as a principal, and as a table of grants.

use super::{Grants, GrantsTable, Principal, PrincipalKind};
use crate::pki::ClientName;
use conclave_fuzz::{explore, in_bounded_memory};

#[test]
fn principals() {
    let seeds = [
        "uri:spiffe://x/y",
        "email:a@b.c",
        "dns:h",
        "cn:A B",
        "tailscale:tag:a",
        "dev",
        "dev:x",
    ];
    explore!("principals", seeds, |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let Ok(principal) = text.parse::<Principal>() else {
            return;
        };
        assert_eq!(principal.to_string(), text);
        if principal.kind() != PrincipalKind::Dev {
            let again = Principal::new(principal.kind(), principal.name());
            assert_eq!(again.as_ref(), Ok(&principal));
        }
        // What a certificate can be made for is what grants can name.
        if let Some(client) = ClientName::parse(text) {
            assert_eq!(client.to_string(), text);
        }
    });
}

/// What stands for a secret's name in an input.
const NAME: &str = "NAME";
/// What it is replaced by: nothing that a message says by itself.
const HIDDEN: &str = "zq-hidden-zq";

#[test]
fn tables() {
    let seeds = [
        r#""cn:app" = [{ action = ["get", "info"], secret = ["dev/*", "NAME"] }]"#,
        r#"dev = [{ action = ["audit"], namespace = "team/app", store = "kv" }]"#,
        r#"{"cn:app":[{"action":["get"],"secret":["NAME"]}]}"#,
        r#""NAME" = ["NAME"]"#,
        "\"cn:a\" = [{ action = [\"NAME\"], NAME = 1 }]",
        r#"[{"action":["operate"],"secret":["*"]},{"action":["NAME"]}]"#,
    ];
    explore!("tables", seeds, |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else {
            return;
        };
        let text = text.replace(NAME, HIDDEN);
        for read in [
            in_bounded_memory(text.len(), || GrantsTable::from_toml(&text)),
            in_bounded_memory(text.len(), || GrantsTable::from_json(&text)),
        ] {
            match read {
                Ok(table) => {
                    let json = serde_json::to_string(&table).expect("a table has a JSON form");
                    assert_eq!(GrantsTable::from_json(&json).as_ref(), Ok(&table));
                    let checked = table.check();
                    // A principal is no secret's name, and is named.
                    let named = table
                        .0
                        .keys()
                        .any(|key| key.contains(HIDDEN) && key.parse::<Principal>().is_ok());
                    assert!(named || !checked.is_err_and(|error| error.contains(HIDDEN)));
                }
                Err(error) => assert!(!error.contains(HIDDEN), "{error}"),
            }
        }
        if let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(&text)
            && let Err(error) = in_bounded_memory(text.len(), || Grants::from_capability(&values))
        {
            assert!(!error.to_string().contains(HIDDEN), "{error}");
        }
    });
}
