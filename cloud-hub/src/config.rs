//! The hub's config: from `hub.yaml` to a value in which nothing can be wrong any more.
//!
//! [`HubConfig::load`] reads and checks everything in one step and starts nothing. Every field, its unit, its default
//! and what its absence does stand here and in [`route`]; the words are camelCase in the file.

pub mod route;

use std::{
    collections::HashMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use edgeway_host::{
    Problem, Report,
    report::join,
    settings::{
        AdminSection, Identity, IdentitySection, KeepAlive, RuntimeSection, Udp, count, head_limits,
        stream_window,
    },
    units::{Period, PeriodOrZero, Size},
    yaml::{self, Document},
};
use edgeway_plugin::{DynPlugin, HubName};
use edgeway_proto::head::HeadLimits;
use serde::Deserialize;
use serde_yaml::Value;

pub use self::route::{Balance, RouteConfig, RouteLimits, RouteMatch, RouteTarget, RouteTimeouts, Word};
use crate::{registry::PluginRegistry, routes};

/// The `kind` of a hub's config.
pub const KIND: &str = "HubConfig";

/// Files of a hub's identity directory: the CA's certificate, the hub's own, and its key.
pub const IDENTITY_FILES: [&str; 3] = ["ca.crt", "hub.crt", "hub.key"];

/// Where the tunnel listens where the config says nothing: every address, UDP port 7443.
pub const DEFAULT_TUNNEL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7443);

/// Where the admin pages are where the config says nothing.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);

/// How long running calls may take after a stop where the config says nothing.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// Sections of the file, besides `apiVersion` and `kind`.
const SECTIONS: [&str; 8] = ["hub", "tunnel", "identity", "admin", "plugins", "routes", "drain", "runtime"];

/// A hub's config, valid as a whole.
#[derive(Debug)]
pub struct HubConfig {
    /// `hub.name`: if given, it must be the name in the hub's certificate.
    pub name: Option<HubName>,
    /// `tunnel`.
    pub tunnel: TunnelConfig,
    /// `identity`. Required.
    pub identity: Identity,
    /// `admin.listen` (127.0.0.1:7480), `None` if `admin.enabled` is false.
    pub admin: Option<SocketAddr>,
    /// `plugins`, in the order of the file, made but not started. None where absent.
    pub plugins: Vec<ConfiguredPlugin>,
    /// `routes`, in the order of the file; no two of them collide. None where absent.
    pub routes: Vec<RouteConfig>,
    /// `drain`: how long running calls may take after a stop (30 s); `0s` cuts them at once.
    pub drain: Duration,
    /// `runtime.workers`: threads that run the hub (1 on machines of up to two processors, else one for each).
    pub workers: usize,
}

/// `tunnel`, valid.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// `listen`: where agents dial (0.0.0.0:7443).
    pub listen: SocketAddr,
    /// `keepAlive` (5 s) and `idleTimeout` (15 s).
    pub keep_alive: KeepAlive,
    /// `limits`.
    pub limits: TunnelLimits,
    /// `udp`.
    pub udp: Udp,
}

/// `tunnel.limits`, valid. At each the caller, or agent, gets an answer at once.
#[derive(Debug, Clone)]
pub struct TunnelLimits {
    /// `callsPerNode`: calls in flight to one node (1024).
    pub calls_per_node: usize,
    /// `callsPerPlugin`: calls in flight of one plugin, to all nodes together (8192).
    pub calls_per_plugin: usize,
    /// `streamWindow`: bytes of one call on their way from a node (512KiB).
    pub stream_window: u32,
    /// `handshakes`: handshakes in progress (256).
    pub handshakes: usize,
    /// `sessions`: nodes connected at once (10000).
    pub sessions: usize,
    /// `headerCount` (128) and `headerBytes` (64KiB) of a head that comes from a node.
    pub heads: HeadLimits,
}

/// A plugin that the config asks for.
#[derive(Clone)]
pub struct ConfiguredPlugin {
    /// Its name, which routes use.
    pub name: &'static str,
    /// The plugin, not started.
    pub plugin: Arc<dyn DynPlugin>,
}

