//! Mutual TLS 1.3 between nodes.
//!
//! A node is the one name `conclave://CLUSTER/NODE` in a certificate of the node CA. A certificate
//! without exactly one such name, of another cluster, of another CA or out of its time is refused
//! in the handshake, by both sides. Nothing is resumed, so that every connection proves its
//! certificate anew under the CA that is configured now.

use super::in_force::InForce;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The scheme of the URI that names a node in its certificate.
pub const NODE_URI_SCHEME: &str = "conclave://";

/// The PEM files that a node proves itself with.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The node certificate, followed by intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// The certificates of the node CA.
    pub authority: PathBuf,
}

/// A node's name as its certificate states it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertifiedName {
    /// The configured name of the cluster.
    pub cluster: String,
    /// The configured name of the node.
    pub node: String,
}

/// Why certificates cannot be used. Messages name the file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFault {
    /// A file cannot be read as PEM.
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    /// The files do not fit together.
    #[error("{certificate}: {reason}")]
    Unusable { certificate: PathBuf, reason: String },
}

/// Why a certificate names no node of this cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// It cannot be parsed.
    #[error("the certificate cannot be parsed")]
    Malformed,
    /// It is no node certificate.
    #[error("the certificate has no name conclave://CLUSTER/NODE: it is no node's")]
    Missing,
    /// It has more than one node's name.
    #[error("the certificate has more than one name conclave://CLUSTER/NODE")]
    Multiple,
    /// The name is not of the form `conclave://CLUSTER/NODE`.
    #[error("the certificate's name {0:?} is not of the form conclave://CLUSTER/NODE")]
    Form(String),
    /// It belongs to another cluster.
    #[error("the certificate belongs to cluster {0:?}")]
    OtherCluster(String),
}

/// This node's certificates, reloadable while it runs.
pub struct NodeTls {
    files: TlsFiles,
    own: CertifiedName,
    current: RwLock<Configurations>,
}

impl NodeTls {
    /// Reads the files, and checks that they prove this node.
    ///
    /// # Errors
    /// Says which file is unusable, and why.
    pub fn load(files: TlsFiles, own: CertifiedName) -> Result<Self, CertificateFault> {
        let current = RwLock::new(Configurations::load(&files, &own)?);
        Ok(Self { files, own, current })
    }

    /// Reads the files again. Connections that were opened with the old ones end.
    ///
    /// # Errors
    /// What cannot be used leaves the old certificates in force.
    pub fn reload(&self) -> Result<(), CertificateFault> {
        let loaded = Configurations::load(&self.files, &self.own)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, loaded).replaced.cancel();
        Ok(())
    }

    /// What new connections use.
    pub(crate) fn current(&self) -> Configurations {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The name that a verified certificate proves.
    ///
    /// # Errors
    /// See [`NameFault`].
    pub fn peer_name(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<String, NameFault> {
        let end_entity = chain.and_then(|chain| chain.first()).ok_or(NameFault::Missing)?;
        Ok(certified_name_in(end_entity, &self.own.cluster)?.node)
    }
}

/// What TLS wants as the server's name; never sent, and never compared: nodes are known by the URI.
pub fn unnamed_server() -> ServerName<'static> {
    ServerName::try_from("node.invalid").expect("a constant that is a valid DNS name")
}

/// The node that a certificate names.
///
/// # Errors
/// Refuses a certificate without exactly one node's name, or whose name is malformed.
pub fn certified_name(certificate: &CertificateDer<'_>) -> Result<CertifiedName, NameFault> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NameFault::Malformed)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| NameFault::Malformed)?
        .ok_or(NameFault::Missing)?;
    let mut nodes = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(NODE_URI_SCHEME),
        _ => None,
    });
    let name = nodes.next().ok_or(NameFault::Missing)?;
    if nodes.next().is_some() {
        return Err(NameFault::Multiple);
    }
    match name.split_once('/') {
        Some((cluster, node))
            if !cluster.is_empty()
                && !node.is_empty()
                && !node.contains('/')
                && !name.contains(char::is_control) =>
        {
            Ok(CertifiedName {
                cluster: cluster.to_owned(),
                node: node.to_owned(),
            })
        }
        _ => Err(NameFault::Form(name.to_owned())),
    }
}

/// The last moment of a certificate's time.
fn end_of_time(certificate: &CertificateDer<'_>) -> Result<SystemTime, NameFault> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| NameFault::Malformed)?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn certified_name_in(certificate: &CertificateDer<'_>, cluster: &str) -> Result<CertifiedName, NameFault> {
    let name = certified_name(certificate)?;
    if name.cluster == cluster {
        Ok(name)
    } else {
        Err(NameFault::OtherCluster(name.cluster))
    }
}

