//! Any host, origin and site at the entrance.

use super::entrance::Entrance;
use conclave_fuzz::{explore, in_bounded_memory};
use hyper::{HeaderMap, Uri, header::HeaderName, header::HeaderValue};

/// The names that may come in here.
const HOSTS: [&str; 3] = ["vault.example", "10.1.1.1", "*.pods.example"];
/// The one origin.
const ORIGIN: &str = "https://ui.example";

/// A URI, then headers, a line each.
#[test]
fn entrances() {
    let seeds = [
        "/\nhost:vault.example:8200",
        "/\nhost:a.pods.example.\norigin:https://ui.example\nsec-fetch-site:cross-site",
        "https://10.1.1.1/x\nhost:[::ffff:192.0.2.7]:1",
        "/\nhost:vault.example@evil.example",
    ];
    explore!("entrances", seeds, |input: &[u8]| {
        let entrance = Entrance {
            hosts: HOSTS.map(str::to_owned).into(),
            origins: vec![ORIGIN.to_owned()],
        };
        let mut lines = input.split(|byte| *byte == b'\n');
        let uri = lines.next().and_then(|line| Uri::try_from(line).ok());
        let Some(uri) = uri else { return };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(header) {
            headers.append(name, value);
        }
        let local = "192.0.2.7".parse().expect("an address");
        let came_in = in_bounded_memory(input.len(), || entrance.check(&uri, &headers, local, &[]));
        if came_in.is_err() {
            return;
        }
        // Whoever came in said our name wherever a name was said, and nothing of a foreign page.
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        let named: Vec<&[u8]> = headers
            .get_all("host")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        assert!(named.len() <= 1 && (authority.is_some() || !named.is_empty()));
        for name in authority.into_iter().chain(named) {
            assert!(is_ours(name), "{:?}", String::from_utf8_lossy(name));
        }
        for origin in headers.get_all("origin") {
            assert_eq!(origin, ORIGIN);
        }
        if !headers.contains_key("origin") {
            let sites = headers.get_all("sec-fetch-site").iter();
            assert_eq!(sites.filter(|site| *site == "cross-site").count(), 0);
        }
    });
}

/// By taking away what may follow a name, not by taking the text apart.
fn is_ours(host: &[u8]) -> bool {
    let host = std::str::from_utf8(host)
        .expect("a host that came in is text")
        .to_ascii_lowercase();
    let without_port = host.trim_end_matches(|c: char| c.is_ascii_digit());
    let names = [host.as_str(), without_port.strip_suffix(':').unwrap_or(&host)];
    names.iter().any(|name| {
        let unbracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = unbracketed.unwrap_or(name);
        let bare = name.strip_suffix('.').unwrap_or(name);
        let pod = bare.strip_suffix(".pods.example");
        let address = bare
            .parse::<std::net::IpAddr>()
            .map(|address| address.to_canonical().to_string());
        HOSTS.contains(&bare)
            || pod.is_some_and(|label| !label.is_empty() && !label.contains('.'))
            || address.is_ok_and(|address| ["192.0.2.7", "10.1.1.1"].contains(&address.as_str()))
    })
}

/// A header, as `name:value`.
pub(crate) fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(&line[colon + 1..]).ok()?))
}
