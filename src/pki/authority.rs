//! An authority and what it signs.

use super::{ClientName, NodeName, write_certificate, write_private_key};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use std::{
    io,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};
use zeroize::Zeroizing;

/// What an authority may sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthorityKind {
    /// Nodes, and the API's server certificates.
    Nodes,
    /// Clients.
    Clients,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    pub from: SystemTime,
    pub until: SystemTime,
}

/// A certificate authority with its private key.
pub struct Authority {
    kind: AuthorityKind,
    certificate_pem: String,
    private_key_pem: Zeroizing<String>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key, as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS #8).
    pub private_key_pem: Zeroizing<String>,
}

/// Why something could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name does not fit into a certificate.
    #[error("{name:?} cannot stand in a certificate")]
    Name { name: String },
    /// This authority signs other things.
    #[error("this is the CA of {0}; it does not sign that")]
    WrongAuthority(&'static str),
    /// Keys, certificates.
    #[error("cannot make or read a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Files.
    #[error("{0}")]
    File(#[from] io::Error),
}

impl Validity {
    /// From an hour ago (clocks differ) for the given number of days.
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            from: now - Duration::from_secs(60 * 60),
            until: now + day * days,
        }
    }
}

impl Authority {
    /// Makes a new authority. `cluster` is the cluster's name, for people who read certificates.
    pub fn generate(kind: AuthorityKind, cluster: &str, validity: Validity) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(&format!("Conclave {} CA of {cluster}", kind.noun()), validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let private_key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Self {
            kind,
            certificate_pem: certificate.pem(),
            private_key_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority from its PEM files.
    pub fn load(kind: AuthorityKind, certificate: &Path, private_key: &Path) -> Result<Self, PkiError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        let (certificate_pem, private_key_pem) = (read(certificate)?, Zeroizing::new(read(private_key)?));
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, KeyPair::from_pem(&private_key_pem)?)?;
        Ok(Self {
            kind,
            certificate_pem,
            private_key_pem,
            issuer,
        })
    }

    /// The authority's certificate, which its relying parties need.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Writes certificate and key. Existing files are never overwritten.
    pub fn write(&self, certificate: &Path, private_key: &Path) -> Result<(), PkiError> {
        write_private_key(private_key, &self.private_key_pem)?;
        Ok(write_certificate(certificate, &self.certificate_pem)?)
    }

    /// A node's certificate: it serves and connects, and bears the node's name.
    pub fn issue_node(
        &self,
        name: &NodeName,
        hosts: &[String],
        validity: Validity,
    ) -> Result<Issued, PkiError> {
        self.expect(AuthorityKind::Nodes)?;
        let mut params = params(name.node(), validity);
        params.subject_alt_names = vec![SanType::URI(ia5(&name.to_string())?)];
        params.subject_alt_names.extend(host_names(hosts)?);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue(params)
    }

    /// The API's server certificate: it only serves, and is no node.
    pub fn issue_api_server(&self, hosts: &[String], validity: Validity) -> Result<Issued, PkiError> {
        self.expect(AuthorityKind::Nodes)?;
        let mut params = params("Conclave API", validity);
        params.subject_alt_names = host_names(hosts)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A client's certificate with exactly one name.
    pub fn issue_client(&self, name: &ClientName, validity: Validity) -> Result<Issued, PkiError> {
        self.expect(AuthorityKind::Clients)?;
        let refused = || PkiError::Name {
            name: name.to_string(),
        };
        let mut params = params("Conclave client", validity);
        match name {
            ClientName::Uri(uri) if uri.starts_with(NodeName::SCHEME) => return Err(refused()),
            ClientName::Uri(uri) => params.subject_alt_names = vec![SanType::URI(ia5(uri)?)],
            ClientName::Email(email) => params.subject_alt_names = vec![SanType::Rfc822Name(ia5(email)?)],
            ClientName::Dns(dns) => params.subject_alt_names = vec![SanType::DnsName(ia5(dns)?)],
            ClientName::CommonName(common_name) => {
                params
                    .distinguished_name
                    .push(DnType::CommonName, common_name.as_str());
            }
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<Issued, PkiError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            private_key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }

    fn expect(&self, kind: AuthorityKind) -> Result<(), PkiError> {
        if self.kind == kind {
            Ok(())
        } else {
            Err(PkiError::WrongAuthority(self.kind.noun()))
        }
    }
}

impl Issued {
    /// Writes certificate and key. Existing files are never overwritten.
    pub fn write(&self, certificate: &Path, private_key: &Path) -> Result<(), PkiError> {
        write_private_key(private_key, &self.private_key_pem)?;
        Ok(write_certificate(certificate, &self.certificate_pem)?)
    }
}

impl AuthorityKind {
    fn noun(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Clients => "clients",
        }
    }
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn host_names(hosts: &[String]) -> Result<Vec<SanType>, PkiError> {
    hosts
        .iter()
        .map(|host| match host.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ok(SanType::DnsName(ia5(host)?)),
        })
        .collect()
}

fn ia5(name: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(name).map_err(|_| PkiError::Name {
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        server::WebPkiClientVerifier,
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
    use std::{os::unix::fs::PermissionsExt, sync::Arc};

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn roots(authority: &Authority) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(der(authority.certificate_pem())).unwrap();
        Arc::new(roots)
    }

    fn is_client_of(authority: &Authority, issued: &Issued) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiClientVerifier::builder_with_provider(roots(authority), provider)
            .build()
            .unwrap()
            .verify_client_cert(&der(&issued.certificate_pem), &[], UnixTime::now())
            .is_ok()
    }

    fn is_server_of(authority: &Authority, issued: &Issued, host: &str) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiServerVerifier::builder_with_provider(roots(authority), provider)
            .build()
            .unwrap()
            .verify_server_cert(
                &der(&issued.certificate_pem),
                &[],
                &ServerName::try_from(host.to_owned()).unwrap(),
                &[],
                UnixTime::now(),
            )
            .is_ok()
    }

