//! The way of a call through the hub: route, permits, node, session, answer.
//!
//! ```text
//!   request ─▶ route ─▶ permits: plugin, route ─▶ nodes ─▶ permit: session ─▶ stream ─▶ head ─▶ body
//!          no_route   overloaded          unknown_*, offline   overloaded    session_lost  deadline
//! ```
//!
//! Knows no HTTP server and no QUIC: requests are the types of `http`, sessions are links. Permits ride in the answer's
//! body. A call is sent again only if no byte of it left the hub, or if its route says `idempotent` and it has no body.

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use edgeway_host::permits::{Permit, Permits};
use edgeway_plugin::{
    Body, BoxFuture, BoxPipe, CallContext, Destination, Edge, Fault, FaultCode, Leg, NodeName, NodeSelector,
    NodeView, Request, Response, ServiceName,
};
use edgeway_tunnel::{
    CallInfo, HeadLimits,
    body::RecvBody,
    call::{call, grace, open_pipe},
    link::{RecvHalf, SendHalf},
};
use http_body::SizeHint;
use tokio::time::Sleep;
use tracing::debug;

use crate::{
    metrics::{HubMetrics, RouteCounters},
    nodes::{Node, Nodes, Session},
    routes::{Match, Route, RouteTable},
};

/// When a caller that met a limit should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Most nodes tried for one call that has not left the hub.
const MOST_ATTEMPTS: usize = 3;

/// What the hub keeps beside each route.
#[derive(Debug)]
pub(crate) struct RouteState {
    permits: Permits,
    counters: RouteCounters,
    name: Arc<str>,
    /// Nodes that the route's selector selects, as of a version of the nodes.
    candidates: ArcSwapOption<(u64, Vec<Arc<Node>>)>,
}

impl RouteState {
    pub(crate) fn new(metrics: &HubMetrics, plugin: &str, name: &str, calls: usize) -> Self {
        Self {
            permits: Permits::new(calls),
            counters: metrics.route(plugin, name),
            name: name.into(),
            candidates: ArcSwapOption::empty(),
        }
    }

    pub(crate) fn permits(&self) -> &Permits {
        &self.permits
    }
}

/// What all plugins' ways to the edge share.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) routes: ArcSwap<RouteTable<RouteState>>,
    pub(crate) limits: HeadLimits,
    pub(crate) draining: AtomicBool,
    metrics: Arc<HubMetrics>,
    next_call: AtomicU64,
}

impl Router {
    pub(crate) fn new(
        nodes: Arc<Nodes>,
        routes: RouteTable<RouteState>,
        limits: HeadLimits,
        metrics: Arc<HubMetrics>,
    ) -> Self {
        Self {
            nodes,
            routes: ArcSwap::from_pointee(routes),
            limits,
            draining: AtomicBool::new(false),
            metrics,
            next_call: AtomicU64::new(1),
        }
    }

    fn check_draining(&self) -> Result<(), Fault> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Fault::overloaded("the hub is shutting down", RETRY_AFTER));
        }
        Ok(())
    }

    fn id(&self) -> u64 {
        self.next_call.fetch_add(1, Ordering::Relaxed)
    }
}

/// One plugin's way to the edge: what the plugin sees as [`Edge`].
#[derive(Debug)]
pub(crate) struct PluginEdge {
    plugin: &'static str,
    name: Arc<str>,
    router: Arc<Router>,
    permits: Permits,
    /// Counts calls that matched no route, and pipes, which have none.
    unrouted: RouteCounters,
}

impl PluginEdge {
    pub(crate) fn new(plugin: &'static str, router: Arc<Router>, calls: usize, metrics: &HubMetrics) -> Self {
        let unrouted = metrics.route(plugin, "");
        Self { plugin, name: plugin.into(), router, permits: Permits::new(calls), unrouted }
    }

    pub(crate) fn plugin(&self) -> &'static str {
        self.plugin
    }

    pub(crate) fn permits(&self) -> &Permits {
        &self.permits
    }

    fn permit(&self) -> Result<Permit, Fault> {
        self.permits.try_acquire().ok_or_else(|| {
            let limit = self.permits.limit();
            Fault::overloaded(format!("plugin {} has {limit} calls in flight", self.plugin), RETRY_AFTER)
        })
    }

    async fn routed(&self, request: Request<Body>, cx: CallContext) -> Result<Response<Body>, Fault> {
        let host = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
        let routes = self.router.routes.load();
        let found = routes.find(self.plugin, host, request.method(), request.uri().path());
        let Some(matched) = found else {
            let fault = Fault::new(FaultCode::NoRoute);
            self.unrouted.fault(fault.code());
            return Err(fault);
        };
        let route = matched.route.clone();
        route.state.counters.call();
        let answered = self.matched(request, cx, &matched).await;
        if let Err(fault) = &answered {
            route.state.counters.fault(fault.code());
            debug!(plugin = self.plugin, route = &*route.state.name, code = %fault.code(), detail = fault.detail(), "fault");
        }
        answered
    }
}

