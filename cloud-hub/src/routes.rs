//! Routes: which calls go to which service on which nodes. Knows no HTTP server and no tunnel.
//!
//! A [`RouteTable`] is made once from valid routes and never changes; a reload makes another and swaps it in. Which
//! route takes a call, when several could:
//!
//! 1. one with the call's host before one without hostnames,
//! 2. more segments before fewer,
//! 3. from the left, a literal before a capture,
//! 4. `Exact` before a prefix,
//! 5. a named method before any.
//!
//! A route that would win but does not take the call's method is passed over. Two routes that no rule tells apart are
//! refused. [`pattern`] says how paths are compared.

mod host;
pub mod pattern;
mod trie;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use edgeway_host::Problem;
use edgeway_plugin::{Fault, FaultCode, NameError, NodeName, NodeSelector, RouteName, ServiceName};
use http::Method;

use self::{
    host::RequestHost,
    trie::{Found, Leaf, Trie},
};
pub use self::{
    host::{Hostname, HostnameError},
    pattern::{PathKind, PathPattern, PatternError},
};
use crate::config::{Balance, RouteConfig, RouteLimits, RouteTimeouts, Word};

/// All routes of a hub, ready to be looked up. `T` is what the hub keeps beside each route.
#[derive(Debug)]
pub struct RouteTable<T> {
    routes: Vec<Arc<Route<T>>>,
    index: Index,
}

/// A route and what the hub keeps beside it.
#[derive(Debug)]
pub struct Route<T> {
    /// What the hub keeps: permits, counters and so on.
    pub state: T,
    /// Its name.
    pub name: RouteName,
    /// How long a call may take.
    pub timeouts: RouteTimeouts,
    /// What it may use.
    pub limits: RouteLimits,
    /// How one of several nodes is chosen.
    pub balance: Balance,
    /// Whether the service may see a call twice.
    pub idempotent: bool,
    /// The service, unless a capture names it.
    service: Option<ServiceName>,
    /// The nodes; without the name that a capture gives.
    selector: NodeSelector,
}

/// A call's route. Owns what it found, so that the request can be moved on.
#[derive(Debug)]
pub struct Match<T> {
    /// The route.
    pub route: Arc<Route<T>>,
    /// How many bytes at the front of the path were matched by a template: the service does not see them. If nothing
    /// is left, it sees `/`.
    pub strip: usize,
    /// What a capture gave for the service.
    service: Option<Result<ServiceName, NameError>>,
    /// What a capture gave for the node's name, within the route's selector.
    selector: Option<Result<NodeSelector, NameError>>,
}

/// A capture took a text that can't be a name, so there is nothing of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// In place of a service.
    #[error("the path names no service")]
    Service(#[source] NameError),
    /// In place of a node.
    #[error("the path names no node")]
    Node(#[source] NameError),
}

impl From<ResolveError> for Fault {
    fn from(error: ResolveError) -> Self {
        let (code, name) = match error {
            ResolveError::Service(name) => (FaultCode::UnknownService, name),
            ResolveError::Node(name) => (FaultCode::UnknownNode, name),
        };
        Self::with_detail(code, name.to_string())
    }
}

impl<T> RouteTable<T> {
    /// Makes a table. `make` is called once for each route, for what the hub keeps beside it.
    ///
    /// # Errors
    /// Every pair of routes that collide.
    pub fn compile(routes: Vec<RouteConfig>, make: impl Fn(&RouteConfig) -> T) -> Result<Self, Vec<Problem>> {
        let (index, problems) = Index::of(&routes);
        if !problems.is_empty() {
            return Err(problems);
        }
        let routes = routes.into_iter().map(|config| Arc::new(Route::new(make(&config), config))).collect();
        Ok(Self { routes, index })
    }

    /// The route that takes a call of `plugin`. `host` is the request's `host` header, `path` its raw path without the
    /// query. Allocates only for captures that name a service or node.
    pub fn find(&self, plugin: &str, host: Option<&str>, method: &Method, path: &str) -> Option<Match<T>> {
        let Found { leaf, length, .. } = self.index.find(plugin, host, method, path)?;
        let route = &self.routes[leaf.route as usize];
        let segment = |at: u16| path.split('/').nth(usize::from(at) + 1).unwrap_or_default();
        Some(Match {
            route: Arc::clone(route),
            strip: if leaf.strips { length } else { 0 },
            service: leaf.service.map(|at| ServiceName::new(segment(at))),
            selector: leaf.node.map(|at| {
                let name = Some(NodeName::new(segment(at))?);
                Ok(NodeSelector { name, match_labels: route.selector.match_labels.clone() })
            }),
        })
    }

    /// All routes, in the order of the config.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route<T>>> {
        self.routes.iter()
    }
}

impl<T> Default for RouteTable<T> {
    /// A table without routes.
    fn default() -> Self {
        Self { routes: Vec::new(), index: Index::default() }
    }
}

impl<T> Route<T> {
    fn new(state: T, config: RouteConfig) -> Self {
        let service = match config.to.service {
            Word::Name(name) => Some(name),
            Word::Capture(_) => None,
        };
        let node = match config.to.node {
            Some(Word::Name(name)) => Some(name),
            _ => None,
        };
        Self {
            state,
            name: config.name,
            timeouts: config.timeouts,
            limits: config.limits,
            balance: config.to.balance,
            idempotent: config.idempotent,
            service,
            selector: NodeSelector { name: node, match_labels: config.to.match_labels },
        }
    }
}

