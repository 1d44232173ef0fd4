//! A connector on one side, a service that the test plays on the other.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use edgeway_http_service::{HttpService, HttpServiceFactory};
use edgeway_plugin::{Body, CallContext, Connector, ConnectorFactory, Fault, Request, Response};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// Bounds every wait of a test. Far more than anything takes, so that it only ends what hangs.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

pub(crate) fn connector(section: Value) -> Arc<HttpService> {
    Arc::new(HttpServiceFactory::build(serde_json::from_value(section).unwrap()).unwrap())
}

/// A listener and a connector to it; `more` is added to its section.
pub(crate) async fn listening(scheme: &str, more: Value) -> (TcpListener, Arc<HttpService>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut section = json!({"url": format!("{scheme}://{}", listener.local_addr().unwrap())});
    section.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    (listener, connector(section))
}

/// A plain HTTP/1.1 service.
pub(crate) async fn http() -> (TcpListener, Arc<HttpService>) {
    listening("http", json!({})).await
}

pub(crate) fn get(target: &str) -> Request<Body> {
    Request::get(target).header("host", "api.example.com").body(Body::empty()).unwrap()
}

pub(crate) fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/").header("host", "api.example.com").body(body.into()).unwrap()
}

pub(crate) type Answer = Result<Response<Body>, Fault>;

/// Makes the call in a task of its own.
pub(crate) fn call(service: &Arc<HttpService>, request: Request<Body>) -> JoinHandle<Answer> {
    let service = Arc::clone(service);
    tokio::spawn(async move { Connector::call(&*service, request, CallContext::new()).await })
}

/// Makes the call and waits for its answer.
pub(crate) async fn answer(service: &HttpService, request: Request<Body>) -> Answer {
    in_time(Connector::call(service, request, CallContext::new())).await
}

pub(crate) async fn joined(call: JoinHandle<Answer>) -> Answer {
    in_time(call).await.unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> Result<String, Fault> {
    let bytes = in_time(response.into_body().collect(64 << 20)).await?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The far end of one connection.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

/// How a connection ended, seen from the service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Closed,
    Reset,
}

pub(crate) async fn accept(listener: &TcpListener) -> Peer {
    Peer::new(in_time(listener.accept()).await.unwrap().0)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// The head of the next request, with its empty line.
    pub(crate) async fn head(&mut self) -> String {
        self.until(b"\r\n\r\n").await
    }

    pub(crate) async fn until(&mut self, end: &[u8]) -> String {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                let found = self.unread.drain(..at + end.len()).collect();
                return String::from_utf8(found).unwrap();
            }
            let read = in_time(self.stream.read_buf(&mut self.unread)).await.unwrap();
            assert_ne!(read, 0, "ended after {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert_ne!(in_time(self.stream.read_buf(&mut self.unread)).await.unwrap(), 0, "ended early");
        }
        self.unread.drain(..length).collect()
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.stream.write_all(bytes.as_ref())).await.unwrap();
        in_time(self.stream.flush()).await.unwrap();
    }

    /// Everything up to the end, and how that came.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, Ended) {
        loop {
            match in_time(self.stream.read_buf(&mut self.unread)).await {
                Ok(0) => return (std::mem::take(&mut self.unread), Ended::Closed),
                Ok(_) => {}
                Err(_) => return (std::mem::take(&mut self.unread), Ended::Reset),
            }
        }
    }
}

/// A body that a test feeds piece by piece. It ends with its sender.
pub(crate) struct Fed(mpsc::Receiver<Result<Frame<Bytes>, Fault>>);

pub(crate) type Feeder = mpsc::Sender<Result<Frame<Bytes>, Fault>>;

pub(crate) fn fed() -> (Feeder, Body) {
    let (feeder, pieces) = mpsc::channel(16);
    (feeder, Body::new(Fed(pieces)))
}

pub(crate) fn piece(bytes: &'static str) -> Result<Frame<Bytes>, Fault> {
    Ok(Frame::data(Bytes::from_static(bytes.as_bytes())))
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.0.poll_recv(cx)
    }
}
