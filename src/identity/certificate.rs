//! Client certificates: asked for, not required; a bad one fails the handshake.
//!
//! A certificate is bad when the client CA did not sign it for a client's use, when it is out of
//! date, when it is a node's, or when it does not name exactly one principal. The principal is the
//! name of the first of these types that the certificate has: URI, e-mail, DNS, common name. Two
//! names of that type, or control characters, leave open who is meant, so they are refused.

use crate::{
    grants::{Principal, PrincipalError, PrincipalKind},
    pki::NodeName,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};
use x509_parser::{extensions::GeneralName, prelude::FromDer, prelude::X509Certificate};

/// Why a certificate names no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateNameError {
    /// Not a certificate.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// A node's certificate.
    #[error("a node's certificate is no client's")]
    Node,
    /// It has no name of any type.
    #[error("the certificate has no URI, e-mail, DNS or common name")]
    NoName,
    /// Which one is meant?
    #[error("the certificate has more than one {0} name")]
    TwoNames(&'static str),
    /// A name that cannot be a principal's.
    #[error("the certificate's name cannot be used: {0}")]
    Name(#[from] PrincipalError),
}

/// What a client's certificate says.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Whom it names.
    pub principal: Principal,
    /// When it expires.
    pub not_after: SystemTime,
}

impl ClientCertificate {
    /// Reads a certificate.
    pub fn of(certificate: &[u8]) -> Result<Self, CertificateNameError> {
        let (rest, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateNameError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateNameError::Malformed);
        }
        let seconds = certificate.validity().not_after.timestamp().try_into();
        let not_after = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.unwrap_or(0)));
        Ok(Self {
            principal: principal_of(&certificate)?,
            not_after: not_after.ok_or(CertificateNameError::Malformed)?,
        })
    }
}

