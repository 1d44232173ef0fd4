//! The connector's section of the agent's config, and what it becomes once it is valid.

use std::{path::PathBuf, time::Duration};

use edgeway_plugin::ConfigError;
use http::{HeaderValue, Uri, uri::Authority};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde::Deserialize;

use edgeway_plugin::units::{Period, Size};

/// A service's `http` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpServiceConfig {
    /// Where the service is: `http://127.0.0.1:9000`, `https://…` (HTTP/2 or HTTP/1.1, whichever the service prefers) or
    /// `h2c://…` (HTTP/2 without TLS). Without a path: the caller's path is passed on as it is.
    pub url: String,
    /// The absolute path of a Unix socket to connect to; the url then only names scheme and host. TCP where absent.
    pub unix_socket: Option<PathBuf>,
    /// The host that the service is told, instead of the one that the caller asked for. Passed on unchanged where absent.
    pub host: Option<String>,
    /// How an https service is verified. The system's certificate authorities, and the url's host, where absent.
    pub tls: Option<TlsConfig>,
    /// Idle connections.
    #[serde(default)]
    pub pool: PoolConfig,
    /// Times.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: LimitsConfig,
}

/// `tls`: how an https service is verified.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file with the certificate authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// The name that the certificate must carry. The url's host where absent.
    pub server_name: Option<String>,
}

/// `pool`: idle connections.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PoolConfig {
    /// Most idle connections that are kept, 1024 where absent: fewer than callers at once means that connections come and go
    /// all the time, which was measured to double the CPU of a call. 0 makes a connection for each call.
    pub idle: usize,
    /// How long one is kept, `4s` where absent. Keep it below the time after which the service itself closes (5 s with
    /// Node.js, for one): a call that meets such a close on its way is lost.
    pub idle_timeout: Period,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { idle: 1024, idle_timeout: Period(Duration::from_secs(4)) }
    }
}

/// `timeouts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// Time for name resolution, connect and the TLS handshake together, `5s` where absent. How long the service may
    /// take to answer is the route's matter.
    pub connect: Period,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self { connect: Period(Duration::from_secs(5)) }
    }
}

/// `limits`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Most connections to the service at once, 1024 where absent. A call beyond it is refused at once.
    pub connections: usize,
    /// Most header fields in an answer, 128 where absent.
    pub header_count: usize,
    /// Most bytes in an answer's head, `64KiB` where absent.
    pub header_bytes: Size,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { connections: 1024, header_count: 128, header_bytes: Size(64 * 1024) }
    }
}

/// What is spoken at the url.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
    H2c,
}

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host that the service is told, in both forms in which a protocol wants it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) header: HeaderValue,
    pub(crate) authority: Authority,
}

/// How an https service is verified.
#[derive(Debug)]
pub(crate) struct TlsSettings {
    pub(crate) server_name: ServerName<'static>,
    /// `None` for the system's, which are read when they are first needed.
    pub(crate) roots: Option<RootCertStore>,
}

/// A valid section.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) scheme: Scheme,
    pub(crate) address: Address,
    /// The host of the url, for a request that names none.
    pub(crate) own_host: Host,
    pub(crate) rewrite: Option<Host>,
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) pool: PoolSettings,
    pub(crate) connect_timeout: Duration,
}

/// The numbers of the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolSettings {
    pub(crate) idle: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) header_count: usize,
    pub(crate) header_bytes: u32,
}

/// The bounds of the bounds. A head of 1 KiB is the least with which real services work; 16 MiB is far beyond any
/// honest one, and is held in memory.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1024..=16 * 1024 * 1024;
/// The parser keeps this many fields ready for each answer.
const HEADER_COUNT: std::ops::RangeInclusive<usize> = 1..=4096;
/// File descriptors are what runs out first.
const CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=65_536;

