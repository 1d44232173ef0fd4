//! HTTP/2 connections: each carries many calls, up to what the service allows.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument, debug, debug_span};

use crate::{config::PoolSettings, socket::Wire, tasks::Tasks, upload::Upload};

/// How many calls wait on a connection whose settings have not arrived: what RFC 9113 (section 6.5.2) asks services to
/// allow at least.
const ASSUMED_STREAMS: usize = 100;

/// A connection that calls share.
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: SendRequest<Upload>,
    in_flight: AtomicUsize,
    served: AtomicU64,
    /// What the service allows at once; 0 as long as it has not said.
    allowed: Arc<AtomicUsize>,
    _slot: OwnedSemaphorePermit,
}

/// One call's place on a connection, given back on drop.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Http2>);

/// The settings of all connections of a pool.
pub(crate) fn builder(settings: &PoolSettings, tasks: &Tasks) -> Builder<Tasks> {
    let mut builder = Builder::new(tasks.clone());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(settings.header_bytes)
        // No stream before the service has said how many it allows: those beyond it would be refused.
        .initial_max_send_streams(0);
    builder
}

impl Http2 {
    /// Starts HTTP/2 on a wire. `None` once the connector is gone.
    pub(crate) async fn start(
        wire: Wire,
        builder: &Builder<Tasks>,
        tasks: &Tasks,
        slot: OwnedSemaphorePermit,
    ) -> hyper::Result<Option<Self>> {
        let (sender, connection) = builder.handshake::<_, Upload>(TokioIo::new(wire)).await?;
        let allowed = Arc::new(AtomicUsize::new(0));
        let driver = Driver { connection, allowed: Arc::clone(&allowed) };
        if tasks.spawn(driver.instrument(debug_span!("http2_connection"))).is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            sender,
            in_flight: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            allowed,
            _slot: slot,
        }))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// A place for one more call, if there is one.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Stream> {
        let allowed = match self.allowed.load(Ordering::Acquire) {
            0 => ASSUMED_STREAMS,
            allowed => allowed,
        };
        self.in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < allowed).then_some(taken + 1))
            .ok()?;
        self.served.fetch_add(1, Ordering::AcqRel);
        Some(Stream(Arc::clone(self)))
    }
}

impl Stream {
    /// What the call is sent with.
    pub(crate) fn sender(&self) -> SendRequest<Upload> {
        self.0.sender.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The connections of a pool. The first that has room takes a call, so that surplus ones fall idle and go.
#[derive(Debug, Default)]
pub(crate) struct Http2Set(Vec<Member>);

#[derive(Debug)]
struct Member {
    connection: Arc<Http2>,
    /// Calls it had served when it was last looked at, and when that was.
    seen: u64,
    since: Instant,
}

impl Http2Set {
    pub(crate) fn add(&mut self, connection: Http2) {
        self.0.push(Member { connection: Arc::new(connection), seen: 0, since: Instant::now() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A place on the first connection that has one.
    pub(crate) fn enter(&mut self) -> Option<Stream> {
        self.0.retain(|member| !member.connection.is_closed());
        self.0.iter().find_map(|member| member.connection.enter())
    }

    /// Lets go of connections that served nothing for `timeout`.
    pub(crate) fn expire(&mut self, now: Instant, timeout: Duration) {
        self.0.retain_mut(|member| {
            let served = member.connection.served.load(Ordering::Acquire);
            if member.connection.in_flight.load(Ordering::Acquire) > 0 || served != member.seen {
                member.seen = served;
                member.since = now;
            }
            !member.connection.is_closed() && now.saturating_duration_since(member.since) < timeout
        });
    }
}

/// Drives a connection and notes what the service allows.
struct Driver {
    connection: Connection<TokioIo<Wire>, Upload, Tasks>,
    allowed: Arc<AtomicUsize>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        self.allowed.store(self.connection.current_max_send_streams(), Ordering::Release);
        polled.map(|ended| {
            if let Err(error) = ended {
                debug!(%error, "connection to the service ended");
            }
        })
    }
}
