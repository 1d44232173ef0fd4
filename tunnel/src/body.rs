//! Bodies on a stream: received ones as [`RecvBody`], sent ones by `send_body`.
//!
//! The invariant of this file: a body is complete only if its TRAILERS frame arrived. The end of the stream alone, a
//! reset, or a FAULT frame all end a received body with an error.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use edgeway_proto::{
    Fault, FaultCode,
    frame::{Frame, FrameReader, FrameType, put_header},
    head::{HeadLimits, decode_trailers, put_trailers},
    wire,
};
use http_body::SizeHint;
use prost::Message;
use tokio::{sync::oneshot, task::AbortHandle};

use crate::link::{RecvHalf, SendHalf, StreamEnd};

/// DATA up to this size is copied behind its header, so that both go out as one chunk; larger pieces are handed over.
const COPY_BELOW: usize = 8 * 1024;

/// Largest DATA frame that is sent: under every receiver's limit, and small enough that a FAULT can follow soon.
const LARGEST_DATA: usize = 1024 * 1024;

/// Frames read from a stream.
#[derive(Debug)]
pub(crate) struct Frames {
    recv: RecvHalf,
    reader: FrameReader,
}

/// Why no frame came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramesError {
    #[error("stream broke")]
    Stream(#[source] StreamEnd),
    #[error("peer broke the protocol: {0}")]
    Protocol(String),
}

impl FramesError {
    /// The fault this is to a caller; `blame` is what a breach of protocol counts as.
    pub(crate) fn to_fault(&self, blame: FaultCode) -> Fault {
        match self {
            FramesError::Stream(end) => end.to_fault(),
            FramesError::Protocol(what) => {
                Fault::with_detail(blame, format!("the peer broke the protocol: {what}"))
            }
        }
    }
}

impl Frames {
    pub(crate) fn new(recv: RecvHalf, reader: FrameReader) -> Self {
        Self { recv, reader }
    }

    /// The next frame, `None` at a clean end of the stream between frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FramesError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, FramesError>> {
        loop {
            match self.reader.next() {
                Ok(Some(frame)) => return Poll::Ready(Ok(Some(frame))),
                Ok(None) => {}
                Err(error) => {
                    self.recv.stop(FaultCode::BadRequest);
                    return Poll::Ready(Err(FramesError::Protocol(error.to_string())));
                }
            }
            match ready!(self.recv.poll_read(cx)) {
                Ok(Some(bytes)) => self.reader.push(bytes),
                Ok(None) => {
                    let end = self.reader.finish().map_err(|error| FramesError::Protocol(error.to_string()));
                    return Poll::Ready(end.map(|()| None));
                }
                Err(end) => return Poll::Ready(Err(FramesError::Stream(end))),
            }
        }
    }

    pub(crate) fn stop(&mut self, code: FaultCode) {
        self.recv.stop(code);
    }
}

/// A body as it arrives. Dropped before its end, it tells the peer to stop, and cancels what rides with it.
#[derive(Debug)]
pub struct RecvBody {
    /// `None` once the end was seen, or if there is no body.
    frames: Option<Frames>,
    limits: HeadLimits,
    /// What a breach of protocol by the peer counts as.
    blame: FaultCode,
    /// Announced length, for [`http_body::Body::size_hint`].
    length: Option<u64>,
    /// Told when the body is first polled: what `expect: 100-continue` waits for.
    wanted: Option<oneshot::Sender<()>>,
    /// The task that still sends the request while this answer is read.
    sending: Option<SendingGuard>,
}

/// Ends the task that sends the request's body, whose stream is then reset if it was not finished.
#[derive(Debug)]
pub(crate) struct SendingGuard(pub(crate) AbortHandle);

impl Drop for SendingGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RecvBody {
    pub(crate) fn new(
        frames: Option<Frames>,
        limits: HeadLimits,
        blame: FaultCode,
        length: Option<u64>,
    ) -> Self {
        Self { frames, limits, blame, length, wanted: None, sending: None }
    }

    pub(crate) fn telling_when_wanted(mut self) -> (Self, oneshot::Receiver<()>) {
        let (tell, wanted) = oneshot::channel();
        self.wanted = Some(tell);
        (self, wanted)
    }

    pub(crate) fn with_sending(mut self, sending: Option<SendingGuard>) -> Self {
        self.sending = sending;
        self
    }

    fn end(&mut self) {
        self.frames = None;
        self.wanted = None;
        // The request may still be on its way: a service can answer before it has read all. Its sender lives as long as
        // this body, whose owner decides.
    }

    /// What a frame other than DATA means: the true end with its trailers, or why the body is cut.
    fn last_frame(&mut self, frame: Frame) -> Result<Option<http::HeaderMap>, Fault> {
        match frame.kind {
            FrameType::Trailers => decode_trailers(frame.payload, &self.limits)
                .map_err(|error| FramesError::Protocol(error.to_string()).to_fault(self.blame)),
            FrameType::Fault => Err(decode_fault(frame.payload)),
            other => {
                let what = format!("a {other:?} frame within a body");
                Err(FramesError::Protocol(what).to_fault(self.blame))
            }
        }
    }
}

pub(crate) fn decode_fault(payload: Bytes) -> Fault {
    match wire::Fault::decode(payload) {
        Ok(fault) => Fault::from_wire(fault),
        Err(_) => Fault::with_detail(FaultCode::Internal, "the peer sent a fault that does not decode"),
    }
}

