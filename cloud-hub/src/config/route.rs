//! One route, as written and as valid.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use edgeway_host::{
    Problem,
    report::join,
    settings::{check_labels, count, required, shorten},
    units::PeriodOrZero,
    yaml,
};
use edgeway_plugin::{NameError, NodeName, RouteName, ServiceName};
use http::Method;
use serde::Deserialize;
use serde_yaml::Value;

use crate::routes::{Hostname, PathKind, PathPattern};

/// How long a service may take to answer where the route says nothing.
const DEFAULT_REQUEST: Duration = Duration::from_secs(30);

/// How long an answer's body may be silent where the route says nothing. Event streams are silent for minutes; half an
/// hour would keep what nobody reads any more.
const DEFAULT_IDLE: Duration = Duration::from_secs(5 * 60);

/// Calls in flight of one route where it says nothing: half of what a plugin may have, so that one route that hangs
/// leaves room for the others.
const DEFAULT_CALLS: usize = 4096;

/// A route, valid by itself: which calls go to which service on which nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Where it is written, such as `routes[3]`; problems begin with it.
    pub origin: String,
    /// `name`. Required, unique within the hub.
    pub name: RouteName,
    /// `plugin`: the plugin whose calls it routes. Required.
    pub plugin: Arc<str>,
    /// `hostnames`: hosts that the call must be for, any if there are none.
    pub hostnames: Vec<Hostname>,
    /// `matches`: the call must match one of them. Every path where absent; never empty here.
    pub matches: Vec<RouteMatch>,
    /// `to`. Required.
    pub to: RouteTarget,
    /// `timeouts`.
    pub timeouts: RouteTimeouts,
    /// `idempotent`: whether the service may see a call a second time after a failure (false).
    pub idempotent: bool,
    /// `limits`.
    pub limits: RouteLimits,
}

/// What a call must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// `path`; every path where absent.
    pub path: PathPattern,
    /// `method`; every method where absent.
    pub method: Option<Method>,
}

/// Where calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget {
    /// `service`: the service, or the capture of the path that names it. Required.
    pub service: Word<ServiceName>,
    /// `nodes.name`: the one node, or the capture that names it; any node where absent.
    pub node: Option<Word<NodeName>>,
    /// `nodes.matchLabels`: labels that the node must carry, all of them.
    pub match_labels: BTreeMap<String, String>,
    /// `balance`.
    pub balance: Balance,
}

/// A name that is written down, or the name of the capture that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word<N> {
    /// The name itself.
    Name(N),
    /// `{capture}`: a whole segment of the path.
    Capture(Arc<str>),
}

/// How one node is chosen among those that match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Balance {
    /// Of two nodes at random, the one with fewer calls in flight. The default.
    #[default]
    LeastRequests,
}

/// How long a call may take. `0s` in the file, `None` here, is without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// `request`: until the head of the answer (30 s).
    pub request: Option<Duration>,
    /// `idle`: the longest silence within the answer's body (5 min).
    pub idle: Option<Duration>,
}

/// What a route may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLimits {
    /// `calls`: calls in flight (4096).
    pub calls: usize,
}

