//! An agent as a whole: built from connectors and a config, started, watched, shut down.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use edgeway_host::{
    Problem, Report,
    admin::{AdminError, AdminListener, AdminPages},
    logs::Chain,
    permits::Permits,
};
use edgeway_plugin::{ConnectorFactory, NodeName};
use edgeway_proto::wire;
use edgeway_tunnel::{identity::Identity, transport::Budgets};
use prometheus_client::registry::Registry;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    builtin,
    config::AgentConfig,
    dispatch::{Dispatch, Service},
    metrics::{AgentMetrics, PermitCollector},
    registry::ConnectorRegistry,
    uplink::{Backoff, Uplink, UplinkState},
};

/// Puts an agent together from connectors.
#[derive(Debug, Default)]
pub struct AgentBuilder {
    connectors: ConnectorRegistry,
}

impl AgentBuilder {
    /// Adds the connectors that come with Edgeway.
    #[must_use]
    pub fn with_builtin_connectors(mut self) -> Self {
        builtin::register(&mut self.connectors);
        self
    }

    /// Adds a connector; it takes the place of one with the same name.
    #[must_use]
    pub fn connector<F: ConnectorFactory>(mut self) -> Self {
        self.connectors.register::<F>();
        self
    }

    /// Reads and checks a config, certificates included. Starts nothing. Blocks on files.
    ///
    /// # Errors
    /// One report of all problems.
    pub fn load(self, file: &Path) -> Result<Agent, Report> {
        let config = AgentConfig::load(file, &self.connectors)?;
        let loaded = Identity::load_node(&config.identity.directory, &config.identity.trust_domain);
        let refused = |path: &str, message: String| Report::of(file, Problem::new(path, message));
        let (identity, name) =
            loaded.map_err(|error| refused("identity.directory", Chain(&error).to_string()))?;
        if let Some(wanted) = &config.node.name
            && *wanted != name
        {
            let message = format!("'{wanted}' is not the name in the certificate, '{name}'");
            return Err(refused("node.name", message));
        }
        Ok(Agent { config, identity: Arc::new(identity), name })
    }

    /// The whole command line of an agent: `run --config FILE`, `check --config FILE`. For `main`.
    pub fn run(self) -> ExitCode {
        edgeway_host::command::run(self)
    }
}

/// An agent that is configured and not started.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    identity: Arc<Identity>,
    name: NodeName,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The admin port.
    #[error("admin listener could not be opened")]
    Admin(#[from] AdminError),
}

impl Agent {
    /// An agent without connectors: add some, then `run` or `load`.
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    /// Opens the admin port and starts to dial. Needs a tokio runtime. Does not wait for a session.
    ///
    /// # Errors
    /// The admin port can't be opened.
    ///
    /// # Cancel safety
    /// Dropping the future stops what was started.
    pub async fn start(self) -> Result<RunningAgent, StartError> {
        let Self { config, identity, name } = self;
        let admin = match config.admin {
            Some(address) => Some(AdminListener::bind(address).await?),
            None => None,
        };
        let metrics = Arc::new(AgentMetrics::default());
        let of_agent = Permits::new(config.limits.calls);
        let mut gauges = vec![("agent", String::new(), of_agent.clone())];
        let mut services = BTreeMap::new();
        for service in config.services {
            let permits = Permits::new(config.limits.calls_per_service);
            gauges.push(("service", service.name.to_string(), permits.clone()));
            let counters = metrics.service(service.name.as_str());
            let connector = service.connector;
            services.insert(service.name, Service { connector, kind: service.kind, permits, counters });
        }
        let hello = wire::Hello {
            labels: config.node.labels.clone(),
            services: services
                .iter()
                .map(|(name, service)| wire::Service { name: name.to_string(), kind: service.kind.into() })
                .collect(),
            max_calls: u32::try_from(config.limits.calls).unwrap_or(u32::MAX),
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        let budgets = Budgets {
            calls: hello.max_calls,
            stream_window: config.limits.stream_window,
            keep_alive: config.uplink.keep_alive.interval,
            idle_timeout: config.uplink.keep_alive.idle_timeout,
            mtu_discovery: config.udp.mtu_discovery,
            gso: config.udp.gso,
            ..Budgets::default()
        };
        let dispatch = Arc::new(Dispatch {
            services,
            permits: of_agent,
            limits: config.limits.heads,
            draining: AtomicBool::new(false),
            metrics: metrics.clone(),
        });
        let (state, watched) = watch::channel(UplinkState::Connecting(None));
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        registry.register_collector(Box::new(PermitCollector(gauges)));

        let stop = CancellationToken::new();
        let stop_admin = CancellationToken::new();
        let mut admin_tasks = JoinSet::new();
        let admin_address = admin.as_ref().map(AdminListener::address);
        if let Some(admin) = admin {
            info!(address = %admin.address(), "admin pages");
            let watched = watched.clone();
            let stopping = stop.clone();
            let pages = AdminPages::new(move || not_ready(&watched, &stopping), Arc::new(registry));
            admin_tasks.spawn(admin.serve(pages, stop_admin.clone()));
        }
        info!(node = %name, services = dispatch.services.len(), "agent started");
        let uplink = Uplink {
            identity,
            budgets,
            hubs: config.hubs,
            backoff: Backoff::new(config.uplink.backoff_min, config.uplink.backoff_max),
            hello,
            dispatch,
            metrics,
            drain: config.drain,
            state,
        };
        let uplink = tokio::spawn(uplink.run(stop.clone()));
        Ok(RunningAgent { admin: admin_address, state: watched, stop, stop_admin, uplink, admin_tasks })
    }
}

fn not_ready(state: &watch::Receiver<UplinkState>, stopping: &CancellationToken) -> Vec<String> {
    if stopping.is_cancelled() {
        return vec!["the agent is shutting down".into()];
    }
    match &*state.borrow() {
        UplinkState::Connected(_) => Vec::new(),
        UplinkState::Connecting(None) => vec!["connecting to a hub".into()],
        UplinkState::Connecting(Some(why)) => vec![format!("no session with a hub: {why}")],
        UplinkState::Stopped => vec!["the agent has stopped".into()],
    }
}

/// An agent that runs. Dropped without [`shutdown`](Self::shutdown), it stops at once.
pub struct RunningAgent {
    admin: Option<SocketAddr>,
    state: watch::Receiver<UplinkState>,
    stop: CancellationToken,
    stop_admin: CancellationToken,
    uplink: JoinHandle<()>,
    admin_tasks: JoinSet<()>,
}

impl RunningAgent {
    /// Where the admin pages are, if the config wants any.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Whether a session lives now.
    pub fn is_connected(&self) -> bool {
        matches!(*self.state.borrow(), UplinkState::Connected(_))
    }

    /// Waits until a session lives.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn wait_connected(&self) {
        let mut state = self.state.clone();
        // An error means that the uplink is gone, as after a shutdown: then there is nothing to wait for.
        let _ =
            state.wait_for(|state| matches!(state, UplinkState::Connected(_) | UplinkState::Stopped)).await;
    }

    /// Waits until no session lives.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub async fn wait_disconnected(&self) {
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| !matches!(state, UplinkState::Connected(_))).await;
    }

    /// Drains and stops: the hub is told, running calls finish until the deadline. Returns when no task is left.
    ///
    /// # Cancel safety
    /// Dropping the future stops at once what is left.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        let _ = (&mut self.uplink).await;
        self.stop_admin.cancel();
        while self.admin_tasks.join_next().await.is_some() {}
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.stop_admin.cancel();
        self.uplink.abort();
    }
}

impl fmt::Debug for RunningAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningAgent").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}
