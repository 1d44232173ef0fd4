//! After an upgrade: bytes both ways.
//!
//! The answer's body yields what the service sends; a task of the connector writes what the caller sends, so that one
//! direction never waits for the other. Each direction ends on its own: the caller's end shuts the writing half down,
//! the service's end is the end of the body. A caller's body that is cut resets the connection and ends the answer with
//! the same fault. A body that is dropped before its end takes everything with it.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use edgeway_plugin::{Body, Fault, FaultCode};
use futures_util::task::AtomicWaker;
use http_body::Frame;
use hyper::{Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf},
    sync::OwnedSemaphorePermit,
    task::AbortHandle,
};
use tokio_util::io::poll_read_buf;
use tracing::{Instrument, debug_span};

use crate::{
    fault::{cut_answer, no_answer},
    http1::Http1,
    pool::Pool,
    socket::Wire,
};

/// How much is read at once: as much as a socket usually has at hand, little enough for thousands of idle ones, as it is
/// only taken when there is something to read into it.
const READ: usize = 16 * 1024;

/// The body of an answer that switched protocols.
///
/// # Errors
/// The connection broke off in the switch.
pub(crate) async fn body(
    response: &mut Response<Incoming>,
    upload: Body,
    connection: Http1,
    pool: &Pool,
) -> Result<Body, Fault> {
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| no_answer(&error, pool.settings()))?;
    let parts = upgraded.downcast::<TokioIo<Wire>>().expect("every connection runs on a Wire");
    let mut wire = parts.io.into_inner();
    wire.abrupt();
    let (reading, writing) = tokio::io::split(wire);
    let end =
        Arc::new(End { cut: OnceLock::new(), waker: AtomicWaker::new(), _slot: connection.into_slot() });
    let write = write_all(upload, writing, Arc::clone(&end)).instrument(debug_span!("upgraded_connection"));
    let writer = pool
        .tasks()
        .spawn(write)
        .ok_or_else(|| Fault::with_detail(FaultCode::ServiceReset, "the connector is closing"))?;
    Ok(Body::new(Switched {
        first: parts.read_buf,
        reading,
        writer,
        end,
        ended: false,
        buffer: BytesMut::new(),
    }))
}

/// What both directions know of each other.
struct End {
    cut: OnceLock<Fault>,
    waker: AtomicWaker,
    /// The connection counts for as long as one direction lives.
    _slot: Option<OwnedSemaphorePermit>,
}

/// Writes the caller's bytes. A service that no longer reads ends this direction alone.
async fn write_all(mut upload: Body, mut writing: WriteHalf<Wire>, end: Arc<End>) {
    while let Some(frame) = upload.frame().await {
        let mut data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(fault) => {
                let _ = end.cut.set(fault);
                end.waker.wake();
                return;
            }
        };
        if writing.write_all_buf(&mut data).await.is_err() || writing.flush().await.is_err() {
            return;
        }
    }
    // If it fails the service is gone, which the reading half sees.
    let _ = writing.shutdown().await;
}

struct Switched {
    /// What the service sent together with its answer's head.
    first: Bytes,
    reading: ReadHalf<Wire>,
    writer: AbortHandle,
    end: Arc<End>,
    ended: bool,
    buffer: BytesMut,
}

impl http_body::Body for Switched {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let switched = self.get_mut();
        if switched.ended {
            return Poll::Ready(None);
        }
        switched.end.waker.register(cx.waker());
        if let Some(fault) = switched.end.cut.get() {
            let fault = fault.clone();
            switched.ended = true;
            return Poll::Ready(Some(Err(fault)));
        }
        if !switched.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut switched.first)))));
        }
        switched.buffer.reserve(READ);
        let read = ready!(poll_read_buf(Pin::new(&mut switched.reading), cx, &mut switched.buffer));
        match read {
            Ok(0) => {
                switched.ended = true;
                Poll::Ready(None)
            }
            Ok(_) => Poll::Ready(Some(Ok(Frame::data(switched.buffer.split().freeze())))),
            Err(error) => {
                switched.ended = true;
                switched.writer.abort();
                Poll::Ready(Some(Err(cut_answer(&error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        // After the service's end the caller may still have something to say.
        if !self.ended {
            self.writer.abort();
        }
    }
}
