//! A hub as a whole: built from plugins and a config, started, watched, shut down.
//!
//! ```text
//!   HubBuilder ─load─▶ Hub ─start─▶ RunningHub ─shutdown─▶ (nothing left)
//! ```
//!
//! Shutdown, in this order: not ready and no new calls; plugins stop and agents are told; running calls finish until the
//! drain's deadline; survivors are named in the log and cut; sessions are closed; every task is joined.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use edgeway_host::{
    Problem, Report,
    admin::{AdminError, AdminListener, AdminPages},
    logs::Chain,
    permits::Permits,
};
use edgeway_plugin::{HubName, NodeSelector, NodeView, PluginFactory};
use edgeway_tunnel::{
    identity::Identity,
    transport::{Budgets, Listener, TransportError},
};
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    builtin,
    config::HubConfig,
    metrics::{GaugeCollector, Gauges, HubMetrics},
    nodes::Nodes,
    registry::PluginRegistry,
    router::{PluginEdge, RouteState, Router},
    routes::RouteTable,
    sessions::Sessions,
    supervisor::{PluginState, Supervised},
};

/// How long the last packets of closed sessions get.
const LAST_PACKETS: Duration = Duration::from_secs(1);

/// Puts a hub together from plugins.
#[derive(Debug, Default)]
pub struct HubBuilder {
    plugins: PluginRegistry,
}

impl HubBuilder {
    /// Adds the plugins that come with Edgeway.
    #[must_use]
    pub fn with_builtin_plugins(mut self) -> Self {
        builtin::register(&mut self.plugins);
        self
    }

    /// Adds a plugin; it takes the place of one with the same name. It runs if the config has a section for it.
    #[must_use]
    pub fn plugin<F: PluginFactory>(mut self) -> Self {
        self.plugins.register::<F>();
        self
    }

    /// Reads and checks a config, certificates included. Starts nothing. Blocks on files.
    ///
    /// # Errors
    /// One report of all problems.
    pub fn load(self, file: &Path) -> Result<Hub, Report> {
        let config = HubConfig::load(file, &self.plugins)?;
        let loaded = Identity::load_hub(&config.identity.directory, &config.identity.trust_domain);
        let refused = |path: &str, message: String| Report::of(file, Problem::new(path, message));
        let (identity, name) =
            loaded.map_err(|error| refused("identity.directory", Chain(&error).to_string()))?;
        if let Some(wanted) = &config.name
            && *wanted != name
        {
            return Err(refused(
                "hub.name",
                format!("'{wanted}' is not the name in the certificate, '{name}'"),
            ));
        }
        Ok(Hub { config, identity: Arc::new(identity), name })
    }

    /// The whole command line of a hub: `run --config FILE`, `check --config FILE`. For `main`.
    pub fn run(self) -> ExitCode {
        edgeway_host::command::run(self)
    }
}

