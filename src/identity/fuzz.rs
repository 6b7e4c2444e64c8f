//! Any bytes in place of a certificate, and of what the Tailscale daemon answers.

use super::{
    certificate::{CertificateNameError, ClientCertificate, tests::certificate_seeds},
    tailscale,
};
use crate::grants::{Principal, PrincipalKind};
use conclave_fuzz::{explore, in_bounded_memory};
use conclave_raft::transport::tls::certified_name;
use rustls_pki_types::CertificateDer;

#[test]
fn certificates() {
    explore!("certificates", certificate_seeds(), |input: &[u8]| {
        let client = in_bounded_memory(input.len(), || ClientCertificate::of(input));
        let node = in_bounded_memory(input.len(), || certified_name(&CertificateDer::from(input)));
        match client {
            Ok(client) => {
                assert!(node.is_err(), "one certificate is a client's and a node's");
                let written = client.principal.to_string();
                assert_eq!(written.parse(), Ok(client.principal.clone()));
                assert!((1..=1024).contains(&client.principal.name().len()));
                assert!(!written.contains(char::is_control));
                let kinds = [PrincipalKind::Tailscale, PrincipalKind::Dev];
                assert!(!kinds.contains(&client.principal.kind()));
            }
            // A message may name the type of a name, and nothing of it.
            Err(error) => assert!(error.to_string().len() < 100),
        }
        if let Ok(node) = node {
            assert!(!node.cluster.contains('/') && !node.node.contains('/'));
            assert!(!node.cluster.is_empty() && !node.node.is_empty());
            assert!(matches!(
                ClientCertificate::of(input).err(),
                Some(CertificateNameError::Node | CertificateNameError::Malformed)
            ));
        }
    });
}

#[test]
fn tailnet_answers() {
    let seeds = [
        r#"{"Node":{"Name":"laptop.tail.example.","Tags":null},"UserProfile":{"LoginName":"a@b.c"},"CapMap":{"tailscale.com/cap/secrets":[{"action":["get"],"secret":["*"]}]}}"#,
        r#"{"Node":{"Tags":["tag:b","tag:a","tag:a"]},"CapMap":{"tailscale.com/cap/secrets":null}}"#,
        r#"{"Node":null}"#,
    ];
    explore!("tailnet_answers", seeds, |input: &[u8]| {
        let Ok(who) = serde_json::from_slice(input) else {
            return;
        };
        if let Ok(identity) = in_bounded_memory(input.len(), || tailscale::identity(who)) {
            assert_eq!(identity.principal.kind(), PrincipalKind::Tailscale);
            let written = identity.principal.to_string();
            assert_eq!(written.parse::<Principal>(), Ok(identity.principal));
            assert!(!identity.device.is_some_and(|device| device.is_empty()));
        }
    });
}