/// A call that found its route.
struct Routed<'a> {
    route: &'a Arc<Route<RouteState>>,
    service: &'a ServiceName,
    selector: &'a NodeSelector,
    /// Whether the selector is the route's own, the same for every call.
    fixed: bool,
}

impl PluginEdge {
    async fn matched(
        &self,
        mut request: Request<Body>,
        cx: CallContext,
        matched: &Match<RouteState>,
    ) -> Result<Response<Body>, Fault> {
        self.router.check_draining()?;
        let route = &matched.route;
        let of_plugin = self.permit()?;
        let of_route = route.state.permits.try_acquire().ok_or_else(|| {
            let limit = route.state.permits.limit();
            Fault::overloaded(format!("route {} has {limit} calls in flight", route.state.name), RETRY_AFTER)
        })?;
        let service = matched.service()?;
        let (selector, fixed) = matched.selector()?;
        if matched.strip > 0 {
            strip_path(&mut request, matched.strip)?;
        }
        let started = Instant::now();
        let limit = route.timeouts.request.map(|limit| started + limit);
        let deadline = [cx.deadline, limit].into_iter().flatten().min();
        let remaining = deadline.map(|deadline| deadline.saturating_duration_since(started));
        let call = CallInfo {
            id: self.router.id(),
            parent: cx.parent,
            plugin: self.name.clone(),
            route: route.state.name.clone(),
            service: service.clone().into_owned(),
            remaining_ms: remaining.map(|left| left.as_millis().try_into().unwrap_or(u64::MAX)),
            priority: cx.priority,
        };
        let routed = Routed { route, service: &service, selector: &selector, fixed };
        let answering = self.attempts(request, call, &routed);
        let (response, of_node) = match remaining {
            None => answering.await?,
            Some(left) => tokio::time::timeout(left + grace(left), answering)
                .await
                .map_err(|_| Fault::deadline(Leg::Tunnel))??,
        };
        // A switched protocol may be silent for as long as it likes.
        let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        let idle = route.timeouts.idle.filter(|_| !switched);
        Ok(response.map(|body| {
            Body::new(Accounted {
                body,
                route: route.clone(),
                idle,
                touched: Instant::now(),
                timer: None,
                _permits: [of_plugin, of_route, of_node],
            })
        }))
    }

    /// Sends the call to a node; to another one if that failed, the route is idempotent and there is no body to keep.
    async fn attempts(
        &self,
        request: Request<Body>,
        call_info: CallInfo,
        routed: &Routed<'_>,
    ) -> Result<(Response<RecvBody>, Permit), Fault> {
        let mut tried = Vec::new();
        if routed.route.idempotent && http_body::Body::is_end_stream(request.body()) {
            while tried.len() + 1 < MOST_ATTEMPTS {
                let (session, permit, stream) = self.reach(routed, &mut tried).await?;
                let (mut copy, ()) = Request::new(()).into_parts();
                copy.method = request.method().clone();
                copy.uri = request.uri().clone();
                copy.headers = request.headers().clone();
                let copy = Request::from_parts(copy, Body::empty());
                match call(&session.link, stream, &call_info, copy, self.router.limits).await {
                    Err(fault) if may_run_again(fault.code()) => {
                        self.router.metrics.retried();
                        debug!(call = call_info.id, code = %fault.code(), "sent again, the route is idempotent");
                    }
                    answered => return answered.map(|response| (response, permit)),
                }
            }
        }
        let (session, permit, stream) = self.reach(routed, &mut tried).await?;
        let response = call(&session.link, stream, &call_info, request, self.router.limits).await?;
        Ok((response, permit))
    }

