//! The plugin on a fake edge, called through real sockets: by raw bytes where a well-behaved caller could not, else by
//! hyper's own client.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod bad_input;
mod bodies;
mod config;
mod http2;
mod lifecycle;
mod passing;
mod promises;
mod support;
mod upgrades;
