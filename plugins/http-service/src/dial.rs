//! Dialling: from the address to a connection with its protocol agreed.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use edgeway_plugin::{Fault, FaultCode, Health};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::ServerName,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::{
    config::{Address, Scheme, TlsSettings},
    fault,
    socket::{Line, Socket, Wire},
};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// A probe that takes longer would be a service that no call reaches in useful time either.
const PROBE: Duration = Duration::from_secs(2);

/// Makes connections to one service.
#[derive(Debug)]
pub(crate) struct Dialer {
    scheme: Scheme,
    address: Address,
    timeout: Duration,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    server_name: ServerName<'static>,
    roots: Option<RootCertStore>,
    /// Made when first needed: the system's authorities are hundreds, and most services are not https.
    configs: OnceLock<TlsConfigs>,
}

#[derive(Debug, Clone)]
struct TlsConfigs {
    any: Arc<ClientConfig>,
    /// For upgrades, which HTTP/2 has not.
    http1: Arc<ClientConfig>,
}

impl Dialer {
    pub(crate) fn new(scheme: Scheme, address: Address, timeout: Duration, tls: Option<TlsSettings>) -> Self {
        let tls =
            tls.map(|tls| Tls { server_name: tls.server_name, roots: tls.roots, configs: OnceLock::new() });
        Self { scheme, address, timeout, tls }
    }

    /// The protocol that every connection will have, `None` if each one agrees on its own.
    pub(crate) fn fixed_protocol(&self) -> Option<Protocol> {
        match self.scheme {
            Scheme::Http => Some(Protocol::Http1),
            Scheme::H2c => Some(Protocol::Http2),
            Scheme::Https => None,
        }
    }

    /// Connects, and shakes hands if it is https.
    ///
    /// # Errors
    /// [`FaultCode::ServiceRefused`], also if it takes longer than the connect timeout.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub(crate) async fn dial(&self, only_http1: bool) -> Result<(Wire, Protocol), Fault> {
        match tokio::time::timeout(self.timeout, self.dial_untimed(only_http1)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(fault::refused_in_time(&self.address, self.timeout)),
        }
    }

    /// Whether the address accepts a connection. Speaks no HTTP: to a service that counts requests a probe is none.
    pub(crate) async fn probe(&self) -> Health {
        match tokio::time::timeout(PROBE, self.connect()).await {
            Ok(Ok(_)) => Health::Ready,
            Ok(Err(fault)) => Health::Failed(fault.detail().to_owned()),
            Err(_) => Health::Failed(fault::refused_in_time(&self.address, PROBE).detail().to_owned()),
        }
    }

    async fn dial_untimed(&self, only_http1: bool) -> Result<(Wire, Protocol), Fault> {
        let line = self.connect().await?;
        let (mut wire, protocol) = match &self.tls {
            None => (Wire::Plain(line), self.fixed_protocol().unwrap_or(Protocol::Http1)),
            Some(tls) => {
                let configs = tls.configs().await?;
                let config = if only_http1 { &configs.http1 } else { &configs.any };
                let stream = TlsConnector::from(Arc::clone(config))
                    .connect(tls.server_name.clone(), line)
                    .await
                    .map_err(|error| fault::refused(&format_args!("{} with TLS", self.address), &error))?;
                // A service without ALPN speaks HTTP/1.1.
                let protocol = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                (Wire::Tls(Box::new(stream)), protocol)
            }
        };
        if protocol == Protocol::Http1 {
            wire.quiet_writes();
        }
        Ok((wire, protocol))
    }

    async fn connect(&self) -> Result<Line, Fault> {
        let socket = match &self.address {
            Address::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await.map(|stream| {
                // Heads are small writes that must not wait for more. Without it calls are slower, not wrong.
                if let Err(error) = stream.set_nodelay(true) {
                    warn!(address = %self.address, %error, "can't switch off Nagle's algorithm");
                }
                Socket::Tcp(stream)
            }),
            Address::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
        };
        socket.map(Line::new).map_err(|error| fault::refused(&self.address, &error))
    }
}

impl Tls {
    async fn configs(&self) -> Result<TlsConfigs, Fault> {
        if let Some(configs) = self.configs.get() {
            return Ok(configs.clone());
        }
        let roots = match &self.roots {
            Some(roots) => roots.clone(),
            // Reads many files.
            None => tokio::task::spawn_blocking(system_roots).await.map_err(|error| {
                Fault::with_detail(FaultCode::Internal, format!("reading authorities: {error}"))
            })??,
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let configs = TlsConfigs {
            any: client_config(&provider, &roots, &[b"h2", b"http/1.1"]),
            http1: client_config(&provider, &roots, &[b"http/1.1"]),
        };
        Ok(self.configs.get_or_init(|| configs).clone())
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn system_roots() -> Result<RootCertStore, Fault> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "part of the system's certificate authorities can't be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Fault::with_detail(
            FaultCode::ServiceRefused,
            "the system has no certificate authorities; name a file in the service's tls.ca",
        ));
    }
    Ok(roots)
}