/// Everything is optional here, so that what is missing is found together with what is wrong.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawRoute {
    name: Option<RouteName>,
    plugin: Option<String>,
    hostnames: Option<Vec<String>>,
    matches: Option<Vec<RawMatch>>,
    to: Option<RawTarget>,
    timeouts: RawTimeouts,
    idempotent: Option<bool>,
    limits: RawLimits,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawMatch {
    path: Option<RawPath>,
    method: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawPath {
    #[serde(rename = "type")]
    kind: Option<PathKind>,
    value: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawTarget {
    service: Option<String>,
    nodes: RawNodes,
    balance: Option<Balance>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawNodes {
    name: Option<String>,
    match_labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawTimeouts {
    request: Option<PeriodOrZero>,
    idle: Option<PeriodOrZero>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawLimits {
    calls: Option<usize>,
}

impl RouteConfig {
    /// Decodes the route written at `origin` and checks all that can be said of it alone. `plugins` are the names of
    /// plugins that the config asks for. `None` if any part of it is not valid; why is in `problems`.
    pub(super) fn decode(
        raw: Value,
        origin: &str,
        plugins: &[String],
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let found_before = problems.len();
        let raw: RawRoute = yaml::decode(raw, origin, problems)?;
        let at = |field: &str| join(origin, field);
        // Without these the route would take calls that its author never meant, and collide with innocent ones.
        let takes_too_much = problems[found_before..].iter().any(|problem| {
            ["plugin", "hostnames", "matches"].iter().any(|field| problem.path.starts_with(&at(field)))
        });
        let name = required(raw.name, at("name"), problems);
        let plugin = required(raw.plugin, at("plugin"), problems)
            .filter(|plugin| check_plugin(plugin, &at("plugin"), plugins, problems));
        let hostnames = check_hostnames(raw.hostnames, &at("hostnames"), problems);
        let matches = check_matches(raw.matches, &at("matches"), problems);
        let to = required(raw.to, at("to"), problems).and_then(|to| to.validate(&at("to"), problems));
        let limits =
            RouteLimits { calls: count(&at("limits.calls"), raw.limits.calls, DEFAULT_CALLS, problems) };
        let timeouts = RouteTimeouts {
            request: limit_of(raw.timeouts.request, DEFAULT_REQUEST),
            idle: limit_of(raw.timeouts.idle, DEFAULT_IDLE),
        };
        if let (Some(matches), Some(to)) = (&matches, &to) {
            check_captures(matches, to, origin, problems);
        }
        if takes_too_much {
            return None;
        }
        Some(Self {
            origin: origin.to_owned(),
            name: name?,
            plugin: plugin?.into(),
            hostnames: hostnames?,
            matches: matches?,
            to: to?,
            timeouts,
            idempotent: raw.idempotent.unwrap_or(false),
            limits,
        })
    }
}

impl RawTarget {
    fn validate(self, at: &str, problems: &mut Vec<Problem>) -> Option<RouteTarget> {
        let service_at = join(at, "service");
        let service = required(self.service, service_at.clone(), problems)
            .and_then(|text| word(&text, ServiceName::new, &service_at, problems));
        let node_is_given = self.nodes.name.is_some();
        let node =
            self.nodes.name.and_then(|text| word(&text, NodeName::new, &join(at, "nodes.name"), problems));
        check_labels(&join(at, "nodes.matchLabels"), &self.nodes.match_labels, problems);
        if node_is_given && node.is_none() {
            return None;
        }
        Some(RouteTarget {
            service: service?,
            node,
            match_labels: self.nodes.match_labels,
            balance: self.balance.unwrap_or_default(),
        })
    }
}

fn word<N>(
    text: &str,
    name: impl FnOnce(&str) -> Result<N, NameError>,
    at: &str,
    problems: &mut Vec<Problem>,
) -> Option<Word<N>> {
    if let Some(capture) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return Some(Word::Capture(capture.into()));
    }
    if text.contains(['{', '}']) {
        let message =
            format!("'{}' mixes text and captures: a capture such as {{node}} stands alone", shorten(text));
        problems.push(Problem::new(at, message));
        return None;
    }
    match name(text) {
        Ok(name) => Some(Word::Name(name)),
        Err(error) => {
            problems.push(Problem::new(at, error.to_string()));
            None
        }
    }
}

fn limit_of(written: Option<PeriodOrZero>, default: Duration) -> Option<Duration> {
    let limit = written.map_or(default, |period| period.0);
    (!limit.is_zero()).then_some(limit)
}

fn check_plugin(plugin: &str, at: &str, configured: &[String], problems: &mut Vec<Problem>) -> bool {
    let known = configured.iter().any(|name| name == plugin);
    if !known {
        let configured = if configured.is_empty() { "none".to_owned() } else { configured.join(", ") };
        let plugin = shorten(plugin);
        let message = format!("'{plugin}' has no section under plugins; those that have one: {configured}");
        problems.push(Problem::new(at, message));
    }
    known
}

fn check_hostnames(raw: Option<Vec<String>>, at: &str, problems: &mut Vec<Problem>) -> Option<Vec<Hostname>> {
    let mut hostnames: Vec<Hostname> = Vec::new();
    let mut all_good = true;
    for (index, text) in raw.unwrap_or_default().iter().enumerate() {
        match Hostname::new(text) {
            Ok(hostname) if !hostnames.contains(&hostname) => hostnames.push(hostname),
            Ok(_) => {}
            Err(error) => {
                all_good = false;
                problems.push(Problem::new(format!("{at}[{index}]"), error.to_string()));
            }
        }
    }
    all_good.then_some(hostnames)
}

fn check_matches(
    raw: Option<Vec<RawMatch>>,
    at: &str,
    problems: &mut Vec<Problem>,
) -> Option<Vec<RouteMatch>> {
    // As in the Gateway API: no match at all is one that takes every path.
    let raw = raw.unwrap_or_else(|| vec![RawMatch::default()]);
    if raw.is_empty() {
        problems.push(Problem::new(at, "is empty; leave it out to take every path"));
        return None;
    }
    let mut matches = Vec::new();
    let mut all_good = true;
    for (index, raw) in raw.into_iter().enumerate() {
        let at = format!("{at}[{index}]");
        let path = check_path(raw.path, &join(&at, "path"), problems);
        let method = raw.method.map(|method| check_method(&method, &join(&at, "method"), problems));
        match (path, method) {
            (Some(path), None) => matches.push(RouteMatch { path, method: None }),
            (Some(path), Some(Some(method))) => matches.push(RouteMatch { path, method: Some(method) }),
            _ => all_good = false,
        }
    }
    all_good.then_some(matches)
}

fn check_path(raw: Option<RawPath>, at: &str, problems: &mut Vec<Problem>) -> Option<PathPattern> {
    let Some(raw) = raw else { return Some(PathPattern::every()) };
    let kind = required(raw.kind, join(at, "type"), problems);
    let value = required(raw.value, join(at, "value"), problems);
    match PathPattern::new(kind?, &value?) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            problems.push(Problem::new(join(at, "value"), error.to_string()));
            None
        }
    }
}

fn check_method(text: &str, at: &str, problems: &mut Vec<Problem>) -> Option<Method> {
    match Method::from_bytes(text.as_bytes()) {
        // Methods are case-sensitive (RFC 9110, section 9.1), so `get` would match no call at all.
        Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => Some(method),
        _ => {
            let message = format!("'{}' is no method: write one in capitals, such as GET", shorten(text));
            problems.push(Problem::new(at, message));
            None
        }
    }
}

/// Captures that are used must be in every path, and a template must be used.
fn check_captures(matches: &[RouteMatch], to: &RouteTarget, origin: &str, problems: &mut Vec<Problem>) {
    let of_service = match &to.service {
        Word::Capture(capture) => Some(("to.service", capture)),
        Word::Name(_) => None,
    };
    let of_node = match &to.node {
        Some(Word::Capture(capture)) => Some(("to.nodes.name", capture)),
        _ => None,
    };
    let used: Vec<_> = of_service.into_iter().chain(of_node).collect();
    for (index, route_match) in matches.iter().enumerate() {
        let path = &route_match.path;
        let at = format!("{origin}.matches[{index}].path");
        for (field, capture) in &used {
            if path.capture(capture).is_none() {
                let message = format!("'{path}' has no capture {{{}}}, which {field} uses", shorten(capture));
                problems.push(Problem::new(join(&at, "value"), message));
            }
        }
        if path.kind() == PathKind::Template
            && !used.iter().any(|(_, capture)| path.capture(capture).is_some())
        {
            let message = "a template of which no capture is used: use one in to.service or to.nodes.name, or make \
                           the type PathPrefix";
            problems.push(Problem::new(join(&at, "type"), message));
        }
    }
}
