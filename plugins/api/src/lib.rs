//! What a plugin of the hub or a connector of the agent implements, and nothing else.
//!
//! A **plugin** is one way into the tunnel: it listens for its own kind of event in the cloud and turns each into a call
//! on [`Edge`]. A **connector** is the other end: on the node, it talks to one kind of local service. Implement
//! [`Plugin`] and [`PluginFactory`], or [`Connector`] and [`ConnectorFactory`], then run the conformance suite (feature
//! `conformance`) from your tests. `plugins/echo` is the smallest of both. Feature `tower` leads from and to
//! `tower::Service`.
//!
//! The host (hub or agent) owns limits, deadlines, metrics, routes and restarts; authors own their protocol. What the
//! host guarantees:
//!
//! - [`PluginFactory::build`] is called once for each section of the config, before anything is started.
//! - [`Plugin::run`] is called once after all plugins were built. If it ends before [`PluginContext::stop`] fires, that
//!   is a failure: it is reported and, after a back-off, `run` is called again on the same value.
//! - A call that is dropped is cancelled: the stream is reset, and the future of [`Connector::call`] is dropped.
//! - A body that ends with `Some(Err(_))` was cut. It is never to be passed on as complete.
//! - A panic is a fault of that call (or a restart of that plugin), never the end of the process.

mod body;
#[cfg(feature = "conformance")]
pub mod conformance;
mod connector;
mod context;
mod edge;
mod plugin;
#[cfg(feature = "tower")]
pub mod tower;
pub mod units;

use std::{future::Future, pin::Pin};

pub use body::Body;
pub use connector::{Connector, ConnectorFactory, DynConnector};
pub use context::{CallContext, PluginContext};
pub use edge::{BoxPipe, Destination, Edge, NodeSelector, NodeView, Pipe};
pub use edgeway_proto::{Fault, FaultCode, HubName, Leg, NameError, NodeName, RouteName, ServiceName};
pub use http::{Request, Response};
pub use plugin::{ConfigError, DynPlugin, Health, Plugin, PluginError, PluginFactory};

/// A boxed future that may borrow.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
