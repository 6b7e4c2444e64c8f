//! The nodes' CA and the clients' CA are never the same: whoever may sign for one must not be able to
//! sign for the other. Bundles hold several certificates, and a key may stand in several
//! certificates; so what is compared is every public key of both. Nor may a CA of one have issued a CA
//! of the other: what the lower one signs, the upper one vouches for. (A chain between them whose
//! middle is in neither bundle cannot be seen.)

use super::TlsSection;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{collections::BTreeSet, path::Path};
use x509_parser::{
    error::X509Error,
    prelude::{FromDer, X509Certificate},
};

/// Refuses bundles that share a key or are of one chain, or that cannot be read.
pub(crate) fn check_authorities(tls: &TlsSection) -> Result<(), String> {
    let (Some(clients), nodes) = (&tls.client_authority, &tls.node_authority) else {
        return Ok(());
    };
    let (client_bundle, node_bundle) = (read(clients)?, read(nodes)?);
    let client_authorities = parse(clients, &client_bundle)?;
    let node_authorities = parse(nodes, &node_bundle)?;
    let shared = public_keys(&client_authorities)
        .intersection(&public_keys(&node_authorities))
        .count();
    if shared > 0 {
        return Err(format!(
            "{} and {} have {shared} CA in common; nodes and clients must have CAs of their own",
            clients.display(),
            nodes.display(),
        ));
    }
    for (upper, issuers, lower, issued) in [
        (clients, &client_authorities, nodes, &node_authorities),
        (nodes, &node_authorities, clients, &client_authorities),
    ] {
        if issued
            .iter()
            .any(|authority| issuers.iter().any(|issuer| is_issued_by(authority, issuer)))
        {
            return Err(format!(
                "a CA in {} issued one in {}; nodes and clients must have CAs of separate chains",
                upper.display(),
                lower.display(),
            ));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let described = |error: rustls_pki_types::pem::Error| format!("{}: {error}", path.display());
    let bundle: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(described)?
        .collect::<Result<_, _>>()
        .map_err(described)?;
    if bundle.is_empty() {
        return Err(format!("{}: holds no certificate", path.display()));
    }
    Ok(bundle)
}

fn parse<'a>(path: &Path, bundle: &'a [CertificateDer<'_>]) -> Result<Vec<X509Certificate<'a>>, String> {
    bundle
        .iter()
        .map(|certificate| match X509Certificate::from_der(certificate) {
            Ok((_, certificate)) => Ok(certificate),
            Err(_) => Err(format!(
                "{}: holds something that is not a certificate",
                path.display()
            )),
        })
        .collect()
}

/// The public keys (SubjectPublicKeyInfo, RFC 5280).
fn public_keys<'a>(authorities: &'a [X509Certificate<'_>]) -> BTreeSet<&'a [u8]> {
    authorities
        .iter()
        .map(|authority| authority.public_key().raw)
        .collect()
}

/// Whether a certificate is signed by another's key. Where the names say so and the kind of signature is
/// unknown here, it is taken to be.
fn is_issued_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && !matches!(
            certificate.verify_signature(Some(issuer.public_key())),
            Err(X509Error::SignatureVerificationError)
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, AuthorityKind, Validity};
    use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair};

    fn authority_params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    }

    #[test]
    fn bundles_share_no_key_and_no_chain() {
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

        // A CA, one that it issued, and one of its name that it did not.
        let issuer = Issuer::new(authority_params("upper"), &key);
        let upper = authority_params("upper").self_signed(&key).unwrap().pem();
        let lower_key = KeyPair::generate().unwrap();
        let lower = authority_params("lower").signed_by(&lower_key, &issuer);
        let lower = lower.unwrap().pem();
        let namesake = authority_params("upper").self_signed(&lower_key).unwrap().pem();
        assert_eq!(check(&[&upper], &[&nodes]), Ok(()));
        assert_eq!(check(&[&upper], &[&namesake]), Ok(()));
        for (client_bundle, node_bundle) in [
            (vec![&upper], vec![&lower]),
            (vec![&lower, &clients], vec![&nodes, &upper]),
        ] {
            let error = check(&client_bundle, &node_bundle).unwrap_err();
            assert!(error.contains("separate chains"), "{error}");
        }
    }
}
