//! What a plugin may do with the edge.

use std::{collections::BTreeMap, time::SystemTime};

use edgeway_proto::{Fault, NodeName, ServiceName};
use http::{Request, Response};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Body, BoxFuture, CallContext};

/// The edge, seen from a plugin. `PluginContext::edge` is this; tests hand in a fake.
pub trait Edge: Send + Sync {
    /// Sends a request to the service that the plugin's routes name for it, and returns the answer as its head arrives.
    ///
    /// Routes match the `host` header, the method and the path of the URI, which is passed on raw. For an upgrade (a
    /// request with `connection: upgrade`) the request's body yields what the caller sends after the switch, and the
    /// body of a `101` answer what the service sends. With `expect: 100-continue` the request's body is first polled
    /// when the service wants it.
    ///
    /// # Errors
    /// Every fault of the table in `edgeway_proto::fault`. The answer's body ends with a fault where it was cut.
    ///
    /// # Cancel safety
    /// Dropping the future, or the answer's body before its end, resets the stream and cancels the call at the service.
    fn call(&self, request: Request<Body>, cx: CallContext) -> BoxFuture<'_, Result<Response<Body>, Fault>>;

    /// Opens raw bytes both ways to a service.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// # Cancel safety
    /// Dropping the future or the pipe resets the stream; `shutdown` on the pipe ends its writing half cleanly.
    fn open(&self, to: Destination, cx: CallContext) -> BoxFuture<'_, Result<BoxPipe, Fault>>;

    /// The nodes that a destination selects now, for plugins that balance on their own. Reads memory only.
    fn nodes(&self, to: &Destination) -> Vec<NodeView>;
}

/// Raw bytes both ways.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> Pipe for T {}

/// A boxed [`Pipe`].
pub type BoxPipe = Box<dyn Pipe>;

/// A service and the nodes on which to look for it; the `to` of a plugin's own config.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// The service, as agents name it.
    pub service: ServiceName,
    /// Which nodes; all of them where absent.
    #[serde(default)]
    pub nodes: NodeSelector,
}

/// Which nodes. Both conditions must hold; none selects every node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSelector {
    /// This one node.
    pub name: Option<NodeName>,
    /// Nodes that carry all of these labels.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// A node as the hub sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeView {
    /// Its name, from its certificate.
    pub name: NodeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it has a session now.
    pub connected: bool,
    /// Since when it is connected, or offline.
    pub since: SystemTime,
    /// The services that it offers.
    pub services: Vec<ServiceName>,
    /// Calls in flight to it.
    pub in_flight: usize,
}

impl NodeView {
    /// A view; fields are public, and more may come.
    pub fn new(name: NodeName, since: SystemTime) -> Self {
        Self { name, labels: BTreeMap::new(), connected: true, since, services: Vec::new(), in_flight: 0 }
    }
}
