//! The listener of a local service: accepts, serves HTTP/1.1 and HTTP/2, and runs a chat where a connection was
//! switched to WebSocket.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use edgeway_proto::NodeName;
use http::{HeaderValue, Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

use super::{Answer, Kind, SERVED_BY, chat, clock, echo, files};

/// Connections at once to one service. An agent's pool stays far below; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 1024;

/// A request's head must arrive within this time, or a forgotten connection would hold its place for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long running answers may go on after the stop. Clocks and chats end by themselves; this is for a download.
const GRACE: Duration = Duration::from_secs(1);

/// Pause after a failed accept. The usual cause is a lack of file descriptors, which no retry at once can mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a service is, and when it ends.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) node: NodeName,
    pub(super) stop: CancellationToken,
}

/// A chat that the connection's task takes up once hyper has let go of the connection.
type Switched = Arc<Mutex<Option<chat::Chat>>>;

/// Serves until `place.stop`, then lets the connections finish within [`GRACE`].
pub(super) async fn run(listener: TcpListener, place: Place) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            // First, so that a flood of connections can't put off the end.
            () = place.stop.cancelled() => break,
            // Next, so that finished connections make room before a new one is taken.
            Some(ended) = connections.join_next() => report(place.kind, ended),
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, place.clone()))),
                Err(error) => {
                    tracing::warn!(service = %place.kind, %error, "can't accept");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let finished = async {
        while let Some(ended) = connections.join_next().await {
            report(place.kind, ended);
        }
    };
    if time::timeout(GRACE, finished).await.is_err() {
        connections.shutdown().await;
    }
}

fn report(kind: Kind, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(service = %kind, %error, "connection failed");
    }
}

async fn serve(stream: TcpStream, place: Place) {
    // Small events must leave at once; without it they can wait 40 ms for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(service = %place.kind, %error, "can't set TCP_NODELAY");
    }
    let switched = Switched::default();
    let service = {
        let (place, switched) = (place.clone(), switched.clone());
        service_fn(move |request| {
            let (place, switched) = (place.clone(), switched.clone());
            async move { Ok::<_, Infallible>(answer(request, &place, &switched).await) }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        // First: what runs may finish, nothing new is taken.
        () = place.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        // A caller that leaves in the middle ends up here, which is its right.
        tracing::debug!(service = %place.kind, error = %error, "connection ended early");
        return;
    }
    let chat = switched.lock().expect("nobody panics while holding the lock").take();
    if let Some(chat) = chat {
        chat.run(&place.stop).await;
    }
}

async fn answer(request: Request<Incoming>, place: &Place, switched: &Switched) -> Response<Answer> {
    let mut response = match place.kind {
        Kind::Echo => echo::answer(request, &place.node).await,
        Kind::Clock => clock::answer(&request, place),
        Kind::Files => files::answer(request, &place.node).await,
        Kind::Chat => match chat::answer(request, &place.node) {
            Ok((response, chat)) => {
                *switched.lock().expect("nobody panics while holding the lock") = Some(chat);
                response
            }
            Err(response) => *response,
        },
    };
    let node = HeaderValue::from_str(place.node.as_str()).expect("a node name is a header value");
    response.headers_mut().insert(SERVED_BY, node);
    response
}
