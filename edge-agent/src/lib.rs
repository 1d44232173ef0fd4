//! The agent: dials a hub from a node behind NAT, and hands its calls to local services.
//!
//! - [`config`] and [`registry`]: from a file to a value in which nothing is wrong; starts nothing.
//! - `uplink`: the loop of dial, serve, back off.
//! - `dispatch`: a call's way to its connector, with the duties that no connector has to bear.
//!
//! It opens no port but the admin pages on loopback, and knows no HTTP and no TCP service: those are connectors.

mod agent;
mod builtin;
mod command;
pub mod config;
mod dispatch;
mod metrics;
pub mod registry;
mod uplink;

pub use agent::{Agent, AgentBuilder, RunningAgent, StartError};
pub use edgeway_host::Report;
