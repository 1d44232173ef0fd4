//! The words that hub and agent exchange, and nothing that exchanges them: no I/O, no clock, no transport.
//!
//! - [`wire`]: the messages of `edgeway.proto`, generated and checked in; a test holds them to the file.
//! - [`frame`]: how messages and body bytes are cut into frames.
//! - [`head`]: heads of calls and answers, between HTTP types and the wire.
//! - [`fault`] and [`close`]: the published codes, why a call failed and why a session ended.
//! - [`names`](NodeName): names as types.
//!
//! Every decoder here is bounded before it allocates and has a fuzz target in `fuzz/`.

pub mod close;
pub mod fault;
mod fields;
pub mod frame;
pub mod head;
mod names;

/// The generated messages of `edgeway.proto`. Regenerate with `make proto`.
#[allow(missing_docs, clippy::doc_markdown)]
#[rustfmt::skip]
pub mod wire {
    include!("gen/edgeway.v1.rs");
}

pub use close::{Close, CloseCode};
pub use fault::{Fault, FaultCode, Leg};
pub use fields::FieldError;
pub use names::{HubName, MAX_NAME, NameError, NodeName, RouteName, ServiceName, TrustDomain};

/// The protocol's name in the TLS handshake (RFC 7301). A change that an old peer can't skip takes a new one.
pub const ALPN: &[u8] = b"edgeway/1";