impl<T> Match<T> {
    /// The service that the call goes to.
    ///
    /// # Errors
    /// A capture took what can't be the name of one.
    pub fn service(&self) -> Result<Cow<'_, ServiceName>, ResolveError> {
        match &self.service {
            Some(Ok(captured)) => Ok(Cow::Borrowed(captured)),
            Some(Err(error)) => Err(ResolveError::Service(error.clone())),
            None => Ok(Cow::Borrowed(self.route.service.as_ref().expect("a name where there is no capture"))),
        }
    }

    /// The nodes that the call may go to, and whether they are the same for every call of the route.
    ///
    /// # Errors
    /// A capture took what can't be the name of a node.
    pub fn selector(&self) -> Result<(Cow<'_, NodeSelector>, bool), ResolveError> {
        match &self.selector {
            Some(Ok(captured)) => Ok((Cow::Borrowed(captured), false)),
            Some(Err(error)) => Err(ResolveError::Node(error.clone())),
            None => Ok((Cow::Borrowed(&self.route.selector), true)),
        }
    }
}

/// Every pair of routes that collide: same plugin, a host in common, same shape of path, same method.
pub fn collisions(routes: &[RouteConfig]) -> Vec<Problem> {
    Index::of(routes).1
}

/// From a call to the leaf that takes it.
#[derive(Debug, Default)]
struct Index {
    plugins: HashMap<Arc<str>, Hosts>,
}

/// The patterns of one plugin.
#[derive(Debug)]
struct Hosts {
    named: HashMap<Box<str>, Trie>,
    any: Trie,
}

impl Index {
    fn of(routes: &[RouteConfig]) -> (Self, Vec<Problem>) {
        let mut index = Self::default();
        let mut problems = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            let hosts = index
                .plugins
                .entry(route.plugin.clone())
                .or_insert_with(|| Hosts { named: HashMap::new(), any: Trie::new() });
            for matched in 0..route.matches.len() {
                // One report for each pair of matches, however many hosts they have in common.
                let mut reported: Vec<Leaf> = Vec::new();
                hosts.insert(route, at, matched, |taken, host| {
                    if !reported.contains(&taken) {
                        reported.push(taken);
                        problems.push(collision(routes, taken, (at, matched), host));
                    }
                });
            }
        }
        (index, problems)
    }

    fn find(&self, plugin: &str, host: Option<&str>, method: &Method, path: &str) -> Option<Found<'_>> {
        let hosts = self.plugins.get(plugin)?;
        let of_host = || {
            if hosts.named.is_empty() {
                return None;
            }
            let host = RequestHost::of(host?)?;
            hosts.named.get(host.as_str())?.find(path, method)
        };
        of_host().or_else(|| hosts.any.find(path, method))
    }
}

impl Hosts {
    fn insert(
        &mut self,
        route: &RouteConfig,
        at: usize,
        matched: usize,
        mut collides: impl FnMut(Leaf, Option<&Hostname>),
    ) {
        let pattern = &route.matches[matched];
        let capture = |capture: &Arc<str>| {
            // A pattern has 1024 bytes at most, and so fewer segments than that.
            pattern.path.capture(capture).and_then(|segment| u16::try_from(segment).ok())
        };
        let leaf = Leaf {
            route: u32::try_from(at).expect("fewer routes than bytes of config"),
            matched: u32::try_from(matched).expect("fewer matches than bytes of config"),
            service: match &route.to.service {
                Word::Capture(name) => capture(name),
                Word::Name(_) => None,
            },
            node: match &route.to.node {
                Some(Word::Capture(name)) => capture(name),
                _ => None,
            },
            strips: pattern.path.kind() == PathKind::Template,
        };
        let method = pattern.method.as_ref();
        if route.hostnames.is_empty()
            && let Err(taken) = self.any.insert(&pattern.path, method, leaf)
        {
            collides(taken, None);
        }
        for host in &route.hostnames {
            let trie = self.named.entry(host.as_str().into()).or_insert_with(Trie::new);
            if let Err(taken) = trie.insert(&pattern.path, method, leaf) {
                collides(taken, Some(host));
            }
        }
    }
}

fn collision(
    routes: &[RouteConfig],
    earlier: Leaf,
    (at, matched): (usize, usize),
    host: Option<&Hostname>,
) -> Problem {
    let (route, other) = (&routes[at], &routes[earlier.route as usize]);
    let pattern = &route.matches[matched];
    let method = pattern.method.as_ref().map_or("every method", Method::as_str);
    let host = host.map_or_else(|| "every host".to_owned(), ToString::to_string);
    Problem::new(
        format!("{}.matches[{matched}]", route.origin),
        format!(
            "route '{}' takes the same calls as route '{}' ({}.matches[{}]): {method} on {host}, {:?} {}{}",
            route.name,
            other.name,
            other.origin,
            earlier.matched,
            pattern.path.kind(),
            pattern.path,
            match &other.matches[earlier.matched as usize].path {
                path if path.to_string() == pattern.path.to_string() => String::new(),
                path => format!(", which is the same as {path}"),
            },
        ),
    )
}

#[cfg(test)]
mod tests;
