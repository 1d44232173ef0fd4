//! The request's body on its way to the service.
//!
//! ```text
//!            expect: 100-continue          100, or 1 s without an answer
//! new ──────────────────────────▶ waiting ──────────────────────────────▶ flowing ──▶ ended
//!  └──────────────────────────────────────────────────────────────────────▲   │
//!                                    │ the answer comes first                 │ the caller's body is cut, it breaks
//!                                    ▼                                        ▼ its declared length, the caller left
//!                                   shut (never polled)                      cut (the connection or stream is aborted)
//! ```
//! Nothing is read ahead: a piece is asked for when the connection can take it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use edgeway_plugin::{Body, Fault, FaultCode};
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::{
    fault::bad_request,
    head::{Length, Outline},
    http2::Stream,
};

/// How long a body waits for `100 Continue`: services that never heard of it must get their body, and a second is what
/// the common clients wait.
const CONTINUE: Duration = Duration::from_secs(1);

const WAITING: u8 = 0;
const FLOWING: u8 = 1;
const SHUT: u8 = 2;

/// What upload and answer of one exchange know of each other. Only an exchange with an upload has one.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    gate: AtomicU8,
    left: AtomicBool,
    cut: OnceLock<Fault>,
    /// Whoever drives the upload.
    waker: AtomicWaker,
}

impl Exchange {
    /// The service wants the body.
    pub(crate) fn go_on(&self) {
        self.flow();
        self.waker.wake();
    }

    /// The answer is there. True if the body still waited; it is never polled then.
    pub(crate) fn shut(&self) -> bool {
        self.gate.compare_exchange(WAITING, SHUT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller left, or the exchange is over: cut the upload.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Why the upload was cut, if it was cut on the caller's side. The answer then ends with the same fault.
    pub(crate) fn cut(&self) -> Option<Fault> {
        self.cut.get().cloned()
    }

    fn flow(&self) -> bool {
        match self.gate.compare_exchange(WAITING, FLOWING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(state) => state == FLOWING,
        }
    }
}

/// The request's body, as hyper sends it.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Body,
    /// Bytes that the head has promised and that are still to come.
    promised: Option<u64>,
    exchange: Option<Arc<Exchange>>,
    /// The body waits for `100 Continue`.
    waits: bool,
    /// Made at the first poll, which comes when the head is sent.
    patience: Option<Pin<Box<Sleep>>>,
    /// Keeps an HTTP/2 stream counted for as long as it sends.
    stream: Option<Arc<Stream>>,
}

impl Upload {
    /// A request without a body.
    pub(crate) fn none() -> Self {
        Self {
            body: Body::empty(),
            promised: None,
            exchange: None,
            waits: false,
            patience: None,
            stream: None,
        }
    }

    pub(crate) fn new(body: Body, outline: &Outline) -> Self {
        let promised = match outline.length {
            Length::None => return Self::none(),
            Length::Known(length) => Some(length),
            Length::Unknown => None,
        };
        let exchange = Exchange::default();
        if !outline.expects {
            exchange.flow();
        }
        Self {
            body,
            promised,
            exchange: Some(Arc::new(exchange)),
            waits: outline.expects,
            patience: None,
            stream: None,
        }
    }

    pub(crate) fn exchange(&self) -> Option<Arc<Exchange>> {
        self.exchange.clone()
    }

    /// Whether the body waits for `100 Continue`.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// Counts the stream until this upload ends. Of no use without a body, whose stream sends nothing more.
    pub(crate) fn hold(&mut self, stream: &Arc<Stream>) {
        if self.exchange.is_some() {
            self.stream = Some(Arc::clone(stream));
        }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let upload = self.get_mut();
        let Some(exchange) = &upload.exchange else { return Poll::Ready(None) };
        exchange.waker.register(cx.waker());
        if exchange.left.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Fault::new(FaultCode::Cancelled))));
        }
        if upload.waits {
            match exchange.gate.load(Ordering::Acquire) {
                FLOWING => {}
                WAITING => {
                    let patience =
                        upload.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(CONTINUE)));
                    ready!(patience.as_mut().poll(cx));
                    if !exchange.flow() {
                        return Poll::Pending;
                    }
                }
                _ => return Poll::Pending,
            }
            upload.waits = false;
            upload.patience = None;
        }

        let cut = |fault: Fault| {
            let _ = exchange.cut.set(fault.clone());
            Poll::Ready(Some(Err(fault)))
        };
        match ready!(Pin::new(&mut upload.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let (Some(promised), Some(data)) = (&mut upload.promised, frame.data_ref()) {
                    let Some(left) = promised.checked_sub(data.len() as u64) else {
                        return cut(bad_request("the body is longer than its content-length"));
                    };
                    *promised = left;
                    // Both ends must be seen here: hyper polls no further than is_end_stream.
                    if left > 0 && upload.body.is_end_stream() {
                        return cut(bad_request("the body is shorter than its content-length"));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(fault)) => cut(fault),
            None if upload.promised.is_some_and(|left| left > 0) => {
                cut(bad_request("the body is shorter than its content-length"))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none() || self.promised == Some(0) || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The head says what there is to say; from a hint hyper would make a content-length that the caller did not send.
        SizeHint::default()
    }
}
