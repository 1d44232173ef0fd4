//! One connection between an agent and a hub, whatever carries it.
//!
//! [`Link`], [`SendHalf`] and [`RecvHalf`] are the only types above which a transport is visible as such. QUIC is the only
//! transport today; another one becomes another variant here, and nothing above changes.
//!
//! A dropped [`SendHalf`] is reset, never finished: quinn would finish it, and make a truncated body look complete.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use edgeway_proto::{Close, CloseCode, Fault, FaultCode};
use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use tokio_util::task::TaskTracker;

/// Longest wait for a stream that the peer is about to grant. Permits are taken before streams are opened, so a wait
/// means that the peer's grant is under way; a peer that never grants must not hang a call.
const STREAM_GRANT: Duration = Duration::from_secs(1);

/// Most chunks taken from a stream at once. A chunk is what one datagram brought; in a large body many wait, and one lock
/// for 8 of them (some 11 KB) costs less than one for each. More would make each small call pay for room it has no use for.
const CHUNKS_AT_ONCE: usize = 8;

/// A connection. Cheap to clone; the connection lives until it is closed or lost, or the last clone is dropped.
#[derive(Clone)]
pub struct Link {
    connection: quinn::Connection,
    tasks: TaskTracker,
    /// How this side closed it, if it did.
    closed_with: Arc<OnceLock<Close>>,
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEnd {
    /// This side closed it, or let go of it.
    Local(Option<Close>),
    /// The peer closed it, with a code of the published list.
    Peer(Close),
    /// The peer closed it with something else.
    Foreign(String),
    /// Nothing was heard for the idle time.
    TimedOut,
    /// The peer lost its state, as after a restart.
    Reset,
    /// The handshake or the transport failed.
    Transport(String),
}

impl LinkEnd {
    /// A short name for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            LinkEnd::Local(None) => "local",
            LinkEnd::Local(Some(close)) | LinkEnd::Peer(close) => close.code.name(),
            LinkEnd::Foreign(_) => "foreign",
            LinkEnd::TimedOut => "timed_out",
            LinkEnd::Reset => "reset",
            LinkEnd::Transport(_) => "transport",
        }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkEnd::Local(None) => f.write_str("closed by this side"),
            LinkEnd::Local(Some(close)) => write!(f, "closed by this side, {close}"),
            LinkEnd::Peer(close) => write!(f, "closed by the peer, {close}"),
            LinkEnd::Foreign(what) => write!(f, "closed by the peer: {what}"),
            LinkEnd::TimedOut => f.write_str("timed out"),
            LinkEnd::Reset => f.write_str("peer lost its state"),
            LinkEnd::Transport(what) => write!(f, "transport failed: {what}"),
        }
    }
}

impl std::error::Error for LinkEnd {}

impl From<quinn::ConnectionError> for LinkEnd {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::LocallyClosed => LinkEnd::Local(None),
            E::TimedOut => LinkEnd::TimedOut,
            E::Reset => LinkEnd::Reset,
            E::ApplicationClosed(close) => {
                match Close::from_peer(close.error_code.into_inner(), &close.reason) {
                    Some(close) => LinkEnd::Peer(close),
                    None => LinkEnd::Foreign(format!("application code {}", close.error_code)),
                }
            }
            E::ConnectionClosed(close) => LinkEnd::Foreign(close.to_string().chars().take(256).collect()),
            other => LinkEnd::Transport(other.to_string()),
        }
    }
}

/// Why a stream broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamEnd {
    /// The peer reset it, or told us to stop, with this code.
    #[error("peer gave the stream up: {0}")]
    Peer(FaultCode),
    /// The link ended.
    #[error("link ended")]
    Link(#[source] LinkEnd),
    /// The stream was used after its end.
    #[error("stream was closed")]
    Closed,
}

impl StreamEnd {
    /// The fault that a caller sees where this cut its call.
    pub fn to_fault(&self) -> Fault {
        match self {
            StreamEnd::Peer(code) => Fault::new(*code),
            StreamEnd::Link(end) => Fault::with_detail(FaultCode::SessionLost, end.to_string()),
            StreamEnd::Closed => Fault::new(FaultCode::Internal),
        }
    }
}

