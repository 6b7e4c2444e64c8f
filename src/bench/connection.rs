//! One HTTP/1.1 connection over TLS that is used again and again. It does as little as can be, so
//! that what is measured is the server; a request is not sent anywhere else, nor again.

use crate::{
    api::setec::{NO_BROWSERS, NO_BROWSERS_VALUE},
    client::{Settings, SettingsError},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// For connecting, and for one answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a connection failed.
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

/// A server, and how it is reached.
#[derive(Clone)]
pub struct Target {
    authority: String,
    server: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl Target {
    /// HTTP/1.1, as ALPN names it.
    pub const HTTP_1: &str = "http/1.1";

    /// The targets that the settings name, in their order. `protocol` is what is spoken within TLS, by its
    /// name in ALPN: [`Self::HTTP_1`] for a [`Connection`].
    ///
    /// # Errors
    /// An address, or a PEM file, that cannot be used.
    pub fn all(settings: &Settings, protocol: &str) -> Result<Vec<Self>, SettingsError> {
        let mut tls = settings.tls()?;
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tls = Arc::new(tls);
        let of = |url: reqwest::Url| {
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or(443);
            let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let server = ServerName::try_from(bare)
                .map_err(|error| SettingsError(format!("address {url}: {error}")))?;
            Ok(Self {
                authority: format!("{host}:{port}"),
                server,
                tls: tls.clone(),
            })
        };
        settings.base_urls()?.into_iter().map(of).collect()
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A new connection, on which nothing was said yet.
    ///
    /// # Errors
    /// In words, when there is no server, or not the one that was expected.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let tcp = TcpStream::connect(&self.authority).await.map_err(said)?;
        tcp.set_nodelay(true).map_err(said)?;
        let connected = TlsConnector::from(self.tls.clone()).connect(self.server.clone(), tcp);
        connected.await.map_err(said)
    }

    async fn speak_http(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let tls = self.connect().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(said)?;
        // It ends with its sender; how is seen by the request that it failed.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// A connection, made when it is first used, and made again after it failed.
pub struct Connection {
    target: Target,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// Connects to nothing yet.
    pub fn new(target: Target) -> Self {
        Self { target, sender: None }
    }

    /// Posts a JSON body to a path, and returns the answer.
    ///
    /// # Errors
    /// When there was no whole answer. The next request is on a new connection.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let answered = timeout(PATIENCE, self.try_post(path, body)).await;
        let answer = answered.unwrap_or_else(|_| Err("no answer for 60 s".into()));
        if answer.is_err() {
            self.sender = None;
            tokio::time::sleep(PAUSE).await;
        }
        answer
    }

    async fn try_post(&mut self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let sender = match &mut self.sender {
            Some(sender) => sender,
            None => self.sender.insert(self.target.speak_http().await?),
        };
        sender.ready().await.map_err(said)?;
        let request = Request::post(path)
            .header("host", &self.target.authority)
            .header("content-type", "application/json")
            .header(NO_BROWSERS, NO_BROWSERS_VALUE)
            .body(Full::new(body))
            .map_err(said)?;
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
