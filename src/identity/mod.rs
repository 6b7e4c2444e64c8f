//! Who calls. A connection has one identity, from one source; rights of two are never united.
//!
//! 1. A client certificate, where one was shown (`certificate`).
//! 2. The tailnet, where the connection came in through it (`tailscale`).
//! 3. In a development cluster, everybody else on loopback (`development`).
//!
//! Nothing that a request says about its caller is believed: forwarding headers are ignored.
//! A caller without an identity is refused, logged and counted, and writes nothing into the log.

mod certificate;
mod development;
mod tailscale;

pub use certificate::{CertificateNameError, ClientVerifier, principal_of};
pub use development::Development;
pub use tailscale::Tailscale;

use crate::grants::{ConfiguredGrants, Grants, Principal};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// Who calls, with what rights.
#[derive(Clone)]
pub struct Identity {
    /// Who.
    pub principal: Principal,
    /// The tailnet node that it calls from, where that is known.
    pub device: Option<String>,
    /// What the caller may do.
    pub grants: Arc<Grants>,
}

/// Why nobody could be recognised. Logged; the caller hears only that it is so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unidentified {
    /// Neither a certificate nor a tailnet address.
    #[error("no client certificate was shown")]
    NoCertificate,
    /// The connection didn't come in through the tailnet.
    #[error("no client certificate was shown, and the connection did not come in through the tailnet")]
    NotOnTailnet,
    /// The daemon cannot be asked.
    #[error("the Tailscale daemon at {socket} cannot be asked: {reason}")]
    DaemonGone { socket: String, reason: String },
    /// All callers look alike.
    #[error(
        "the Tailscale daemon runs without a network device (userspace networking): callers arrive from \
         loopback and cannot be told apart; run it with a network device or use client certificates"
    )]
    UserspaceNetworking,
    /// The daemon doesn't know the caller.
    #[error("the Tailscale daemon does not know the caller")]
    UnknownToDaemon,
    /// The daemon's answer cannot be used.
    #[error("the Tailscale daemon's answer cannot be used: {0}")]
    UnusableAnswer(String),
}

/// The sources, asked in their order.
pub struct Identifier {
    configured: Arc<ConfiguredGrants>,
    tailscale: Option<Tailscale>,
    development: Development,
}

/// What is known of a connection from its start.
pub struct ConnectionIdentity {
    /// The socket's own address.
    pub local: SocketAddr,
    /// The caller's address.
    pub remote: SocketAddr,
    /// The certificate's principal, where one was shown.
    pub certificate: Option<Principal>,
    tailnet: Mutex<Option<(Instant, Identity)>>,
}

/// How long the tailnet's answer about one connection is believed.
const TAILNET_ANSWER_LIFETIME: Duration = Duration::from_secs(10);

impl Identifier {
    /// The sources of one node.
    pub fn new(
        configured: Arc<ConfiguredGrants>,
        tailscale: Option<Tailscale>,
        development: Development,
    ) -> Self {
        Self {
            configured,
            tailscale,
            development,
        }
    }

    /// Recognises the caller. Grants of the configuration are those in force now, not those of the
    /// connection's start.
    pub async fn identify(&self, connection: &ConnectionIdentity) -> Result<Identity, Unidentified> {
        if let Some(principal) = &connection.certificate {
            let grants = self.configured.of(principal);
            return Ok(Identity {
                principal: principal.clone(),
                device: None,
                grants,
            });
        }
        if let Some(tailscale) = &self.tailscale {
            return connection.on_tailnet(tailscale).await;
        }
        self.development
            .identity(connection.remote)
            .ok_or(Unidentified::NoCertificate)
    }
}

impl ConnectionIdentity {
    /// A connection between these addresses, whose handshake showed this certificate.
    pub fn new(local: SocketAddr, remote: SocketAddr, certificate: Option<Principal>) -> Self {
        Self {
            local: canonical(local),
            remote: canonical(remote),
            certificate,
            tailnet: Mutex::new(None),
        }
    }

    async fn on_tailnet(&self, tailscale: &Tailscale) -> Result<Identity, Unidentified> {
        let mut known = self.tailnet.lock().await;
        if let Some((asked, identity)) = &*known
            && asked.elapsed() < TAILNET_ANSWER_LIFETIME
        {
            return Ok(identity.clone());
        }
        *known = None;
        let asked = Instant::now();
        let identity = tailscale.identify(self.local, self.remote).await?;
        *known = Some((asked, identity.clone()));
        Ok(identity)
    }
}

/// Writes IPv4-mapped IPv6 addresses plainly, as the daemon knows them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::{Action, GrantsTable};

    fn connection(certificate: Option<&str>) -> ConnectionIdentity {
        let certificate = certificate.map(|principal| principal.parse().unwrap());
        ConnectionIdentity::new(
            "[::ffff:127.0.0.1]:8200".parse().unwrap(),
            "127.0.0.1:9".parse().unwrap(),
            certificate,
        )
    }

    #[tokio::test]
    async fn a_certificate_outranks_everything_and_brings_only_its_own_grants() {
        let configured = Arc::new(ConfiguredGrants::new(GrantsTable::from_toml(
            r#""cn:auditor" = [{ action = ["audit"] }]"#,
        )));
        let identifier = Identifier::new(configured.clone(), None, Development::enabled());
        let auditor = identifier
            .identify(&connection(Some("cn:auditor")))
            .await
            .unwrap();
        assert!(
            auditor.grants.allows_cluster(Action::Audit) && !auditor.grants.allows_cluster(Action::Operate)
        );
        let nobody = identifier.identify(&connection(Some("cn:nobody"))).await.unwrap();
        assert!(nobody.grants.is_empty());
        let dev = identifier.identify(&connection(None)).await.unwrap();
        assert_eq!(dev.principal, Principal::dev());

        configured.reload(GrantsTable::from_toml(""));
        assert!(
            identifier
                .identify(&connection(Some("cn:auditor")))
                .await
                .unwrap()
                .grants
                .is_empty()
        );
    }

    #[tokio::test]
    async fn without_a_source_nobody_is_known() {
        let configured = Arc::new(ConfiguredGrants::new(Ok(GrantsTable::default())));
        let identifier = Identifier::new(configured, None, Development::disabled());
        assert!(matches!(
            identifier.identify(&connection(None)).await,
            Err(Unidentified::NoCertificate)
        ));
    }

    #[test]
    fn mapped_addresses_are_written_plainly() {
        assert_eq!(connection(None).local.to_string(), "127.0.0.1:8200");
    }
}
