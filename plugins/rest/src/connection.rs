//! One caller's connection: which HTTP it speaks, its times, its drain and its end.
//!
//! ```text
//! accepted ──TLS, first bytes──▶ open ──▶ serving ──idle too long, or stop──▶ draining ──▶ ended ──▶ lingering
//!     └──too slow, or stop──▶ dropped        │ └──a head too slow──▶ dropped
//!                                            └──101──▶ switched (`upgrade`)
//! ```
//!
//! All of it is one task, owned by the listener. The streams of HTTP/2 are tasks of their own, owned by the connection:
//! they end before it does, and die with it.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use bytes::BytesMut;
use edgeway_plugin::Edge;
use http::{HeaderValue, Version};
use hyper::{
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    activity::{Activity, Due},
    call,
    config::Settings,
    headers::Origin,
    transport::{Stream, Transport},
    upgrade::Switch,
};

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What HTTP/1 buffers of one connection each way, and so the largest piece of a body. Smaller costs bulk its speed,
/// larger gains nothing and is what a slow reader can pin. A head must fit in, so a larger limit for heads raises it.
const BUFFER: usize = 128 * 1024;

/// What a caller may send on one HTTP/2 stream before the edge has taken it. At 100 ms of round trip it allows 5 MB/s.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The same for all streams of a connection, which bounds what a connection can pin.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// What waits to be written on one HTTP/2 stream.
const STREAM_SEND_BUFFER: usize = 128 * 1024;

/// Largest HTTP/2 frame that is taken: the protocol's own least. Larger ones would delay those of other streams.
const FRAME: u32 = 16 * 1024;

/// How often an HTTP/2 caller must show that it is there, and how long it may take for that. A peer that is gone without
/// a word is noticed within the sum.
const PING: Duration = Duration::from_secs(20);

/// Resets that a caller may have outstanding before its connection is ended (CVE-2023-44487), and errors of its own
/// (CVE-2025-8671). Far above what a caller that changes its mind causes.
const PENDING_RESETS: usize = 64;
const ERROR_RESETS: usize = 256;

/// How long, and for how many bytes, a caller that goes on sending is read from after its last answer, so that the reset
/// that follows does not destroy the answer before it was read.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) edge: Arc<dyn Edge>,
    http1: http1::Builder,
    /// `Via` of HTTP/1.0, 1.1 and 2.
    via: [HeaderValue; 3],
}

impl Shared {
    pub(crate) fn new(settings: Arc<Settings>, edge: Arc<dyn Edge>) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .half_close(false)
            .keep_alive(true)
            .max_header_size(settings.header_bytes)
            .max_buf_size(BUFFER.max(settings.header_bytes + 8 * 1024))
            // `Activity` does this, with a time of its own for idle connections.
            .header_read_timeout(None)
            .ignore_invalid_headers(false)
            .auto_date_header(true)
            .pipeline_flush(false);
        // Told its own default, hyper would still take its slow path for counts that differ.
        if settings.header_count != 100 {
            http1.max_headers(settings.header_count);
        }
        let via = ["1.0", "1.1", "2"]
            .map(|version| HeaderValue::from_str(&format!("{version} {}", settings.via)).expect("a token"));
        Self { settings, edge, http1, via }
    }

    /// What to add to `Via` for a request of this version.
    pub(crate) fn via_of(&self, version: Version) -> &HeaderValue {
        match version {
            Version::HTTP_2 => &self.via[2],
            Version::HTTP_11 => &self.via[1],
            _ => &self.via[0],
        }
    }

    fn http2(&self, streams: Streams) -> http2::Builder<Streams> {
        let mut http2 = http2::Builder::new(streams);
        http2
            .timer(TokioTimer::new())
            .adaptive_window(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_concurrent_streams(self.settings.concurrent_streams)
            .max_header_list_size(u32::try_from(self.settings.header_bytes).unwrap_or(u32::MAX))
            .header_table_size(4096)
            .max_send_buf_size(STREAM_SEND_BUFFER)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(ERROR_RESETS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .auto_date_header(true);
        http2
    }
}

/// One connection, as its calls see it.
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) origin: Origin,
    /// Our own address, the host of callers who name none.
    pub(crate) local: HeaderValue,
    /// Beyond the limit of connections: every call is refused.
    pub(crate) refused: bool,
    switch: Mutex<Option<Switch>>,
}

