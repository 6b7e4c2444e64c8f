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
#[cfg(test)]
mod fuzz;
mod tailscale;

pub use certificate::{CertificateNameError, ClientCertificate, ClientVerifier};
pub use development::Development;
pub use tailscale::Tailscale;

use crate::grants::{ConfiguredGrants, Grants, Principal};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

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
    /// The certificate expired while its connection was open.
    #[error("the client certificate expired")]
    CertificateExpired,
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
    /// More callers than are let in wait for the daemon.
    #[error("too many callers wait for the Tailscale daemon")]
    TooManyWaiting,
}

impl Unidentified {
    /// One word for metrics, the same whatever the details are.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::CertificateExpired => "certificate_expired",
            Self::TooManyWaiting => "too_many_waiting",
            Self::NotOnTailnet => "not_on_tailnet",
            Self::DaemonGone { .. } => "daemon_gone",
            Self::UserspaceNetworking => "userspace_networking",
            Self::UnknownToDaemon => "unknown_to_daemon",
            Self::UnusableAnswer(_) => "unusable_answer",
        }
    }
}

/// The sources, asked in their order.
pub struct Identifier {
    configured: Arc<ConfiguredGrants>,
    tailscale: Option<Tailscale>,
    waiting_for_tailscale: Semaphore,
    development: Development,
}

/// What is known of a connection from its start.
pub struct ConnectionIdentity {
    /// The socket's own address.
    pub local: SocketAddr,
    /// The caller's address.
    pub remote: SocketAddr,
    /// The certificate, where one was shown.
    pub certificate: Option<ClientCertificate>,
    tailnet: Mutex<Option<(Instant, Result<Identity, Unidentified>)>>,
}

/// How long the tailnet's answer about one connection is believed.
const TAILNET_ANSWER_LIFETIME: Duration = Duration::from_secs(10);
/// How long a failure is: long enough that a daemon which hangs is not asked again by each caller.
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);
/// How long the recognition of a caller may take in all.
const TAILNET_TIMEOUT: Duration = Duration::from_secs(4);
/// Callers that may wait for the daemon at once. The others are refused.
const WAITING_FOR_TAILSCALE: usize = 256;

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
            waiting_for_tailscale: Semaphore::new(WAITING_FOR_TAILSCALE),
            development,
        }
    }

    /// Recognises the caller. Grants of the configuration are those in force now, not those of the
    /// connection's start.
    pub async fn identify(&self, connection: &ConnectionIdentity) -> Result<Identity, Unidentified> {
        if let Some(certificate) = &connection.certificate {
            if certificate.not_after < SystemTime::now() {
                return Err(Unidentified::CertificateExpired);
            }
            return Ok(Identity {
                principal: certificate.principal.clone(),
                device: None,
                grants: self.configured.of(&certificate.principal),
            });
        }
        if let Some(tailscale) = &self.tailscale {
            return match connection.known_on_tailnet() {
                Some(known) => known,
                None => self.ask_tailscale(tailscale, connection).await,
            };
        }
        self.development
            .identity(connection.remote)
            .ok_or(Unidentified::NoCertificate)
    }

    async fn ask_tailscale(
        &self,
        tailscale: &Tailscale,
        connection: &ConnectionIdentity,
    ) -> Result<Identity, Unidentified> {
        let waiting = self.waiting_for_tailscale.try_acquire();
        let _waiting = waiting.map_err(|_| Unidentified::TooManyWaiting)?;
        timeout(TAILNET_TIMEOUT, connection.on_tailnet(tailscale))
            .await
            .unwrap_or_else(|_| Err(tailscale.gone("it does not answer")))
    }
}

impl ConnectionIdentity {
    /// A connection between these addresses, whose handshake showed this certificate.
    pub fn new(local: SocketAddr, remote: SocketAddr, certificate: Option<ClientCertificate>) -> Self {
        Self {
            local: canonical(local),
            remote: canonical(remote),
            certificate,
            tailnet: Mutex::new(None),
        }
    }

    async fn on_tailnet(&self, tailscale: &Tailscale) -> Result<Identity, Unidentified> {
        let mut known = self.tailnet.lock().await;
        if let Some(answer) = fresh(&known, TAILNET_ANSWER_LIFETIME) {
            return answer;
        }
        *known = None;
        let asked = Instant::now();
        let answer = tailscale.identify(self.local, self.remote).await;
        *known = Some((as_of(asked, &answer), answer.clone()));
        answer
    }

    /// What is known already, without waiting.
    fn known_on_tailnet(&self) -> Option<Result<Identity, Unidentified>> {
        let known = self.tailnet.try_lock().ok()?;
        fresh(&known, TAILNET_ANSWER_LIFETIME)
    }
}

/// From when on an answer ages: one that helps from the question on, a failure from its end on, for
/// callers that waited meanwhile shall not ask in vain as well.
fn as_of<T>(asked: Instant, answer: &Result<T, Unidentified>) -> Instant {
    if answer.is_ok() { asked } else { Instant::now() }
}

/// An answer that is not too old to be believed.
fn fresh<T: Clone>(
    known: &Option<(Instant, Result<T, Unidentified>)>,
    lifetime: Duration,
) -> Option<Result<T, Unidentified>> {
    let (since, answer) = known.as_ref()?;
    let lifetime = if answer.is_ok() {
        lifetime
    } else {
        FAILURE_LIFETIME
    };
    (since.elapsed() < lifetime).then(|| answer.clone())
}

/// Writes IPv4-mapped IPv6 addresses plainly, as the daemon knows them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::grants::{Action, GrantsTable};

    /// A certificate that is valid for so long.
    pub(crate) fn shown(principal: &str, lifetime: Duration) -> ClientCertificate {
        ClientCertificate {
            principal: principal.parse().unwrap(),
            not_after: SystemTime::now() + lifetime,
        }
    }

    fn connection(certificate: Option<&str>) -> ConnectionIdentity {
        let certificate = certificate.map(|principal| shown(principal, Duration::from_secs(3600)));
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
    async fn a_certificate_that_expired_names_nobody() {
        let configured = Arc::new(ConfiguredGrants::new(Ok(GrantsTable::default())));
        let identifier = Identifier::new(configured, None, Development::enabled());
        let mut connection = connection(None);
        connection.certificate = Some(shown("cn:a", Duration::ZERO));
        assert!(matches!(
            identifier.identify(&connection).await,
            Err(Unidentified::CertificateExpired)
        ));
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
