//! What every route refuses before the caller is identified: requests for another host (a page that
//! pointed its own name at us), from an origin that isn't listed, or sent across sites by a browser.

use hyper::{HeaderMap, StatusCode, Uri, header};
use std::net::IpAddr;

/// Which hosts and origins may come in, as configured.
#[derive(Clone, Debug, Default)]
pub(super) struct Entrance {
    /// Host names, in lower case. One that begins with `*.` allows one more label.
    pub(super) hosts: Vec<String>,
    /// Values of `Origin`.
    pub(super) origins: Vec<String>,
}

/// Why a request may not come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Host,
    Origin,
    CrossSite,
}

impl Entrance {
    /// Checks a request that arrived at the address `local`. The names that the listener's `certificate`
    /// gives it, in lower case, may come in as well.
    pub(super) fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        local: IpAddr,
        certificate: &[String],
    ) -> Result<(), Refused> {
        let mut hosts = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes())
            .into_iter()
            .chain(headers.get_all(header::HOST).iter().map(|host| host.as_bytes()))
            .peekable();
        if hosts.peek().is_none() || headers.get_all(header::HOST).iter().count() > 1 {
            return Err(Refused::Host);
        }
        if !hosts.all(|host| self.is_served(host, local, certificate)) {
            return Err(Refused::Host);
        }
        let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
        let has_origin = origins.peek().is_some();
        let is_listed = |origin: &[u8]| self.origins.iter().any(|listed| listed.as_bytes() == origin);
        if !origins.all(|origin| is_listed(origin.as_bytes())) {
            return Err(Refused::Origin);
        }
        let mut sites = headers.get_all("sec-fetch-site").iter();
        if !has_origin && sites.any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site")) {
            return Err(Refused::CrossSite);
        }
        Ok(())
    }

    fn is_served(&self, host: &[u8], local: IpAddr, certificate: &[String]) -> bool {
        let Some(name) = std::str::from_utf8(host).ok().and_then(name_of) else {
            return false;
        };
        let mut served = self.hosts.iter().chain(certificate);
        if let Ok(address) = name.parse::<IpAddr>() {
            return address.to_canonical() == local.to_canonical()
                || served.any(|served| served.parse() == Ok(address));
        }
        // No name server can point this name at us from elsewhere.
        if name == "localhost" && local.is_loopback() {
            return true;
        }
        served.any(|served| match served.strip_prefix("*.") {
            Some(parent) => name
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => *served == name,
        })
    }
}

impl Refused {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::CrossSite => StatusCode::FORBIDDEN,
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Host => "this host is not served here; add it to api.allowed_hosts if it should be",
            Self::Origin => "requests from this origin are not allowed",
            Self::CrossSite => "requests across sites are not allowed",
        }
    }
}

/// The name in `host[:port]`, in lower case, without the brackets of an IPv6 address and the final
/// dot of a full domain name.
fn name_of(host: &str) -> Option<String> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port = if rest.is_empty() {
        Some("")
    } else {
        rest.strip_prefix(':')
    };
    if !port?.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn check(headers: &[(&str, &str)]) -> Result<(), Refused> {
        let entrance = Entrance {
            hosts: vec!["vault.example".into(), "*.pods.example".into(), "10.1.1.1".into()],
            origins: vec!["https://ui.example".into()],
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let certificate = ["api.example".to_owned(), "10.1.1.2".to_owned()];
        let local = "192.0.2.7".parse().unwrap();
        entrance.check(&"/".parse().unwrap(), &map, local, &certificate)
    }

    #[test]
    fn only_known_hosts_come_in() {
        for host in [
            "vault.example",
            "Vault.Example.:8200",
            "a.pods.example",
            "192.0.2.7:8200",
            "[::ffff:192.0.2.7]:1",
            "10.1.1.1",
            "api.example:8200",
            "10.1.1.2",
        ] {
            assert_eq!(check(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "vault.example.evil",
            "b.a.pods.example",
            ".pods.example",
            "192.0.2.8",
            "localhost",
            "",
            ":8200",
            "[::1",
            "vault.example:80x",
            "vault.example@evil.example",
        ] {
            assert_eq!(check(&[("host", host)]), Err(Refused::Host), "{host}");
        }
        assert_eq!(check(&[]), Err(Refused::Host));
        assert_eq!(
            check(&[("host", "vault.example"), ("host", "vault.example")]),
            Err(Refused::Host)
        );
    }

    #[test]
    fn localhost_is_served_on_loopback_only() {
        let entrance = Entrance::default();
        assert!(entrance.is_served(b"localhost:8202", "127.0.0.1".parse().unwrap(), &[]));
        assert!(entrance.is_served(b"LOCALHOST", "::1".parse().unwrap(), &[]));
        assert!(!entrance.is_served(b"localhost", "192.0.2.7".parse().unwrap(), &[]));
        assert!(!entrance.is_served(b"localhost.evil.example", "127.0.0.1".parse().unwrap(), &[]));
    }

    #[test]
    fn both_authority_and_host_must_be_known() {
        let entrance = Entrance {
            hosts: vec!["a.example".into()],
            origins: Vec::new(),
        };
        let local = "192.0.2.7".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(
            entrance.check(&"https://a.example/x".parse().unwrap(), &headers, local, &[]),
            Ok(())
        );
        assert_eq!(
            entrance.check(&"https://b.example/x".parse().unwrap(), &headers, local, &[]),
            Err(Refused::Host)
        );
        headers.insert("host", HeaderValue::from_static("b.example"));
        assert_eq!(
            entrance.check(&"https://a.example/x".parse().unwrap(), &headers, local, &[]),
            Err(Refused::Host)
        );
    }

    #[test]
    fn only_listed_origins_come_in() {
        let host = ("host", "vault.example");
        assert_eq!(check(&[host, ("origin", "https://ui.example")]), Ok(()));
        assert_eq!(
            check(&[
                host,
                ("origin", "https://ui.example"),
                ("sec-fetch-site", "cross-site")
            ]),
            Ok(())
        );
        for origin in [
            "https://evil.example",
            "null",
            "http://ui.example",
            "https://vault.example",
        ] {
            assert_eq!(
                check(&[host, ("origin", origin)]),
                Err(Refused::Origin),
                "{origin}"
            );
        }
        assert_eq!(
            check(&[host, ("sec-fetch-site", "Cross-Site")]),
            Err(Refused::CrossSite)
        );
        assert_eq!(check(&[host, ("sec-fetch-site", "same-origin")]), Ok(()));
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_comes_in(host: Vec<u8>) {
            let entrance = Entrance { hosts: vec!["vault.example".into()], origins: Vec::new() };
            let local = "192.0.2.7".parse().unwrap();
            prop_assert!(!entrance.is_served(&host, local, &[]));
        }
    }
}
