//! Where a subject runs: [`FakeHub`] and [`FakeAgent`] here, a real hub and a real agent for whoever implements
//! [`PluginWorld`] and [`ConnectorWorld`] with them.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{runtime::Handle, sync::watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    FakeEdge,
    verdict::{Promise, patience},
};
use crate::{
    Body, BoxFuture, BoxPipe, CallContext, ConfigError, Connector, ConnectorFactory, Destination, DynPlugin,
    Edge, Fault, Health, NodeSelector, NodeView, PluginContext, PluginError, PluginFactory, ServiceName,
};

/// The service that a world offers. A real one routes every call of the plugin under test to it.
pub const SERVICE: &str = "conformance";

/// Where the suite's pipes go.
pub(super) fn destination() -> Destination {
    let service = ServiceName::new(SERVICE).expect("a valid name");
    Destination { service, nodes: NodeSelector::default() }
}

/// Where a plugin runs: a hub, and behind it a service that a [`FakeEdge`] plays.
///
/// For a real hub and agent: `load` writes a config with the plugin's section and a route for all its calls to the
/// service [`SERVICE`]; the agent offers that with a [`FakeServiceFactory`](super::FakeServiceFactory).
pub trait PluginWorld: Sized + Send + Sync {
    /// Makes the world and builds the plugin from its section, starting nothing yet.
    ///
    /// # Errors
    /// What is wrong with the section.
    fn load(section: Value) -> impl Future<Output = Result<Self, String>> + Send;

    /// The service at the far end.
    fn edge(&self) -> &FakeEdge;

    /// Starts the plugin and waits until calls can pass. Called again after [`stop`](Self::stop) or
    /// [`abort`](Self::abort): on the same value of the plugin where the world can do that.
    ///
    /// # Errors
    /// How the plugin ended before it reported an address.
    fn start(&self) -> impl Future<Output = Result<SocketAddr, String>> + Send;

    /// Tells the plugin to stop, and waits until it has, however long that takes. The suite makes exchanges meanwhile.
    ///
    /// # Errors
    /// What the plugin failed with, or left behind.
    fn stop(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// Drops what the plugin runs, as a host does at the end of its patience, and waits until nothing of it is left.
    /// `None` if this world can't.
    fn abort(&self) -> impl Future<Output = Option<Result<(), String>>> + Send {
        async { None }
    }

    /// Cuts every call in flight as the loss of a session does, and returns when the next call can pass.
    fn restart(&self) -> impl Future<Output = ()> + Send;
}

/// A hub that hosts one plugin on a [`FakeEdge`].
pub struct FakeHub<F: PluginFactory> {
    plugin: Arc<F::Plugin>,
    edge: FakeEdge,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: CancellationToken,
    run: AbortOnDropHandle<Result<(), PluginError>>,
    /// Tasks of the runtime before the plugin was started.
    tasks_before: usize,
}

impl<F: PluginFactory> FakeHub<F> {
    fn take(&self) -> Option<Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<F: PluginFactory> fmt::Debug for FakeHub<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeHub").field("plugin", &F::NAME).finish_non_exhaustive()
    }
}

impl<F: PluginFactory> PluginWorld for FakeHub<F> {
    async fn load(section: Value) -> Result<Self, String> {
        let plugin = Arc::new(build(section, F::build)?);
        Ok(Self { plugin, edge: FakeEdge::echo(), running: Mutex::default() })
    }

    fn edge(&self) -> &FakeEdge {
        &self.edge
    }

    async fn start(&self) -> Result<SocketAddr, String> {
        let (bound, mut address) = watch::channel(None);
        let stop = CancellationToken::new();
        let on_bound = move |address| {
            bound.send_replace(Some(address));
        };
        let cx = PluginContext::new(F::NAME, Arc::new(self.edge.clone()), stop.clone(), on_bound);
        let tasks_before = Handle::current().metrics().num_alive_tasks();
        let run = self.plugin.clone().run(cx);
        let mut run = AbortOnDropHandle::new(tokio::spawn(run));
        let address = tokio::select! {
            biased; // a plugin that reported an address and then ended did start
            bound = address.wait_for(Option::is_some) => bound.map(|address| address.expect("waited for some")).ok(),
            ended = &mut run => return Err(format!("run {} before it called bound()", describe(&ended))),
        };
        let Some(address) = address else {
            return Err(format!("run {} before it called bound()", describe(&run.await)));
        };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { stop, run, tasks_before });
        Ok(address)
    }

    async fn stop(&self) -> Result<(), String> {
        let Running { stop, run, tasks_before } = self.take().ok_or("it was not started")?;
        if run.is_finished() {
            return Err(format!("run {} before it was told to stop", describe(&run.await)));
        }
        stop.cancel();
        match run.await {
            Ok(Ok(())) => no_task_left(tasks_before).await,
            ended => Err(format!("run {}", describe(&ended))),
        }
    }

    async fn abort(&self) -> Option<Result<(), String>> {
        let Some(Running { run, tasks_before, .. }) = self.take() else {
            return Some(Err("it was not started".into()));
        };
        run.abort();
        let _ = run.await;
        Some(no_task_left(tasks_before).await)
    }

    async fn restart(&self) {
        self.edge.lose_session();
    }
}

