//! The hub's end of a call: one request out, one answer back, on one stream.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edgeway_proto::{
    Fault, FaultCode,
    frame::{FrameLimits, FrameReader, FrameType},
    head::{CallInfo, HeadLimits, decode_reply, put_http_head, put_pipe_head},
};
use http::{Request, Response, StatusCode, header};
use tokio::sync::oneshot;

use crate::{
    body::{Frames, FramesError, Opening, RecvBody, SendEnd, SendingGuard, decode_fault, send_body},
    link::{Link, RecvHalf, SendHalf},
    pipe::TunnelPipe,
};

/// Most interim answers (1xx) to one call. A service that sends more is broken.
const MOST_INTERIM: usize = 64;

/// What the peer breaks, it is blamed for: to a caller a session that talks nonsense is a lost one.
const BLAME: FaultCode = FaultCode::SessionLost;

/// Sends a request on a stream just opened, and returns the answer as its head arrives.
///
/// With `expect: 100-continue` the request's body is first polled when the agent asks for it. The body of the answer
/// keeps the sending of the request alive; both end when it is dropped.
///
/// # Errors
/// What the agent says, or [`SessionLost`](FaultCode::SessionLost) where the stream or the link broke, or the fault with
/// which the request's own body was cut.
///
/// # Cancel safety
/// Dropping the future, or the answer's body before its end, resets the stream both ways.
pub async fn call<B>(
    link: &Link,
    (mut send, recv): (SendHalf, RecvHalf),
    call: &CallInfo,
    request: Request<B>,
    limits: HeadLimits,
) -> Result<Response<RecvBody>, Fault>
where
    B: http_body::Body<Data = Bytes, Error = Fault> + Send + Unpin + 'static,
{
    send.prioritise(call.priority);
    let (parts, mut body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let mut head = BytesMut::new();
    put_http_head(&mut head, call, &parts, has_body);
    let mut opening = Opening::new(head);
    let waits = has_body && expects_continue(&parts.headers);
    if !has_body {
        opening = opening.without_body();
    } else if !waits {
        std::future::poll_fn(|cx| std::task::Poll::Ready(opening.take_ready(&mut body, cx))).await?;
    }
    drop(parts);
    let mut frames = Frames::new(recv, FrameReader::new(FrameLimits::default()));
    // What may not fit into the peer's window goes out beside the reading: a service that answers while it reads would
    // otherwise wait for us as we wait for it.
    let opening = match opening.is_small() {
        false => Some(opening),
        true => match opening.write(&mut send).await {
            Ok(false) => None,
            // Whole; or broken, and then the answer, which may be there, says more than the break.
            Ok(true) | Err(_) => {
                let reply = await_reply(&mut frames, limits, None).await?;
                return Ok(reply.into_response(frames, limits, None));
            }
        },
    };
    let (failed, mut failure) = oneshot::channel();
    let (go, gate) = oneshot::channel();
    let mut go = Some(go);
    if !waits && let Some(go) = go.take() {
        let _ = go.send(());
    }
    let sending = SendingGuard(link.spawn(async move {
        // A gate that is dropped means that the body is not wanted.
        if gate.await.is_err() {
            return;
        }
        match opening {
            None => send_rest(send, body, failed).await,
            Some(opening) => {
                if let Ok(false) = opening.write(&mut send).await {
                    send_rest(send, body, failed).await;
                }
            }
        }
    }));
    let reply = {
        let awaiting = await_reply(&mut frames, limits, Some(&mut go));
        tokio::select! {
            biased; // an answer that is there counts more than a request that was cut
            reply = awaiting => reply?,
            Ok(fault) = &mut failure => return Err(fault),
        }
    };
    if let Some(go) = go
        && reply.status.as_u16() < 400
    {
        // Answered without a 100, and not refused: what the service reads on, it shall find.
        let _ = go.send(());
    }
    Ok(reply.into_response(frames, limits, Some(sending)))
}

async fn send_rest<B>(mut send: SendHalf, mut body: B, failed: oneshot::Sender<Fault>)
where
    B: http_body::Body<Data = Bytes, Error = Fault> + Unpin,
{
    match send_body(&mut send, &mut body).await {
        Ok(()) => {}
        Err(SendEnd::Body(fault)) => {
            send.reset(fault.code());
            let _ = failed.send(fault);
        }
        // The reading side hears why, or has its answer already.
        Err(SendEnd::Stream(_)) => {}
    }
}

fn expects_continue(headers: &http::HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

struct Reply {
    status: StatusCode,
    headers: http::HeaderMap,
    has_body: bool,
}

impl Reply {
    fn into_response(
        self,
        frames: Frames,
        limits: HeadLimits,
        sending: Option<SendingGuard>,
    ) -> Response<RecvBody> {
        let length =
            self.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let body =
            RecvBody::new(self.has_body.then_some(frames), limits, BLAME, length).with_sending(sending);
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Reads until the final head. `go` is told when the agent asks for the request's body.
async fn await_reply(
    frames: &mut Frames,
    limits: HeadLimits,
    mut go: Option<&mut Option<oneshot::Sender<()>>>,
) -> Result<Reply, Fault> {
    for _ in 0..MOST_INTERIM {
        let protocol = |what: String| FramesError::Protocol(what).to_fault(BLAME);
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(protocol("the stream ended before the answer's head".into())),
            Err(error) => return Err(error.to_fault(BLAME)),
        };
        match frame.kind {
            FrameType::Fault => return Err(decode_fault(frame.payload)),
            FrameType::Head => {
                let (status, headers, has_body) =
                    decode_reply(frame.payload, &limits).map_err(|error| protocol(error.to_string()))?;
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    if status == StatusCode::CONTINUE
                        && let Some(go) = go.as_mut().and_then(|go| go.take())
                    {
                        let _ = go.send(());
                    }
                    continue;
                }
                return Ok(Reply { status, headers, has_body });
            }
            other => return Err(protocol(format!("a {other:?} frame before the answer's head"))),
        }
    }
    frames.stop(FaultCode::ServiceReset);
    Err(Fault::with_detail(FaultCode::ServiceReset, format!("more than {MOST_INTERIM} interim answers")))
}

/// Opens raw bytes both ways on a stream just opened.
///
/// # Errors
/// As [`call`].
///
/// # Cancel safety
/// Dropping the future or the pipe resets the stream both ways.
pub async fn open_pipe(
    (mut send, recv): (SendHalf, RecvHalf),
    call: &CallInfo,
    limits: HeadLimits,
) -> Result<TunnelPipe, Fault> {
    send.prioritise(call.priority);
    let mut head = BytesMut::new();
    put_pipe_head(&mut head, call);
    let _ = send.write(head.freeze()).await; // what broke is told by the reading side
    let mut frames = Frames::new(recv, FrameReader::new(FrameLimits::default()));
    let reply = await_reply(&mut frames, limits, None).await?;
    if reply.status != StatusCode::OK {
        return Err(Fault::with_detail(
            BLAME,
            format!("the agent answered a pipe with status {}", reply.status),
        ));
    }
    Ok(TunnelPipe::new(send, frames))
}

/// How much longer the hub waits than the agent, whose answer says more about what took so long: a tenth of what is left,
/// at most a quarter of a second.
pub fn grace(remaining: Duration) -> Duration {
    (remaining / 10).min(Duration::from_millis(250))
}