impl Caller {
    /// Lets the connection switch once hyper is done with it.
    pub(crate) fn switch(&self, switch: Switch) {
        *self.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some(switch);
    }

    fn take_switch(&self) -> Option<Switch> {
        self.switch.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An accepted connection.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) caller: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) tls: Option<TlsAcceptor>,
    /// Beyond the limit of connections.
    pub(crate) refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Serves a connection to its end. After `stop`, it takes no new call and ends with its last one.
///
/// # Cancel safety
/// Dropping the future closes the connection and cancels its calls.
pub(crate) async fn serve(accepted: Accepted, shared: Arc<Shared>, stop: CancellationToken) {
    let Accepted { stream, caller: address, local, tls, refused } = accepted;
    // A token of its own: polled with every wake of this connection, its lock is then shared with no other.
    let stop = stop.child_token();
    let activity = Arc::new(Activity::new());
    let origin = Origin::new(address.ip(), tls.is_some());
    let opened = tokio::select! {
        biased; // what has come already is served even while draining
        opened = timeout(shared.settings.request_head, open(stream, tls, &activity)) => opened,
        () = stop.cancelled() => return,
    };
    let (transport, protocol) = match opened {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(%error, "connection failed before its first request"),
        Err(_) => return tracing::debug!("connection sent no request in time"),
    };
    let local = HeaderValue::from_str(&local.to_string()).expect("addresses are visible ASCII");
    let caller = Arc::new(Caller { shared, activity, origin, local, refused, switch: Mutex::default() });
    match protocol {
        Protocol::Http1 => serve_http1(transport, caller, &stop).await,
        Protocol::Http2 => serve_http2(transport, caller, &stop).await,
    }
}

/// TLS, and the protocol: negotiated with TLS, told from its first bytes without. `None` if the caller left before.
async fn open(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    activity: &Arc<Activity>,
) -> io::Result<Option<(Transport, Protocol)>> {
    let (stream, negotiated) = match tls {
        None => (Stream::Plain(stream), None),
        Some(tls) => {
            let stream = tls.accept(stream).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
            (Stream::Tls(Box::new(stream)), Some(protocol))
        }
    };
    let mut transport = Transport::new(stream, activity.clone());
    if let Some(protocol) = negotiated {
        return Ok(Some((transport, protocol)));
    }
    // Large enough for most heads, which then need no second read.
    let mut seen = BytesMut::with_capacity(2048);
    let protocol = loop {
        let read = transport.read_buf(&mut seen).await?;
        let compared = seen.len().min(PREFACE.len());
        if read == 0 && seen.is_empty() {
            return Ok(None);
        }
        if read == 0 || seen[..compared] != PREFACE[..compared] {
            break Protocol::Http1;
        }
        if compared == PREFACE.len() {
            break Protocol::Http2;
        }
    };
    transport.give_back(seen.freeze());
    Ok(Some((transport, protocol)))
}

async fn serve_http1(transport: Transport, caller: Arc<Caller>, stop: &CancellationToken) {
    let service = {
        let caller = caller.clone();
        service_fn(move |request| call::serve(caller.clone(), request))
    };
    let mut connection =
        caller.shared.http1.serve_connection(TokioIo::new(transport), service).with_upgrades();
    let end =
        drive(Pin::new(&mut connection), |connection| connection.graceful_shutdown(), &caller, stop).await;
    match (end, caller.take_switch()) {
        (End::Finished(Ok(())), Some(switch)) => {
            drop(connection);
            switch.run(caller.activity.clone()).await;
        }
        (End::Finished(result), _) => {
            // After an error, too: a head that could not be read has been answered, and may have more behind it.
            let sending = caller.activity.has_unread() || result.is_err();
            log(result);
            if let Some(parts) = connection.into_parts().filter(|_| sending) {
                linger(parts.io.into_inner(), &caller.activity).await;
            }
        }
        (End::Expired, _) => {}
    }
}