fn describe(ended: &Result<Result<(), PluginError>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "returned Ok".into(),
        Ok(Err(error)) => format!("failed: {error}"),
        Err(error) if error.is_panic() => "panicked".into(),
        Err(error) => format!("was lost: {error}"),
    }
}

/// Whether the runtime has no more tasks than `before`, soon.
async fn no_task_left(before: usize) -> Result<(), String> {
    let metrics = Handle::current().metrics();
    let gone = async {
        while metrics.num_alive_tasks() > before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    // Half, so that this message comes before that of whoever waits for us.
    let gone = tokio::time::timeout(patience() / 2, gone).await;
    gone.map_err(|_| format!("{} tasks outlive run", metrics.num_alive_tasks() - before))
}

/// Reads a section and builds from it as a host does, but on a thread without a runtime: who opens or spawns something
/// in `build` panics there.
fn build<C, T>(section: Value, build: fn(C) -> Result<T, ConfigError>) -> Result<T, String>
where
    C: DeserializeOwned + Send,
    T: Send,
{
    let on_its_own = || -> Result<T, String> {
        let config = serde_json::from_value(section).map_err(|error| error.to_string())?;
        build(config).map_err(|error| error.to_string())
    };
    let built = std::thread::scope(|scope| scope.spawn(on_its_own).join());
    built.unwrap_or_else(|_| {
        Promise("build opens nothing and spawns nothing").broken("it panicked without a runtime")
    })
}

/// Where a connector runs: an agent, and before it whoever calls.
///
/// For a real hub and agent: the agent offers the service [`SERVICE`] with the section; [`Tap`](super::Tap) is the
/// edge of the hub.
pub trait ConnectorWorld: Sized + Send + Sync {
    /// Makes the world with a connector built from its section, and waits until calls can pass.
    ///
    /// # Errors
    /// What is wrong with the section.
    fn load(section: Value) -> impl Future<Output = Result<Self, String>> + Send;

    /// Where calls and pipes to the connector go.
    fn edge(&self) -> Arc<dyn Edge>;

    /// What the connector says of its service; `None` if this world can't ask.
    fn probe(&self) -> impl Future<Output = Option<Health>> + Send;

    /// Ends the world.
    fn close(self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// An agent that hosts one connector and is called directly.
pub struct FakeAgent<F: ConnectorFactory> {
    connector: Arc<F::Connector>,
}

impl<F: ConnectorFactory> fmt::Debug for FakeAgent<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeAgent").field("connector", &F::NAME).finish_non_exhaustive()
    }
}

impl<F: ConnectorFactory> ConnectorWorld for FakeAgent<F> {
    async fn load(section: Value) -> Result<Self, String> {
        Ok(Self { connector: Arc::new(build(section, F::build)?) })
    }

    fn edge(&self) -> Arc<dyn Edge> {
        Arc::new(Direct(self.connector.clone()))
    }

    async fn probe(&self) -> Option<Health> {
        Some(self.connector.probe().await)
    }
}

/// An edge that is nothing but a connector.
struct Direct<C>(Arc<C>);

impl<C: Connector> Edge for Direct<C> {
    fn call(&self, request: Request<Body>, cx: CallContext) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
        Box::pin(self.0.call(request, cx))
    }

    fn open(&self, _to: Destination, cx: CallContext) -> BoxFuture<'_, Result<BoxPipe, Fault>> {
        Box::pin(self.0.open(cx))
    }

    fn nodes(&self, _to: &Destination) -> Vec<NodeView> {
        Vec::new()
    }
}
