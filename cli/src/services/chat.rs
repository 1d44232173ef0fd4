//! `chat`: a WebSocket (RFC 6455) that says every text and every binary back.
//!
//! ```text
//! request ──not an upgrade──▶ 426      request ──upgrade──▶ 101 ──▶ echo … ──▶ closed
//!                                                                   by the caller, after ?seconds=N, or at the stop
//! ```
//! `?seconds=1` lets the service close after a second, so that a tool that knows no WebSocket ends by itself.

use std::{pin::pin, time::Duration};

use edgeway_proto::NodeName;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::time;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{Answer, parameter, text};

/// Largest message that is taken, in bytes: each is held whole until it is said back.
const MAX_MESSAGE: usize = 1 << 20;

/// How long a caller may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const USAGE: &str = "this is a WebSocket: ask with connection: upgrade, upgrade: websocket, sec-websocket-version: 13 \
                     and a sec-websocket-key\n";

/// A chat whose connection is about to be switched.
pub(super) struct Chat {
    upgrade: OnUpgrade,
    node: NodeName,
    seconds: Option<u64>,
}

/// The switch to WebSocket and the chat to run behind it, or a refusal.
pub(super) fn answer(
    mut request: Request<Incoming>,
    node: &NodeName,
) -> Result<(Response<Answer>, Chat), Box<Response<Answer>>> {
    let seconds = match parameter(request.uri().query(), "seconds").map(str::parse) {
        None => None,
        Some(Ok(seconds)) => Some(seconds),
        Some(Err(_)) => {
            return Err(Box::new(text(
                StatusCode::BAD_REQUEST,
                "seconds must be a number, as in ?seconds=1\n",
            )));
        }
    };
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let asked = request.version() == Version::HTTP_11
        && names(headers, header::CONNECTION, "upgrade")
        && names(headers, header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let Some(key) = key.filter(|_| asked) else {
        let mut refusal = text(StatusCode::UPGRADE_REQUIRED, USAGE);
        let headers = refusal.headers_mut();
        // RFC 9110, section 15.5.22, and RFC 6455, section 4.4.
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(Box::new(refusal));
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    let upgrade = hyper::upgrade::on(&mut request);
    Ok((response, Chat { upgrade, node: node.clone(), seconds }))
}

/// Whether a header that is a list holds this word.
fn names(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(word))
}

impl Chat {
    /// Says back what comes until either side closes.
    pub(super) async fn run(self, stop: &CancellationToken) {
        let upgraded = match self.upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!(%error, "the switch to WebSocket failed"),
        };
        let config =
            WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
        let mut time_is_up = pin!(async {
            match self.seconds {
                Some(seconds) => time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        });
        let farewell = loop {
            let message = tokio::select! {
                biased;
                // The end comes before more of the same.
                () = stop.cancelled() => break format!("{} is stopping", self.node),
                () = &mut time_is_up => break format!("time is up at {}", self.node),
                message = socket.next() => message,
            };
            let said = match message {
                // Pings and closes are answered by the protocol itself while it reads on.
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => socket.send(message).await,
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(error),
                None => return,
            };
            if let Err(error) = said {
                return tracing::debug!(%error, "a chat broke off");
            }
        };
        let frame = CloseFrame { code: CloseCode::Normal, reason: farewell.into() };
        let closing = async {
            if socket.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = socket.next().await {}
            }
        };
        if time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::debug!("a chat did not answer the close");
        }
    }
}