impl fmt::Debug for ConfiguredPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfiguredPlugin").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct HubSection {
    name: Option<HubName>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct TunnelSection {
    listen: Option<SocketAddr>,
    keep_alive: Option<Period>,
    idle_timeout: Option<Period>,
    limits: TunnelLimitsSection,
    udp: Udp,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct TunnelLimitsSection {
    calls_per_node: Option<usize>,
    calls_per_plugin: Option<usize>,
    stream_window: Option<Size>,
    handshakes: Option<usize>,
    sessions: Option<usize>,
    header_count: Option<usize>,
    header_bytes: Option<Size>,
}

impl HubConfig {
    /// Reads and checks a config, and makes its plugins. Starts nothing and opens no socket.
    ///
    /// Blocks: call it before the runtime starts.
    ///
    /// # Errors
    /// One report of all problems.
    pub fn load(file: &Path, plugins: &PluginRegistry) -> Result<Self, Report> {
        let mut document = yaml::read_document(file, KIND)?;
        let config = Self::validate(&mut document, plugins);
        Report::or(file, document.problems, config)
    }

    fn validate(document: &mut Document, registry: &PluginRegistry) -> Option<Self> {
        let hub: Option<HubSection> = document.section("hub");
        let tunnel: Option<TunnelSection> = document.section("tunnel");
        let identity: Option<IdentitySection> = document.section("identity");
        let admin: Option<AdminSection> = document.section("admin");
        let runtime: Option<RuntimeSection> = document.section("runtime");
        let drain: Option<Option<PeriodOrZero>> = document.field("drain");
        let (plugin_sections, raw_routes) =
            (document.take("plugins"), document.content.shift_remove("routes"));
        document.finish(&SECTIONS);

        let problems = &mut document.problems;
        let tunnel = tunnel.map(|tunnel| tunnel.validate(problems));
        let identity =
            identity.map(|identity| identity.validate(&document.folder, &IDENTITY_FILES, problems));
        let admin = admin.map(|admin| admin.validate(DEFAULT_ADMIN, problems));
        let workers = runtime.map(|runtime| runtime.validate(problems));
        let (names, plugins) = build_plugins(plugin_sections, registry, problems);
        let routes = validate_routes(raw_routes, &names, problems);
        Some(Self {
            name: hub?.name,
            tunnel: tunnel?,
            identity: identity?,
            admin: admin?,
            plugins,
            routes,
            drain: drain?.map_or(DEFAULT_DRAIN, |drain| drain.0),
            workers: workers?,
        })
    }
}

impl TunnelSection {
    fn validate(self, problems: &mut Vec<Problem>) -> TunnelConfig {
        let at = "tunnel.limits";
        let limits = self.limits;
        let mut counted = |field, value, default| count(&join(at, field), value, default, problems);
        let calls_per_node = counted("callsPerNode", limits.calls_per_node, 1024);
        let calls_per_plugin = counted("callsPerPlugin", limits.calls_per_plugin, 8192);
        let handshakes = counted("handshakes", limits.handshakes, 256);
        let sessions = counted("sessions", limits.sessions, 10_000);
        TunnelConfig {
            listen: self.listen.unwrap_or(DEFAULT_TUNNEL),
            keep_alive: KeepAlive::validate("tunnel", self.keep_alive, self.idle_timeout, problems),
            limits: TunnelLimits {
                calls_per_node,
                calls_per_plugin,
                stream_window: stream_window(&join(at, "streamWindow"), limits.stream_window, problems),
                handshakes,
                sessions,
                heads: head_limits(at, limits.header_count, limits.header_bytes, problems),
            },
            udp: self.udp,
        }
    }
}

/// The names of all plugins that the config asks for, whether or not they could be made, and those that could.
fn build_plugins(
    sections: Value,
    registry: &PluginRegistry,
    problems: &mut Vec<Problem>,
) -> (Vec<String>, Vec<ConfiguredPlugin>) {
    let Value::Mapping(sections) = sections else {
        problems
            .push(Problem::new("plugins", "expected a mapping from the names of plugins to their sections"));
        return (Vec::new(), Vec::new());
    };
    let mut names = Vec::new();
    let mut plugins = Vec::new();
    for (name, section) in sections {
        let name = name.as_str().expect("a document has strings for keys");
        names.push(name.to_owned());
        if let Some((name, plugin)) = registry.build(name, section, problems) {
            plugins.push(ConfiguredPlugin { name, plugin });
        }
    }
    (names, plugins)
}

/// All routes that are valid by themselves; what is wrong with the others, or between them, is in `problems`.
fn validate_routes(raw: Option<Value>, plugins: &[String], problems: &mut Vec<Problem>) -> Vec<RouteConfig> {
    let list = match raw {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Sequence(list)) => list,
        Some(_) => {
            problems.push(Problem::new("routes", "expected a list of routes"));
            Vec::new()
        }
    };
    let mut routes = Vec::with_capacity(list.len());
    let mut names: HashMap<String, String> = HashMap::new();
    for (index, raw) in list.into_iter().enumerate() {
        let origin = format!("routes[{index}]");
        let Some(route) = RouteConfig::decode(raw, &origin, plugins, problems) else { continue };
        if let Some(earlier) = names.get(route.name.as_str()) {
            let message = format!("'{}' is the name of {earlier} already; names are unique", route.name);
            problems.push(Problem::new(join(&origin, "name"), message));
        } else {
            names.insert(route.name.to_string(), origin);
        }
        routes.push(route);
    }
    problems.extend(routes::collisions(&routes));
    routes
}

#[cfg(test)]
mod tests;
