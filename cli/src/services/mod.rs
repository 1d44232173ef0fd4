//! The demo's local HTTP services: what a node has behind its agent, in the smallest form that shows something.
//!
//! Four kinds, each on an address of its own, HTTP/1.1 and HTTP/2 without TLS on the same port:
//!
//! | kind | what it does |
//! |---|---|
//! | `echo` | answers with the request as JSON |
//! | `clock` | Server-Sent Events, one tick a second |
//! | `files` | any number of bytes down with a checksum; uploads are counted and hashed |
//! | `chat` | WebSocket echo |
//!
//! [`start`] binds the address and owns one task, which owns one task for each connection; [`RunningService::shutdown`]
//! ends them all, and so does dropping the handle. Every answer says in `served-by` which node it came from. None of
//! them knows anything of the tunnel: they are plain services, as a stranger would have.

mod chat;
mod clock;
mod download;
mod echo;
mod files;
mod listen;

use std::{convert::Infallible, fmt, io, net::SocketAddr, str::FromStr};

use bytes::Bytes;
use edgeway_proto::NodeName;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use download::{checksum, hexadecimal, pattern};
pub use files::{CHECKSUM_HEADER, MAX_CHECKSUM_AHEAD};

/// The header by which every answer names the node that gave it.
pub const SERVED_BY: &str = "served-by";

/// The body of an answer.
type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// Which of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request back as JSON.
    Echo,
    /// One Server-Sent Event a second.
    Clock,
    /// Downloads and uploads with checksums.
    Files,
    /// WebSocket echo.
    Chat,
}

impl Kind {
    /// All of them, in the order in which they take consecutive ports.
    pub const ALL: [Kind; 4] = [Kind::Echo, Kind::Clock, Kind::Files, Kind::Chat];

    /// The name in configs and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Echo => "echo",
            Kind::Clock => "clock",
            Kind::Files => "files",
            Kind::Chat => "chat",
        }
    }

    /// What it does, in a few words.
    pub const fn purpose(self) -> &'static str {
        match self {
            Kind::Echo => "the request back as JSON",
            Kind::Clock => "Server-Sent Events, one tick a second",
            Kind::Files => "downloads and uploads with checksums",
            Kind::Chat => "WebSocket echo",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownKind { text: text.escape_debug().to_string() })
    }
}

/// A text that names no service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no service is called '{text}', there are echo, clock, files and chat")]
pub struct UnknownKind {
    text: String,
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} for the service {kind}")]
pub struct ListenError {
    kind: Kind,
    address: SocketAddr,
    source: io::Error,
}

/// A service that runs. Dropping it cuts its connections; [`shutdown`](Self::shutdown) is the kinder way.
#[derive(Debug)]
pub struct RunningService {
    kind: Kind,
    address: SocketAddr,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl RunningService {
    /// Which one it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connection, ends clocks and chats cleanly, gives other running answers a second to finish, and
    /// returns when no task is left.
    ///
    /// # Cancel safety
    /// Dropping the future cuts what is left.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            // A panic in the accept loop; its connections died with it.
            tracing::error!(service = %self.kind, %error, "local service failed");
        }
    }
}

/// Starts a service of `node` on `address`; port 0 takes a free one.
///
/// # Errors
/// The address is taken, or not of this machine.
pub async fn start(kind: Kind, node: &NodeName, address: SocketAddr) -> Result<RunningService, ListenError> {
    let failed = |source| ListenError { kind, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let stop = CancellationToken::new();
    let place = listen::Place { kind, node: node.clone(), stop: stop.clone() };
    let task = AbortOnDropHandle::new(tokio::spawn(listen::run(listener, place)));
    Ok(RunningService { kind, address: bound, stop, task })
}

/// A short answer in plain text.
fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Answer> {
    whole(status, HeaderValue::from_static("text/plain; charset=utf-8"), text.into())
}

/// An answer in JSON.
fn json(text: String) -> Response<Answer> {
    whole(StatusCode::OK, HeaderValue::from_static("application/json"), text.into())
}

fn whole(status: StatusCode, kind: HeaderValue, bytes: Bytes) -> Response<Answer> {
    let mut response = Response::new(Full::new(bytes).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The value of `name` in a query of the form `a=1&b=2`. The services' own parameters are plain numbers, so nothing is
/// decoded.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

#[cfg(test)]
mod tests;
