//! Where a hub is.

use std::{fmt, net::IpAddr};

use edgeway_host::{
    Problem,
    report::join,
    settings::{required, shorten},
    yaml,
};
use serde::Deserialize;
use serde_yaml::Value;

/// A hub's address: `host:port`, or `{address: host:port, serverName: name}` where the hub's certificate has another
/// name than the one that is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubAddress {
    host: Box<str>,
    port: u16,
    server_name: Option<Box<str>>,
}

/// Why a text is no address of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form.
    #[error(
        "'{0}' is no address: write host:port, such as hub.example.com:7443, 192.0.2.1:7443 or [2001:db8::1]:7443"
    )]
    Form(String),
    /// Not a port from 1 to 65535.
    #[error("'{0}' is no port: 1 to 65535 are allowed")]
    Port(String),
    /// A host that is neither a name nor an address.
    #[error("'{0}' is neither a DNS name nor an IP address")]
    Host(String),
}

impl HubAddress {
    /// Parses `host:port`.
    ///
    /// # Errors
    /// Not of the form; port 0; a host that is neither a DNS name nor an IP address.
    pub fn new(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Form(shorten(text));
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').ok_or_else(malformed)?;
                let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
                is_address.then_some(address).ok_or_else(|| AddressError::Host(shorten(address)))?
            }
            // An IPv6 address without brackets: where does it end?
            None if host.contains(':') => return Err(malformed()),
            None => check_host(host)?,
        };
        let all_digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| all_digits && *port != 0);
        let port =
            port.ok_or_else(|| AddressError::Port(shorten(text.rsplit(':').next().unwrap_or_default())))?;
        Ok(Self { host: host.into(), port, server_name: None })
    }

    /// What to resolve: a DNS name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name that the hub's certificate must have: `serverName`, or else the host.
    pub fn server_name(&self) -> &str {
        self.server_name.as_deref().unwrap_or(&self.host)
    }

    /// Decodes either form at `at`.
    pub(super) fn decode(raw: Value, at: &str, problems: &mut Vec<Problem>) -> Option<Self> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        struct Raw {
            address: Option<String>,
            server_name: Option<String>,
        }
        let (address_at, raw) = match raw {
            Value::String(address) => (at.to_owned(), Raw { address: Some(address), server_name: None }),
            raw => (join(at, "address"), yaml::decode(raw, at, problems)?),
        };
        let address = required(raw.address, address_at.clone(), problems).and_then(|text| {
            Self::new(&text).map_err(|error| problems.push(Problem::new(address_at, error.to_string()))).ok()
        });
        let server_name = raw.server_name.map(|name| match check_host(&name) {
            Ok(name) => Some(name.into()),
            Err(error) => {
                problems.push(Problem::new(join(at, "serverName"), error.to_string()));
                None
            }
        });
        match (address?, server_name) {
            (_, Some(None)) => None,
            (address, Some(server_name)) => Some(Self { server_name, ..address }),
            (address, None) => Some(address),
        }
    }
}

fn check_host(host: &str) -> Result<&str, AddressError> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(host);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            // Underscores are no part of hostnames, but of names that resolvers and container networks know.
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A name whose last label is a number is a broken IPv4 address.
    let last_is_number =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() > 253 || last_is_number || !name.split('.').all(label_is_good) {
        return Err(AddressError::Host(shorten(host)));
    }
    Ok(host)
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("hub.example.com:7443", "hub.example.com", 7443),
            ("Hub_1:1", "Hub_1", 1),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
            ("[2001:db8::1]:7443", "2001:db8::1", 7443),
        ] {
            let address = HubAddress::new(text).expect("an address");
            assert_eq!((address.host(), address.port(), address.server_name()), (host, port, host));
            assert_eq!(address.to_string(), text);
        }
        for bad in ["", "hub", "::1:7443", "[::1:7443", "https://hub"] {
            let error = HubAddress::new(bad).expect_err("no address");
            assert!(
                matches!(error, AddressError::Form(_) | AddressError::Host(_) | AddressError::Port(_)),
                "{bad:?}"
            );
        }
        for bad in ["hub:", "hub:0", "hub:65536", "hub:+1", "hub:http", "hub:7443/x"] {
            assert!(matches!(HubAddress::new(bad), Err(AddressError::Port(_))), "{bad:?} was taken");
        }
        for bad in
            [":7443", "a b:1", "-a:1", "1.2.3:1", "256.0.0.1:1", "a..b:1", "[hub]:1", "[::g]:1", "user@hub:1"]
        {
            assert!(matches!(HubAddress::new(bad), Err(AddressError::Host(_))), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_address_may_name_the_certificate() {
        let decode = |text: &str| {
            let mut problems = Vec::new();
            let raw = serde_yaml::from_str(text).expect("YAML");
            let address = HubAddress::decode(raw, "hubs[0]", &mut problems);
            (address, problems.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (address, problems) = decode("{address: 10.0.0.1:7443, serverName: hub.example.com}");
        assert_eq!(problems, [""; 0]);
        let address = address.expect("an address");
        assert_eq!((address.host(), address.server_name()), ("10.0.0.1", "hub.example.com"));
        let (address, problems) = decode("{adress: 10.0.0.1:7443, serverName: a b}");
        assert_eq!(address, None);
        assert_eq!(
            problems,
            [
                "hubs[0].adress: unknown field, allowed are: address, serverName",
                "hubs[0].address: is missing",
                "hubs[0].serverName: 'a b' is neither a DNS name nor an IP address",
            ]
        );
        let (_, problems) = decode("7443");
        assert_eq!(problems, ["hubs[0]: found a number, expected a mapping"]);
    }
}
