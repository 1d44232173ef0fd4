//! Calls that came in, handed to the connector of the service they name.
//!
//! One task for each call, owned by the tracker of the session. The host's duties are done here, so that no connector has
//! to: permits, the deadline, panics turned into faults, and an end to the connector's future when the caller leaves.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use edgeway_host::permits::{Permit, Permits};
use edgeway_plugin::{
    Body, BoxPipe, CallContext, DynConnector, Fault, FaultCode, Leg, Response, ServiceName,
};
use edgeway_tunnel::{
    CallInfo, HeadLimits,
    link::{RecvHalf, SendHalf},
    serve::{CallEnd, IncomingCall, PipeResponder, accept_call},
};
use tokio::io::AsyncWriteExt;
use tracing::{debug, error};

use crate::metrics::{AgentMetrics, ServiceCounters};

/// When a caller that met a limit should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes that a pipe holds in each direction while it copies.
const PIPE_BUFFER: usize = 64 * 1024;

/// A service of this node.
pub(crate) struct Service {
    pub(crate) connector: Arc<dyn DynConnector>,
    pub(crate) kind: &'static str,
    pub(crate) permits: Permits,
    pub(crate) counters: ServiceCounters,
}

/// All services of this node, and what bounds calls to them.
pub(crate) struct Dispatch {
    pub(crate) services: BTreeMap<ServiceName, Service>,
    pub(crate) permits: Permits,
    pub(crate) limits: HeadLimits,
    pub(crate) draining: AtomicBool,
    pub(crate) metrics: Arc<AgentMetrics>,
}

impl Dispatch {
    /// Answers one call, to its end.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream and drops what the connector was doing.
    pub(crate) async fn serve(self: Arc<Self>, send: SendHalf, recv: RecvHalf) {
        let incoming = match accept_call(send, recv, self.limits).await {
            Ok(incoming) => incoming,
            Err(fault) => {
                self.metrics.bad_call();
                debug!(code = %fault.code(), detail = fault.detail(), "call refused");
                return;
            }
        };
        match incoming {
            IncomingCall::Http { call, request, responder } => {
                let admitted = self.admit(&call.service);
                let counters = admitted.as_ref().ok().map(|(service, _)| &service.counters);
                let answer = async {
                    let (service, permits) = admitted.as_ref().map_err(Clone::clone)?;
                    let _held = permits;
                    let cx = context(&call);
                    let request = request.map(Body::new);
                    within_deadline(cx.deadline, caught(service.connector.call(request, cx))).await
                };
                let end = responder.respond(answer_body(answer)).await;
                self.record(&call, counters, &end);
            }
            IncomingCall::Pipe { call, responder } => {
                let end = self.pipe(&call, responder).await;
                let counters = self.services.get(&call.service).map(|service| &service.counters);
                self.record(&call, counters, &end);
            }
        }
    }

    async fn pipe(&self, call: &CallInfo, responder: PipeResponder) -> CallEnd {
        let cancelled = responder.cancelled();
        let opening = async {
            let (service, permits) = self.admit(&call.service)?;
            let cx = context(call);
            let pipe = within_deadline(cx.deadline, caught(service.connector.open(cx))).await?;
            Ok((pipe, permits))
        };
        let opened = tokio::select! {
            biased; // a pipe that nobody waits for is not opened
            () = cancelled => return CallEnd::Cancelled,
            opened = opening => opened,
        };
        let (local, _permits): (BoxPipe, _) = match opened {
            Ok(opened) => opened,
            Err(fault) => {
                responder.refuse(&fault).await;
                return CallEnd::Fault(fault);
            }
        };
        let mut local = local;
        let mut remote = match responder.accept().await {
            Ok(remote) => remote,
            Err(_) => return CallEnd::Cancelled,
        };
        match tokio::io::copy_bidirectional_with_sizes(&mut local, &mut remote, PIPE_BUFFER, PIPE_BUFFER)
            .await
        {
            Ok(_) => {
                let _ = remote.shutdown().await;
                CallEnd::Complete
            }
            Err(error) => CallEnd::Fault(Fault::with_detail(FaultCode::ServiceReset, error.to_string())),
        }
    }

    /// The service, and the permits of a call to it.
    fn admit(&self, name: &ServiceName) -> Result<(&Service, [Permit; 2]), Fault> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Fault::overloaded("the agent is shutting down", RETRY_AFTER));
        }
        let service = self.services.get(name).ok_or_else(|| {
            Fault::with_detail(FaultCode::UnknownService, format!("this node offers no service '{name}'"))
        })?;
        let of_agent = self.permits.try_acquire().ok_or_else(|| {
            let limit = self.permits.limit();
            Fault::overloaded(format!("the agent has {limit} calls in flight"), RETRY_AFTER)
        })?;
        let of_service = service.permits.try_acquire().ok_or_else(|| {
            let limit = service.permits.limit();
            Fault::overloaded(format!("service {name} has {limit} calls in flight"), RETRY_AFTER)
        })?;
        Ok((service, [of_agent, of_service]))
    }

    fn record(&self, call: &CallInfo, counters: Option<&ServiceCounters>, end: &CallEnd) {
        if let Some(counters) = counters {
            counters.call(end);
        }
        if let CallEnd::Fault(fault) = end {
            if fault.code() == FaultCode::Internal {
                error!(call = call.id, service = %call.service, detail = fault.detail(), "call failed by a bug");
            } else {
                debug!(call = call.id, service = %call.service, code = %fault.code(), detail = fault.detail(), "fault");
            }
        }
    }
}

fn context(call: &CallInfo) -> CallContext {
    let mut cx = CallContext::new();
    cx.id = call.id;
    cx.parent = call.parent;
    cx.plugin = call.plugin.clone();
    cx.route = call.route.clone();
    cx.service = Some(call.service.clone());
    // A day is as good as none, and can't overflow the clock.
    cx.deadline = call.remaining_ms.map(|ms| Instant::now() + Duration::from_millis(ms.min(86_400_000)));
    cx.priority = call.priority;
    cx
}

async fn within_deadline<T>(
    deadline: Option<Instant>,
    answer: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    match deadline {
        None => answer.await,
        Some(deadline) => match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::deadline(Leg::Service)),
        },
    }
}

/// Turns a panic of a connector into a fault.
async fn caught<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let mut answer = std::pin::pin!(answer);
    std::future::poll_fn(|cx| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
            Ok(poll) => poll,
            // The future is not polled again: this is its last answer.
            Err(_) => Poll::Ready(Err(Fault::with_detail(FaultCode::Internal, "the connector panicked"))),
        }
    })
    .await
}

/// Guards the polls of the answer's body as [`caught`] does those of the answer.
async fn answer_body(
    answer: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Result<Response<CaughtBody>, Fault> {
    Ok(answer.await?.map(|body| CaughtBody { body, broken: false }))
}

struct CaughtBody {
    body: Body,
    broken: bool,
}

impl http_body::Body for CaughtBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Fault>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.body).poll_frame(cx)));
        polled.unwrap_or_else(|_| {
            self.broken = true;
            Poll::Ready(Some(Err(Fault::with_detail(FaultCode::Internal, "the connector panicked"))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
