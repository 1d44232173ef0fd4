//! Why a session ended: the published list of close codes.
//!
//! They travel as QUIC application error codes of the connection (RFC 9000, section 19.19), with a
//! [`wire::CloseReason`] as the reason.

use std::{fmt, time::Duration};

use prost::Message;

use crate::wire;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a session was closed by one of its ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum CloseCode { $($(#[$doc])* $variant = $number,)* }

        impl CloseCode {
            /// Every code.
            pub const ALL: &'static [CloseCode] = &[$(CloseCode::$variant,)*];

            /// The name logs and metrics use.
            pub const fn name(self) -> &'static str {
                match self { $(CloseCode::$variant => $name,)* }
            }

            /// The number on the wire.
            pub const fn number(self) -> u32 { self as u32 }

            /// The code of a number, `None` for one that this build does not know.
            pub const fn from_number(number: u64) -> Option<CloseCode> {
                match number { $($number => Some(CloseCode::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// The process that closes is shutting down, after its drain.
    Shutdown = 0x10, "shutdown";
    /// The agent drained, and its last call is done.
    Drained = 0x17, "drained";
    /// A newer session of the same node took over.
    Replaced = 0x11, "replaced";
    /// The peer broke the protocol.
    ProtocolError = 0x12, "protocol_error";
    /// The certificate is from the right CA but names no node (or no hub) of this trust domain.
    IdentityRefused = 0x13, "identity_refused";
    /// The hub is at a limit. The reason says when to come back.
    Overloaded = 0x14, "overloaded";
    /// Hello or Welcome did not come in time.
    HandshakeTimeout = 0x15, "handshake_timeout";
    /// A bug in the process that closes.
    Internal = 0x16, "internal";
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The code and reason of a close, as one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Which of the list.
    pub code: CloseCode,
    /// One sentence for people.
    pub message: String,
    /// When the dialling side should come back; its own back-off where absent.
    pub retry_after: Option<Duration>,
}

impl Close {
    /// A close with a sentence for people.
    pub fn new(code: CloseCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// The bytes of the reason field.
    pub fn reason(&self) -> Vec<u8> {
        wire::CloseReason {
            message: self.message.clone(),
            retry_after_ms: self.retry_after.map(|after| after.as_millis().try_into().unwrap_or(u64::MAX)),
        }
        .encode_to_vec()
    }

    /// From what a peer sent. `None` where the number is on no list of ours; a reason that does not decode is empty.
    pub fn from_peer(number: u64, reason: &[u8]) -> Option<Self> {
        let code = CloseCode::from_number(number)?;
        let reason = wire::CloseReason::decode(reason).unwrap_or_default();
        Some(Self {
            code,
            message: reason.message.chars().take(256).collect(),
            // An hour: a hub that asks for more is better asked again than believed.
            retry_after: reason.retry_after_ms.map(|ms| Duration::from_millis(ms.min(3_600_000))),
        })
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_survives_the_wire_and_a_foreign_one_is_told() {
        for &code in CloseCode::ALL {
            let close = Close { retry_after: Some(Duration::from_secs(3)), ..Close::new(code, "why") };
            assert_eq!(Close::from_peer(code.number().into(), &close.reason()), Some(close));
        }
        assert_eq!(Close::from_peer(0x7fff, b""), None);
        let garbage = Close::from_peer(0x10, b"\xff\xff\xff").expect("the code alone is enough");
        assert_eq!((garbage.message.as_str(), garbage.retry_after), ("", None));
    }
}
