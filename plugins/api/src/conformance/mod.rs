//! What authors run in their tests: fakes of the other side, and a suite of promises that every plugin and every
//! connector keeps.
//!
//! Three things are here:
//!
//! - [`FakeEdge`]: an [`Edge`](crate::Edge) that a test scripts and watches. Good for unit tests, too.
//! - [`plugin()`]: one call that holds a plugin to the promises of [`Plugin`](crate::Plugin). The author supplies its
//!   config and a [`Driver`], which makes one exchange through the plugin from outside.
//! - [`connector()`]: one call that holds a connector to the promises of [`Connector`](crate::Connector). The author
//!   supplies a [`LocalService`] of the kind that the connector talks to.
//!
//! A promise that is not kept is a panic whose message begins with the promise; so is one that is not kept in time
//! ([`patience`]). Both suites return a [`Verdict`] that lists what was checked and what could not be, so that a test
//! can insist on all of it. Run each suite in a test of its own: it counts the tasks of its runtime.
//!
//! Where a subject runs is a world of its own ([`PluginWorld`], [`ConnectorWorld`]): here that is [`FakeHub`] or
//! [`FakeAgent`], and the same promises can be asked of a real hub and agent by whoever implements the two traits for them.
//! [`FakeServiceFactory`] and [`TapFactory`] are what such a world needs at the far end of its tunnel.
//!
//! Nothing here is for production: records of calls are kept for as long as the fake lives.

mod connector;
mod fake;
mod far_end;
mod feed;
mod local;
mod plugin;
mod record;
mod script;
#[cfg(test)]
mod tests;
mod verdict;
mod world;

pub use connector::{connector, connector_in};
pub use fake::FakeEdge;
pub use far_end::{FakeService, FakeServiceConfig, FakeServiceFactory, Tap, TapConfig, TapFactory};
pub use feed::{Feeder, feed};
pub use local::{LocalService, ServiceBehaviour, StartedService, Tally, TallyEntry};
pub use plugin::{Driver, Outcome, plugin, plugin_in};
pub use record::{Call, End, Progress};
pub use script::Behaviour;
/// What sections are given as, so that a test needs no dependency of its own for it.
pub use serde_json::{Value, json};
pub use verdict::{Verdict, patience, with_patience};
pub use world::{ConnectorWorld, FakeAgent, FakeHub, PluginWorld, SERVICE};
