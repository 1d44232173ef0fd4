//! A body that a test feeds piece by piece.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::mpsc;

use crate::{Body, Fault, FaultCode};

/// The feeding end of a body. It must [`end`](Self::end): dropped before, it has cut the body.
#[derive(Debug)]
pub struct Feeder {
    pieces: mpsc::Sender<Result<Frame<Bytes>, Fault>>,
    ended: Arc<AtomicBool>,
}

/// A body of unknown length, and the end that feeds it. One piece waits between them, no more.
pub fn feed() -> (Feeder, Body) {
    let (pieces, fed) = mpsc::channel(1);
    let ended = Arc::new(AtomicBool::new(false));
    (Feeder { pieces, ended: ended.clone() }, Body::new(Fed { pieces: fed, ended }))
}

impl Feeder {
    /// Adds a piece, as soon as the one before was taken. `false` if the body was dropped.
    pub async fn send(&self, piece: impl Into<Bytes>) -> bool {
        self.pieces.send(Ok(Frame::data(piece.into()))).await.is_ok()
    }

    /// The body's true end.
    pub fn end(self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Ends the body with trailers. `false` if it was dropped.
    pub async fn end_with(self, trailers: HeaderMap) -> bool {
        let sent = self.pieces.send(Ok(Frame::trailers(trailers))).await.is_ok();
        self.end();
        sent
    }

    /// Cuts the body. `false` if it was dropped.
    pub async fn cut(self, fault: Fault) -> bool {
        let sent = self.pieces.send(Err(fault)).await.is_ok();
        self.end();
        sent
    }

    /// Resolves when the body is dropped.
    pub async fn dropped(&self) {
        self.pieces.closed().await;
    }
}

struct Fed {
    pieces: mpsc::Receiver<Result<Frame<Bytes>, Fault>>,
    ended: Arc<AtomicBool>,
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let piece = ready!(self.pieces.poll_recv(cx));
        // The channel closes after the flag was set, and says no end but this once.
        if piece.is_none() && !self.ended.swap(true, Ordering::AcqRel) {
            return Poll::Ready(Some(Err(Fault::with_detail(
                FaultCode::Cancelled,
                "the body's feeder was dropped",
            ))));
        }
        Poll::Ready(piece)
    }
}
