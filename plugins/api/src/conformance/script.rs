//! What a [`FakeEdge`](super::FakeEdge) does with a call: the behaviours, and the bodies and pipes that carry them out.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::record::{End, Recorder};
use crate::{Body, BoxFuture, Fault, FaultCode};

/// What a [`FakeEdge`](super::FakeEdge) does with the calls that begin from now on. Bodies are streamed: an echo sends a
/// piece back as soon as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behaviour {
    /// Answers `200` with the request's body and trailers, its `content-type` and its `content-length` if it had them; an
    /// upgrade with `101`, then what the caller sends; `expect: 100-continue` once the request's body has begun.
    Echo,
    /// Takes the call and does not answer until [`release`](super::FakeEdge::release), then echoes.
    Stall,
    /// Echoes this many bytes, then nothing more until [`release`](super::FakeEdge::release). A body that is shorter
    /// passes whole; one of exactly this length lacks its end.
    StallAfter(u64),
    /// Echoes this many bytes, then breaks off with a fault. A body that is shorter passes whole; one of exactly this
    /// length lacks its end. No length is declared.
    CutAfter(u64),
    /// Echoes in pieces of at most this many bytes with a millisecond between them.
    Slow(usize),
    /// Refuses the call.
    Fault(FaultCode),
}

/// What happens to a call from outside of its own script.
pub(super) struct Interrupts {
    /// Resolves when the session is lost.
    pub(super) lost: Signal,
    /// Resolves when stalled calls may go on.
    pub(super) released: Signal,
}

/// A future that stays resolved, so that halves of a pipe may go on asking.
pub(super) struct Signal(Option<BoxFuture<'static, ()>>);

impl Signal {
    pub(super) fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl Future for Signal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(future) = &mut self.0 {
            ready!(future.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(())
    }
}

impl Interrupts {
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        Pin::new(&mut self.lost).poll(cx).map(|()| session_lost())
    }
}

pub(super) fn session_lost() -> Fault {
    Fault::with_detail(FaultCode::SessionLost, "the fake edge lost its session")
}

fn broken_off() -> Fault {
    Fault::with_detail(FaultCode::ServiceReset, "the fake service broke off")
}

/// How an answer's bytes are let through.
pub(super) enum Shape {
    Whole,
    StallAfter(u64),
    CutAfter(u64),
    Slow(usize),
}

impl Shape {
    /// How many more bytes may pass, given how many have.
    fn allowance(&self, sent: u64) -> usize {
        let left = match self {
            Shape::Whole => u64::MAX,
            Shape::StallAfter(limit) | Shape::CutAfter(limit) => limit.saturating_sub(sent),
            Shape::Slow(piece) => (*piece).max(1) as u64,
        };
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Ready once bytes may pass: an error where it cuts.
    fn poll_gate(
        &mut self,
        sent: u64,
        interrupts: &mut Interrupts,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        if let Poll::Ready(fault) = interrupts.poll_lost(cx) {
            return Poll::Ready(Err(fault));
        }
        if self.allowance(sent) == 0 {
            if let Shape::CutAfter(_) = self {
                return Poll::Ready(Err(broken_off()));
            }
            ready!(Pin::new(&mut interrupts.released).poll(cx));
            *self = Shape::Whole;
        }
        Poll::Ready(Ok(()))
    }
}

/// A body with a shape.
pub(super) struct Shaped {
    source: Body,
    shape: Shape,
    interrupts: Interrupts,
    sent: u64,
    /// Read from the source and not yet let through.
    spare: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Shaped {
    pub(super) fn new(source: Body, shape: Shape, interrupts: Interrupts) -> Self {
        Self { source, shape, interrupts, sent: 0, spare: Bytes::new(), pause: None }
    }
}

impl http_body::Body for Shaped {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        if let Err(fault) = ready!(this.shape.poll_gate(this.sent, &mut this.interrupts, cx)) {
            return Poll::Ready(Some(Err(fault)));
        }
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        if this.spare.is_empty() {
            match ready!(Pin::new(&mut this.source).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.spare = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = this.spare.split_to(this.shape.allowance(this.sent).min(this.spare.len()));
        this.sent += piece.len() as u64;
        if let Shape::Slow(_) = this.shape {
            this.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(1))));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.shape, Shape::Whole | Shape::Slow(_))
            && self.spare.is_empty()
            && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.shape {
            Shape::Whole if self.sent == 0 => self.source.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// A body whose first frame was looked at already.
pub(super) struct Begun {
    pub(super) first: Option<Result<Frame<Bytes>, Fault>>,
    pub(super) rest: Body,
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// Bytes that a pipe holds between writing and reading; a writer waits at this bound.
const PIPE_BUFFER: usize = 64 * 1024;

/// A pipe that gives back what is written to it, with a shape.
pub(super) struct EchoPipe {
    shape: Shape,
    interrupts: Interrupts,
    buffer: VecDeque<u8>,
    sent: u64,
    written_out: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    upload: Recorder,
    answer: Recorder,
}

impl EchoPipe {
    pub(super) fn new(shape: Shape, interrupts: Interrupts, upload: Recorder, answer: Recorder) -> Self {
        let buffer = VecDeque::new();
        Self {
            shape,
            interrupts,
            buffer,
            sent: 0,
            written_out: false,
            reader: None,
            writer: None,
            upload,
            answer,
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl AsyncRead for EchoPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Err(fault) = ready!(this.shape.poll_gate(this.sent, &mut this.interrupts, cx)) {
            this.answer.end(End::Fault(fault.clone()));
            wake(&mut this.writer);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, fault)));
        }
        if this.buffer.is_empty() {
            if this.written_out {
                this.answer.end(End::Complete);
                return Poll::Ready(Ok(()));
            }
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = this.buffer.len().min(out.remaining()).min(this.shape.allowance(this.sent));
        for byte in this.buffer.drain(..length) {
            out.put_slice(&[byte]);
        }
        this.sent += length as u64;
        this.answer.advance(length);
        wake(&mut this.writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EchoPipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Poll::Ready(fault) = this.interrupts.poll_lost(cx) {
            this.upload.end(End::Fault(fault.clone()));
            wake(&mut this.reader);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, fault)));
        }
        let length = bytes.len().min(PIPE_BUFFER - this.buffer.len());
        if length == 0 && !bytes.is_empty() {
            this.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        this.buffer.extend(&bytes[..length]);
        this.upload.advance(length);
        wake(&mut this.reader);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.written_out = true;
        self.upload.end(End::Complete);
        wake(&mut self.reader);
        Poll::Ready(Ok(()))
    }
}
