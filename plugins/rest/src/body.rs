//! Bodies on their way between hyper and the edge.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use edgeway_plugin::{Body, Fault, FaultCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::{
    activity::{Activity, Running},
    headers,
};

/// A request's body of declared length. hyper holds the caller to that length.
pub(crate) struct Declared {
    incoming: Watched,
}

impl Declared {
    pub(crate) fn new(incoming: Incoming, activity: Arc<Activity>) -> Self {
        Self { incoming: Watched { incoming, ended: false, activity } }
    }
}

/// A request's body of unknown length, held to a limit.
///
/// What goes wrong with it is also told to the call that waits for the answer, since the caller is to learn of *this*
/// fault, and not of what the service made of a body that broke off.
pub(crate) struct Undeclared {
    incoming: Watched,
    limit: u64,
    left: u64,
    tell: Option<oneshot::Sender<Fault>>,
}

impl Undeclared {
    /// The body, and where its fault is told.
    pub(crate) fn new(
        incoming: Incoming,
        activity: Arc<Activity>,
        limit: u64,
    ) -> (Self, oneshot::Receiver<Fault>) {
        let (tell, told) = oneshot::channel();
        let incoming = Watched { incoming, ended: false, activity };
        (Self { incoming, limit, left: limit, tell: Some(tell) }, told)
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(tell) = self.tell.take() {
            // Nobody listens once the answer's head is there; then its body carries the fault.
            let _ = tell.send(fault.clone());
        }
        Poll::Ready(Some(Err(fault)))
    }
}

/// The fault of a body that is over the limit.
pub(crate) fn too_large(limit: u64) -> Fault {
    Fault::with_detail(FaultCode::RequestTooLarge, format!("the request's body is longer than {limit} bytes"))
}

impl http_body::Body for Declared {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.incoming.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.incoming.size_hint()
    }
}

impl http_body::Body for Undeclared {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        match ready!(this.incoming.poll(cx)) {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                if length > this.left {
                    return this.fail(too_large(this.limit));
                }
                this.left -= length;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(fault)) => this.fail(fault),
            None => {
                this.tell = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.incoming.size_hint()
    }
}

/// hyper's body; notes if it is dropped before its end.
struct Watched {
    incoming: Incoming,
    ended: bool,
    activity: Arc<Activity>,
}

impl Watched {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        self.ended |= frame.is_none();
        Poll::Ready(frame.map(|frame| frame.map(without_framing).map_err(|error| fault_of(&error))))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Whoever asks for `is_end_stream` does not poll for the `None`.
        if !self.ended && !self.incoming.is_end_stream() {
            self.activity.unread();
        }
    }
}

/// Trailers must not say where a message ends or where it goes (RFC 9110, section 6.5.1): whoever merges them into the
/// head would believe them.
fn without_framing(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers);
    }
    frame
}

/// Why a request's body broke off: it breaks the protocol, or its caller left.
fn fault_of(error: &hyper::Error) -> Fault {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match cause {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            Fault::with_detail(FaultCode::BadRequest, "the request's body breaks the chunked coding")
        }
        _ => Fault::with_detail(FaultCode::Cancelled, "the caller left before the end of its request"),
    }
}

/// An answer's body. While it is there, its call runs.
///
/// It holds the edge to the length that the head declares. hyper does so on HTTP/1 alone, and throws away what it has
/// buffered when a body breaks off; here the caller first gets what has come.
pub(crate) struct Answer {
    body: Body,
    call: Running,
    /// Bytes that are still to come, `None` where nothing says how many.
    left: Option<u64>,
    /// Whether only the end of the connection tells the caller where the body ends, as in HTTP/1.0.
    ends_with_connection: bool,
    fault: Option<Fault>,
}

impl Answer {
    pub(crate) fn new(body: Body, call: Running, length: Option<u64>, ends_with_connection: bool) -> Self {
        Self { body, call, left: length, ends_with_connection, fault: None }
    }

    /// Breaks off, but not before hyper has had a chance to write out what came before: it writes whenever a body has
    /// nothing for it.
    fn break_off(&mut self, fault: Fault, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        tracing::debug!(code = %fault.code(), detail = fault.detail(), "answer was cut");
        if self.ends_with_connection {
            self.call.cut();
        }
        self.fault = Some(fault);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        if let Some(fault) = this.fault.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
                    match left.checked_sub(data.len() as u64) {
                        Some(rest) => *left = rest,
                        None => {
                            return this
                                .break_off(broken("the service's answer is longer than it declares"), cx);
                        }
                    }
                }
            }
            Some(Err(fault)) => return this.break_off(fault.clone(), cx),
            None if this.left.is_some_and(|left| left > 0) => {
                return this.break_off(broken("the service's answer is shorter than it declares"), cx);
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // A body that says so too early is asked once more, and then found out.
        self.fault.is_none() && self.left.is_none_or(|left| left == 0) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(|| self.body.size_hint(), SizeHint::with_exact)
    }
}

/// The fault of an answer that can't be one.
pub(crate) fn broken(detail: &'static str) -> Fault {
    Fault::with_detail(FaultCode::ServiceReset, detail)
}
