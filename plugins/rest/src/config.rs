//! The plugin's section of the hub's config, and its validated form.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use edgeway_plugin::ConfigError;
use serde::Deserialize;

use crate::{
    tls,
    units::{Size, Span},
};

/// The section `plugins.rest`.
///
/// ```yaml
/// listeners:
/// - address: 0.0.0.0:8080
/// - address: 0.0.0.0:8443
///   tls: {certificate: /etc/edgeway/rest.crt, key: /etc/edgeway/rest.key}
/// limits: {connections: 10000, headerCount: 100, headerBytes: 60KiB, requestBody: 4GiB, concurrentStreams: 256}
/// timeouts: {requestHead: 10s, keepAlive: 75s}
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestConfig {
    /// Where to listen; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// What one caller, and all of them, may take.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// How long a caller may take.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// The name that `Via` gives this hub (RFC 9110, section 7.6.3). `edgeway` where absent.
    pub via: Option<String>,
    /// Whether `Forwarded` and `X-Forwarded-*` from callers are kept and added to. Absent or false: they are replaced,
    /// since anybody can send them. Set it only where every caller is a proxy of yours.
    #[serde(default)]
    pub trust_forwarded: bool,
}

/// One listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerConfig {
    /// IP address and port, such as `0.0.0.0:8080`. Port 0 takes a free one.
    pub address: String,
    /// Serves HTTPS where present. HTTP/2 is then negotiated (ALPN); without TLS it is recognised by its first bytes.
    pub tls: Option<TlsConfig>,
}

/// Certificate and key of a listener, both PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// File of the certificate and those that vouch for it, leaf first.
    pub certificate: PathBuf,
    /// File of its private key.
    pub key: PathBuf,
}

/// Limits, each with its default in parentheses.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections of all listeners together (10000). Those beyond it are answered `503`.
    pub connections: usize,
    /// Headers of a request (100). With those that the plugin adds it stays below the tunnel's own default of 128; and
    /// up to 100 the parser needs no memory from the heap.
    pub header_count: usize,
    /// Bytes of a request's head (60KiB); room is left for what the plugin adds before the tunnel's default of 64KiB.
    pub header_bytes: Size,
    /// Bytes of a request's body (4GiB). Bodies are streamed, so this bounds use, not memory.
    pub request_body: Size,
    /// HTTP/2 streams of a connection at once (256).
    pub concurrent_streams: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_count: 100,
            header_bytes: Size::kibibytes(60),
            request_body: Size::kibibytes(4 << 20),
            concurrent_streams: 256,
        }
    }
}

/// Times, each with its default in parentheses.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// From a request head's first byte to its last, and for the TLS handshake (10s).
    pub request_head: Span,
    /// How long a connection may be idle (75s).
    pub keep_alive: Span,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self { request_head: Span::seconds(10), keep_alive: Span::seconds(75) }
    }
}

/// The section, validated: every value is one that the plugin can run with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) connections: usize,
    pub(crate) header_count: usize,
    pub(crate) header_bytes: usize,
    pub(crate) request_body: u64,
    pub(crate) concurrent_streams: u32,
    pub(crate) request_head: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) via: String,
    pub(crate) trust_forwarded: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

impl RestConfig {
    /// Checks everything and reads the files of TLS.
    ///
    /// # Errors
    /// Every problem, each with its path.
    pub(crate) fn validate(self) -> Result<Settings, ConfigError> {
        let mut problems = ConfigError::new();
        let listeners = self.listeners(&mut problems);
        let limits = &self.limits;
        between(&mut problems, "limits.connections", limits.connections, 1, 1_000_000);
        between(&mut problems, "limits.headerCount", limits.header_count, 1, 10_000);
        between(
            &mut problems,
            "limits.headerBytes",
            limits.header_bytes,
            Size::kibibytes(1),
            Size::kibibytes(1024),
        );
        between(&mut problems, "limits.concurrentStreams", limits.concurrent_streams, 1, 10_000);
        let (shortest, longest) = (Span(Duration::from_millis(1)), Span::seconds(24 * 3600));
        between(&mut problems, "timeouts.requestHead", self.timeouts.request_head, shortest, longest);
        between(&mut problems, "timeouts.keepAlive", self.timeouts.keep_alive, shortest, longest);
        let via = self.via.unwrap_or_else(|| "edgeway".into());
        if via.is_empty() || via.len() > 100 || !via.bytes().all(is_token) {
            let message = "must be 1 to 100 letters, digits or any of !#$%&'*+-.^_`|~";
            problems.push("via", message);
        }
        problems.or(Settings {
            listeners,
            connections: limits.connections,
            header_count: limits.header_count,
            header_bytes: usize::try_from(limits.header_bytes.0).unwrap_or(usize::MAX),
            request_body: limits.request_body.0,
            concurrent_streams: limits.concurrent_streams,
            request_head: self.timeouts.request_head.0,
            keep_alive: self.timeouts.keep_alive.0,
            via,
            trust_forwarded: self.trust_forwarded,
        })
    }

    fn listeners(&self, problems: &mut ConfigError) -> Vec<Listener> {
        if self.listeners.is_empty() {
            problems.push(
                "listeners",
                "is empty; at least one listener is needed, such as {address: 0.0.0.0:8080}",
            );
        }
        let mut listeners: Vec<Listener> = Vec::with_capacity(self.listeners.len());
        let mut first_at = Vec::with_capacity(self.listeners.len());
        for (at, listener) in self.listeners.iter().enumerate() {
            let tls =
                listener.tls.as_ref().map(|tls| tls::load(tls, &format!("listeners[{at}].tls"), problems));
            let Ok(address) = listener.address.parse::<SocketAddr>() else {
                let message = format!(
                    "'{}' is no address to listen on; allowed is an IP address and a port, such as 0.0.0.0:8080 or \
                     [::]:8080",
                    listener.address.escape_debug()
                );
                problems.push(format!("listeners[{at}].address"), message);
                continue;
            };
            let twin = listeners.iter().position(|other| other.address == address && address.port() != 0);
            if let Some(twin) = twin {
                let message = format!("{address} is taken by listeners[{}] already", first_at[twin]);
                problems.push(format!("listeners[{at}].address"), message);
            }
            first_at.push(at);
            listeners.push(Listener { address, tls: tls.flatten() });
        }
        listeners
    }
}

fn between<T: PartialOrd + std::fmt::Display>(
    problems: &mut ConfigError,
    path: &str,
    value: T,
    least: T,
    most: T,
) {
    if value < least || value > most {
        problems.push(path, format!("is {value}; allowed is {least} to {most}"));
    }
}

/// A byte of a token (RFC 9110, section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
