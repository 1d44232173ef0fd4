//! The agent's config: from `agent.yaml` to a value in which nothing can be wrong any more.
//!
//! [`AgentConfig::load`] reads and checks everything in one step and starts nothing. Every field, its unit, its default
//! and what its absence does stand here; the words are camelCase in the file.

mod address;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use edgeway_host::{
    Problem, Report,
    report::join,
    settings::{
        AdminSection, Identity, IdentitySection, KeepAlive, Udp, check_labels, count, head_limits, required,
        shorten, stream_window,
    },
    units::{Period, PeriodOrZero, Size},
    yaml::{self, Document},
};
use edgeway_plugin::{DynConnector, NodeName, ServiceName};
use edgeway_proto::head::HeadLimits;
use serde::Deserialize;
use serde_yaml::{Mapping, Value};

pub use self::address::{AddressError, HubAddress};
use crate::registry::ConnectorRegistry;

/// The `kind` of an agent's config.
pub const KIND: &str = "AgentConfig";

/// Files of an agent's identity directory: the CA's certificate, the node's own, and its key.
pub const IDENTITY_FILES: [&str; 3] = ["ca.crt", "node.crt", "node.key"];

/// Where the admin pages are where the config says nothing.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7490);

/// How long running calls may take after a stop where the config says nothing.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// Most services of one node: their names travel in one Hello, which has to fit into a frame.
const MOST_SERVICES: usize = 512;

/// Sections of the file, besides `apiVersion` and `kind`.
const SECTIONS: [&str; 9] =
    ["hubs", "node", "identity", "admin", "uplink", "limits", "udp", "drain", "services"];

/// An agent's config, valid as a whole.
#[derive(Debug)]
pub struct AgentConfig {
    /// `hubs`: tried in turn. Required, never empty.
    pub hubs: Vec<HubAddress>,
    /// `node`.
    pub node: NodeConfig,
    /// `identity`. Required.
    pub identity: Identity,
    /// `admin.listen` (127.0.0.1:7490), `None` if `admin.enabled` is false.
    pub admin: Option<SocketAddr>,
    /// `uplink`.
    pub uplink: UplinkConfig,
    /// `limits`.
    pub limits: AgentLimits,
    /// `udp`.
    pub udp: Udp,
    /// `drain`: how long running calls may take after a stop (30 s); `0s` cuts them at once.
    pub drain: Duration,
    /// `services`, in the order of the file, with their connectors made but not connected. None where absent.
    pub services: Vec<ServiceConfig>,
}

/// `node`, valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// `name`: if given, it must be the name in the node's certificate, which is the one that counts.
    pub name: Option<NodeName>,
    /// `labels`: what routes select the node by.
    pub labels: BTreeMap<String, String>,
}

/// `uplink`, valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkConfig {
    /// `backoff.min` (200 ms): bound of the first random pause between two attempts; it doubles with each.
    pub backoff_min: Duration,
    /// `backoff.max` (30 s): where it stops doubling.
    pub backoff_max: Duration,
    /// `keepAlive` (5 s) and `idleTimeout` (15 s).
    pub keep_alive: KeepAlive,
}

/// `limits`, valid. At each the caller gets an answer at once.
#[derive(Debug, Clone)]
pub struct AgentLimits {
    /// `calls`: calls in flight on this node (1024).
    pub calls: usize,
    /// `callsPerService`: calls in flight to one service (512).
    pub calls_per_service: usize,
    /// `streamWindow`: bytes of one call on their way from the hub (512KiB).
    pub stream_window: u32,
    /// `headerCount` (128) and `headerBytes` (64KiB) of a head that comes from the hub.
    pub heads: HeadLimits,
}

/// A service that the agent offers.
#[derive(Clone)]
pub struct ServiceConfig {
    /// Its name, which routes use. Unique on the node.
    pub name: ServiceName,
    /// The name of its connector.
    pub kind: &'static str,
    /// Its connector, not connected.
    pub connector: Arc<dyn DynConnector>,
}