impl Settings {
    /// Checks everything, and reads `tls.ca`.
    pub(crate) fn validate(config: HttpServiceConfig) -> Result<Self, ConfigError> {
        let mut problems = ConfigError::new();
        let url = parse_url(&config.url).map_err(|message| problems.push("url", message)).ok();

        if let Some(path) = config.unix_socket.as_ref().filter(|path| !path.is_absolute()) {
            problems.push("unixSocket", format!("'{}' must be an absolute path", path.display()));
        }
        let rewrite = config
            .host
            .and_then(|host| parse_host(&host).map_err(|message| problems.push("host", message)).ok());
        let tls = match &url {
            Some(url) if url.scheme == Scheme::Https => {
                tls(config.tls.unwrap_or_default(), &url.host, &mut problems)
            }
            Some(_) if config.tls.is_some() => {
                problems.push("tls", "only allowed with an https url");
                None
            }
            _ => None,
        };

        let limits = &config.limits;
        if !CONNECTIONS.contains(&limits.connections) {
            problems.push("limits.connections", out_of(limits.connections, CONNECTIONS));
        }
        if !HEADER_COUNT.contains(&limits.header_count) {
            problems.push("limits.headerCount", out_of(limits.header_count, HEADER_COUNT));
        }
        if !HEADER_BYTES.contains(&limits.header_bytes.0) {
            problems.push("limits.headerBytes", out_of(limits.header_bytes.0, HEADER_BYTES));
        }
        for (path, period) in
            [("pool.idleTimeout", config.pool.idle_timeout), ("timeouts.connect", config.timeouts.connect)]
        {
            if period.0.is_zero() {
                problems.push(path, "must be longer than zero");
            }
        }

        let pool = PoolSettings {
            idle: config.pool.idle,
            idle_timeout: config.pool.idle_timeout.0,
            connections: limits.connections,
            header_count: limits.header_count,
            header_bytes: u32::try_from(limits.header_bytes.0).unwrap_or(u32::MAX),
        };
        match url {
            Some(url) if problems.problems().is_empty() => Ok(Self {
                scheme: url.scheme,
                address: config
                    .unix_socket
                    .map_or(Address::Tcp { host: url.host, port: url.port }, Address::Unix),
                own_host: url.own_host,
                rewrite,
                tls,
                pool,
                connect_timeout: config.timeouts.connect.0,
            }),
            _ => Err(problems),
        }
    }
}

fn out_of<T: std::fmt::Display>(value: T, allowed: std::ops::RangeInclusive<T>) -> String {
    format!("{value} is out of {} to {}", allowed.start(), allowed.end())
}

struct Url {
    scheme: Scheme,
    host: String,
    port: u16,
    own_host: Host,
}

/// Scheme, host and port, and nothing else.
fn parse_url(text: &str) -> Result<Url, String> {
    const FORM: &str = "write it as http://host:port, https://host:port or h2c://host:port";
    // A user name comes with a password; such a text is not repeated.
    if text.contains('@') {
        return Err(format!("must not contain credentials; {FORM}"));
    }
    // The parser of URIs drops a fragment without a word.
    if text.contains('#') {
        return Err(format!("'{}' must not have a fragment; {FORM}", text.escape_debug()));
    }
    let uri: Uri = text.parse().map_err(|_| format!("'{}' is not a url; {FORM}", text.escape_debug()))?;
    let (scheme, default_port) = match uri.scheme_str() {
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
        Some("h2c") => (Scheme::H2c, 80),
        Some(other) => return Err(format!("scheme '{}' is not known; {FORM}", other.escape_debug())),
        None => return Err(format!("'{}' has no scheme; {FORM}", text.escape_debug())),
    };
    let authority = uri.authority().ok_or_else(|| format!("has no host; {FORM}"))?;
    let host = authority.host();
    if host.is_empty() {
        return Err(format!("has no host; {FORM}"));
    }
    let port = match authority.as_str()[host.len()..].strip_prefix(':') {
        None => default_port,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("port '{}' is out of 1 to 65535", port.escape_debug()))?,
    };
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return Err(format!(
            "must not have a path or query, as the caller's is passed on unchanged (a Template route strips one); {FORM}"
        ));
    }
    Ok(Url {
        scheme,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port,
        own_host: parse_host(authority.as_str())?,
    })
}

fn parse_host(text: &str) -> Result<Host, String> {
    let authority: Authority = text
        .parse()
        .ok()
        .filter(|authority: &Authority| !authority.host().is_empty() && !text.contains('@'))
        .ok_or_else(|| "must be a host name or address, with a port if it is not the usual one".to_owned())?;
    let header = HeaderValue::from_str(authority.as_str()).map_err(|_| "must be a valid host".to_owned())?;
    Ok(Host { header, authority })
}

fn tls(config: TlsConfig, host: &str, problems: &mut ConfigError) -> Option<TlsSettings> {
    let (path, name) = match config.server_name {
        Some(name) => ("tls.serverName", name),
        None => ("url", host.to_owned()),
    };
    let server_name = ServerName::try_from(name)
        .map_err(|_| problems.push(path, "must name a host or address that a certificate can carry"))
        .ok();
    let roots = config.ca.map(|file| {
        read_roots(&file)
            .map_err(|message| problems.push("tls.ca", format!("{}: {message}", file.display())))
            .ok()
    });
    Some(TlsSettings {
        server_name: server_name?,
        roots: match roots {
            None => None,
            Some(roots) => Some(roots?),
        },
    })
}

