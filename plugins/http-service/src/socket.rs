//! A connection's bytes: TCP, a Unix socket, or TLS over either.
//!
//! Two things are added to what the operating system gives:
//!
//! - **An early answer is not lost.** A service may answer and close while the request's body is still on its way; the
//!   next write then fails although the answer waits to be read. In HTTP/1.1 a failed write therefore goes quiet, and
//!   the reading half decides how the exchange ended: with the answer, or with the error of that write.
//! - **A cut is seen as a cut.** Raw bytes (after an upgrade) have no framing, so that a plain close would look like a
//!   true end. A line that is marked [`abrupt`](Line::abrupt) is reset when it is dropped before its writing half ended.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

/// What the operating system gives.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket with its state of failure.
#[derive(Debug)]
pub(crate) struct Line {
    socket: Socket,
    quiet_writes: bool,
    abrupt: bool,
    failed_write: Option<io::Error>,
    read_ended: bool,
    write_ended: bool,
}

/// A line, or TLS over it.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(Line),
    Tls(Box<TlsStream<Line>>),
}

impl Line {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket,
            quiet_writes: false,
            abrupt: false,
            failed_write: None,
            read_ended: false,
            write_ended: false,
        }
    }
}

impl Wire {
    fn line(&mut self) -> &mut Line {
        match self {
            Wire::Plain(line) => line,
            Wire::Tls(stream) => stream.get_mut().0,
        }
    }

    /// From now on a failed write is reported by the reading half. Only for a protocol that goes on reading while a
    /// write is pending; HTTP/2 as it is implemented here does not.
    pub(crate) fn quiet_writes(&mut self) {
        self.line().quiet_writes = true;
    }

    /// From now on dropping the wire before its writing half was shut down resets the connection.
    pub(crate) fn abrupt(&mut self) {
        self.line().abrupt = true;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Socket::Tcp(stream) = &self.socket
            && self.abrupt
            && !self.write_ended
        {
            // Without lingering, closing sends RST instead of FIN. If it can't be set, a plain close is what is left.
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = &mut *self;
        let before = buffer.filled().len();
        let room = buffer.remaining() > 0;
        ready!(match &mut line.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        })?;
        if room && buffer.filled().len() == before {
            line.read_ended = true;
            // The kernel reports a reset once, and the write took that report. Without it this end would look true.
            if let Some(error) = line.failed_write.take() {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Line {
    fn after_write<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(error)) if self.quiet_writes && !self.read_ended => {
                self.failed_write.get_or_insert(error);
                Poll::Pending
            }
            other => other,
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.failed_write.is_some() {
            return Poll::Pending;
        }
        let written = match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.after_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.failed_write.is_some() {
            return Poll::Pending;
        }
        let written = match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.after_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets hold nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed_write.is_some() {
            return Poll::Ready(Ok(()));
        }
        let ended = ready!(match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        });
        self.write_ended = ended.is_ok();
        Poll::Ready(ended)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(line) => Pin::new(line).poll_read(cx, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(line) => Pin::new(line).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(line) => Pin::new(line).poll_write_vectored(cx, slices),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Plain(line) => line.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(line) => Pin::new(line).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(line) => Pin::new(line).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
