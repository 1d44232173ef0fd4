//! What travels beside a request, and what a running plugin is given.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_proto::ServiceName;
use tokio_util::sync::CancellationToken;

use crate::Edge;

/// What travels beside a request. A plugin fills in what it knows, the host the rest; a connector finds all of it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CallContext {
    /// Unique within the hub. Set by the host.
    pub id: u64,
    /// The call on whose behalf this one is made, 0 for none.
    pub parent: u64,
    /// The plugin that made the call. Set by the host.
    pub plugin: Arc<str>,
    /// The route that was matched. Set by the host.
    pub route: Arc<str>,
    /// The service that is called. Set by the host.
    pub service: Option<ServiceName>,
    /// When the answer's head must be there. The host takes the earlier of this and the route's own limit; what is left
    /// of it travels with the call.
    pub deadline: Option<Instant>,
    /// 0 is ordinary; higher is sent first.
    pub priority: u32,
}

impl CallContext {
    /// A context with nothing set, as a plugin starts with.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with a deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The time left, `None` for no deadline, zero once it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// What a running plugin is given. Cheap to clone into tasks; the plugin joins every task before its `run` returns.
#[derive(Clone)]
#[non_exhaustive]
pub struct PluginContext {
    /// The plugin's name, as in the config.
    pub name: Arc<str>,
    /// The way to the edge.
    pub edge: Arc<dyn Edge>,
    /// Fires when the hub shuts down: take nothing new, finish what runs, return. The host drops the future at its own
    /// deadline.
    pub stop: CancellationToken,
    bound: Arc<dyn Fn(SocketAddr) + Send + Sync>,
}

impl PluginContext {
    /// A context. The host makes it; tests may.
    pub fn new(
        name: impl Into<Arc<str>>,
        edge: Arc<dyn Edge>,
        stop: CancellationToken,
        bound: impl Fn(SocketAddr) + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), edge, stop, bound: Arc::new(bound) }
    }

    /// Tells the host that the plugin now listens on `address`. Call it once for each listener, with the real port: the
    /// host logs it, shows it to operators, and counts the plugin as ready.
    pub fn bound(&self, address: SocketAddr) {
        (self.bound)(address);
    }
}

impl fmt::Debug for PluginContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginContext").field("name", &self.name).finish_non_exhaustive()
    }
}