/// A hub that is configured and not started.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    identity: Arc<Identity>,
    name: HubName,
}

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The tunnel port.
    #[error("tunnel could not be opened")]
    Tunnel(#[from] TransportError),
    /// The admin port.
    #[error("admin listener could not be opened")]
    Admin(#[from] AdminError),
    /// The tunnel's socket has no address.
    #[error("tunnel has no address")]
    Address(#[from] std::io::Error),
    /// A plugin failed at its first start.
    #[error("plugin {plugin} failed: {why}")]
    Plugin {
        /// Which one.
        plugin: &'static str,
        /// Why, in one line.
        why: String,
    },
}

impl Hub {
    /// An empty hub: add plugins, then `run` or `load`.
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// Worker threads that the config asks for.
    pub fn workers(&self) -> usize {
        self.config.workers
    }

    /// Opens the ports and starts the plugins. Needs a tokio runtime; returns once every plugin runs.
    ///
    /// # Errors
    /// A port that can't be opened, or a plugin that fails at its first start; then nothing is left running.
    ///
    /// # Cancel safety
    /// Dropping the future stops what was started, without a drain.
    pub async fn start(self) -> Result<RunningHub, StartError> {
        let Self { config, identity, name } = self;
        let limits = &config.tunnel.limits;
        let budgets = Budgets {
            calls: u32::try_from(limits.calls_per_node).unwrap_or(u32::MAX),
            stream_window: limits.stream_window,
            keep_alive: config.tunnel.keep_alive.interval,
            idle_timeout: config.tunnel.keep_alive.idle_timeout,
            handshakes: limits.handshakes,
            mtu_discovery: config.tunnel.udp.mtu_discovery,
            gso: config.tunnel.udp.gso,
            deferred_drivers: config.workers > 1,
        };
        let listener = Arc::new(Listener::bind(config.tunnel.listen, identity, &budgets)?);
        let tunnel = listener.local_address()?;
        let admin = match config.admin {
            Some(address) => Some(AdminListener::bind(address).await?),
            None => None,
        };

        let metrics = Arc::new(HubMetrics::default());
        let nodes = Arc::new(Nodes::default());
        let routes = RouteTable::compile(config.routes, |route| {
            RouteState::new(&metrics, &route.plugin, route.name.as_str(), route.limits.calls)
        })
        .expect("the config was checked for collisions");
        let router = Arc::new(Router::new(nodes.clone(), routes, limits.heads, metrics.clone()));
        let plugins: Vec<_> = config
            .plugins
            .iter()
            .map(|configured| {
                let edge =
                    PluginEdge::new(configured.name, router.clone(), limits.calls_per_plugin, &metrics);
                Supervised::new(Arc::new(edge), configured.plugin.clone())
            })
            .collect();
        let sessions = Arc::new(Sessions {
            nodes: nodes.clone(),
            metrics: metrics.clone(),
            hub: name.clone(),
            calls_per_node: limits.calls_per_node,
            limit: limits.sessions,
            count: AtomicUsize::new(0),
            stop: CancellationToken::new(),
            closing: CancellationToken::new(),
        });

        let shared = Arc::new(Shared {
            nodes,
            router,
            plugins,
            sessions: sessions.clone(),
            listener: listener.clone(),
        });
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        registry.register_collector(Box::new(GaugeCollector(shared.clone())));

        let mut running = RunningHub {
            shared: shared.clone(),
            tunnel,
            admin: admin.as_ref().map(AdminListener::address),
            name,
            drain: config.drain,
            stop_plugins: CancellationToken::new(),
            stop_admin: CancellationToken::new(),
            plugin_tasks: JoinSet::new(),
            admin_tasks: JoinSet::new(),
            session_tasks: TaskTracker::new(),
        };
        if let Some(admin) = admin {
            info!(address = %admin.address(), "admin pages");
            let pages = AdminPages::new(move || shared.not_ready(), Arc::new(registry));
            running.admin_tasks.spawn(admin.serve(pages, running.stop_admin.clone()));
        }
        running.session_tasks.spawn(sessions.accept(listener, running.session_tasks.clone()));
        for plugin in &running.shared.plugins {
            running.plugin_tasks.spawn(plugin.clone().run(running.stop_plugins.clone(), metrics.clone()));
        }
        info!(hub = %running.name, address = %tunnel, "tunnel open");
        if let Err(error) = running.plugins_started().await {
            running.drain = Duration::ZERO;
            running.shutdown().await;
            return Err(error);
        }
        Ok(running)
    }
}

/// What the tasks of a hub share.
struct Shared {
    nodes: Arc<Nodes>,
    router: Arc<Router>,
    plugins: Vec<Arc<Supervised>>,
    sessions: Arc<Sessions>,
    listener: Arc<Listener>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn not_ready(&self) -> Vec<String> {
        let draining =
            self.router.draining.load(Ordering::Acquire).then(|| "the hub is shutting down".to_owned());
        draining.into_iter().chain(self.plugins.iter().filter_map(|plugin| plugin.not_ready())).collect()
    }
}

impl Gauges for Shared {
    fn sessions(&self) -> usize {
        self.sessions.count.load(Ordering::Acquire)
    }

    fn handshakes(&self) -> usize {
        self.listener.handshakes()
    }

    fn nodes(&self) -> usize {
        self.nodes.select(&NodeSelector::default()).len()
    }

    fn permits(&self) -> Vec<(&'static str, String, Permits)> {
        let plugins = self
            .plugins
            .iter()
            .map(|plugin| ("plugin", plugin.name().to_owned(), plugin.edge.permits().clone()));
        let routes = self.router.routes.load();
        let routes = routes.routes();
        let routes = routes.map(|route| ("route", route.name.to_string(), route.state.permits().clone()));
        let nodes = self.nodes.sessions().into_iter();
        let nodes = nodes.map(|(name, session)| ("node", name.to_string(), session.permits.clone()));
        plugins.chain(routes).chain(nodes).collect()
    }
}

/// A hub that runs. Dropped without [`shutdown`](Self::shutdown), it stops at once.
pub struct RunningHub {
    shared: Arc<Shared>,
    tunnel: SocketAddr,
    admin: Option<SocketAddr>,
    name: HubName,
    drain: Duration,
    stop_plugins: CancellationToken,
    stop_admin: CancellationToken,
    plugin_tasks: JoinSet<()>,
    admin_tasks: JoinSet<()>,
    session_tasks: TaskTracker,
}

impl RunningHub {
    /// Where agents dial.
    pub fn tunnel_address(&self) -> SocketAddr {
        self.tunnel
    }

    /// Where the admin pages are, if the config wants any.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where a plugin listens now; nothing for a plugin that does not run.
    pub fn plugin_addresses(&self, plugin: &str) -> Vec<SocketAddr> {
        let plugin = self.shared.plugins.iter().find(|supervised| supervised.name() == plugin);
        plugin.map(|plugin| plugin.addresses()).unwrap_or_default()
    }

    /// All nodes that have been connected since the start.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.shared.nodes.select(&NodeSelector::default()).iter().map(|node| node.view()).collect()
    }

    /// Why the hub is not ready; nothing if it is.
    pub fn not_ready(&self) -> Vec<String> {
        self.shared.not_ready()
    }

    async fn plugins_started(&self) -> Result<(), StartError> {
        for plugin in &self.shared.plugins {
            let mut state = plugin.state();
            let settled = state.wait_for(|state| *state != PluginState::Starting).await;
            if let Ok(state) = settled
                && let PluginState::Failed(why) = &*state
            {
                return Err(StartError::Plugin { plugin: plugin.name(), why: why.clone() });
            }
        }
        Ok(())
    }

    /// Drains and stops. Returns when no task of the hub is left.
    ///
    /// # Cancel safety
    /// Dropping the future stops at once what is left.
    pub async fn shutdown(mut self) {
        let deadline = tokio::time::Instant::now() + self.drain;
        self.shared.router.draining.store(true, Ordering::Release);
        self.shared.sessions.stop.cancel();
        self.stop_plugins.cancel();
        for (_, session) in self.shared.nodes.sessions() {
            session.drain.cancel();
        }
        info!(limit_s = self.drain.as_secs(), "draining");
        let drained = tokio::time::timeout_at(deadline, async {
            while self.plugin_tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            for (scope, name, permits) in self.shared.permits() {
                if permits.in_use() > 0 && scope != "plugin" {
                    warn!(scope, name, calls = permits.in_use(), "cut at the end of the drain");
                }
            }
        }
        self.plugin_tasks.shutdown().await;
        self.shared.sessions.closing.cancel();
        self.session_tasks.close();
        self.session_tasks.wait().await;
        self.shared.listener.close();
        let _ = tokio::time::timeout(LAST_PACKETS, self.shared.listener.wait_idle()).await;
        self.stop_admin.cancel();
        while self.admin_tasks.join_next().await.is_some() {}
    }
}

impl Drop for RunningHub {
    fn drop(&mut self) {
        self.shared.sessions.stop.cancel();
        self.stop_plugins.cancel();
        self.stop_admin.cancel();
        self.shared.sessions.closing.cancel();
    }
}

impl fmt::Debug for RunningHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningHub")
            .field("name", &self.name)
            .field("tunnel", &self.tunnel)
            .finish_non_exhaustive()
    }
}