fn read_roots(file: &std::path::Path) -> Result<RootCertStore, String> {
    let pem = std::fs::read(file).map_err(|error| format!("can't be read: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("has a certificate that can't be used: {error}"))?;
    }
    if roots.is_empty() { Err("has no certificate".to_owned()) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn validate(section: serde_json::Value) -> Result<Settings, ConfigError> {
        Settings::validate(serde_json::from_value(section).unwrap())
    }

    #[test]
    fn a_url_alone_is_enough() {
        let settings = validate(json!({"url": "http://127.0.0.1:9000"})).unwrap();
        assert_eq!(settings.scheme, Scheme::Http);
        assert_eq!(settings.address, Address::Tcp { host: "127.0.0.1".into(), port: 9000 });
        assert_eq!(settings.pool.idle, 1024);
        assert_eq!(settings.pool.connections, 1024);
        assert_eq!(settings.connect_timeout, Duration::from_secs(5));
        assert!(settings.rewrite.is_none() && settings.tls.is_none());
    }

    #[test]
    fn ports_and_address_families_are_understood() {
        for (url, address) in [
            ("http://orders", "orders:80"),
            ("https://orders.example.com/", "orders.example.com:443"),
            ("h2c://[::1]:50051", "[::1]:50051"),
        ] {
            assert_eq!(validate(json!({"url": url})).unwrap().address.to_string(), address);
        }
        let unix = validate(json!({"url": "http://orders", "unixSocket": "/run/orders.sock"})).unwrap();
        assert_eq!(unix.address, Address::Unix("/run/orders.sock".into()));
    }

    #[test]
    fn a_url_with_more_than_scheme_host_and_port_is_refused() {
        for (url, word) in [
            ("http://a/base", "path"),
            ("http://a?x=1", "query"),
            ("http://a#x", "fragment"),
            ("http://user:hunter2@a", "credentials"),
            ("ftp://a", "scheme"),
            ("127.0.0.1:9000", "'127.0.0.1:9000'"),
            ("/a", "scheme"),
            ("http://a:0", "port"),
            ("http://a:65536", "port"),
            ("http://a:", "port"),
            ("http://a b", "not a url"),
            ("", "not a url"),
        ] {
            let error = validate(json!({"url": url})).unwrap_err().to_string();
            assert!(error.starts_with("url: ") && error.contains(word), "{url}: {error}");
            assert!(!error.contains("hunter2"), "a secret was repeated: {error}");
        }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let error = validate(json!({
            "url": "http://a/base",
            "unixSocket": "run/x.sock",
            "host": "a b",
            "pool": {"idleTimeout": "0s"},
            "timeouts": {"connect": "0ms"},
            "limits": {"connections": 0, "headerCount": 0, "headerBytes": 1},
        }))
        .unwrap_err();
        let paths: Vec<_> = error.problems().iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "url",
                "unixSocket",
                "host",
                "limits.connections",
                "limits.headerCount",
                "limits.headerBytes",
                "pool.idleTimeout",
                "timeouts.connect"
            ]
        );
    }

    #[test]
    fn tls_without_https_and_unreadable_authorities_are_refused() {
        let error = validate(json!({"url": "http://a", "tls": {}})).unwrap_err();
        assert_eq!(error.problems()[0].0, "tls");
        let error = validate(json!({"url": "https://a", "tls": {"ca": "/nowhere/ca.crt"}})).unwrap_err();
        assert!(error.to_string().starts_with("tls.ca: /nowhere/ca.crt: can't be read"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("ca.crt");
        std::fs::write(&empty, "nothing").unwrap();
        let error = validate(json!({"url": "https://a", "tls": {"ca": empty}})).unwrap_err();
        assert!(error.to_string().contains("has no certificate"), "{error}");
    }

    #[test]
    fn unknown_fields_are_refused() {
        for section in [
            json!({"url": "http://a", "path": "/"}),
            json!({"url": "http://a", "tls": {"insecure": true}}),
            json!({"url": "http://a", "pool": {"idel": 1}}),
        ] {
            assert!(serde_json::from_value::<HttpServiceConfig>(section).is_err());
        }
    }
}
