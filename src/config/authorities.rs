//! The nodes' CA and the clients' CA are never the same: whoever may sign for one must not be able to
//! sign for the other. Bundles hold several certificates, and a key may stand in several
//! certificates; so what is compared is every public key of both.

use super::TlsSection;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{collections::BTreeSet, path::Path};
use x509_parser::{prelude::FromDer, prelude::X509Certificate};

/// Refuses bundles that share a key, or that cannot be read.
pub(crate) fn check_authorities(tls: &TlsSection) -> Result<(), String> {
    let Some(clients) = &tls.client_authority else {
        return Ok(());
    };
    let shared = public_keys(clients)?
        .intersection(&public_keys(&tls.node_authority)?)
        .count();
    if shared == 0 {
        Ok(())
    } else {
        Err(format!(
            "{} and {} have {shared} CA in common; nodes and clients must have CAs of their own",
            clients.display(),
            tls.node_authority.display(),
        ))
    }
}

/// The public keys (SubjectPublicKeyInfo, RFC 5280) of a bundle's certificates.
fn public_keys(path: &Path) -> Result<BTreeSet<Vec<u8>>, String> {
    let described = |error: String| format!("{}: {error}", path.display());
    let mut keys = BTreeSet::new();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| described(error.to_string()))? {
        let certificate = certificate.map_err(|error| described(error.to_string()))?;
        let (_, certificate) = X509Certificate::from_der(&certificate)
            .map_err(|_| described("holds something that is not a certificate".to_owned()))?;
        keys.insert(certificate.public_key().raw.to_vec());
    }
    if keys.is_empty() {
        return Err(described("holds no certificate".to_owned()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, AuthorityKind, Validity};
    use rcgen::{CertificateParams, IsCa, KeyPair};

    #[test]
    fn no_key_may_stand_in_both_bundles() {
        let folder = tempfile::tempdir().unwrap();
        let authority = |kind| {
            let authority = Authority::generate(kind, "test", Validity::days(1)).unwrap();
            authority.certificate_pem().to_owned()
        };
        let (nodes, clients) = (authority(AuthorityKind::Nodes), authority(AuthorityKind::Clients));
        // Two certificates of one key.
        let key = KeyPair::generate().unwrap();
        let of_key = |name: &str| {
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.self_signed(&key).unwrap().pem()
        };
        let (one, other) = (of_key("one"), of_key("other"));
        assert_ne!(one, other);
        let check = |client_bundle: &[&String], node_bundle: &[&String]| {
            let write = |name: &str, bundle: &[&String]| {
                let text: String = bundle.iter().map(|pem| format!("# a comment\n{pem}\n")).collect();
                std::fs::write(folder.path().join(name), text).unwrap();
                folder.path().join(name)
            };
            check_authorities(&TlsSection {
                client_authority: Some(write("clients.pem", client_bundle)),
                node_authority: write("nodes.pem", node_bundle),
                ..TlsSection::default()
            })
        };
        assert_eq!(check(&[&clients], &[&nodes]), Ok(()));
        assert_eq!(check(&[&clients, &one], &[&nodes]), Ok(()));
        for (client_bundle, node_bundle) in [
            (vec![&nodes], vec![&nodes]),
            (vec![&clients, &nodes], vec![&nodes]),
            (vec![&clients], vec![&nodes, &clients]),
            (vec![&clients, &one], vec![&other, &nodes]),
        ] {
            let error = check(&client_bundle, &node_bundle).unwrap_err();
            assert!(error.contains("in common"), "{error}");
        }
        assert!(check(&[&clients], &[]).unwrap_err().contains("nodes.pem"));
    }
}
