//! Connectors: how an agent talks to one kind of local service.

use std::future::Future;

use edgeway_proto::Fault;
use http::{Request, Response};
use serde::de::DeserializeOwned;

use crate::{Body, BoxFuture, BoxPipe, CallContext, ConfigError, Health};

/// The agent's side: talks to one local service.
///
/// The host bounds calls in flight, enforces the deadline and turns a panic into a fault; a connector only connects.
pub trait Connector: Send + Sync + 'static {
    /// Hands one request to the service and returns its answer as its head arrives. The contract of bodies, upgrades and
    /// `expect: 100-continue` is that of [`Edge::call`](crate::Edge::call), seen from the other end: the first poll of
    /// the request's body is what tells the caller to go on.
    ///
    /// # Errors
    /// [`ServiceRefused`](crate::FaultCode::ServiceRefused) if no connection came to be,
    /// [`ServiceReset`](crate::FaultCode::ServiceReset) if it broke off or spoke nonsense. A service's own error status is
    /// an answer, not a fault.
    ///
    /// # Cancel safety
    /// The future, or the answer's body, is dropped when the caller leaves: the service must see that, too.
    fn call(
        &self,
        request: Request<Body>,
        cx: CallContext,
    ) -> impl Future<Output = Result<Response<Body>, Fault>> + Send;

    /// Opens raw bytes both ways.
    ///
    /// # Errors
    /// As [`call`](Self::call); [`Unsupported`](crate::FaultCode::Unsupported) where the connector has no such thing.
    fn open(&self, cx: CallContext) -> impl Future<Output = Result<BoxPipe, Fault>> + Send {
        let _ = cx;
        async { Err(Fault::unsupported()) }
    }

    /// Whether the service is there. Bounded in time by the host.
    fn probe(&self) -> impl Future<Output = Health> + Send {
        async { Health::Ready }
    }
}

/// Makes a connector from a service's section of the agent's config.
pub trait ConnectorFactory: Send + Sync + 'static {
    /// The key of its section within a service.
    const NAME: &'static str;
    /// Its section. Use `#[serde(rename_all = "camelCase", deny_unknown_fields)]`.
    type Config: DeserializeOwned + Send;
    /// What is made.
    type Connector: Connector;

    /// Checks the section and makes the connector. Connects to nothing, spawns nothing; the only I/O allowed is to read
    /// files that the section names.
    ///
    /// # Errors
    /// Every problem that was found, each with its path within the section.
    fn build(config: Self::Config) -> Result<Self::Connector, ConfigError>;
}

/// The boxed twin of [`Connector`], for the host's table. Authors write [`Connector`].
pub trait DynConnector: Send + Sync + 'static {
    /// [`Connector::call`].
    fn call(&self, request: Request<Body>, cx: CallContext) -> BoxFuture<'_, Result<Response<Body>, Fault>>;
    /// [`Connector::open`].
    fn open(&self, cx: CallContext) -> BoxFuture<'_, Result<BoxPipe, Fault>>;
    /// [`Connector::probe`].
    fn probe(&self) -> BoxFuture<'_, Health>;
}

impl<C: Connector> DynConnector for C {
    fn call(&self, request: Request<Body>, cx: CallContext) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
        Box::pin(Connector::call(self, request, cx))
    }

    fn open(&self, cx: CallContext) -> BoxFuture<'_, Result<BoxPipe, Fault>> {
        Box::pin(Connector::open(self, cx))
    }

    fn probe(&self) -> BoxFuture<'_, Health> {
        Box::pin(Connector::probe(self))
    }
}
