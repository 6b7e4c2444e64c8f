//! Where the nodes are and who we are: addresses, the CA that signs the nodes' API certificates,
//! and our own certificate.

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// What a [`super::Client`] is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://host:port` of each known node, at least one. `https://` may be left out.
    pub addresses: Vec<String>,
    /// PEM file of the CA that signs the nodes' API certificates.
    pub authority: PathBuf,
    /// PEM files of our certificate chain and its key; without them the caller has no certificate.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How long a request may take over all nodes and repetitions.
    pub timeout: Duration,
}

/// Why settings cannot be used. The message names the file or address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(pub String);

impl Settings {
    /// Over all nodes and repetitions: longer than an election, shorter than a user's patience.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

    /// TLS's side of the settings.
    pub fn tls(&self) -> Result<ClientConfig, SettingsError> {
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(&self.authority)? {
            roots.add(certificate).map_err(|error| {
                SettingsError(format!(
                    "{}: not usable as a CA: {error}",
                    self.authority.display()
                ))
            })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| SettingsError(format!("TLS: {error}")))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = read_certificates(certificate)?;
                let private_key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| SettingsError(format!("{}: {error}", key.display())))?;
                builder
                    .with_client_auth_cert(chain, private_key)
                    .map_err(|error| {
                        SettingsError(format!(
                            "{} with {}: {error}",
                            certificate.display(),
                            key.display()
                        ))
                    })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The addresses as base URLs.
    pub(crate) fn base_urls(&self) -> Result<Vec<reqwest::Url>, SettingsError> {
        if self.addresses.is_empty() {
            return Err(SettingsError("no node's address is given".into()));
        }
        self.addresses
            .iter()
            .map(|address| parse_address(address))
            .collect()
    }
}

fn read_certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let unusable = |reason: String| SettingsError(format!("{}: {reason}", path.display()));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        Err(unusable("holds no certificate".into()))
    } else {
        Ok(certificates)
    }
}

fn parse_address(address: &str) -> Result<reqwest::Url, SettingsError> {
    let address = address.trim().trim_end_matches('/');
    let spelled = if address.contains("://") {
        address.to_owned()
    } else {
        format!("https://{address}")
    };
    let refuse = |reason: &str| SettingsError(format!("address {address:?}: {reason}"));
    let url = reqwest::Url::parse(&spelled).map_err(|error| refuse(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(refuse("only https is spoken"));
    }
    if url.host_str().is_none() {
        return Err(refuse("no host"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err(refuse("only https://host:port is understood"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_origins() {
        for good in [
            "127.0.0.1:8200",
            "https://node.example:8200/",
            " https://[::1]:1 ",
        ] {
            assert_eq!(parse_address(good).expect(good).scheme(), "https");
        }
        for bad in [
            "",
            "http://a:1",
            "https://a/path",
            "https://user@a:1",
            "https://a?x",
            "ftp://a",
        ] {
            assert!(parse_address(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_missing_authority_is_named() {
        let settings = Settings {
            addresses: vec!["a:1".into()],
            authority: "/nowhere/ca.pem".into(),
            identity: None,
            timeout: Settings::DEFAULT_TIMEOUT,
        };
        let error = settings.tls().expect_err("there is no such file");
        assert!(error.0.contains("/nowhere/ca.pem"), "{error}");
    }
}
