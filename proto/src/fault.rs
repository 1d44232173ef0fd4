//! Faults: refusals and failures of ours, told apart from a service's own error status.
//!
//! This file holds the one table of fault codes. Every code has a name on the wire of the caller (`edgeway-fault`), an
//! HTTP status, and a number between hub and agent, where the same number also serves as the QUIC application error
//! code of a stream that is reset (RFC 9000, section 20.2).

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::wire;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, one code for each thing a caller can do about it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum FaultCode { $($(#[$doc])* $variant = $number,)* }

        impl FaultCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [FaultCode] = &[$(FaultCode::$variant,)*];

            /// The name callers, logs and metrics see.
            pub const fn name(self) -> &'static str {
                match self { $(FaultCode::$variant => $name,)* }
            }

            /// The HTTP status that carries this fault to a caller.
            pub const fn http_status(self) -> http::StatusCode {
                let number: u16 = match self { $(FaultCode::$variant => $status,)* };
                match http::StatusCode::from_u16(number) {
                    Ok(status) => status,
                    Err(_) => panic!("the table holds valid statuses"),
                }
            }

            /// A short title for people (RFC 9457, section 3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(FaultCode::$variant => $title,)* }
            }

            /// The number on the wire and in a stream's reset.
            pub const fn number(self) -> u32 { self as u32 }

            /// The code of a number, `None` for one that this build does not know.
            pub const fn from_number(number: u64) -> Option<FaultCode> {
                match number { $($number => Some(FaultCode::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// No route matches the call.
    NoRoute = 1, "no_route", 404, "No route matches this call";
    /// The route names a node that the hub has never seen.
    UnknownNode = 2, "unknown_node", 404, "No such node";
    /// The node does not offer the service.
    UnknownService = 3, "unknown_service", 404, "No such service on the node";
    /// The node is known but has no session. [`Fault::since`] says since when.
    NodeOffline = 4, "node_offline", 503, "The node is offline";
    /// No node of those that the route selects can take the call.
    NoHealthyNode = 5, "no_healthy_node", 503, "No healthy node";
    /// A limit was reached, or the hub or agent drains. [`Fault::retry_after`] is always set.
    Overloaded = 6, "overloaded", 503, "Overloaded";
    /// The local service did not accept the connection.
    ServiceRefused = 7, "service_refused", 502, "The service refused the connection";
    /// The local service broke off in the middle, or its answer is not valid.
    ServiceReset = 8, "service_reset", 502, "The service broke off";
    /// The session with the node ended before the answer was complete.
    SessionLost = 9, "session_lost", 502, "The session with the node was lost";
    /// Time ran out. [`Fault::leg`] says where.
    Deadline = 10, "deadline", 504, "The deadline passed";
    /// The request's body is over a limit.
    RequestTooLarge = 11, "request_too_large", 413, "The request is too large";
    /// The request breaks the protocol.
    BadRequest = 12, "bad_request", 400, "Bad request";
    /// Well formed, but nothing here does it.
    Unsupported = 13, "unsupported", 501, "Not supported";
    /// A bug in Edgeway, a plugin or a connector. Counted, logged, and never the end of the process.
    Internal = 14, "internal", 500, "Internal error";
    /// The caller left. Nobody is there to read it; logs and metrics are.
    Cancelled = 15, "cancelled", 499, "The caller left";
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The part of the way on which a deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Between hub and agent: the agent did not answer in time.
    Tunnel,
    /// Between agent and service: the service did not answer in time.
    Service,
}

impl Leg {
    /// The name callers see.
    pub const fn name(self) -> &'static str {
        match self {
            Leg::Tunnel => "tunnel",
            Leg::Service => "service",
        }
    }
}

/// A refusal or failure of ours. Small to move: what is rare is boxed.
#[derive(Clone, PartialEq, Eq)]
pub struct Fault {
    code: FaultCode,
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rest {
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    since: Option<SystemTime>,
    leg: Option<Leg>,
}

/// Longest detail that is taken from a peer, in bytes. A sentence or two; more would be an answer, not a reason.
pub const MAX_DETAIL: usize = 1024;

impl Fault {
    /// A fault with nothing to add to its code.
    pub const fn new(code: FaultCode) -> Self {
        Self { code, rest: None }
    }

    /// A fault with one sentence for people: lower case, no full stop, and no secret in it.
    pub fn with_detail(code: FaultCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut fault = Self::new(code);
        fault.rest_mut().detail = detail.into();
        fault
    }

    /// [`FaultCode::Unsupported`], the default answer of an optional method.
    pub const fn unsupported() -> Self {
        Self::new(FaultCode::Unsupported)
    }

    /// [`FaultCode::Overloaded`]: which limit, and when to come back.
    pub fn overloaded(limit: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::with_detail(FaultCode::Overloaded, limit).retry_after_of(retry_after)
    }

    /// [`FaultCode::Deadline`] on this leg.
    pub fn deadline(leg: Leg) -> Self {
        let mut fault = Self::with_detail(
            FaultCode::Deadline,
            match leg {
                Leg::Tunnel => "the agent did not answer in time",
                Leg::Service => "the service did not answer in time",
            },
        );
        fault.rest_mut().leg = Some(leg);
        fault
    }

    /// The same fault with a time after which a retry makes sense.
    #[must_use]
    pub fn retry_after_of(mut self, after: Duration) -> Self {
        self.rest_mut().retry_after = Some(after);
        self
    }

    /// The same fault with the time since which its cause has lasted.
    #[must_use]
    pub fn since_of(mut self, since: SystemTime) -> Self {
        self.rest_mut().since = Some(since);
        self
    }

    /// What went wrong.
    pub const fn code(&self) -> FaultCode {
        self.code
    }

    /// One sentence for people; the code's title where nothing was added.
    pub fn detail(&self) -> &str {
        match &self.rest {
            Some(rest) if !rest.detail.is_empty() => &rest.detail,
            _ => self.code.title(),
        }
    }

    /// When a retry makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        self.rest.as_ref().and_then(|rest| rest.retry_after)
    }

    /// Since when the cause has lasted.
    pub fn since(&self) -> Option<SystemTime> {
        self.rest.as_ref().and_then(|rest| rest.since)
    }

    /// Where a deadline passed.
    pub fn leg(&self) -> Option<Leg> {
        self.rest.as_ref().and_then(|rest| rest.leg)
    }

    fn rest_mut(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// As a message of the wire.
    pub fn to_wire(&self) -> wire::Fault {
        let rest = self.rest.as_deref().cloned().unwrap_or_default();
        wire::Fault {
            code: self.code.number(),
            detail: rest.detail.into_owned(),
            retry_after_ms: rest.retry_after.map(|after| after.as_millis().try_into().unwrap_or(u64::MAX)),
            since_unix_ms: rest
                .since
                .and_then(|since| since.duration_since(UNIX_EPOCH).ok())
                .map(|since| since.as_millis().try_into().unwrap_or(u64::MAX)),
            leg: rest.leg.map(Leg::name).unwrap_or_default().into(),
        }
    }

    /// From a message of the wire. A code that this build does not know becomes [`FaultCode::Internal`]; a detail over
    /// [`MAX_DETAIL`] is cut; times beyond the clock's range are left out.
    pub fn from_wire(fault: wire::Fault) -> Self {
        let Some(code) = FaultCode::from_number(fault.code.into()) else {
            return Self::with_detail(
                FaultCode::Internal,
                format!("the peer named an unknown fault, {}", fault.code),
            );
        };
        let mut detail = fault.detail;
        if detail.len() > MAX_DETAIL {
            let end = (0..=MAX_DETAIL).rev().find(|&at| detail.is_char_boundary(at)).unwrap_or(0);
            detail.truncate(end);
        }
        let rest = Rest {
            detail: detail.into(),
            // A day: a peer must not be able to park callers for ever.
            retry_after: fault.retry_after_ms.map(|ms| Duration::from_millis(ms.min(86_400_000))),
            since: fault.since_unix_ms.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms))),
            leg: match fault.leg.as_str() {
                "tunnel" => Some(Leg::Tunnel),
                "service" => Some(Leg::Service),
                _ => None,
            },
        };
        if rest == Rest::default() { Self::new(code) } else { Self { code, rest: Some(Box::new(rest)) } }
    }
}

impl From<FaultCode> for Fault {
    fn from(code: FaultCode) -> Self {
        Self::new(code)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.detail())
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Fault");
        out.field("code", &self.code.name());
        if let Some(rest) = &self.rest {
            out.field("detail", &rest.detail);
            out.field("retry_after", &rest.retry_after);
            out.field("since", &rest.since);
            out.field("leg", &rest.leg);
        }
        out.finish()
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_lead_back() {
        assert!(!FaultCode::ALL.is_empty());
        let names: std::collections::HashSet<_> = FaultCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), FaultCode::ALL.len());
        for &code in FaultCode::ALL {
            assert_eq!(FaultCode::from_number(code.number().into()), Some(code));
            assert!(code.http_status().as_u16() >= 400);
        }
    }

    #[test]
    fn a_fault_survives_the_wire() {
        let since = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        for &code in FaultCode::ALL {
            for fault in [
                Fault::new(code),
                Fault::with_detail(code, "why").since_of(since),
                Fault::with_detail(code, "when").retry_after_of(Duration::from_millis(1500)),
                Fault { code, ..Fault::deadline(Leg::Service) },
            ] {
                assert_eq!(Fault::from_wire(fault.to_wire()), fault);
            }
        }
    }

    #[test]
    fn a_peers_fault_is_bounded() {
        let fault = Fault::from_wire(wire::Fault {
            code: 6,
            detail: "é".repeat(MAX_DETAIL),
            retry_after_ms: Some(u64::MAX),
            since_unix_ms: Some(u64::MAX),
            leg: "nowhere".into(),
        });
        assert!(fault.detail().len() <= MAX_DETAIL);
        assert_eq!(fault.retry_after(), Some(Duration::from_secs(86_400)));
        assert_eq!(fault.leg(), None);
        assert_eq!(
            Fault::from_wire(wire::Fault { code: 4711, ..Default::default() }).code(),
            FaultCode::Internal
        );
    }
}
