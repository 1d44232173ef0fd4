//! End to end: real hubs and agents, real partners, and what was promised of them. Tests are named for the promise; the
//! letters and numbers in module docs are those of the requirements.

#![allow(missing_docs)]

mod balance;
mod calls;
mod commands;
mod ends;
mod faults;
mod isolation;
mod partners;
mod raw;
mod relay;
mod requests;
mod service;
mod sessions;
mod streaming;
mod targets;
mod wire;
mod world;
