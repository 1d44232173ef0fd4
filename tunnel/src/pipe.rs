//! Raw bytes both ways on a call stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use edgeway_proto::{
    Fault, FaultCode,
    frame::{FrameType, put_frame},
    head::put_trailers,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    body::{Frames, FramesError, decode_fault},
    link::SendHalf,
};

/// Most bytes taken by one write: what is buffered here waits for flow control.
const WRITE_AT_ONCE: usize = 64 * 1024;

/// A pipe through the tunnel. `shutdown` ends the writing half cleanly, reading goes on; dropping it resets what has not
/// ended. An end without its frame is an error of kind `ConnectionReset`, never a clean end.
#[derive(Debug)]
pub struct TunnelPipe {
    send: SendHalf,
    frames: Frames,
    /// Received and not yet read.
    unread: Bytes,
    read_ended: bool,
    /// Framed and not yet taken by the stream.
    unsent: BytesMut,
    write_ended: bool,
}

impl TunnelPipe {
    pub(crate) fn new(send: SendHalf, frames: Frames) -> Self {
        Self {
            send,
            frames,
            unread: Bytes::new(),
            read_ended: false,
            unsent: BytesMut::new(),
            write_ended: false,
        }
    }

    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(self.send.poll_write(cx, &self.unsent))
                .map_err(|end| io::Error::new(io::ErrorKind::BrokenPipe, end))?;
            self.unsent.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(fault: Fault) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, fault)
}

impl AsyncRead for TunnelPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() && !this.read_ended {
            let frame = match ready!(this.frames.poll_next(cx)) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    let cut = FramesError::Protocol("the stream ended before the pipe did".into());
                    return Poll::Ready(Err(broken(cut.to_fault(FaultCode::SessionLost))));
                }
                Err(error) => return Poll::Ready(Err(broken(error.to_fault(FaultCode::SessionLost)))),
            };
            match frame.kind {
                FrameType::Data => this.unread = frame.payload,
                FrameType::Trailers => this.read_ended = true,
                FrameType::Fault => return Poll::Ready(Err(broken(decode_fault(frame.payload)))),
                other => {
                    let what = FramesError::Protocol(format!("a {other:?} frame within a pipe"));
                    return Poll::Ready(Err(broken(what.to_fault(FaultCode::SessionLost))));
                }
            }
        }
        let size = this.unread.len().min(out.remaining());
        out.put_slice(&this.unread.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelPipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        let size = bytes.len().min(WRITE_AT_ONCE);
        if size > 0 {
            put_frame(&mut self.unsent, FrameType::Data, &bytes[..size]);
            // What does not go out now goes with the next write, flush or shutdown.
            if let Poll::Ready(Err(error)) = self.poll_unsent(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(size))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.write_ended {
            self.write_ended = true;
            put_trailers(&mut self.unsent, None);
        }
        ready!(self.poll_unsent(cx))?;
        self.send.finish();
        Poll::Ready(Ok(()))
    }
}