impl fmt::Debug for ServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceConfig")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct NodeSection {
    name: Option<NodeName>,
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct UplinkSection {
    backoff: BackoffSection,
    keep_alive: Option<Period>,
    idle_timeout: Option<Period>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct BackoffSection {
    min: Option<Period>,
    max: Option<Period>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct LimitsSection {
    calls: Option<usize>,
    calls_per_service: Option<usize>,
    stream_window: Option<Size>,
    header_count: Option<usize>,
    header_bytes: Option<Size>,
}

impl AgentConfig {
    /// Reads and checks a config, and makes the connectors of its services. Starts nothing and connects to nothing.
    ///
    /// Blocks: call it before the runtime starts.
    ///
    /// # Errors
    /// One report of all problems.
    pub fn load(file: &Path, connectors: &ConnectorRegistry) -> Result<Self, Report> {
        let mut document = yaml::read_document(file, KIND)?;
        let config = Self::validate(&mut document, connectors);
        Report::or(file, document.problems, config)
    }

    fn validate(document: &mut Document, connectors: &ConnectorRegistry) -> Option<Self> {
        let hubs = document.content.shift_remove("hubs");
        let services = document.content.shift_remove("services");
        let node: Option<NodeSection> = document.section("node");
        let identity: Option<IdentitySection> = document.section("identity");
        let admin: Option<AdminSection> = document.section("admin");
        let uplink: Option<UplinkSection> = document.section("uplink");
        let limits: Option<LimitsSection> = document.section("limits");
        let udp: Option<Udp> = document.section("udp");
        let drain: Option<Option<PeriodOrZero>> = document.field("drain");
        document.finish(&SECTIONS);

        let problems = &mut document.problems;
        let hubs = validate_hubs(hubs, problems);
        if let Some(node) = &node {
            check_labels("node.labels", &node.labels, problems);
        }
        let identity =
            identity.map(|identity| identity.validate(&document.folder, &IDENTITY_FILES, problems));
        let admin = admin.map(|admin| admin.validate(DEFAULT_ADMIN, problems));
        let uplink = uplink.map(|uplink| uplink.validate(problems));
        let limits = limits.map(|limits| limits.validate(problems));
        let services = validate_services(services, connectors, problems);
        let node = node?;
        Some(Self {
            hubs,
            node: NodeConfig { name: node.name, labels: node.labels },
            identity: identity?,
            admin: admin?,
            uplink: uplink?,
            limits: limits?,
            udp: udp?,
            drain: drain?.map_or(DEFAULT_DRAIN, |drain| drain.0),
            services,
        })
    }
}

impl UplinkSection {
    fn validate(self, problems: &mut Vec<Problem>) -> UplinkConfig {
        let backoff_min = self.backoff.min.map_or(Duration::from_millis(200), |period| period.0);
        let backoff_max = self.backoff.max.map_or(Duration::from_secs(30), |period| period.0);
        if backoff_min > backoff_max {
            let message =
                format!("is {backoff_min:?}, at most uplink.backoff.max ({backoff_max:?}) is allowed");
            problems.push(Problem::new("uplink.backoff.min", message));
        }
        if backoff_max > Duration::from_secs(3600) {
            let message =
                format!("is {backoff_max:?}, at most 1h is allowed: that long a node would stay away");
            problems.push(Problem::new("uplink.backoff.max", message));
        }
        let keep_alive = KeepAlive::validate("uplink", self.keep_alive, self.idle_timeout, problems);
        UplinkConfig { backoff_min, backoff_max, keep_alive }
    }
}

impl LimitsSection {
    fn validate(self, problems: &mut Vec<Problem>) -> AgentLimits {
        AgentLimits {
            calls: count("limits.calls", self.calls, 1024, problems),
            calls_per_service: count("limits.callsPerService", self.calls_per_service, 512, problems),
            stream_window: stream_window("limits.streamWindow", self.stream_window, problems),
            heads: head_limits("limits", self.header_count, self.header_bytes, problems),
        }
    }
}

fn validate_hubs(raw: Option<Value>, problems: &mut Vec<Problem>) -> Vec<HubAddress> {
    let list = match required(raw, "hubs".into(), problems) {
        Some(Value::Sequence(list)) if !list.is_empty() => list,
        None => return Vec::new(),
        Some(_) => {
            let message = "expected a list of at least one address, such as [hub.example.com:7443]";
            problems.push(Problem::new("hubs", message));
            return Vec::new();
        }
    };
    let mut hubs: Vec<HubAddress> = Vec::with_capacity(list.len());
    for (index, raw) in list.into_iter().enumerate() {
        let at = format!("hubs[{index}]");
        let Some(hub) = HubAddress::decode(raw, &at, problems) else { continue };
        if hubs.contains(&hub) {
            problems.push(Problem::new(at, format!("{hub} stands there twice")));
        } else {
            hubs.push(hub);
        }
    }
    hubs
}

fn validate_services(
    raw: Option<Value>,
    connectors: &ConnectorRegistry,
    problems: &mut Vec<Problem>,
) -> Vec<ServiceConfig> {
    let list = match raw {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Sequence(list)) => list,
        Some(_) => {
            problems.push(Problem::new("services", "expected a list of services"));
            Vec::new()
        }
    };
    if list.len() > MOST_SERVICES {
        let message = format!("has {} services, at most {MOST_SERVICES} are allowed", list.len());
        problems.push(Problem::new("services", message));
    }
    let mut services = Vec::new();
    let mut names: HashMap<ServiceName, usize> = HashMap::new();
    for (index, raw) in list.into_iter().enumerate() {
        let at = format!("services[{index}]");
        let Value::Mapping(mut fields) = raw else {
            let message = "expected a mapping, such as {name: orders, http: {url: http://127.0.0.1:9000}}";
            problems.push(Problem::new(at, message));
            continue;
        };
        let name = service_name(&mut fields, &at, problems);
        if let Some(name) = &name {
            if let Some(earlier) = names.get(name) {
                let message =
                    format!("'{name}' is the name of services[{earlier}] already; names are unique");
                problems.push(Problem::new(join(&at, "name"), message));
            } else {
                names.insert(name.clone(), index);
            }
        }
        let connector = service_connector(fields, &at, connectors, problems);
        if let (Some(name), Some((kind, connector))) = (name, connector) {
            services.push(ServiceConfig { name, kind, connector });
        }
    }
    services
}

fn service_name(fields: &mut Mapping, at: &str, problems: &mut Vec<Problem>) -> Option<ServiceName> {
    let at = join(at, "name");
    match required(fields.shift_remove("name"), at.clone(), problems)? {
        Value::String(text) => match ServiceName::new(&text) {
            Ok(name) => return Some(name),
            Err(error) => problems.push(Problem::new(at, error.to_string())),
        },
        _ => problems.push(Problem::new(at, "expected a string")),
    }
    None
}

/// The one field of a service that names a connector, built.
fn service_connector(
    fields: Mapping,
    at: &str,
    connectors: &ConnectorRegistry,
    problems: &mut Vec<Problem>,
) -> Option<(&'static str, Arc<dyn DynConnector>)> {
    let all: Vec<&str> = connectors.names().collect();
    let all = all.join(", ");
    let mut sections = Vec::new();
    let mut has_unknown = false;
    for (key, section) in fields {
        let key = key.as_str().expect("a document has strings for keys");
        match connectors.name_of(key) {
            Some(kind) => sections.push((kind, section)),
            None => {
                has_unknown = true;
                let message = format!("unknown field, allowed are: name, and one of {all}");
                problems.push(Problem::new(join(at, &shorten(key)), message));
            }
        }
    }
    match sections.len() {
        // An unknown field was most likely meant to be the target.
        0 if has_unknown => {}
        0 => problems.push(Problem::new(at, format!("a service without a target: it needs one of {all}"))),
        1 => {}
        _ => {
            let named: Vec<&str> = sections.iter().map(|(kind, _)| *kind).collect();
            let message = format!("has {} targets ({}), one is allowed", named.len(), named.join(", "));
            problems.push(Problem::new(at, message));
        }
    }
    // With several, all are built, so that what is wrong within them is told, too.
    let mut built = None;
    for (kind, section) in sections {
        let connector = connectors.build(kind, section, &join(at, kind), problems);
        built = connector.map(|connector| (kind, connector));
    }
    built
}

#[cfg(test)]
mod tests;