    #[test]
    fn each_certificate_is_good_for_its_use_alone() {
        let nodes = Authority::generate(AuthorityKind::Nodes, "test", Validity::days(10)).unwrap();
        let clients = Authority::generate(AuthorityKind::Clients, "test", Validity::days(10)).unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let node = nodes
            .issue_node(&NodeName::new("test", "a").unwrap(), &hosts, Validity::days(1))
            .unwrap();
        let api = nodes.issue_api_server(&hosts, Validity::days(1)).unwrap();
        let client = clients
            .issue_client(&ClientName::parse("cn:app").unwrap(), Validity::days(1))
            .unwrap();

        assert!(is_server_of(&nodes, &node, "127.0.0.1") && is_client_of(&nodes, &node));
        assert!(is_server_of(&nodes, &api, "localhost") && !is_client_of(&nodes, &api));
        assert!(!is_server_of(&nodes, &api, "elsewhere"));
        assert!(is_client_of(&clients, &client) && !is_client_of(&nodes, &client));
        assert!(!is_client_of(&clients, &node));
        assert!(
            nodes
                .issue_client(&ClientName::parse("cn:app").unwrap(), Validity::days(1))
                .is_err()
        );
        assert!(clients.issue_api_server(&hosts, Validity::days(1)).is_err());
        let posing = ClientName::parse("uri:conclave://test/a").unwrap();
        assert!(clients.issue_client(&posing, Validity::days(1)).is_err());
    }

    #[test]
    fn an_expired_certificate_is_refused() {
        let clients = Authority::generate(AuthorityKind::Clients, "test", Validity::days(10)).unwrap();
        let hour = Duration::from_secs(3600);
        let past = Validity {
            from: SystemTime::now() - 2 * hour,
            until: SystemTime::now() - hour,
        };
        let client = clients
            .issue_client(&ClientName::parse("dns:app.example").unwrap(), past)
            .unwrap();
        assert!(!is_client_of(&clients, &client));
    }

    #[test]
    fn an_authority_is_read_back_and_files_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        let made = Authority::generate(AuthorityKind::Clients, "test", Validity::days(10)).unwrap();
        made.write(&certificate, &key).unwrap();
        assert_eq!(
            std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(made.write(&certificate, &key).is_err());

        let read = Authority::load(AuthorityKind::Clients, &certificate, &key).unwrap();
        let client = read
            .issue_client(
                &ClientName::parse("email:a@b.example").unwrap(),
                Validity::days(1),
            )
            .unwrap();
        assert!(is_client_of(&made, &client));
    }

    #[test]
    fn names_with_foreign_characters_are_refused() {
        assert!(NodeName::new("test", "a/b").is_err());
        assert!(NodeName::new("", "a").is_err());
        assert!(ClientName::parse("cn:").is_none());
        assert!(ClientName::parse("cn:a\nb").is_none());
        assert!(ClientName::parse("tailscale:a").is_none());
    }
}