    /// A stream to a node that can take the call. Goes on to the next node as long as no byte was sent.
    async fn reach(
        &self,
        routed: &Routed<'_>,
        tried: &mut Vec<NodeName>,
    ) -> Result<(Arc<Session>, Permit, (SendHalf, RecvHalf)), Fault> {
        loop {
            let (node, session, permit) = self.pick(routed, tried)?;
            match session.link.open().await {
                Ok(stream) => {
                    if routed.route.idempotent {
                        tried.push(node.name.clone());
                    }
                    return Ok((session, permit, stream));
                }
                Err(fault) if fault.code() == FaultCode::SessionLost && tried.len() + 1 < MOST_ATTEMPTS => {
                    self.router.metrics.retried();
                    tried.push(node.name.clone());
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// A node that can take the call now, and a permit for it. Nodes in `tried` come last.
    fn pick(
        &self,
        routed: &Routed<'_>,
        tried: &[NodeName],
    ) -> Result<(Arc<Node>, Arc<Session>, Permit), Fault> {
        if let Some(name) = &routed.selector.name
            && routed.selector.match_labels.is_empty()
        {
            let node = self.router.nodes.by_name(name.as_str()).ok_or(FaultCode::UnknownNode)?;
            return one(node, routed.service);
        }
        if !routed.fixed {
            return any(&self.router.nodes.select(routed.selector), routed.service, tried);
        }
        let version = self.router.nodes.version();
        let cached = routed.route.state.candidates.load();
        if let Some(cached) = cached.as_deref()
            && cached.0 == version
        {
            return any(&cached.1, routed.service, tried);
        }
        let nodes = self.router.nodes.select(routed.selector);
        let picked = any(&nodes, routed.service, tried);
        routed.route.state.candidates.store(Some(Arc::new((version, nodes))));
        picked
    }
}

/// Faults upon which the service may not have run, or, the route says, may run again.
fn may_run_again(code: FaultCode) -> bool {
    matches!(code, FaultCode::SessionLost | FaultCode::ServiceRefused | FaultCode::ServiceReset)
}

/// The one node that was asked for.
fn one(node: Arc<Node>, service: &ServiceName) -> Result<(Arc<Node>, Arc<Session>, Permit), Fault> {
    let Some(session) = node.session() else {
        let detail = format!("node {} has no session", node.name);
        return Err(Fault::with_detail(FaultCode::NodeOffline, detail).since_of(node.since()));
    };
    if !node.offers(service) {
        let detail = format!("node {} offers no service '{service}'", node.name);
        return Err(Fault::with_detail(FaultCode::UnknownService, detail));
    }
    if session.draining.load(Ordering::Acquire) {
        return Err(Fault::overloaded(format!("node {} is draining", node.name), RETRY_AFTER));
    }
    match session.permits.try_acquire() {
        Some(permit) => Ok((node, session, permit)),
        None => {
            let limit = session.permits.limit();
            Err(Fault::overloaded(format!("node {} has {limit} calls in flight", node.name), RETRY_AFTER))
        }
    }
}

/// Of two nodes taken at random the one with fewer calls in flight; any other one if neither can take the call.
fn any(
    nodes: &[Arc<Node>],
    service: &ServiceName,
    tried: &[NodeName],
) -> Result<(Arc<Node>, Arc<Session>, Permit), Fault> {
    let able = |at: usize| {
        let node = &nodes[at];
        let session = node.session()?;
        (node.offers(service) && !session.draining.load(Ordering::Acquire)).then_some((node, session))
    };
    if !nodes.is_empty() {
        let first = rand::random_range(0..nodes.len());
        // The second is never the first, unless there is only one.
        let second = (first + 1 + rand::random_range(0..nodes.len().max(2) - 1)) % nodes.len();
        let mut pair: Vec<_> = [first, second].into_iter().filter_map(able).collect();
        pair.retain(|(node, _)| !tried.contains(&node.name));
        pair.sort_by_key(|(_, session)| session.permits.in_use());
        for (node, session) in pair {
            if let Some(permit) = session.permits.try_acquire() {
                return Ok((node.clone(), session, permit));
            }
        }
        // Unlucky: look at all of them, in an order that differs from call to call, those already tried last.
        for again in [false, true] {
            for at in (0..nodes.len()).map(|step| (first + step) % nodes.len()) {
                if tried.contains(&nodes[at].name) == again
                    && let Some((node, session)) = able(at)
                    && let Some(permit) = session.permits.try_acquire()
                {
                    return Ok((node.clone(), session, permit));
                }
            }
        }
    }
    Err(why_none(nodes, service))
}

fn why_none(nodes: &[Arc<Node>], service: &ServiceName) -> Fault {
    let connected: Vec<_> = nodes.iter().filter_map(|node| Some((node, node.session()?))).collect();
    if nodes.is_empty() {
        return Fault::with_detail(FaultCode::NoHealthyNode, "no node matches the route's selector");
    }
    if connected.is_empty() {
        let fault = Fault::with_detail(FaultCode::NoHealthyNode, "every node that matches is offline");
        // Since the last of them left.
        return match nodes.iter().map(|node| node.since()).max() {
            Some(since) => fault.since_of(since),
            None => fault,
        };
    }
    if !connected.iter().any(|(node, _)| node.offers(service)) {
        let detail = format!("no node that matches offers a service '{service}'");
        return Fault::with_detail(FaultCode::UnknownService, detail);
    }
    Fault::overloaded("every node that matches is at its limit or draining", RETRY_AFTER)
}

/// Takes the part of the path that a template matched away.
fn strip_path(request: &mut Request<Body>, strip: usize) -> Result<(), Fault> {
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let rest = target.get(strip..).unwrap_or_default();
    let stripped: Cow<'_, str> = if rest.starts_with('/') { rest.into() } else { format!("/{rest}").into() };
    let uri = http::Uri::try_from(&*stripped).map_err(|_| Fault::new(FaultCode::BadRequest))?;
    *request.uri_mut() = uri;
    Ok(())
}

impl Edge for PluginEdge {
    fn call(&self, request: Request<Body>, cx: CallContext) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
        Box::pin(self.routed(request, cx))
    }

    fn open(&self, to: Destination, cx: CallContext) -> BoxFuture<'_, Result<BoxPipe, Fault>> {
        Box::pin(async move {
            self.router.check_draining()?;
            let of_plugin = self.permit()?;
            let nodes = self.router.nodes.select(&to.nodes);
            let picked = match (&to.nodes.name, nodes.as_slice()) {
                (Some(_), []) => Err(Fault::new(FaultCode::UnknownNode)),
                (Some(_), [node]) => one(node.clone(), &to.service),
                _ => any(&nodes, &to.service, &[]),
            };
            let opening = async {
                let (_, session, of_node) = picked?;
                let call = CallInfo {
                    id: self.router.id(),
                    parent: cx.parent,
                    plugin: self.name.clone(),
                    route: "".into(),
                    service: to.service.clone(),
                    remaining_ms: cx.remaining().map(|left| left.as_millis().try_into().unwrap_or(u64::MAX)),
                    priority: cx.priority,
                };
                let stream = session.link.open().await?;
                let opening = open_pipe(stream, &call, self.router.limits);
                let pipe = match cx.remaining() {
                    None => opening.await?,
                    Some(left) => tokio::time::timeout(left + grace(left), opening)
                        .await
                        .map_err(|_| Fault::deadline(Leg::Tunnel))??,
                };
                Ok((pipe, of_node))
            };
            let (pipe, of_node) =
                opening.await.inspect_err(|fault: &Fault| self.unrouted.fault(fault.code()))?;
            Ok(Box::new(AccountedPipe { pipe, _permits: [of_plugin, of_node] }) as BoxPipe)
        })
    }

    fn nodes(&self, to: &Destination) -> Vec<NodeView> {
        let nodes = self.router.nodes.select(&to.nodes);
        nodes.iter().filter(|node| node.offers(&to.service)).map(|node| node.view()).collect()
    }
}

/// An answer's body with the permits of its call, and a bound on silence.
struct Accounted {
    body: RecvBody,
    route: Arc<Route<RouteState>>,
    idle: Option<Duration>,
    touched: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    _permits: [Permit; 3],
}

impl Accounted {
    /// Ready once nothing came for too long. The timer runs freely and is set anew only when it fires.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(idle) = self.idle else { return Poll::Pending };
        loop {
            let due = self.touched + idle;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due.into());
        }
    }
}

impl http_body::Body for Accounted {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() && this.idle.is_some() {
            this.touched = Instant::now();
        }
        let item = match polled {
            Poll::Ready(item) => item,
            Poll::Pending => {
                std::task::ready!(this.poll_idle(cx));
                Some(Err(Fault::with_detail(FaultCode::Deadline, "the service was silent for too long")))
            }
        };
        if let Some(Err(fault)) = &item {
            this.route.state.counters.fault(fault.code());
        }
        Poll::Ready(item)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A pipe with the permits of its call.
struct AccountedPipe<P> {
    pipe: P,
    _permits: [Permit; 2],
}

impl<P: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for AccountedPipe<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, out)
    }
}

impl<P: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for AccountedPipe<P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