/// Figures of a link, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct LinkStats {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Packets lost.
    pub lost_packets: u64,
    /// Largest datagram in use, in bytes.
    pub mtu: u16,
}

impl Link {
    pub(crate) fn quic(connection: quinn::Connection) -> Self {
        Self { connection, tasks: TaskTracker::new(), closed_with: Arc::default() }
    }

    /// Opens a stream. On QUIC the peer learns of it with the first byte.
    ///
    /// # Errors
    /// [`Overloaded`](FaultCode::Overloaded) if the peer grants no stream within a second, and
    /// [`SessionLost`](FaultCode::SessionLost) if the link has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn open(&self) -> Result<(SendHalf, RecvHalf), Fault> {
        let mut opening = pin!(self.connection.open_bi());
        // The usual case needs no timer.
        let opened = match futures_util::poll!(opening.as_mut()) {
            Poll::Ready(opened) => opened,
            Poll::Pending => tokio::time::timeout(STREAM_GRANT, opening).await.map_err(|_| {
                Fault::overloaded(
                    "the agent grants no further stream on this session",
                    Duration::from_secs(1),
                )
            })?,
        };
        let (send, recv) = opened.map_err(|error| StreamEnd::Link(error.into()).to_fault())?;
        Ok((SendHalf { stream: send, open: true }, RecvHalf { stream: recv, ended: false }))
    }

    /// Waits for the peer to open a stream.
    ///
    /// # Errors
    /// The link's end.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn accept(&self) -> Result<(SendHalf, RecvHalf), LinkEnd> {
        let (send, recv) = self.connection.accept_bi().await?;
        Ok((SendHalf { stream: send, open: true }, RecvHalf { stream: recv, ended: false }))
    }

    /// Closes at once; streams still open break at both ends. Does nothing to a link that has ended: the cause of its end
    /// stays the one that came first.
    pub fn close(&self, close: &Close) {
        if self.connection.close_reason().is_some() {
            return;
        }
        let _ = self.closed_with.set(close.clone());
        self.connection.close(VarInt::from_u32(close.code.number()), &close.reason());
    }

    /// Waits until the link has ended, and says why.
    pub async fn closed(&self) -> LinkEnd {
        self.explain(self.connection.closed().await)
    }

    /// Why the link ended, `None` while it lives.
    pub fn end(&self) -> Option<LinkEnd> {
        self.connection.close_reason().map(|reason| self.explain(reason))
    }

    fn explain(&self, reason: quinn::ConnectionError) -> LinkEnd {
        match reason {
            quinn::ConnectionError::LocallyClosed => LinkEnd::Local(self.closed_with.get().cloned()),
            other => other.into(),
        }
    }

    /// Where the peer is now; it may move.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The peer's certificate, verified by the handshake.
    pub fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let chain = self.connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        chain.into_iter().next()
    }

    /// Figures of the path.
    pub fn stats(&self) -> LinkStats {
        let stats = self.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            datagrams_sent: stats.udp_tx.datagrams,
            datagrams_received: stats.udp_rx.datagrams,
            lost_packets: stats.path.lost_packets,
            mtu: stats.path.current_mtu,
        }
    }

    /// Runs a task that belongs to this link; [`finish`](Self::finish) waits for it. It must end with its stream.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
        self.tasks.spawn(task).abort_handle()
    }

    /// Closes if that was not done yet, and waits for the link's tasks.
    ///
    /// # Cancel safety
    /// The link is closed; tasks go on to their end.
    pub async fn finish(&self) {
        self.close(&Close::new(CloseCode::Shutdown, ""));
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("remote_address", &self.remote_address()).finish_non_exhaustive()
    }
}

/// The writing half of a stream. Dropped before [`finish`](Self::finish), it is reset with `cancelled`.
#[derive(Debug)]
pub struct SendHalf {
    stream: quinn::SendStream,
    open: bool,
}

