//! Names as types: parsed once at the border, valid everywhere behind it.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Why a text is no name. Says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("{kind} is empty")]
    Empty {
        /// What the text should have named.
        kind: &'static str,
    },
    /// Longer than a DNS name may be.
    #[error("{kind} has {length} characters, at most {MAX_NAME} are allowed")]
    TooLong {
        /// What the text should have named.
        kind: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// A character out of the alphabet, or a separator at an end.
    #[error(
        "{kind} '{text}' must consist of lower-case letters, digits, '-' and '.', and start and end with a letter or digit"
    )]
    Alphabet {
        /// What the text should have named.
        kind: &'static str,
        /// The text, escaped.
        text: String,
    },
}

/// Longest name: that of a DNS subdomain (RFC 1123), which is what Kubernetes allows for a node.
pub const MAX_NAME: usize = 253;

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { kind });
    }
    if text.len() > MAX_NAME {
        return Err(NameError::TooLong { kind, length: text.len() });
    }
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let inner = bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'-' | b'.'));
    if inner && bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric) {
        Ok(())
    } else {
        Err(NameError::Alphabet { kind, text: text.escape_debug().to_string() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name.
            ///
            /// # Errors
            /// Empty, longer than [`MAX_NAME`] or out of the alphabet of a DNS subdomain (RFC 1123).
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($kind, text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// A machine at the edge, as its certificate names it.
    NodeName,
    "node name"
);
name!(
    /// What a connector talks to on its node.
    ServiceName,
    "service name"
);
name!(
    /// A route, unique within a hub.
    RouteName,
    "route name"
);
name!(
    /// A hub, as its certificate names it.
    HubName,
    "hub name"
);
name!(
    /// The domain whose CA vouches for hubs and nodes (SPIFFE ID specification, section 2.1).
    TrustDomain,
    "trust domain"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_subdomains() {
        for good in ["a", "berlin-1", "node.example.com", "1", &"x".repeat(MAX_NAME)] {
            assert_eq!(NodeName::new(good).expect("a valid name").as_str(), good);
        }
        for bad in ["", "Berlin", "a b", "-a", "a-", ".a", "a.", "a/b", "é", "a\0", &"x".repeat(MAX_NAME + 1)]
        {
            assert!(NodeName::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_error_names_the_kind_and_the_alphabet() {
        let error = NodeName::new("Berlin\n1").expect_err("upper case and a line feed");
        assert_eq!(
            error.to_string(),
            "node name 'Berlin\\n1' must consist of lower-case letters, digits, '-' and '.', and start and end with a \
             letter or digit"
        );
    }
}