/// One state of the files.
#[derive(Clone)]
pub(crate) struct Configurations {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// When this node's own certificate ends.
    expires: SystemTime,
    /// Cancelled once another state is in use.
    replaced: CancellationToken,
}

impl Configurations {
    /// Accepts connections of nodes.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.server))
    }

    /// Connects to nodes. The caller compares the name that the certificate proves.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(&self.client))
    }

    /// How long a connection opened with this may be used.
    ///
    /// # Errors
    /// [`NameFault::Malformed`] for a peer's certificate that cannot be parsed.
    pub fn in_force(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<InForce, NameFault> {
        let end_entity = chain.and_then(|chain| chain.first()).ok_or(NameFault::Missing)?;
        Ok(InForce::begin(
            &self.replaced,
            self.expires.min(end_of_time(end_entity)?),
        ))
    }

    fn load(files: &TlsFiles, own: &CertifiedName) -> Result<Self, CertificateFault> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.private_key)
            .map_err(|error| file_fault(&files.private_key, &error))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.authority)? {
            roots.add(authority).map_err(|error| CertificateFault::File {
                path: files.authority.clone(),
                reason: error.to_string(),
            })?;
        }
        let unusable = |reason: String| CertificateFault::Unusable {
            certificate: files.certificate.clone(),
            reason,
        };
        let name = certified_name(&chain[0]).map_err(|fault| unusable(fault.to_string()))?;
        if &name != own {
            return Err(unusable(format!(
                "it names {NODE_URI_SCHEME}{}/{}, but this node is {NODE_URI_SCHEME}{}/{}",
                name.cluster, name.node, own.cluster, own.node
            )));
        }
        Self::build(chain, key, Arc::new(roots), &own.cluster).map_err(|error| unusable(error.to_string()))
    }

    fn build(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
        cluster: &str,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let nodes = Arc::new(NodeVerifier::new(roots, &provider, cluster.to_owned())?);
        nodes.verify_server_cert(&chain[0], &chain[1..], &unnamed_server(), &[], UnixTime::now())?;
        let expires = end_of_time(&chain[0]).map_err(|fault| TlsError::General(fault.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&nodes) as Arc<dyn ClientCertVerifier>)
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(nodes)
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            expires,
            replaced: CancellationToken::new(),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .map_err(|error| file_fault(path, &error))?;
    if read.is_empty() {
        return Err(file_fault(path, &pem::Error::NoItemsFound));
    }
    Ok(read)
}

fn file_fault(path: &Path, error: &pem::Error) -> CertificateFault {
    CertificateFault::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Verifies both directions alike: the chain by the web PKI's rules, and then the node's name in
/// place of a host's.
#[derive(Debug)]
struct NodeVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    cluster: String,
}

impl NodeVerifier {
    fn new(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        cluster: String,
    ) -> Result<Self, TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
            .build()
            .map_err(|error| TlsError::General(error.to_string()))?;
        Ok(Self {
            chain,
            roots,
            algorithms: provider.signature_verification_algorithms,
            cluster,
        })
    }

    fn verify_name(&self, end_entity: &CertificateDer<'_>) -> Result<(), TlsError> {
        certified_name_in(end_entity, &self.cluster)
            .map(drop)
            .map_err(|fault| {
                TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
            })
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.verify_name(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.verify_name(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_says_when_its_time_ends() {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_609_459_200);
        assert_eq!(end_of_time(signed.der()), Ok(end));
    }

    #[test]
    fn a_node_is_exactly_one_name() {
        let name = certified_name(&certificate(&["https://other.example", "conclave://blue/n1"])).unwrap();
        assert_eq!((name.cluster.as_str(), name.node.as_str()), ("blue", "n1"));
        assert_eq!(
            certified_name(&certificate(&["https://x.example"])),
            Err(NameFault::Missing)
        );
        assert_eq!(
            certified_name(&certificate(&["conclave://blue/n1", "conclave://blue/n2"])),
            Err(NameFault::Multiple)
        );
        for malformed in [
            "conclave://blue",
            "conclave://blue/",
            "conclave:///n1",
            "conclave://blue/n1/x",
        ] {
            assert!(
                matches!(
                    certified_name(&certificate(&[malformed])),
                    Err(NameFault::Form(_))
                ),
                "{malformed}"
            );
        }
        assert_eq!(
            certified_name_in(&certificate(&["conclave://green/n1"]), "blue"),
            Err(NameFault::OtherCluster("green".into()))
        );
    }
}