impl SendHalf {
    /// Writes all of `bytes`, waiting for flow control.
    ///
    /// # Errors
    /// The stream's end.
    ///
    /// # Cancel safety
    /// Some bytes may have been written; drop the stream, too.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StreamEnd> {
        self.stream.write_chunk(bytes).await.map_err(write_end)
    }

    /// Writes all chunks in order, waiting for flow control.
    ///
    /// # Errors
    /// The stream's end.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write).
    pub async fn write_all(&mut self, chunks: &mut [Bytes]) -> Result<(), StreamEnd> {
        self.stream.write_all_chunks(chunks).await.map_err(write_end)
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, StreamEnd>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map_err(write_end)
    }

    /// Ends the stream cleanly: all that was written will arrive.
    pub fn finish(&mut self) {
        self.open = false;
        // An error means that the stream broke before, which the peer knows.
        let _ = self.stream.finish();
    }

    /// Ends the stream at once; what was not delivered is dropped.
    pub fn reset(&mut self, code: FaultCode) {
        self.open = false;
        let _ = self.stream.reset(VarInt::from_u32(code.number()));
    }

    /// Sends this stream's bytes before those of streams with a lower number. 0 is ordinary.
    pub fn prioritise(&self, priority: u32) {
        if priority > 0 {
            let _ = self.stream.set_priority(priority.try_into().unwrap_or(i32::MAX));
        }
    }

    /// Completes when the peer no longer wants the stream or has all of it, or the link ends. Borrows nothing.
    pub(crate) fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static + use<> {
        let stopped = self.stream.stopped();
        async move {
            match stopped.await {
                Ok(None) => Stopped::Delivered,
                Ok(Some(_)) | Err(_) => Stopped::GivenUp,
            }
        }
    }
}

/// How a sending stream came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It was finished, and the peer's transport has all of it.
    Delivered,
    /// The peer gave it up, or the link ended.
    GivenUp,
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if self.open {
            self.reset(FaultCode::Cancelled);
        }
    }
}

fn write_end(error: quinn::WriteError) -> StreamEnd {
    match error {
        quinn::WriteError::Stopped(code) => StreamEnd::Peer(fault_of(code)),
        quinn::WriteError::ConnectionLost(error) => StreamEnd::Link(error.into()),
        quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => StreamEnd::Closed,
    }
}

fn fault_of(code: VarInt) -> FaultCode {
    FaultCode::from_number(code.into_inner()).unwrap_or(FaultCode::Cancelled)
}

/// The reading half of a stream. Dropped before its end, it tells the peer to stop with `cancelled`.
#[derive(Debug)]
pub struct RecvHalf {
    stream: quinn::RecvStream,
    ended: bool,
}

impl RecvHalf {
    /// The next bytes in order, `None` at the end.
    ///
    /// # Errors
    /// The stream's end, if it is not the clean one.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn read(&mut self) -> Result<Option<Bytes>, StreamEnd> {
        std::future::poll_fn(|cx| self.poll_read(cx)).await
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamEnd>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let mut chunks = [const { Bytes::new() }; CHUNKS_AT_ONCE];
        // The future of quinn keeps no state between polls, so a new one each time loses nothing.
        let read = {
            let reading = pin!(self.stream.read_chunks(&mut chunks));
            std::task::ready!(reading.poll(cx))
        };
        Poll::Ready(match read {
            Ok(Some(1)) => Ok(Some(std::mem::take(&mut chunks[0]))),
            Ok(Some(count)) => Ok(Some(join(&chunks[..count]))),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(quinn::ReadError::Reset(code)) => {
                self.ended = true;
                Err(StreamEnd::Peer(fault_of(code)))
            }
            Err(quinn::ReadError::ConnectionLost(error)) => {
                self.ended = true;
                Err(StreamEnd::Link(error.into()))
            }
            Err(_) => Err(StreamEnd::Closed),
        })
    }

    /// Tells the peer that nothing more is wanted.
    pub fn stop(&mut self, code: FaultCode) {
        self.ended = true;
        let _ = self.stream.stop(VarInt::from_u32(code.number()));
    }
}

/// One buffer from many: what follows (frames, HTTP writes) costs by the piece, and copying is cheaper.
fn join(chunks: &[Bytes]) -> Bytes {
    let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        joined.extend_from_slice(chunk);
    }
    joined.freeze()
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        if !self.ended {
            self.stop(FaultCode::Cancelled);
        }
    }
}
