//! A node CA and the certificates that it issues.

use conclave_raft::transport::tls::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use std::{fs, path::Path};

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Issues a certificate for both directions with the given URI names.
    pub fn issue(&self, directory: &Path, uris: &[&str]) -> TlsFiles {
        self.issue_with(directory, uris, |_| {})
    }

    /// Issues a certificate that is changed before it is signed.
    pub fn issue_with(
        &self,
        directory: &Path,
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsFiles {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI((*uri).try_into().unwrap()))
            .collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::create_dir_all(directory).unwrap();
        let files = TlsFiles {
            certificate: directory.join("node.pem"),
            private_key: directory.join("node.key"),
            authority: directory.join("ca.pem"),
        };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.private_key, key.serialize_pem()).unwrap();
        fs::write(&files.authority, self.issuer.pem()).unwrap();
        files
    }
}
