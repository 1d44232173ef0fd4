//! The hub: hosts plugins in the cloud and routes their calls to nodes at the edge.
//!
//! A hub of your own, with your own plugin beside the built-in ones, is ten lines:
//!
//! ```no_run
//! # use edgeway_echo::EchoPluginFactory as MyPlugin;
//! fn main() -> std::process::ExitCode {
//!     cloud_hub::Hub::builder().with_builtin_plugins().plugin::<MyPlugin>().run()
//! }
//! ```
//!
//! - [`config`] and [`registry`]: from a file to a value in which nothing is wrong; starts nothing.
//! - [`routes`]: which route a call takes; knows neither HTTP servers nor QUIC.
//! - `router`: a call's way through the hub; `nodes` and `sessions`: who is there to take it.
//! - `supervisor`: plugins at run time. [`Hub`] and [`RunningHub`] put it all together.
//!
//! It deliberately knows no HTTP server, no MQTT and no SMPP: those are plugins.

mod builtin;
mod command;
pub mod config;
mod hub;
mod metrics;
mod nodes;
pub mod registry;
mod router;
pub mod routes;
mod sessions;
mod supervisor;

pub use edgeway_host::Report;
pub use hub::{Hub, HubBuilder, RunningHub, StartError};
