//! Hosts of routes and of requests.

use std::fmt;

use edgeway_host::settings::shorten;

/// Longest DNS name in text (RFC 1035, section 2.3.4, without the root's dot).
const LONGEST: usize = 253;

/// A host that a route is for: a DNS name or an IPv4 address, in lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(Box<str>);

/// Why a text is no hostname.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// A wildcard, which is not known yet.
    #[error("'{0}' has a wildcard; write out each host, or no hostnames to take every host")]
    Wildcard(String),
    /// A port.
    #[error("'{0}' has a port; write the host alone, which matches on every port")]
    Port(String),
    /// Anything else.
    #[error("'{0}' is no hostname: write letters, digits, '-' and '.', such as api.example.com")]
    Alphabet(String),
}

impl Hostname {
    /// Parses a hostname; upper case is made lower case.
    ///
    /// # Errors
    /// Not a DNS name of up to 253 characters; a port or a wildcard.
    pub fn new(text: &str) -> Result<Self, HostnameError> {
        let lower = text.to_ascii_lowercase();
        if lower.contains('*') {
            return Err(HostnameError::Wildcard(shorten(text)));
        }
        if lower.contains(':') {
            return Err(HostnameError::Port(shorten(text)));
        }
        let label_is_good = |label: &str| {
            let bytes = label.as_bytes();
            let ends = [bytes.first(), bytes.last()];
            (1..=63).contains(&bytes.len())
                && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        };
        if lower.len() > LONGEST || !lower.split('.').all(label_is_good) {
            return Err(HostnameError::Alphabet(shorten(text)));
        }
        Ok(Self(lower.into()))
    }

    /// The hostname as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host of a request's `host` header as routes have it: without port and without the root's dot, in lower case.
/// Lives on the stack: a look-up allocates nothing.
pub(super) struct RequestHost {
    bytes: [u8; LONGEST],
    length: usize,
}

impl RequestHost {
    /// `None` if it is longer than any hostname, or an IPv6 address: no route is for such a one.
    pub(super) fn of(header: &str) -> Option<Self> {
        let host = header.split_once(':').map_or(header, |(host, _port)| host);
        let host = host.strip_suffix('.').unwrap_or(host);
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..host.len())?.copy_from_slice(host.as_bytes());
        bytes[..host.len()].make_ascii_lowercase();
        Some(Self { bytes, length: host.len() })
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("text in lower case is text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_are_dns_names_without_port_or_wildcard() {
        for good in ["api.example.com", "localhost", "127.0.0.1", "API.Example.com", "xn--bcher-kva.example"]
        {
            assert_eq!(Hostname::new(good).expect("a hostname").as_str(), good.to_ascii_lowercase());
        }
        for bad in
            ["", ".", "a..b", "-a", "a-", "a_b", "a.", "ä.de", "a/b", &"a.".repeat(127), &"x".repeat(64)]
        {
            assert!(matches!(Hostname::new(bad), Err(HostnameError::Alphabet(_))), "{bad:?} was taken");
        }
        assert!(matches!(Hostname::new("*.example.com"), Err(HostnameError::Wildcard(_))));
        assert!(matches!(Hostname::new("example.com:80"), Err(HostnameError::Port(_))));
    }

    #[test]
    fn a_requests_host_is_compared_without_port_case_and_root() {
        for (header, host) in [
            ("API.example.com", "api.example.com"),
            ("api.example.com:8080", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("", ""),
        ] {
            assert_eq!(RequestHost::of(header).expect("short enough").as_str(), host);
        }
        assert!(RequestHost::of(&"x".repeat(LONGEST + 1)).is_none());
        assert_eq!(RequestHost::of("[::1]:80").expect("short").as_str(), "[", "which is no hostname");
    }
}
