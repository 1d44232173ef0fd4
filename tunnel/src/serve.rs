//! The agent's end of a call: one stream in, handed to whoever answers it.

use std::{future::Future, pin::pin};

use bytes::{Bytes, BytesMut};
use edgeway_proto::{
    Fault, FaultCode,
    frame::{FrameLimits, FrameReader, FrameType, put_message},
    head::{CallInfo, CallKind, HeadLimits, decode_call, put_reply_head},
};
use http::{HeaderMap, Request, Response, StatusCode, header};
use tokio::sync::oneshot;

use crate::{
    body::{Frames, FramesError, Opening, RecvBody, SendEnd, send_body},
    link::{RecvHalf, SendHalf, Stopped, StreamEnd},
    pipe::TunnelPipe,
};

/// What a breach of protocol by the hub counts as.
const BLAME: FaultCode = FaultCode::BadRequest;

/// A call as it came in.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and the large one is nearly every one")]
pub enum IncomingCall {
    /// An HTTP request, to be answered by [`Responder::respond`].
    Http {
        /// What the head says besides the request.
        call: CallInfo,
        /// The request; its body streams.
        request: Request<RecvBody>,
        /// The way back.
        responder: Responder,
    },
    /// Raw bytes both ways, to be answered by [`PipeResponder::accept`] or [`PipeResponder::refuse`].
    Pipe {
        /// What the head says.
        call: CallInfo,
        /// The way back.
        responder: PipeResponder,
    },
}

/// How a call ended, for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallEnd {
    /// Answered to the true end.
    Complete,
    /// Answered with a fault, or cut by one.
    Fault(Fault),
    /// The caller left.
    Cancelled,
}

/// Reads the head of a call from a stream that the peer opened.
///
/// # Errors
/// What is wrong with it; the peer was told with a FAULT frame where the stream still allowed.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub async fn accept_call(send: SendHalf, recv: RecvHalf, limits: HeadLimits) -> Result<IncomingCall, Fault> {
    let mut frames = Frames::new(recv, FrameReader::new(FrameLimits::default()));
    let protocol = |what: String| FramesError::Protocol(what).to_fault(BLAME);
    let head = match frames.next().await {
        Ok(Some(frame)) if frame.kind == FrameType::Head => {
            decode_call(frame.payload, &limits).map_err(|error| protocol(error.to_string()))
        }
        Ok(Some(frame)) => Err(protocol(format!("a {:?} frame before the head", frame.kind))),
        Ok(None) => Err(protocol("the stream ended before the head".into())),
        Err(error) => Err(error.to_fault(BLAME)),
    };
    let (call, kind) = match head {
        Ok(head) => head,
        Err(fault) => {
            frames.stop(fault.code());
            refuse(send, &fault).await;
            return Err(fault);
        }
    };
    match kind {
        CallKind::Pipe => Ok(IncomingCall::Pipe { call, responder: PipeResponder { send, frames } }),
        CallKind::Http { request: parts, has_body } => {
            let length =
                parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            let expects = has_body && parts.headers.contains_key(header::EXPECT);
            let mut body = RecvBody::new(has_body.then_some(frames), limits, BLAME, length);
            let mut wanted = None;
            if expects {
                let (telling, told) = body.telling_when_wanted();
                (body, wanted) = (telling, Some(told));
            }
            let responder = Responder { send, wanted };
            Ok(IncomingCall::Http { call, request: Request::from_parts(parts, body), responder })
        }
    }
}

async fn refuse(mut send: SendHalf, fault: &Fault) {
    let mut out = BytesMut::new();
    put_message(&mut out, FrameType::Fault, &fault.to_wire());
    if send.write(out.freeze()).await.is_ok() {
        send.finish();
    }
}

/// The way back of an HTTP call. Dropped, it resets the stream.
#[derive(Debug)]
pub struct Responder {
    send: SendHalf,
    wanted: Option<oneshot::Receiver<()>>,
}

