//! The answer's body on its way to the caller.
//!
//! It holds what the exchange runs on. At the true end that goes back to the pool; dropped before, the connection is
//! closed or the stream is reset, and an upload that still runs is cut.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use edgeway_plugin::{Body, Fault};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    fault::{cut_answer, nonsense},
    http1::Http1,
    http2::Stream,
    pool::Pool,
    upload::Exchange,
};

/// What an answer comes on.
pub(crate) enum Source {
    Http1 {
        connection: Http1,
        pool: Arc<Pool>,
    },
    /// Held for its place on the connection.
    Http2 {
        _stream: Arc<Stream>,
    },
}

impl Source {
    /// The answer is complete.
    fn finish(self, exchange: Option<&Exchange>, upload_is_shut: bool) {
        match self {
            // The service may still wait for the body that was announced: the connection is of no more use.
            Source::Http1 { .. } if upload_is_shut => {}
            Source::Http1 { connection, pool } => pool.release(connection),
            Source::Http2 { .. } => {
                if let (true, Some(exchange)) = (upload_is_shut, exchange) {
                    exchange.leave();
                }
            }
        }
    }
}

struct Answer {
    incoming: Incoming,
    /// `None` once the exchange is over.
    source: Option<Source>,
    exchange: Option<Arc<Exchange>>,
    upload_is_shut: bool,
}

/// The body of an answer whose head has come.
pub(crate) fn body(incoming: Incoming, source: Source, exchange: Option<Arc<Exchange>>) -> Body {
    let upload_is_shut = exchange.as_ref().is_some_and(|exchange| exchange.shut());
    if incoming.is_end_stream() {
        source.finish(exchange.as_deref(), upload_is_shut);
        return Body::empty();
    }
    Body::new(Answer { incoming, source: Some(source), exchange, upload_is_shut })
}

impl Answer {
    fn finish(&mut self) {
        if let Some(source) = self.source.take() {
            source.finish(self.exchange.as_deref(), self.upload_is_shut);
        }
    }

    /// Closes or resets what is left of the exchange.
    fn abandon(&mut self) {
        if let Some(source) = self.source.take() {
            if let Some(exchange) = &self.exchange {
                exchange.leave();
            }
            drop(source);
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let answer = self.get_mut();
        if answer.source.is_none() {
            return Poll::Ready(None);
        }
        let fault = match ready!(Pin::new(&mut answer.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Whoever sees the end coming polls no further.
                if frame.is_trailers() || answer.incoming.is_end_stream() {
                    answer.finish();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            // A stream that is reset with NO_ERROR ends without a word, also where its end was never sent.
            None if matches!(answer.source, Some(Source::Http2 { .. }))
                && !answer.incoming.is_end_stream() =>
            {
                nonsense("the service reset the stream before the end of its answer")
            }
            None => {
                answer.finish();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                let cut = answer.exchange.as_ref().and_then(|exchange| exchange.cut());
                cut.unwrap_or_else(|| cut_answer(&error))
            }
        };
        answer.abandon();
        Poll::Ready(Some(Err(fault)))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.abandon();
    }
}
