//! Sessions: from a connection on the tunnel port to a node that calls can be sent to.
//!
//! ```text
//!   handshake ─▶ named by its certificate ─▶ Hello ─▶ current (older one closed) ─▶ Welcome ─▶ serves ─▶ left
//!       └── refused: busy, TLS, identity        └── refused: protocol, time, too many sessions
//! ```
//!
//! One task for each connection, owned by the tracker handed in. A task ends with its link.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use edgeway_host::{logs::Chain, permits::Permits};
use edgeway_plugin::{HubName, NodeName, ServiceName};
use edgeway_proto::{Close, CloseCode, wire};
use edgeway_tunnel::{
    link::Link,
    session::{self, Control, ControlEvent, OpeningError},
    transport::{Handshake, Listener},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{
    metrics::HubMetrics,
    nodes::{Nodes, Offer, Session},
};

/// When an agent that found the hub full should come back.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// How often a session that drains is looked at for its last call.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// When agents should come back to a hub that shuts down: soon, as it may be a restart. Their back-off has jitter.
const SHUTDOWN_RETRY: Duration = Duration::from_millis(500);

/// What takes agents in.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) metrics: Arc<HubMetrics>,
    pub(crate) hub: HubName,
    pub(crate) calls_per_node: usize,
    pub(crate) limit: usize,
    pub(crate) count: AtomicUsize,
    /// Fires when nobody new is let in.
    pub(crate) stop: CancellationToken,
    /// Fires when every session is closed.
    pub(crate) closing: CancellationToken,
}

impl Sessions {
    /// Takes connections until `stop` fires. The tasks of live sessions go on.
    pub(crate) async fn accept(self: Arc<Self>, listener: Arc<Listener>, tasks: TaskTracker) {
        loop {
            let handshake = tokio::select! {
                biased; // after a stop nobody new is let in
                () = self.stop.cancelled() => return,
                handshake = listener.accept() => handshake,
            };
            let Some(handshake) = handshake else { return };
            let remote = handshake.remote_address();
            let sessions = self.clone();
            tasks.spawn(
                async move { sessions.connection(handshake).await }
                    .instrument(info_span!("session", %remote)),
            );
        }
    }

    async fn connection(&self, handshake: Handshake) {
        let shaken = tokio::select! {
            biased; // a hub that closes shakes no more hands
            () = self.closing.cancelled() => return,
            shaken = handshake.finish() => shaken,
        };
        let (link, node) = match shaken {
            Ok(named) => named,
            Err(error) => {
                self.metrics.handshake_refused(error.name());
                // Anybody can send packets: not worth more than a debug line each.
                debug!(error = %Chain(&error), "connection refused");
                return;
            }
        };
        // By the time of its handshake, not of its Hello: a newer one that is quicker stays the newer one.
        let generation = self.nodes.next_generation();
        let ended = tokio::select! {
            biased; // as above
            () = self.closing.cancelled() => {
                link.close(&shutdown_close());
                Ok(())
            }
            ended = self.session(&link, &node, generation) => ended,
        };
        if let Err(error) = &ended {
            link.close(&error.close());
        }
        let end = link.closed().await;
        self.metrics.session_ended(end.name());
        match ended {
            Ok(()) => info!(%node, generation, cause = %end, "session ended"),
            Err(OpeningError::Link(_)) => info!(%node, generation, cause = %end, "session ended"),
            Err(error) => warn!(%node, generation, cause = %end, error = %Chain(&error), "session ended"),
        }
        link.finish().await;
    }

    async fn session(&self, link: &Link, node: &NodeName, generation: u64) -> Result<(), OpeningError> {
        let (mut control, hello) = session::accept_session(link).await?;
        let _counted = match Counted::new(self) {
            Some(counted) => counted,
            None => {
                self.metrics.session_refused();
                let close = Close::new(CloseCode::Overloaded, format!("the hub has {} sessions", self.limit));
                link.close(&Close { retry_after: Some(FULL_RETRY), ..close });
                return Ok(());
            }
        };
        let most = (hello.max_calls as usize).min(self.calls_per_node);
        let session = Arc::new(Session {
            link: link.clone(),
            generation,
            permits: Permits::new(most),
            draining: AtomicBool::new(false),
            drain: CancellationToken::new(),
        });
        let services = services(&hello)?;
        let welcome = wire::Welcome {
            hub: self.hub.to_string(),
            hub_version: env!("CARGO_PKG_VERSION").into(),
            generation,
        };
        // Welcome first: the agent is to be ready before a call can reach it.
        session::welcome(&mut control, &welcome).await?;
        let names: Vec<_> = services.iter().map(ServiceName::as_str).collect();
        info!(%node, generation, agent = hello.agent_version, services = ?names, "session started");
        if !self.nodes.join(node, &session, Offer { labels: hello.labels, services }) {
            link.close(&Close::new(CloseCode::Replaced, "a newer session of this node is there"));
            return Ok(());
        }
        let _joined = Joined { nodes: &self.nodes, node, generation };
        self.serve(&mut control, node, &session).await
    }

    /// Until the link ends: an agent that drains gets no new calls, and once the last answer is through the hub closes; a hub
    /// that drains says so.
    async fn serve(
        &self,
        control: &mut Control,
        node: &NodeName,
        session: &Session,
    ) -> Result<(), OpeningError> {
        let mut told = false;
        loop {
            let drains = session.draining.load(Ordering::Acquire);
            tokio::select! {
                biased; // the own drain is told before anything else is read
                () = session.drain.cancelled(), if !told => {
                    told = true;
                    control.drain("the hub is shutting down", Some(SHUTDOWN_RETRY)).await?;
                }
                // Only this side knows that all of an answer has come: what an agent has sent may still be on its way.
                () = tokio::time::sleep(DRAIN_LOOK), if drains => {
                    if session.permits.in_use() == 0 {
                        session.link.close(&Close::new(CloseCode::Drained, "the last call is done"));
                        return Ok(());
                    }
                }
                event = control.next() => {
                    if let ControlEvent::Drain { reason, .. } = event? {
                        info!(%node, reason, "agent drains");
                        self.nodes.drains(session);
                    }
                }
            }
        }
    }
}

fn services(hello: &wire::Hello) -> Result<BTreeSet<ServiceName>, OpeningError> {
    hello
        .services
        .iter()
        .map(|service| {
            ServiceName::new(&service.name).map_err(|error| OpeningError::Protocol(error.to_string()))
        })
        .collect()
}

/// One of the sessions that the hub has room for.
struct Counted<'a>(&'a Sessions);

impl<'a> Counted<'a> {
    fn new(sessions: &'a Sessions) -> Option<Self> {
        let before = sessions.count.fetch_add(1, Ordering::AcqRel);
        let counted = Self(sessions);
        (before < sessions.limit).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A node's current session; dropped, it leaves, if it still is the current one.
struct Joined<'a> {
    nodes: &'a Nodes,
    node: &'a NodeName,
    generation: u64,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.nodes.leave(self.node, self.generation);
    }
}

/// How the hub closes a session when it shuts down.
fn shutdown_close() -> Close {
    let close = Close::new(CloseCode::Shutdown, "the hub is shutting down");
    Close { retry_after: Some(SHUTDOWN_RETRY), ..close }
}
