//! Nodes and their sessions: who is connected, since when, and with what.
//!
//! Owns the one rule of sessions: of two sessions of a node the one with the higher generation lives. The older one is
//! closed, and its late clean-up finds that it is no longer current and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use edgeway_host::permits::Permits;
use edgeway_plugin::{NodeName, NodeSelector, NodeView, ServiceName};
use edgeway_proto::{Close, CloseCode};
use edgeway_tunnel::link::Link;
use tokio_util::sync::CancellationToken;

/// One session of a node.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) generation: u64,
    /// Calls in flight on it; the limit is the lower one of the hub's and the agent's.
    pub(crate) permits: Permits,
    /// The agent said that it drains.
    pub(crate) draining: AtomicBool,
    /// Fires when the hub wants the agent to drain.
    pub(crate) drain: CancellationToken,
}

/// A node that has been connected since the hub started.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    state: ArcSwap<State>,
}

#[derive(Debug)]
struct State {
    session: Option<Arc<Session>>,
    since: SystemTime,
    labels: BTreeMap<String, String>,
    services: BTreeSet<ServiceName>,
}

impl Node {
    /// Its session, if it has one.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.state.load().session.clone()
    }

    /// Since when it is connected, or offline.
    pub(crate) fn since(&self) -> SystemTime {
        self.state.load().since
    }

    /// Whether it said that it offers the service.
    pub(crate) fn offers(&self, service: &ServiceName) -> bool {
        self.state.load().services.contains(service)
    }

    fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let state = self.state.load();
        labels.iter().all(|(key, value)| state.labels.get(key) == Some(value))
    }

    /// As plugins see it.
    pub(crate) fn view(&self) -> NodeView {
        let state = self.state.load();
        let mut view = NodeView::new(self.name.clone(), state.since);
        view.labels = state.labels.clone();
        view.connected = state.session.is_some();
        view.services = state.services.iter().cloned().collect();
        view.in_flight = state.session.as_ref().map_or(0, |session| session.permits.in_use());
        view
    }
}

/// All nodes of a hub.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    known: RwLock<HashMap<NodeName, Arc<Node>>>,
    generation: AtomicU64,
    version: AtomicU64,
}

/// What an agent says of its node.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) services: BTreeSet<ServiceName>,
}

impl Nodes {
    /// The generation of a session that starts now; higher than any before.
    pub(crate) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Changes with every change to what [`select`](Self::select) may return.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes `session` the node's current one, and closes an older one. False if the current one is newer.
    pub(crate) fn join(&self, name: &NodeName, session: &Arc<Session>, offer: Offer) -> bool {
        let older = {
            let mut known = self.known.write().expect("no holder of this lock panics");
            let current = known.get(name).map(|node| node.state.load_full());
            let older = current.and_then(|state| state.session.clone());
            if older.as_ref().is_some_and(|older| older.generation > session.generation) {
                return false;
            }
            let state = Arc::new(State {
                session: Some(session.clone()),
                since: SystemTime::now(),
                labels: offer.labels,
                services: offer.services,
            });
            match known.get(name) {
                Some(node) => node.state.store(state),
                None => {
                    let node = Node { name: name.clone(), state: ArcSwap::new(state) };
                    known.insert(name.clone(), Arc::new(node));
                }
            }
            older
        };
        self.changed();
        if let Some(older) = older {
            older.link.close(&Close::new(CloseCode::Replaced, "a newer session of this node took over"));
        }
        true
    }

    /// Takes the session of this generation away; changes nothing if it is no longer the current one.
    pub(crate) fn leave(&self, name: &NodeName, generation: u64) {
        {
            let known = self.known.write().expect("no holder of this lock panics");
            let Some(node) = known.get(name) else { return };
            let state = node.state.load_full();
            if state.session.as_ref().is_none_or(|session| session.generation != generation) {
                return;
            }
            node.state.store(Arc::new(State {
                session: None,
                since: SystemTime::now(),
                labels: state.labels.clone(),
                services: state.services.clone(),
            }));
        }
        self.changed();
    }

    /// The agent of this session takes no new calls.
    pub(crate) fn drains(&self, session: &Session) {
        session.draining.store(true, Ordering::Release);
        self.changed();
    }

    /// The node of this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Node>> {
        self.known.read().expect("no holder of this lock panics").get(name).cloned()
    }

    /// All nodes that a selector selects, connected or not, in the order of their names.
    pub(crate) fn select(&self, selector: &NodeSelector) -> Vec<Arc<Node>> {
        let known = self.known.read().expect("no holder of this lock panics");
        let mut nodes: Vec<_> = match &selector.name {
            Some(name) => known.get(name).into_iter().cloned().collect(),
            None => known.values().cloned().collect(),
        };
        nodes.retain(|node| node.has_labels(&selector.match_labels));
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// All sessions.
    pub(crate) fn sessions(&self) -> Vec<(NodeName, Arc<Session>)> {
        let known = self.known.read().expect("no holder of this lock panics");
        known.values().filter_map(|node| Some((node.name.clone(), node.session()?))).collect()
    }
}