fn principal_of(certificate: &X509Certificate<'_>) -> Result<Principal, CertificateNameError> {
    let alternative_names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateNameError::Malformed)?;
    let (mut uris, mut emails, mut dns_names) = (Vec::new(), Vec::new(), Vec::new());
    for name in alternative_names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(email) => emails.push((*email).to_owned()),
            GeneralName::DNSName(dns_name) => dns_names.push((*dns_name).to_owned()),
            GeneralName::Invalid(..) => return Err(CertificateNameError::Malformed),
            _ => {}
        }
    }
    if uris.iter().any(|uri| is_node_name(uri)) {
        return Err(CertificateNameError::Node);
    }
    let common_names = certificate
        .subject()
        .iter_common_name()
        .map(|name| {
            name.as_str()
                .map(str::to_owned)
                .map_err(|_| CertificateNameError::Malformed)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let by_rank = [
        (PrincipalKind::Uri, "URI", uris),
        (PrincipalKind::Email, "e-mail", emails),
        (PrincipalKind::Dns, "DNS", dns_names),
        (PrincipalKind::Cn, "common", common_names),
    ];
    for (kind, noun, mut names) in by_rank {
        match (names.pop(), names.is_empty()) {
            (None, _) => {}
            (Some(name), true) => return Ok(Principal::new(kind, name)?),
            (Some(_), false) => return Err(CertificateNameError::TwoNames(noun)),
        }
    }
    Err(CertificateNameError::NoName)
}

/// URI schemes have no case.
fn is_node_name(uri: &str) -> bool {
    let scheme = NodeName::SCHEME;
    uri.get(..scheme.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// Verifies client certificates in the handshake: the chain, then that it names one principal.
pub struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    /// For certificates of these authorities.
    pub fn new(authorities: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Arc<Self>, Error> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Arc::new(Self { chain }))
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match ClientCertificate::of(end_entity) {
            Ok(_) => Ok(verified),
            Err(CertificateNameError::Malformed) => {
                Err(Error::InvalidCertificate(CertificateError::BadEncoding))
            }
            Err(_) => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pki::{Authority, AuthorityKind, ClientName, Validity};
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use rustls_pki_types::pem::PemObject;

    fn certificate(common_names: &[&str], names: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = names.to_vec();
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec()
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn email(name: &str) -> SanType {
        SanType::Rfc822Name(name.try_into().unwrap())
    }

    /// One for each type of name, one with all, and one of a node.
    pub(in crate::identity) fn certificate_seeds() -> Vec<Vec<u8>> {
        vec![
            certificate(&["c"], &[]),
            certificate(&[], &[dns("d.example")]),
            certificate(&[], &[email("e@x.example")]),
            certificate(&["c"], &[dns("d"), email("e@x"), uri("spiffe://x/y")]),
            certificate(&["c", "d"], &[dns("d"), dns("e")]),
            certificate(&[], &[uri("conclave://blue/n1"), dns("n1.example")]),
        ]
    }

    fn principal(common_names: &[&str], names: &[SanType]) -> Result<String, CertificateNameError> {
        ClientCertificate::of(&certificate(common_names, names)).map(|read| read.principal.to_string())
    }

    #[test]
    fn the_first_type_wins() {
        assert_eq!(
            principal(&["c"], &[dns("d"), email("e@x"), uri("u:x")]).unwrap(),
            "uri:u:x"
        );
        assert_eq!(principal(&["c"], &[dns("d"), email("e@x")]).unwrap(), "email:e@x");
        assert_eq!(principal(&["c"], &[dns("d")]).unwrap(), "dns:d");
        assert_eq!(principal(&["c"], &[]).unwrap(), "cn:c");
        assert_eq!(principal(&[], &[]), Err(CertificateNameError::NoName));
    }

    #[test]
    fn two_names_of_the_winning_type_are_refused() {
        assert_eq!(
            principal(&[], &[dns("a"), dns("b")]),
            Err(CertificateNameError::TwoNames("DNS"))
        );
        assert_eq!(
            principal(&[], &[uri("u:x"), dns("a"), dns("b")]).unwrap(),
            "uri:u:x"
        );
    }

    #[test]
    fn control_characters_are_refused() {
        for name in ["a\nb", "a\u{0}b", "a\u{85}"] {
            assert_eq!(
                principal(&[name], &[]),
                Err(CertificateNameError::Name(PrincipalError::ControlCharacter)),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_node_is_no_client() {
        for name in ["conclave://test/a", "CONCLAVE://test/a"] {
            assert_eq!(
                principal(&["c"], &[uri("u:x"), uri(name)]),
                Err(CertificateNameError::Node)
            );
        }
    }

    #[test]
    fn the_verifier_wants_chain_and_name() {
        let clients = Authority::generate(AuthorityKind::Clients, "test", Validity::days(1)).unwrap();
        let nodes = Authority::generate(AuthorityKind::Nodes, "test", Validity::days(1)).unwrap();
        let mut roots = RootCertStore::empty();
        for authority in [&clients, &nodes] {
            roots
                .add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap())
                .unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = ClientVerifier::new(roots, provider).unwrap();
        let accepts = |pem: &str| {
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            verifier
                .verify_client_cert(&certificate, &[], UnixTime::now())
                .is_ok()
        };
        let client = clients
            .issue_client(&ClientName::parse("cn:a").unwrap(), Validity::days(1))
            .unwrap();
        // Even were the node CA trusted here by mistake, a node stays no client.
        let node = nodes
            .issue_node(
                &crate::pki::NodeName::new("test", "a").unwrap(),
                &[],
                Validity::days(1),
            )
            .unwrap();
        assert!(accepts(&client.certificate_pem));
        assert!(!accepts(&node.certificate_pem));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            prop_assert_eq!(ClientCertificate::of(&bytes).map(drop), Err(CertificateNameError::Malformed));
        }

        #[test]
        fn damaged_certificates_never_panic(position in 0..300_usize, byte: u8) {
            let mut der = certificate(&["c"], &[uri("u:x")]);
            let position = position % der.len();
            der[position] = byte;
            let _ = ClientCertificate::of(&der);
        }
    }
}
