//! What the hub's and the agent's processes have in common, and nothing that only one of them needs.
//!
//! - [`report`]: every problem of a config in one report, and the exit code that goes with it.
//! - [`yaml`]: from a file to a typed section, with all problems and their paths.
//! - [`units`]: durations and sizes as they are written in a config.
//! - [`settings`]: the sections that hub and agent write alike.
//! - [`command`]: the command line of a process.
//! - [`permits`]: bounds on what runs at once.
//! - [`admin`]: the listener for `/healthz`, `/readyz` and `/metrics`.
//! - [`logs`], [`signals`], [`runtime`]: how a process of ours logs, stops and runs its tasks.
//!
//! Plugins and connectors never import this crate.

pub mod admin;
pub mod command;
pub mod logs;
pub mod permits;
pub mod report;
pub mod runtime;
pub mod settings;
pub mod signals;
pub mod units;
pub mod yaml;

pub use logs::Chain;
pub use report::{BAD_CONFIG, Problem, Report};
