//! The API's certificates. What is in use is replaced as a whole on reload; what cannot be read
//! leaves the old in use.
//!
//! Sessions are never resumed, so that each connection proves its certificate against the client CA
//! in force; a reload ends older connections once they finished what they carry.

use crate::{config::TlsSection, identity::ClientVerifier};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{NoClientAuth, NoServerSessionStorage, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};
use tokio_util::sync::CancellationToken;
use x509_parser::{extensions::GeneralName, prelude::FromDer, prelude::X509Certificate};

/// What new connections use.
pub(super) struct Tls {
    files: TlsSection,
    in_use: RwLock<Arc<InUse>>,
}

/// One state of the files.
pub(super) struct InUse {
    pub(super) config: Arc<ServerConfig>,
    /// The names that the API's certificate gives it, in lower case.
    pub(super) names: Vec<String>,
    /// Cancelled once another state is in use.
    pub(super) replaced: CancellationToken,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(files: &TlsSection) -> Result<Self, String> {
        let in_use = RwLock::new(Arc::new(read(files)?));
        Ok(Self {
            files: files.clone(),
            in_use,
        })
    }

    /// Reads the files again.
    pub(super) fn reload(&self) -> Result<(), String> {
        let read = Arc::new(read(&self.files)?);
        let mut in_use = self.in_use.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *in_use, read).replaced.cancel();
        Ok(())
    }

    pub(super) fn in_use(&self) -> Arc<InUse> {
        self.in_use.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether the files can be used. The error begins with the file that it is about.
pub(crate) fn check(files: &TlsSection) -> Result<(), String> {
    read(files).map(drop)
}

fn read(files: &TlsSection) -> Result<InUse, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.api_certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.api_private_key)
        .map_err(|error| format!("{}: {error}", files.api_private_key.display()))?;
    let names = names_of(chain.first().map(|leaf| leaf.as_ref()).unwrap_or_default())
        .ok_or_else(|| format!("{}: not a certificate", files.api_certificate.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(client_verifier(files, provider)?)
        .with_single_cert(chain, key)
        .map_err(|error| format!("{}: {error}", files.api_certificate.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(InUse {
        config: Arc::new(config),
        names,
        replaced: CancellationToken::new(),
    })
}

fn client_verifier(
    files: &TlsSection,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let Some(path) = &files.client_authority else {
        return Ok(Arc::new(NoClientAuth));
    };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(path)? {
        authorities
            .add(certificate)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let verifier = ClientVerifier::new(authorities, provider);
    Ok(verifier.map_err(|error| format!("{}: {error}", path.display()))?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let described = |error: rustls_pki_types::pem::Error| format!("{}: {error}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(described)?
        .collect::<Result<_, _>>()
        .map_err(described)?;
    if certificates.is_empty() {
        return Err(format!("{}: holds no certificate", path.display()));
    }
    Ok(certificates)
}

fn names_of(certificate: &[u8]) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let alternative_names = certificate.subject_alternative_name().ok()?;
    let names = alternative_names
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    Some(
        names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes)
                        .ok()
                        .map(|bytes| std::net::IpAddr::from(bytes).to_string()),
                    16 => <[u8; 16]>::try_from(*bytes)
                        .ok()
                        .map(|bytes| std::net::IpAddr::from(bytes).to_string()),
                    _ => None,
                },
                _ => None,
            })
            .collect(),
    )
}
