//! setec's API, as its document has it (`docs/setec-api.md`), status by status and byte by byte. Each
//! call goes to the next node, so that leader and followers answer alike.

mod support;

use conclave::api::conclave::messages::AuditListRequest;
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::json;
use std::time::Duration;
use support::{
    PATIENCE, TestCluster, eventually,
    setec::{Answer, Setec, send},
};

async fn three_nodes() -> (TestCluster, Setec) {
    let cluster = TestCluster::builder().nodes(3).start().await;
    let setec = Setec::administrator(&cluster);
    (cluster, setec)
}

#[tokio::test]
async fn the_documents_examples_are_answered_as_they_stand_there() {
    let (_cluster, setec) = three_nodes().await;
    let expect = async |method: &str, body: &'static str, answer: &str| {
        let answered = setec.call(method, body).await.expect(200);
        assert_eq!(answered.text(), answer, "{method} {body}");
        assert_eq!(answered.header("content-type"), "application/json");
        assert_eq!(answered.header("cache-control"), "no-store");
    };
    expect("list", "null", "[]").await;
    expect("put", r#"{"Name":"example","Value":"YSBuZXcgYmVnaW5uaW5n"}"#, "1").await;
    expect("put", r#"{"Name":"example","Value":"aGVsbG8sIHdvcmxk"}"#, "2").await;
    expect("put", r#"{"Name":"example","Value":"dGhpcmQ="}"#, "3").await;
    expect("activate", r#"{"Name":"example","Version":2}"#, "null").await;
    let value = r#"{"Value":"aGVsbG8sIHdvcmxk","Version":2}"#;
    expect("get", r#"{"Name":"example"}"#, value).await;
    expect("get", r#"{"Name":"example","Version":0}"#, value).await;
    expect(
        "get",
        r#"{"Name":"example","Version":3}"#,
        r#"{"Value":"dGhpcmQ=","Version":3}"#,
    )
    .await;
    expect(
        "get",
        r#"{"Name":"example","Version":1,"UpdateIfChanged":true}"#,
        value,
    )
    .await;
    let info = r#"{"Name":"example","Versions":[1,2,3],"ActiveVersion":2}"#;
    expect("info", r#"{"Name":"example"}"#, info).await;
    expect("list", "{}", &format!("[{info}]")).await;
    expect("delete-version", r#"{"Name":"example","Version":3}"#, "null").await;
    let info = r#"{"Name":"example","Versions":[1,2],"ActiveVersion":2}"#;
    expect("info", r#"{"Name":"example"}"#, info).await;
    expect(
        "create-version",
        r#"{"Name":"example","Version":9,"Value":"bmluZQ=="}"#,
        "null",
    )
    .await;
    expect(
        "get",
        r#"{"Name":"example"}"#,
        r#"{"Value":"bmluZQ==","Version":9}"#,
    )
    .await;
    expect("delete", r#"{"Name":"example"}"#, "null").await;
    expect("list", "{}", "[]").await;
}

#[tokio::test]
async fn a_call_must_be_a_post_of_json_that_no_browser_sends() {
    let (_cluster, setec) = three_nodes().await;
    setec.put("example", b"value").await;
    let body = r#"{"Name":"example"}"#;

    for method in [
        Method::GET,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ] {
        let request = setec
            .bare(method.clone(), "/api/get")
            .header(CONTENT_TYPE, "application/json")
            .header("Sec-X-Tailscale-No-Browsers", "setec")
            .body(body);
        let answer = send(request).await;
        assert_refused(&answer, 400, "POST");
    }

    let with_type = |content_type: Option<&str>| {
        let mut request = setec
            .bare(Method::POST, "/api/get")
            .header("Sec-X-Tailscale-No-Browsers", "setec")
            .body(body);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        send(request)
    };
    for accepted in [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=\"utf-8\"; x=y",
        "Application/JSON",
    ] {
        with_type(Some(accepted)).await.expect(200);
    }
    for refused in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
        Some("application/json-seq"),
        Some("text/json"),
        Some(""),
    ] {
        assert_refused(&with_type(refused).await, 400, "application/json");
    }

    for header in [None, Some("1"), Some("Setec"), Some("setec setec"), Some("")] {
        let mut request = setec
            .bare(Method::POST, "/api/get")
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(header) = header {
            request = request.header("Sec-X-Tailscale-No-Browsers", header);
        }
        assert_refused(&send(request).await, 403, "Sec-X-Tailscale-No-Browsers");
    }

    for path in ["/api/", "/api/fetch", "/api/get/", "/api", "/"] {
        let request = setec
            .bare(Method::POST, path)
            .header(CONTENT_TYPE, "application/json")
            .header("Sec-X-Tailscale-No-Browsers", "setec")
            .body(body);
        assert_refused(&send(request).await, 404, "not found");
    }
}

/// `tests/bad_input.rs` has those that are malformed in themselves.
#[tokio::test]
async fn requests_that_ask_for_what_cannot_be_are_400() {
    let (_cluster, setec) = three_nodes().await;
    setec.put("example", b"value").await;
    for method in [
        "get",
        "info",
        "put",
        "create-version",
        "activate",
        "delete",
        "delete-version",
    ] {
        for body in ["null", "{}", r#"{"Name":null,"Version":1}"#] {
            assert_refused(&setec.call(method, body).await, 400, "Name");
        }
    }
    for method in ["create-version", "activate", "delete-version"] {
        for body in [
            json!({"Name": "example"}),
            json!({"Name": "example", "Version": 0}),
        ] {
            assert_refused(&setec.json(method, body).await, 400, "Version");
        }
    }
    // The active version alone cannot be deleted.
    let delete = || setec.json("delete-version", json!({"Name": "example", "Version": 1}));
    assert_refused(&delete().await, 400, "active");
    assert_eq!(
        value(&setec, json!({"Name": "example"})).await,
        (b"value".to_vec(), 1)
    );
    // Once another is active, it can.
    setec.put("example", b"other").await;
    setec
        .json("activate", json!({"Name": "example", "Version": 2}))
        .await
        .expect(200);
    delete().await.expect(200);
    assert_eq!(versions(&setec, "example").await, json!([2]));
    // Twice is once too often.
    assert_refused(&delete().await, 404, "version");
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let (_cluster, setec) = three_nodes().await;
    setec.put("example", b"value").await;
    for (method, body) in [
        ("get", json!({"Name": "other"})),
        ("get", json!({"Name": "other", "Version": 1})),
        (
            "get",
            json!({"Name": "other", "Version": 1, "UpdateIfChanged": true}),
        ),
        ("get", json!({"Name": "example", "Version": 2})),
        ("get", json!({"Name": "example", "Version": 4_294_967_295_u32})),
        ("get", json!({"Name": "Example"})),
        ("info", json!({"Name": "other"})),
        ("activate", json!({"Name": "other", "Version": 1})),
        ("activate", json!({"Name": "example", "Version": 2})),
        ("delete-version", json!({"Name": "other", "Version": 1})),
        ("delete-version", json!({"Name": "example", "Version": 2})),
    ] {
        let answer = setec.json(method, body.clone()).await;
        assert_eq!(answer.status, 404, "{method} {body}: {}", answer.text());
        assert_is_short_text(&answer);
    }
    // Deleting what isn't there succeeds.
    assert_eq!(
        setec
            .json("delete", json!({"Name": "other"}))
            .await
            .expect(200)
            .text(),
        "null"
    );
}

#[tokio::test]
async fn a_put_activates_only_the_first_and_stores_no_value_twice() {
    let (_cluster, setec) = three_nodes().await;
    assert_eq!(setec.put("example", b"one").await, 1);
    assert_eq!(active(&setec, "example").await, 1);
    assert_eq!(setec.put("example", b"two").await, 2);
    assert_eq!(setec.put("example", b"three").await, 3);
    assert_eq!(active(&setec, "example").await, 1, "later puts do not activate");

    // Equal to the active version's value, though that isn't the latest.
    assert_eq!(setec.put("example", b"one").await, 1);
    // Equal to the latest's.
    assert_eq!(setec.put("example", b"three").await, 3);
    assert_eq!(versions(&setec, "example").await, json!([1, 2, 3]));
    // Equal to neither: stored.
    assert_eq!(setec.put("example", b"two").await, 4);

    // The active version comes before the latest when both have the value.
    setec
        .json("activate", json!({"Name": "example", "Version": 2}))
        .await
        .expect(200);
    assert_eq!(setec.put("example", b"two").await, 2);

    // A destroyed version counts no more, and its number is not used again.
    setec
        .json("delete-version", json!({"Name": "example", "Version": 4}))
        .await
        .expect(200);
    assert_eq!(setec.put("example", b"five").await, 5);
    setec
        .json("delete-version", json!({"Name": "example", "Version": 5}))
        .await
        .expect(200);
    assert_eq!(setec.put("example", b"five").await, 6);
    assert_eq!(versions(&setec, "example").await, json!([1, 2, 3, 6]));
    assert_eq!(
        setec
            .json("get", json!({"Name": "example", "Version": 5}))
            .await
            .status,
        404
    );

    // The empty value is a value.
    assert_eq!(
        setec
            .json("put", json!({"Name": "empty"}))
            .await
            .expect(200)
            .text(),
        "1"
    );
    assert_eq!(
        setec
            .json("put", json!({"Name": "empty", "Value": ""}))
            .await
            .expect(200)
            .text(),
        "1"
    );
    assert_eq!(value(&setec, json!({"Name": "empty"})).await, (Vec::new(), 1));
}

#[tokio::test]
async fn create_version_makes_and_activates_exactly_that_version_once() {
    let (_cluster, setec) = three_nodes().await;
    let create = |version: u64, value: &'static str| {
        setec.json(
            "create-version",
            json!({"Name": "example", "Version": version, "Value": value}),
        )
    };
    assert_eq!(create(7, "c2V2ZW4=").await.expect(200).text(), "null");
    assert_eq!(
        value(&setec, json!({"Name": "example"})).await,
        (b"seven".to_vec(), 7)
    );
    // A lower number that never had a value.
    create(3, "dGhyZWU=").await.expect(200);
    assert_eq!(
        value(&setec, json!({"Name": "example"})).await,
        (b"three".to_vec(), 3)
    );
    // The next put is above the highest, and does not activate.
    assert_eq!(setec.put("example", b"eight").await, 8);
    assert_eq!(active(&setec, "example").await, 3);
    assert_eq!(versions(&setec, "example").await, json!([3, 7, 8]));

    // 412 where the number has a value (the same one, too), and where it ever had one.
    assert_refused(&create(7, "b3RoZXI=").await, 412, "used");
    assert_refused(&create(7, "c2V2ZW4=").await, 412, "used");
    setec
        .json("delete-version", json!({"Name": "example", "Version": 7}))
        .await
        .expect(200);
    assert_refused(&create(7, "c2V2ZW4=").await, 412, "used");
    assert_eq!(active(&setec, "example").await, 3);
    setec.json("delete", json!({"Name": "example"})).await.expect(200);
    assert_refused(&create(8, "ZWlnaHQ=").await, 412, "used");
    assert_eq!(setec.json("info", json!({"Name": "example"})).await.status, 404);

    // Beyond the last number a put is refused.
    create(u32::MAX.into(), "bGFzdA==").await.expect(200);
    let answer = setec
        .json("put", json!({"Name": "example", "Value": "b25lIG1vcmU="}))
        .await;
    assert_refused(&answer, 400, "version number");
    assert_refused(&create(u64::from(u32::MAX) + 1, "bGFzdA==").await, 400, "Version");
}

#[tokio::test]
async fn a_poller_hears_not_modified_only_about_the_value_that_it_has() {
    let (cluster, setec) = three_nodes().await;
    let poll = |version: u64| {
        setec.json(
            "get",
            json!({"Name": "example", "Version": version, "UpdateIfChanged": true}),
        )
    };
    // A node may answer polls from a state as old as the staleness bound: what follows a change is
    // asked until it shows, of each node.
    let poll_until = async |version: u64, status: u16| {
        for _ in 0..3 * cluster.len() {
            eventually("the change shows", PATIENCE, async || {
                let answer = poll(version).await;
                assert!(
                    answer.status == status || answer.status == 304,
                    "{}",
                    answer.text()
                );
                if answer.status == status {
                    Ok(answer)
                } else {
                    Err("304".to_owned())
                }
            })
            .await;
        }
        poll(version).await.expect(status)
    };
    setec.put("example", b"one").await;
    setec.put("example", b"two").await;

    let unchanged = poll(1).await.expect(304);
    assert!(unchanged.body.is_empty(), "{}", unchanged.text());
    assert_eq!(unchanged.header("content-type"), "");
    // 0 and absent are no condition, and neither is a version without the flag.
    assert_eq!(poll(0).await.expect(200).value(), (b"one".to_vec(), 1));
    let without_flag = json!({"Name": "example", "Version": 1, "UpdateIfChanged": false});
    assert_eq!(value(&setec, without_flag).await, (b"one".to_vec(), 1));
    // Whatever other version the caller has, also one that never was: the active one's value.
    for other in [2, 3, 4_294_967_295] {
        assert_eq!(poll(other).await.expect(200).value(), (b"one".to_vec(), 1));
    }
    setec
        .json("activate", json!({"Name": "example", "Version": 2}))
        .await
        .expect(200);
    assert_eq!(poll_until(1, 200).await.value(), (b"two".to_vec(), 2));
    poll(2).await.expect(304);

    // Unchanged polls leave no record; changed ones do.
    let disclosures = async || {
        let request = AuditListRequest {
            secret: Some("example".into()),
            action: Some("get".into()),
            ..AuditListRequest::default()
        };
        let page = cluster
            .client()
            .audit_list(&request)
            .await
            .expect("the audit log");
        page.records.len()
    };
    let before = disclosures().await;
    for _ in 0..6 {
        poll(2).await.expect(304);
    }
    assert_eq!(disclosures().await, before);
    poll(1).await.expect(200);
    assert_eq!(disclosures().await, before + 1);

    // After a deletion there is nothing, and the next put's number is above the highest, active.
    let delete = || setec.json("delete", json!({"Name": "example"}));
    delete().await.expect(200);
    for had in [1, 2] {
        poll_until(had, 404).await;
    }
    assert_eq!(setec.put("example", b"three").await, 3);
    assert_eq!(active(&setec, "example").await, 3);
    assert_eq!(versions(&setec, "example").await, json!([3]));
    for had in [1, 2] {
        assert_eq!(poll(had).await.expect(200).value(), (b"three".to_vec(), 3));
    }
    poll(3).await.expect(304);
    // The same value as before the deletion is a new version all the same.
    delete().await.expect(200);
    assert_eq!(setec.put("example", b"three").await, 4);
    assert_eq!(poll_until(3, 200).await.value(), (b"three".to_vec(), 4));
}

#[tokio::test]
async fn each_method_needs_its_own_grant_for_this_very_secret() {
    const METHODS: [(&str, &str); 8] = [
        ("get", "get"),
        ("info", "info"),
        ("put", "put"),
        ("create-version", "create-version"),
        ("activate", "activate"),
        ("delete-version", "delete"),
        ("delete", "delete"),
        ("list", "info"),
    ];
    let mut builder = TestCluster::builder().production();
    for action in ["get", "info", "put", "create-version", "activate", "delete"] {
        builder = builder.grant(&format!("uri:{action}"), &[action], &["app/*"]);
    }
    let cluster = builder
        .grant("uri:exact", &["get"], &["app/a"])
        .grant("uri:middle", &["get"], &["a*/b*d"])
        .start()
        .await;
    let setec = Setec::administrator(&cluster);
    for name in ["app/a", "app/deep/er", "app/b/c/d", "other"] {
        setec.put(name, b"first").await;
        setec.put(name, b"second").await;
    }

    for action in [
        "get",
        "info",
        "put",
        "create-version",
        "activate",
        "delete",
        "nothing",
    ] {
        let caller = Setec::principal(&cluster, &format!("uri:{action}"));
        for (method, needed) in METHODS {
            let body = |name: &str| match method {
                "put" => json!({"Name": name, "Value": "c2Vjb25k"}),
                "create-version" => json!({"Name": name, "Version": 100, "Value": "eA=="}),
                // A version that isn't there is found missing only by those who have the right.
                "activate" | "delete-version" => json!({"Name": name, "Version": 50}),
                _ => json!({"Name": name}),
            };
            // Deletes nothing that the others need.
            let name = if method == "delete" {
                "app/none"
            } else {
                "app/deep/er"
            };
            let answer = caller.json(method, body(name)).await;
            match (action, method) {
                // Without any grant at all not even the empty list is answered.
                ("nothing", _) => assert_refused(&answer, 403, "access denied"),
                (_, "list") => {
                    let listed = answer.expect(200).json();
                    let expected = if action == "info" { 3 } else { 0 };
                    assert_eq!(
                        listed.as_array().map(Vec::len),
                        Some(expected),
                        "{action}: {listed}"
                    );
                }
                _ if action == needed => {
                    let expected = if matches!(method, "activate" | "delete-version") {
                        404
                    } else {
                        200
                    };
                    assert_eq!(answer.status, expected, "{action} {method}: {}", answer.text());
                }
                _ => assert_refused(&answer, 403, "access denied"),
            }
            // Elsewhere nobody may, and whether anything is there makes no difference.
            for elsewhere in ["other", "app", "missing"] {
                if method != "list" {
                    assert_refused(&caller.json(method, body(elsewhere)).await, 403, "access denied");
                }
            }
        }
    }
    // Polling needs `get` as well, also when nothing changed.
    let poll = json!({"Name": "app/a", "Version": 1, "UpdateIfChanged": true});
    let poller = |principal: &str| Setec::principal(&cluster, principal);
    assert_eq!(poller("uri:get").json("get", poll.clone()).await.status, 304);
    assert_eq!(poller("uri:info").json("get", poll).await.status, 403);

    // Patterns: exact ones, and stars anywhere, over slashes as well.
    let (exact, middle) = (poller("uri:exact"), poller("uri:middle"));
    for (name, by_exact, by_middle) in [
        ("app/a", 200, 403),
        ("app/b/c/d", 403, 200),
        ("app/deep/er", 403, 403),
    ] {
        assert_eq!(
            exact.json("get", json!({"Name": name})).await.status,
            by_exact,
            "{name}"
        );
        assert_eq!(
            middle.json("get", json!({"Name": name})).await.status,
            by_middle,
            "{name}"
        );
    }

    // Nobody at all.
    let nobody = Setec::new(&cluster, None);
    for (method, _) in METHODS {
        let answer = nobody.json(method, json!({"Name": "app/a", "Version": 1})).await;
        assert_refused(&answer, 403, "could not be identified");
    }
}

#[tokio::test]
async fn list_is_in_order_and_shows_only_what_the_caller_has_info_for() {
    let cluster = TestCluster::builder()
        .production()
        .grant("uri:team", &["info"], &["team/*", "z"])
        .grant("uri:reader", &["get", "put", "activate", "delete"], &["*"])
        .start()
        .await;
    let setec = Setec::administrator(&cluster);
    let team = Setec::principal(&cluster, "uri:team");
    let reader = Setec::principal(&cluster, "uri:reader");
    let names = |answer: Answer| -> Vec<String> {
        let listed = answer.expect(200).json();
        let secrets = listed.as_array().expect("an array").iter();
        secrets
            .map(|secret| secret["Name"].as_str().expect("a name").to_owned())
            .collect()
    };

    for accepted in ["", "null", "{}", " \n", r#"{"Unknown":[1]}"#] {
        assert_eq!(
            setec.call("list", accepted).await.expect(200).text(),
            "[]",
            "{accepted:?}"
        );
    }
    // Ordered by bytes, with names that are prefixes of others and ones beyond ASCII.
    let mut written = [
        "z", "team/b", "team/a/b", "team/a", "team/ä", "team", "Z", "a b", "a\"\\b", "*",
    ];
    for name in written {
        setec.put(name, b"value").await;
    }
    written.sort_unstable();
    assert_eq!(names(setec.call("list", "{}").await), written);
    assert_eq!(
        names(team.call("list", "null").await),
        ["team/a", "team/a/b", "team/b", "team/ä", "z"]
    );
    assert_eq!(reader.call("list", "").await.expect(200).text(), "[]");
    // Fetching is not looking: get does not imply info.
    reader.json("get", json!({"Name": "team/a"})).await.expect(200);
    assert_eq!(reader.json("info", json!({"Name": "team/a"})).await.status, 403);
    assert_eq!(team.json("get", json!({"Name": "team/a"})).await.status, 403);

    // What was deleted is gone at once, what was put is there at once.
    setec.json("delete", json!({"Name": "team/a"})).await.expect(200);
    setec.put("team/c", b"value").await;
    assert_eq!(
        names(team.call("list", "{}").await),
        ["team/a/b", "team/b", "team/c", "team/ä", "z"]
    );
}

#[tokio::test]
async fn fields_are_matched_without_regard_to_case_and_unknown_ones_ignored() {
    let (_cluster, setec) = three_nodes().await;
    let put = r#"{"nAmE":"example","VALUE":"aGk=","Comment":{"Name":"other","x":[null]},"version":5}"#;
    assert_eq!(setec.call("put", put).await.expect(200).text(), "1");
    for body in [
        r#"{"name":"example","version":1}"#,
        r#"{"NAME":"example","VERSION":1,"updateifchanged":false}"#,
        r#"{"Name":"other","name":"example"}"#,
        r#"{"Name":"example","Name":null,"Version":null,"UpdateIfChanged":null}"#,
        r#"{"N\u0061me":"ex\u0061mple"}"#,
        " {\n\t\"Name\" : \"example\" }\r\n",
    ] {
        assert_eq!(
            setec.call("get", body).await.expect(200).value(),
            (b"hi".to_vec(), 1),
            "{body}"
        );
    }
    let poll = r#"{"name":"example","VERSION":1,"updateIFchanged":true}"#;
    setec.call("get", poll).await.expect(304);
}

#[tokio::test]
async fn names_and_values_are_kept_byte_for_byte() {
    let (_cluster, setec) = three_nodes().await;
    let longest = "é".repeat(512);
    // Two spellings of one letter are two names.
    for name in [
        "/",
        "//a//",
        "..",
        " ",
        "a b",
        "*",
        "secret/data/x",
        "\u{e9}",
        "e\u{301}",
        "名前🔑",
        "quote\"back\\slash",
        "_internal/config",
        &longest,
    ] {
        assert_eq!(setec.put(name, name.as_bytes()).await, 1, "{name:?}");
        assert_eq!(
            value(&setec, json!({"Name": name})).await,
            (name.as_bytes().to_vec(), 1)
        );
    }
    let every_byte: Vec<u8> = (0..=255).collect();
    setec.put("bytes", &every_byte).await;
    assert_eq!(value(&setec, json!({"Name": "bytes"})).await.0, every_byte);
    let largest = vec![0xa5; 1 << 20];
    setec.put("largest", &largest).await;
    assert_eq!(value(&setec, json!({"Name": "largest"})).await.0, largest);
}

#[tokio::test]
async fn both_versions_of_http_are_spoken() {
    let (cluster, setec) = three_nodes().await;
    setec.put("example", b"value").await;
    for (http1, version) in [
        (true, reqwest::Version::HTTP_11),
        (false, reqwest::Version::HTTP_2),
    ] {
        let mut tls = cluster
            .settings(Some(&cluster.administrator()))
            .tls()
            .expect("the client's files are there");
        tls.alpn_protocols = vec![if http1 {
            b"http/1.1".to_vec()
        } else {
            b"h2".to_vec()
        }];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .build()
            .expect("an HTTP client");
        let setec = Setec::with(http, &cluster);
        let response = setec
            .request("get")
            .body(r#"{"Name":"example"}"#)
            .send()
            .await
            .expect("an answer");
        assert_eq!((response.version(), response.status()), (version, StatusCode::OK));
        assert!(!response.headers()["x-request-id"].is_empty());
        let poll = json!({"Name": "example", "Version": 1, "UpdateIfChanged": true});
        assert!(setec.json("get", poll).await.expect(304).body.is_empty());
        // The connection is still good.
        setec.json("get", json!({"Name": "example"})).await.expect(200);
    }
}

#[tokio::test]
async fn outages_are_500_and_say_why_and_when_to_try_again() {
    let mut cluster = TestCluster::builder()
        .nodes(3)
        .setting("limits.request_timeout_ms", "1000")
        .setting("limits.requests_per_s_per_principal", "200")
        .grant("uri:eager", &["get"], &["*"])
        .start()
        .await;
    let setec = Setec::administrator(&cluster);
    setec.put("example", b"value").await;

    // Over a rate: 429, the one documented addition.
    let eager = Setec::principal(&cluster, "uri:eager").at(0);
    // The first opens the one connection that all the others share: a source may have 512.
    assert_eq!(eager.json("get", json!({"Name": "example"})).await.status, 200);
    let calls = (0..600).map(|_| eager.json("get", json!({"Name": "example"})));
    let answers = futures::future::join_all(calls).await;
    let limited: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(
        !limited.is_empty(),
        "600 requests at once are over 200 in a second"
    );
    for answer in &limited {
        assert_refused(answer, 429, "too many requests");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert!(answers.iter().any(|answer| answer.status == 200));
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 429)));

    // No majority: reads, writes and looks, polls beyond the staleness bound as well.
    let others: Vec<usize> = (1..cluster.len()).collect();
    for node in others {
        cluster.kill(node).await;
    }
    let setec = setec.at(0);
    let poll = json!({"Name": "example", "Version": 1, "UpdateIfChanged": true});
    eventually("polls are no longer answered", PATIENCE, async || {
        let answer = setec.json("get", poll.clone()).await;
        match answer.status {
            304 => Err("304".to_owned()),
            _ => {
                assert_outage(&answer, "no majority");
                Ok(())
            }
        }
    })
    .await;
    for (method, body) in [
        ("get", json!({"Name": "example"})),
        ("info", json!({"Name": "example"})),
        ("list", json!({})),
        ("put", json!({"Name": "example", "Value": "eA=="})),
        (
            "create-version",
            json!({"Name": "example", "Version": 9, "Value": "eA=="}),
        ),
        ("activate", json!({"Name": "example", "Version": 1})),
        ("delete-version", json!({"Name": "example", "Version": 2})),
        ("delete", json!({"Name": "missing"})),
    ] {
        assert_outage(&setec.json(method, body).await, "no majority");
    }
}

#[tokio::test]
async fn a_sealed_node_answers_500_and_says_so() {
    let cluster = TestCluster::builder()
        .nodes(1)
        .environment("CONCLAVE_SEAL__KEY_FILE", "/nonexistent/seal.key")
        .launch();
    eventually("the sealed node answers", PATIENCE, async || {
        let status = cluster.status(0).await.ok_or("no answer")?;
        if status.sealed {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    let setec = Setec::administrator(&cluster);
    for (method, body) in [
        ("get", json!({"Name": "example"})),
        ("list", json!({})),
        ("put", json!({"Name": "example", "Value": "eA=="})),
    ] {
        let answer = setec.json(method, body).await;
        assert_outage(&answer, "sealed");
    }
}

/// The status, and short plain text that contains `reason`.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_is_short_text(answer);
    assert!(
        answer.text().contains(reason),
        "{reason:?} is not in {:?}",
        answer.text()
    );
}

/// 500 with a reason in plain words, and when to try again.
#[track_caller]
fn assert_outage(answer: &Answer, reason: &str) {
    assert_refused(answer, 500, reason);
    let after: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!(Duration::from_secs(after) <= Duration::from_secs(60));
}

#[track_caller]
fn assert_is_short_text(answer: &Answer) {
    assert!(
        answer.header("content-type").starts_with("text/plain"),
        "{:?}",
        answer.headers
    );
    let text = answer.text();
    assert!(text.len() <= 200 && text.lines().count() == 1, "{text}");
    assert!(!text.contains("example") && !text.contains("app/"), "{text}");
}

async fn value(setec: &Setec, body: serde_json::Value) -> (Vec<u8>, u64) {
    setec.json("get", body).await.expect(200).value()
}

async fn active(setec: &Setec, name: &str) -> u64 {
    let info = setec
        .json("info", json!({ "Name": name }))
        .await
        .expect(200)
        .json();
    info["ActiveVersion"].as_u64().expect("a version")
}

async fn versions(setec: &Setec, name: &str) -> serde_json::Value {
    setec
        .json("info", json!({ "Name": name }))
        .await
        .expect(200)
        .json()["Versions"]
        .clone()
}
