//! What a [`FakeEdge`] remembers of each call, and the wrappers that watch bodies go by.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};

use super::FakeEdge;
use crate::{Body, CallContext, Destination, Fault};

/// One call as a [`FakeEdge`] saw it, up to now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Call {
    /// Its head. Of a pipe: nothing but defaults.
    pub request: Request<()>,
    /// What travelled beside it.
    pub cx: CallContext,
    /// Where a pipe was to go; `None` for a call.
    pub destination: Option<Destination>,
    /// The request's body, or what was written into the pipe.
    pub upload: Progress,
    /// The answer's body, or what was read from the pipe.
    pub answer: Progress,
}

impl Call {
    /// Whether neither an end of the answer, nor a fault, nor the caller's leaving was seen yet.
    pub fn in_flight(&self) -> bool {
        self.answer.end == End::Open
    }

    /// Whether the caller left: it dropped the call's future, or the answer's body or the pipe before its end.
    pub fn cancelled(&self) -> bool {
        self.answer.end == End::Dropped
    }
}

/// How far a body came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of data that went by.
    pub bytes: u64,
    /// How it ended, if it did.
    pub end: End,
}

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Not yet.
    Open,
    /// At its true end.
    Complete,
    /// With a fault: it was cut, or never began.
    Fault(Fault),
    /// Dropped before its end.
    Dropped,
}

/// Which of a call's two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Upload,
    Answer,
}

/// Writes one direction's progress into the edge's record; dropped before an end, it writes that.
pub(super) struct Recorder {
    edge: FakeEdge,
    index: usize,
    side: Side,
    seen: u64,
    ended: bool,
    /// The declared length: who has all of it need not poll for the end.
    length: Option<u64>,
}

impl Recorder {
    pub(super) fn new(edge: FakeEdge, index: usize, side: Side) -> Self {
        Self { edge, index, side, seen: 0, ended: false, length: None }
    }

    pub(super) fn advance(&mut self, bytes: usize) {
        self.seen += bytes as u64;
        let seen = self.seen;
        self.write(|progress| progress.bytes = seen);
    }

    pub(super) fn end(&mut self, end: End) {
        if !self.ended {
            self.ended = true;
            self.write(|progress| progress.end = end);
        }
    }

    fn write(&self, change: impl FnOnce(&mut Progress)) {
        self.edge.modify(|state| {
            let call = &mut state.calls[self.index];
            change(match self.side {
                Side::Upload => &mut call.upload,
                Side::Answer => &mut call.answer,
            });
        });
    }

    /// A body that is recorded as it is read.
    pub(super) fn watch(mut self, body: Body, headers: &HeaderMap) -> Body {
        self.length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if http_body::Body::is_end_stream(&body) {
            self.end(End::Complete);
        }
        Body::new(Watched { body, recorder: self })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end(if self.length == Some(self.seen) { End::Complete } else { End::Dropped });
    }
}

struct Watched {
    body: Body,
    recorder: Recorder,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.recorder.end(End::Complete),
            Some(Err(fault)) => self.recorder.end(End::Fault(fault.clone())),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.recorder.advance(data.len());
                }
                // Whoever asks `is_end_stream` does not poll for the `None`.
                if self.body.is_end_stream() {
                    self.recorder.end(End::Complete);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
