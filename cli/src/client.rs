//! A small HTTP client for the demo's own checks and the tests: one connection for each call, nothing retried, nothing
//! decoded.

use std::{error::Error, future::Future, net::SocketAddr, pin::Pin};

use bytes::{Bytes, BytesMut};
use http::{Request, response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Largest answer that is taken as text, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// Which HTTP to speak. There is no negotiation without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Why a call got no answer, or lost it in the middle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("can't connect to {address}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("the call failed")]
    Http(#[from] hyper::Error),
    #[error("the answer has more than {MAX_TEXT} bytes")]
    TooLarge,
    #[error("the answer is not UTF-8")]
    NotText,
}

/// An answer whose head has arrived. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: response::Parts,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

/// A request's body of any kind.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Sends `request` to `address` and waits for the answer's head. In HTTP/1.1 the target goes out as it is; a `host` header
/// is added where there is none.
pub(crate) async fn call(
    address: SocketAddr,
    protocol: Protocol,
    mut request: Request<Outgoing>,
) -> Result<Reply, CallError> {
    let stream =
        TcpStream::connect(address).await.map_err(|source| CallError::Connect { address, source })?;
    let stream = TokioIo::new(stream);
    type Answer = Pin<Box<dyn Future<Output = hyper::Result<http::Response<Incoming>>> + Send>>;
    let (answer, driver): (Answer, _) = match protocol {
        Protocol::Http1 => {
            if !request.headers().contains_key(http::header::HOST) {
                let host = address.to_string().try_into().expect("an address is a header value");
                request.headers_mut().insert(http::header::HOST, host);
            }
            let (mut sender, connection) = http1::handshake(stream).await?;
            let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
            (Box::pin(async move { sender.send_request(request).await }), driver)
        }
        Protocol::Http2 => {
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            let uri = format!("http://{address}{target}");
            *request.uri_mut() = uri.parse().expect("an address before a valid target is a valid URI");
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            (Box::pin(async move { sender.send_request(request).await }), driver)
        }
    };
    let driver = AbortOnDropHandle::new(driver);
    let (head, body) = answer.await?.into_parts();
    Ok(Reply { head, body, _connection: driver })
}

impl Reply {
    /// The next piece of the body or its trailers, `None` at its true end.
    pub(crate) async fn frame(&mut self) -> Result<Option<Frame<Bytes>>, CallError> {
        Ok(self.body.frame().await.transpose()?)
    }

    /// The whole body as text, up to 1 MiB.
    pub(crate) async fn text(mut self) -> Result<String, CallError> {
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.frame().await? {
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_TEXT {
                return Err(CallError::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
        String::from_utf8(bytes.into()).map_err(|_| CallError::NotText)
    }

    /// A header as text; nothing if it is absent or no text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }
}

/// Any body in the form that [`call`] takes.
pub(crate) fn outgoing<B>(body: B) -> Outgoing
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    body.map_err(Into::into).boxed_unsync()
}
