//! An axum handler that parses the same JSON as setec's get and answers 304, over the same TLS: what an
//! unchanged poll could cost at least. It knows no caller, no rights and no secrets.

use super::{process::Process, site::Site};
use crate::Failure;
use axum::{Json, Router, routing::post};
use clap::Args;
use conclave::bench::{Caller, Kind, Secrets, Target};
use hyper::{StatusCode, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The handler in a process of its own.
pub struct Bare {
    process: Process,
    target: Target,
    _site: Site,
}

/// The arguments of that process.
#[derive(Args, Clone, Debug)]
pub struct BareHandler {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    certificate: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    client_authority: PathBuf,
}

impl Bare {
    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(folder: &std::path::Path) -> Result<Self, Failure> {
        let site = Site::make(folder, 1, &[])?;
        let node = site.node(0);
        let arguments: [OsString; 9] = [
            "bare-handler".into(),
            "--listen".into(),
            format!("127.0.0.1:{}", node.ports.api).into(),
            "--certificate".into(),
            site.file(0, "api.pem").into(),
            "--key".into(),
            site.file(0, "api.key").into(),
            "--client-authority".into(),
            site.layout.client_authority().0.into(),
        ];
        let process = Process::start(&std::env::current_exe()?, &arguments, &node.log)?;
        let target = site.targets(Target::HTTP_1)?.remove(0);
        super::eventually("the bare handler", async || {
            Ok(target.connect().await.map(drop)?)
        })
        .await?;
        Ok(Self {
            process,
            target,
            _site: site,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A client that polls.
    pub fn polling(&self, secrets: &Secrets) -> Caller {
        Caller::working(self.target.clone(), secrets.clone(), Kind::Poll, 0)
    }
}

impl BareHandler {
    /// Serves until it is killed.
    ///
    /// # Errors
    /// When it cannot listen, or has no certificate.
    pub async fn serve(self) -> Result<(), Failure> {
        let listener = TcpListener::bind(self.listen).await?;
        let acceptor = TlsAcceptor::from(Arc::new(self.tls()?));
        let service = TowerToHyperService::new(Router::new().route("/api/get", post(unchanged)));
        loop {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            let (acceptor, service) = (acceptor.clone(), service.clone());
            tokio::spawn(async move {
                // Who breaks off is seen by the generator.
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    }

    fn tls(&self) -> Result<ServerConfig, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.client_authority)? {
            roots.add(certificate?)?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.certificate)?.collect::<Result<_, _>>()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&self.key)?)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Get {
    name: String,
    #[serde(default)]
    version: u32,
    #[serde(default)]
    update_if_changed: bool,
}

async fn unchanged(Json(get): Json<Get>) -> StatusCode {
    if get.update_if_changed && get.version == 1 && !get.name.is_empty() {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::NOT_FOUND
    }
}