impl Responder {
    /// Runs `answer` and sends what it returns, to the true end of its body.
    ///
    /// When the caller leaves, or the link ends, `answer` or the body of its response is dropped at once.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream, and drops whatever `answer` was doing.
    pub async fn respond<B>(self, answer: impl Future<Output = Result<Response<B>, Fault>>) -> CallEnd
    where
        B: http_body::Body<Data = Bytes, Error = Fault> + Unpin,
    {
        let Self { mut send, wanted } = self;
        let mut stopped = pin!(send.stopped());
        let mut answer = pin!(answer);
        let answered = match wanted {
            None => tokio::select! {
                biased; // a call that nobody waits for is not answered
                _ = &mut stopped => return CallEnd::Cancelled,
                answered = &mut answer => answered,
            },
            Some(mut wanted) => {
                let mut asked = false;
                loop {
                    tokio::select! {
                        biased;
                        _ = &mut stopped => return CallEnd::Cancelled,
                        told = &mut wanted, if !asked => {
                            asked = true;
                            if told.is_ok() && ask_for_body(&mut send).await.is_err() {
                                return CallEnd::Cancelled;
                            }
                        }
                        answered = &mut answer => break answered,
                    }
                }
            }
        };
        let response = match answered {
            Ok(response) => response,
            Err(fault) => {
                refuse(send, &fault).await;
                return CallEnd::Fault(fault);
            }
        };
        let (parts, mut body) = response.into_parts();
        let has_body = !body.is_end_stream();
        let mut head = BytesMut::new();
        put_reply_head(&mut head, parts.status, &parts.headers, has_body);
        let mut opening = Opening::new(head);
        let mut ready = Ok(());
        if has_body {
            ready =
                std::future::poll_fn(|cx| std::task::Poll::Ready(opening.take_ready(&mut body, cx))).await;
        } else {
            opening = opening.without_body();
        }
        let sending = async {
            if opening.write(&mut send).await.map_err(SendEnd::Stream)? {
                return Ok(());
            }
            match ready {
                Ok(()) => send_body(&mut send, &mut body).await,
                Err(fault) => Err(SendEnd::Body(fault)),
            }
        };
        let sent = tokio::select! {
            biased; // sending learns of a stop by itself, but not while the body has nothing to send
            sent = sending => sent,
            _ = gone(stopped) => return CallEnd::Cancelled,
        };
        match sent {
            Ok(()) => CallEnd::Complete,
            Err(SendEnd::Body(fault)) => {
                // In place of the trailers, so that the hub knows why the body is cut.
                refuse(send, &fault).await;
                CallEnd::Fault(fault)
            }
            Err(SendEnd::Stream(StreamEnd::Peer(_))) => CallEnd::Cancelled,
            Err(SendEnd::Stream(end)) => CallEnd::Fault(end.to_fault()),
        }
    }
}

/// Completes when the stream was given up; never if it was delivered.
async fn gone(stopped: impl Future<Output = Stopped>) {
    if stopped.await == Stopped::Delivered {
        std::future::pending::<()>().await;
    }
}

async fn ask_for_body(send: &mut SendHalf) -> Result<(), StreamEnd> {
    let mut out = BytesMut::new();
    put_reply_head(&mut out, StatusCode::CONTINUE, &HeaderMap::new(), false);
    send.write(out.freeze()).await
}

/// The way back of a pipe. Dropped, it resets the stream.
#[derive(Debug)]
pub struct PipeResponder {
    send: SendHalf,
    frames: Frames,
}

impl PipeResponder {
    /// Says that the service is there, and hands over the pipe.
    ///
    /// # Errors
    /// The stream's end, if the caller has left.
    pub async fn accept(mut self) -> Result<TunnelPipe, Fault> {
        let mut out = BytesMut::new();
        put_reply_head(&mut out, StatusCode::OK, &HeaderMap::new(), true);
        self.send.write(out.freeze()).await.map_err(|end| end.to_fault())?;
        Ok(TunnelPipe::new(self.send, self.frames))
    }

    /// Says why there is no pipe.
    pub async fn refuse(self, fault: &Fault) {
        refuse(self.send, fault).await;
    }

    /// Completes when the caller leaves. Borrows nothing.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let stopped = self.send.stopped();
        async move {
            stopped.await;
        }
    }
}
