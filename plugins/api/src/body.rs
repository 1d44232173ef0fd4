//! Bodies: pulled, never pushed, so that flow control reaches from the caller to the service.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use edgeway_proto::{Fault, FaultCode};
use http_body::{Frame, SizeHint};

/// A request's or response's body: pieces of bytes, then trailers, or a [`Fault`] where it was cut.
///
/// An implementation of [`http_body::Body`]; nothing is read ahead of what is polled. Dropping it before its end cancels
/// whatever produces it.
pub struct Body {
    inner: Inner,
    /// Dropped with the body: permits ride here.
    guard: Option<Box<dyn Send>>,
}

enum Inner {
    Empty,
    Full(Bytes),
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = Fault> + Send>>),
}

impl Body {
    /// No body at all, which is not the same as a body of length zero.
    pub const fn empty() -> Self {
        Self { inner: Inner::Empty, guard: None }
    }

    /// A body that is all there. Empty bytes make a body of known length zero.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self { inner: Inner::Full(bytes.into()), guard: None }
    }

    /// A body from any other one. (`Unpin` as all the usual ones are; `Box::pin` those that are not.)
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Fault>,
    {
        Self { inner: Inner::Boxed(Box::pin(MapFault(body))), guard: None }
    }

    /// Keeps `guard` until this body is dropped.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Send + 'static) -> Self {
        self.guard = Some(match self.guard.take() {
            None => Box::new(guard),
            Some(earlier) => Box::new((earlier, guard)),
        });
        self
    }

    /// All bytes, for bodies that are known to be small. Trailers are dropped.
    ///
    /// # Errors
    /// The fault that cut the body, or [`FaultCode::RequestTooLarge`] once it is longer than `limit` bytes.
    ///
    /// # Cancel safety
    /// Dropping the future drops the body, which cancels it.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Fault> {
        let mut collected = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if collected.len() + data.len() > limit {
                return Err(Fault::with_detail(
                    FaultCode::RequestTooLarge,
                    format!("the body is longer than {limit} bytes"),
                ));
            }
            if collected.is_empty() && http_body::Body::is_end_stream(&self) {
                return Ok(data);
            }
            collected.extend_from_slice(&data);
        }
        Ok(collected.freeze())
    }

    /// The next piece, `None` at the true end.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Fault>> {
        std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(self), cx)).await
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut self.inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.inner = Inner::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Inner::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner {
            Inner::Empty => "empty",
            Inner::Full(_) => "full",
            Inner::Boxed(_) => "streamed",
        };
        f.debug_struct("Body").field("kind", &kind).finish_non_exhaustive()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::full(text)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::full(text)
    }
}

struct MapFault<B>(B);

impl<B> http_body::Body for MapFault<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = ready!(Pin::new(&mut self.get_mut().0).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
