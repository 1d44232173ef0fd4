//! What the connector promises, against real sockets: services that behave, and services that do not.
//!
//! Most tests play the service themselves, byte for byte and step by step, so that nothing depends on time.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by panicking")]

mod bodies;
mod cancel;
mod conformance;
mod continues;
mod forms;
mod http2;
mod misbehaving;
mod places;
mod pooling;
mod support;
mod upgrades;
