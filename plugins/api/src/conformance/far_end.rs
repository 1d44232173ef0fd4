//! What a world made of a real hub and a real agent needs at the two ends of its tunnel: a connector behind which a
//! [`FakeEdge`] answers, and a plugin that hands out the hub's edge.
//!
//! Both are made from a config, as hosts make them, and find their test by a number in it.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{Request, Response};
use serde::Deserialize;
use tokio::sync::watch;

use super::{FakeEdge, world::destination};
use crate::{
    Body, BoxPipe, CallContext, ConfigError, Connector, ConnectorFactory, Edge, Fault, Plugin, PluginContext,
    PluginError, PluginFactory,
};

/// A connector behind which a [`FakeEdge`] answers: the service at the far end of a real tunnel, scripted and watched.
///
/// Register it with an agent, and give a service the section `fake: {edge: N}`, where N is [`FakeEdge::id`].
#[derive(Debug)]
pub struct FakeServiceFactory;

/// The section of a [`FakeServiceFactory`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FakeServiceConfig {
    /// [`FakeEdge::id`].
    pub edge: u64,
}

impl ConnectorFactory for FakeServiceFactory {
    const NAME: &'static str = "fake";
    type Config = FakeServiceConfig;
    type Connector = FakeService;

    fn build(config: FakeServiceConfig) -> Result<FakeService, ConfigError> {
        let edge = FakeEdge::of_id(config.edge).map(FakeService);
        edge.ok_or_else(|| ConfigError::at("edge", "no fake edge with this number lives"))
    }
}

/// The connector that a [`FakeServiceFactory`] makes.
#[derive(Debug, Clone)]
pub struct FakeService(FakeEdge);

impl Connector for FakeService {
    async fn call(&self, request: Request<Body>, cx: CallContext) -> Result<Response<Body>, Fault> {
        self.0.call(request, cx).await
    }

    async fn open(&self, cx: CallContext) -> Result<BoxPipe, Fault> {
        self.0.open(destination(), cx).await
    }
}

/// Hands out the edge of the hub in which it runs, so that a test can call a connector through a real tunnel.
///
/// Register [`TapFactory`] with a hub, configure the plugin as `tap: {id: N}`, where N is [`Tap::id`], and route its
/// calls; then [`edge`](Self::edge) is what a plugin of that hub has.
#[derive(Debug, Clone)]
pub struct Tap {
    shared: Arc<TapShared>,
}

struct TapShared {
    id: u64,
    edge: watch::Sender<Option<Arc<dyn Edge>>>,
}

impl std::fmt::Debug for TapShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapShared").field("id", &self.id).finish_non_exhaustive()
    }
}

static TAPS: LazyLock<Mutex<HashMap<u64, Weak<TapShared>>>> = LazyLock::new(Mutex::default);

impl Tap {
    /// A tap that no hub has opened yet.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(TapShared { id, edge: watch::Sender::new(None) });
        let mut taps = TAPS.lock().unwrap_or_else(PoisonError::into_inner);
        taps.retain(|_, tap| tap.strong_count() > 0);
        taps.insert(id, Arc::downgrade(&shared));
        Self { shared }
    }

    /// Its number, which a [`TapConfig`] names.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// The edge of the hub, as soon as the hub runs the plugin.
    ///
    /// # Panics
    /// After [`patience`](super::patience).
    pub async fn edge(&self) -> Arc<dyn Edge> {
        let mut edge = self.shared.edge.subscribe();
        let opened = tokio::time::timeout(super::patience(), edge.wait_for(Option::is_some)).await;
        match opened {
            Ok(Ok(edge)) => edge.clone().expect("waited for some"),
            _ => panic!("no hub ran the plugin 'tap' with id {}", self.id()),
        }
    }
}

impl Default for Tap {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the plugin of a [`Tap`].
#[derive(Debug)]
pub struct TapFactory;

/// The section of a [`TapFactory`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TapConfig {
    /// [`Tap::id`].
    pub id: u64,
}

impl PluginFactory for TapFactory {
    const NAME: &'static str = "tap";
    type Config = TapConfig;
    type Plugin = Tap;

    fn build(config: TapConfig) -> Result<Tap, ConfigError> {
        let taps = TAPS.lock().unwrap_or_else(PoisonError::into_inner);
        let tap = taps.get(&config.id).and_then(Weak::upgrade);
        tap.map(|shared| Tap { shared }).ok_or_else(|| ConfigError::at("id", "no tap with this number lives"))
    }
}

impl Plugin for Tap {
    async fn run(&self, cx: PluginContext) -> Result<(), PluginError> {
        self.shared.edge.send_replace(Some(cx.edge.clone()));
        cx.stop.cancelled().await;
        self.shared.edge.send_replace(None);
        Ok(())
    }
}