impl http_body::Body for RecvBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        if let Some(wanted) = this.wanted.take() {
            let _ = wanted.send(());
        }
        let Some(frames) = &mut this.frames else { return Poll::Ready(None) };
        let item = match ready!(frames.poll_next(cx)) {
            Ok(Some(Frame { kind: FrameType::Data, payload })) => {
                return Poll::Ready(Some(Ok(http_body::Frame::data(payload))));
            }
            Ok(Some(frame)) => match this.last_frame(frame) {
                Ok(trailers) => trailers.map(|trailers| Ok(http_body::Frame::trailers(trailers))),
                Err(fault) => {
                    frames_stop(&mut this.frames);
                    Some(Err(fault))
                }
            },
            Ok(None) => Some(Err(
                FramesError::Protocol("the stream ended before the body did".into()).to_fault(this.blame)
            )),
            Err(error) => Some(Err(error.to_fault(this.blame))),
        };
        this.end();
        Poll::Ready(item)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (self.frames.is_none(), self.length) {
            (true, _) => SizeHint::with_exact(0),
            (false, Some(length)) => SizeHint::with_exact(length),
            (false, None) => SizeHint::default(),
        }
    }
}

fn frames_stop(frames: &mut Option<Frames>) {
    if let Some(frames) = frames {
        frames.stop(FaultCode::BadRequest);
    }
}

/// Why a body was not sent to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SendEnd {
    /// The body itself was cut.
    Body(Fault),
    /// The stream broke, or the peer wants no more.
    Stream(StreamEnd),
}

/// The start of a message: its head, and what of its body is there at once.
pub(crate) struct Opening {
    bytes: BytesMut,
    /// A piece too large to copy; it goes behind `bytes`.
    large: Option<Bytes>,
    /// What goes behind `large`.
    tail: BytesMut,
    /// The true end was seen: nothing is left to send.
    whole: bool,
}

impl Opening {
    pub(crate) fn new(head: BytesMut) -> Self {
        Self { bytes: head, large: None, tail: BytesMut::new(), whole: false }
    }

    /// No body follows the head.
    pub(crate) fn without_body(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Whether it surely fits into any window.
    pub(crate) fn is_small(&self) -> bool {
        self.large.is_none()
    }

    /// Takes what `body` has ready, so that a small message is one write. Never waits.
    pub(crate) fn take_ready<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Result<(), Fault>
    where
        B: http_body::Body<Data = Bytes, Error = Fault> + Unpin,
    {
        while !self.whole && self.large.is_none() && self.bytes.len() < COPY_BELOW {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.end(None),
                Poll::Ready(Some(Err(fault))) => return Err(fault),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.take(data);
                        if body.is_end_stream() {
                            self.end(None);
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.end(Some(&trailers));
                        }
                    }
                },
            }
        }
        Ok(())
    }

    fn take(&mut self, mut data: Bytes) {
        if data.len() <= COPY_BELOW {
            return put_data(&mut self.bytes, &data);
        }
        let first = data.split_to(data.len().min(LARGEST_DATA));
        put_header(&mut self.bytes, FrameType::Data, first.len());
        self.large = Some(first);
        // Rare: more than a megabyte in one piece. The rest is copied rather than kept beside.
        while !data.is_empty() {
            put_data(&mut self.tail, &data.split_to(data.len().min(LARGEST_DATA)));
        }
    }

    fn end(&mut self, trailers: Option<&http::HeaderMap>) {
        put_trailers(if self.large.is_some() { &mut self.tail } else { &mut self.bytes }, trailers);
        self.whole = true;
    }

    /// Writes it; finishes the stream if the message is whole. Returns whether it was.
    pub(crate) async fn write(self, send: &mut SendHalf) -> Result<bool, StreamEnd> {
        match self.large {
            Some(large) => send.write_all(&mut [self.bytes.freeze(), large, self.tail.freeze()]).await?,
            None => send.write(self.bytes.freeze()).await?,
        }
        if self.whole {
            send.finish();
        }
        Ok(self.whole)
    }
}

/// Sends the rest of a body, and its true end. A body that is cut resets the stream with its fault's code.
pub(crate) async fn send_body<B>(send: &mut SendHalf, body: &mut B) -> Result<(), SendEnd>
where
    B: http_body::Body<Data = Bytes, Error = Fault> + Unpin,
{
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        let mut out = BytesMut::new();
        match frame {
            None => {
                put_trailers(&mut out, None);
                send.write(out.freeze()).await.map_err(SendEnd::Stream)?;
                send.finish();
                return Ok(());
            }
            Some(Err(fault)) => return Err(SendEnd::Body(fault)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => {
                    while !data.is_empty() {
                        let piece = data.split_to(data.len().min(LARGEST_DATA));
                        if piece.len() <= COPY_BELOW {
                            put_data(&mut out, &piece);
                            send.write(out.split().freeze()).await.map_err(SendEnd::Stream)?;
                        } else {
                            put_header(&mut out, FrameType::Data, piece.len());
                            let mut chunks = [out.split().freeze(), piece];
                            send.write_all(&mut chunks).await.map_err(SendEnd::Stream)?;
                        }
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    put_trailers(&mut out, trailers.as_ref());
                    send.write(out.freeze()).await.map_err(SendEnd::Stream)?;
                    send.finish();
                    return Ok(());
                }
            },
        }
    }
}

fn put_data(out: &mut BytesMut, data: &[u8]) {
    if !data.is_empty() {
        edgeway_proto::frame::put_frame(out, FrameType::Data, data);
    }
}
