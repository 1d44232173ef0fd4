//! Connector `tcp`: raw bytes to a local service that speaks any protocol over TCP, such as a broker.
//!
//! ```yaml
//! services:
//! - name: broker
//!   tcp:
//!     address: 127.0.0.1:1883
//! ```
//!
//! Each [`open`](Connector::open) makes one connection, which belongs to the pipe and ends with it; the connector itself
//! keeps nothing. Raw bytes have no framing, so that a connection that is merely closed looks complete to the service. A
//! pipe that is dropped before it was shut down is therefore reset: what was cut is seen as cut.
//!
//! What it deliberately does not do: HTTP calls, TLS, pooling.

mod pipe;

use std::{fmt, io, time::Duration};

use edgeway_plugin::{
    Body, BoxPipe, CallContext, ConfigError, Connector, ConnectorFactory, Fault, FaultCode, Health, Request,
    Response,
};
use serde::Deserialize;
use tokio::net::TcpStream;
use tracing::warn;

use crate::pipe::Pipe;
pub use edgeway_plugin::units::Period;

/// A probe that takes longer would be a service that no call reaches in useful time either.
const PROBE: Duration = Duration::from_secs(2);

/// A service's `tcp` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpServiceConfig {
    /// Where the service listens, as `host:port`; IPv6 as `[::1]:1883`.
    pub address: String,
    /// Times.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// Whether small writes are sent at once instead of waiting for more, true where absent.
    #[serde(default = "yes")]
    pub no_delay: bool,
}

/// `timeouts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// Time for name resolution and connect together, `5s` where absent.
    pub connect: Period,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self { connect: Period(Duration::from_secs(5)) }
    }
}

fn yes() -> bool {
    true
}

/// Talks to one local TCP service. See the [crate].
#[derive(Debug)]
pub struct TcpService {
    host: String,
    port: u16,
    connect_timeout: Duration,
    no_delay: bool,
}

impl TcpService {
    /// Makes a connector from its section, as [`TcpServiceFactory::build`] does.
    ///
    /// # Errors
    /// Every problem of the section, each with its path.
    pub fn new(config: TcpServiceConfig) -> Result<Self, ConfigError> {
        let mut problems = ConfigError::new();
        let address = parse_address(&config.address);
        if address.is_none() {
            let text = config.address.escape_debug();
            problems.push(
                "address",
                format!("'{text}' must be host:port with a port of 1 to 65535; IPv6 as [::1]:1883"),
            );
        }
        if config.timeouts.connect.0.is_zero() {
            problems.push("timeouts.connect", "must be longer than zero");
        }
        let (host, port) = address.unwrap_or_default();
        let connect_timeout = config.timeouts.connect.0;
        problems.or(Self { host, port, connect_timeout, no_delay: config.no_delay })
    }

    async fn connect(&self, within: Duration) -> Result<TcpStream, Fault> {
        let refused = |why: &dyn fmt::Display| {
            Fault::with_detail(FaultCode::ServiceRefused, format!("can't connect to {self}{why}"))
        };
        match tokio::time::timeout(within, self.connect_untimed()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(refused(&format_args!(": {error}"))),
            Err(_) => Err(refused(&format_args!(" within {within:?}"))),
        }
    }

    async fn connect_untimed(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // Without it small writes are slower, not wrong.
        if let Err(error) = stream.set_nodelay(self.no_delay) {
            warn!(address = %self, %error, "can't set the delay of small writes");
        }
        Ok(stream)
    }
}

/// Host and port. The brackets of an IPv6 address are taken off.
fn parse_address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        })?,
    };
    Some((host.to_owned(), port))
}

impl Connector for TcpService {
    /// Always [`FaultCode::Unsupported`]: a pipe carries bytes, not requests.
    async fn call(&self, _request: Request<Body>, _cx: CallContext) -> Result<Response<Body>, Fault> {
        Err(Fault::with_detail(FaultCode::Unsupported, "a tcp service takes raw bytes, no HTTP calls"))
    }

    async fn open(&self, _cx: CallContext) -> Result<BoxPipe, Fault> {
        let stream = self.connect(self.connect_timeout).await?;
        Ok(Box::new(Pipe::new(stream)))
    }

    /// Connects and closes again, within 2 s.
    async fn probe(&self) -> Health {
        match self.connect(PROBE).await {
            Ok(_) => Health::Ready,
            Err(fault) => Health::Failed(fault.detail().to_owned()),
        }
    }
}

impl fmt::Display for TcpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Makes [`TcpService`]s from the `tcp` sections of the agent's services.
#[derive(Debug)]
pub enum TcpServiceFactory {}

impl ConnectorFactory for TcpServiceFactory {
    const NAME: &'static str = "tcp";
    type Config = TcpServiceConfig;
    type Connector = TcpService;

    fn build(config: TcpServiceConfig) -> Result<TcpService, ConfigError> {
        TcpService::new(config)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for (text, shown) in [
            ("127.0.0.1:1883", "127.0.0.1:1883"),
            ("broker.local:1", "broker.local:1"),
            ("[::1]:1883", "[::1]:1883"),
        ] {
            let service = TcpService::new(serde_json::from_value(json!({"address": text})).unwrap()).unwrap();
            assert_eq!(service.to_string(), shown);
            assert!(service.no_delay);
            assert_eq!(service.connect_timeout, Duration::from_secs(5));
        }
    }

    #[test]
    fn all_problems_are_reported_together() {
        for text in
            ["", "broker", "broker:", ":1883", "broker:0", "broker:65536", "::1:1883", "tcp://a:1", "[a]:1"]
        {
            let section = json!({"address": text, "timeouts": {"connect": "0s"}});
            let error = TcpService::new(serde_json::from_value(section).unwrap()).unwrap_err();
            let paths: Vec<_> = error.problems().iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!(paths, ["address", "timeouts.connect"], "{text}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(
            serde_json::from_value::<TcpServiceConfig>(json!({"address": "a:1", "adress": "b:1"})).is_err()
        );
    }
}