async fn serve_http2(transport: Transport, caller: Arc<Caller>, stop: &CancellationToken) {
    caller.activity.multiplexed();
    let streams = Arc::new(Mutex::new(JoinSet::new()));
    let service = {
        let caller = caller.clone();
        service_fn(move |request| call::serve(caller.clone(), request))
    };
    let http2 = caller.shared.http2(Streams(Arc::downgrade(&streams)));
    {
        let mut connection = pin!(http2.serve_connection(TokioIo::new(transport), service));
        let end =
            drive(connection.as_mut(), |connection| connection.graceful_shutdown(), &caller, stop).await;
        if let End::Finished(result) = end {
            log(result);
        }
    }
    // The connection is gone, so nobody is there for what its streams still do.
    let mut streams = std::mem::take(&mut *streams.lock().unwrap_or_else(PoisonError::into_inner));
    streams.abort_all();
    while let Some(result) = streams.join_next().await {
        log_panic(result);
    }
}

enum End {
    Finished(hyper::Result<()>),
    /// A head, or the end of an idle connection, did not come in time.
    Expired,
}

/// Polls a connection to its end, keeps its times, and begins its drain on `stop` or when it was idle too long.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    drain: impl Fn(Pin<&mut C>),
    caller: &Caller,
    stop: &CancellationToken,
) -> End
where
    C: Future<Output = hyper::Result<()>>,
{
    let (head, idle) = (caller.shared.settings.request_head, caller.shared.settings.keep_alive);
    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(sleep_until(Instant::now() + head.min(idle)));
    let mut draining = false;
    // Set once it drains for being idle: then it has as long to end as a head has to come.
    let mut last_chance = None;
    poll_fn(move |cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Finished(result));
            }
            if !draining && stopped.as_mut().poll(cx).is_ready() {
                draining = true;
                drain(connection.as_mut());
                continue;
            }
            let due = caller.activity.due(head, idle);
            // The timer is moved forward only where it would be late; it finds out what is due when it fires.
            if let Some(at) = due.map(Due::at)
                && at < timer.deadline()
            {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match due {
                None => timer.as_mut().reset(now + head.min(idle)),
                Some(due) if due.at() > now => timer.as_mut().reset(due.at()),
                Some(Due::Head(_)) => {
                    tracing::debug!("a request's head was not complete in time");
                    return Poll::Ready(End::Expired);
                }
                Some(Due::Idle(_)) => match last_chance {
                    None => {
                        last_chance = Some(now + head);
                        timer.as_mut().reset(now + head);
                        draining = true;
                        drain(connection.as_mut());
                    }
                    Some(at) if now < at => timer.as_mut().reset(at),
                    Some(_) => return Poll::Ready(End::Expired),
                },
            }
        }
    })
    .await
}

/// Reads on after the last answer to a caller that may still be sending, until it ends: closing a socket with unread bytes
/// resets it, and the reset may overtake the answer.
async fn linger(mut transport: Transport, activity: &Activity) {
    if transport.ended() || activity.is_cut() {
        return;
    }
    let rest = async {
        // hyper has done so already, unless an answer was cut. It fails on a socket that is gone, as reading will, too.
        let _ = transport.shutdown().await;
        let mut scratch = BytesMut::with_capacity(16 * 1024);
        let mut left = LINGER_BYTES;
        while let Ok(read @ 1..) = transport.read_buf(&mut scratch).await {
            scratch.clear();
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
    };
    // Too long means that it is cut off after all.
    let _ = timeout(LINGER, rest).await;
}

/// Callers break off and send nonsense all day; that is worth no more than `debug`.
fn log(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended early");
    }
}

fn log_panic(result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result
        && error.is_panic()
    {
        tracing::error!(%error, "a call panicked");
    }
}

/// Where hyper spawns the streams of one HTTP/2 connection. Weak, since the streams hold it: they would keep themselves.
#[derive(Clone)]
struct Streams(Weak<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let Some(streams) = self.0.upgrade() else { return };
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are done are let go here, so that the set is no longer than the streams that are allowed at once.
        while let Some(result) = streams.try_join_next() {
            log_panic(result);
        }
        streams.spawn(stream);
    }
}
