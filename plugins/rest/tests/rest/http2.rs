//! HTTP/2: without TLS by prior knowledge, with TLS by negotiation.

use std::sync::Arc;

use bytes::Bytes;
use edgeway_plugin::{
    Body, Fault, FaultCode, Response,
    conformance::{Behaviour, End, FakeEdge},
};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    bodies::{Fed, fed},
    support::{Rest, until, within},
};

type AnyBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Fault>;

pub(crate) struct Caller {
    pub(crate) send: SendRequest<AnyBody>,
    pub(crate) connection: JoinHandle<hyper::Result<()>>,
}

impl Caller {
    pub(crate) async fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (send, connection) = within("the handshake", handshake).await.unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }

    pub(crate) async fn call(&mut self, request: Request<AnyBody>) -> Response<hyper::body::Incoming> {
        within("an answer", self.send.send_request(request)).await.unwrap()
    }
}

pub(crate) fn empty() -> AnyBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(text: &'static str) -> AnyBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

fn streamed(body: Fed) -> AnyBody {
    body.boxed_unsync()
}

pub(crate) fn get(path: &str) -> Request<AnyBody> {
    Request::get(format!("http://api.example.com{path}")).body(empty()).unwrap()
}

async fn plain(rest: &Rest) -> Caller {
    Caller::new(rest.connect().await).await
}

#[tokio::test]
async fn a_call_passes_with_its_authority_as_host() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let request = Request::post("http://api.example.com:81/a%00/../b?c=%ff")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(full("hello"))
        .unwrap();
    let answer = caller.call(request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], "5");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let calls = edge.calls();
    let head = &calls[0].request;
    assert_eq!(head.uri(), "/a%00/../b?c=%ff");
    assert_eq!(head.headers()["host"], "api.example.com:81");
    assert_eq!(head.headers().get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    assert_eq!(head.headers()["te"], "trailers");
    assert_eq!(head.headers()["via"], "2 edgeway");
    rest.stop().await;
}

#[tokio::test]
async fn absent_zero_known_and_unknown_length_stay_apart() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let post = |body| Request::post("http://a/").body(body).unwrap();
    let (feeder, body) = fed();
    feeder.send(Ok(Frame::data(Bytes::from_static(b"abc")))).await.unwrap();
    drop(feeder);
    let mut zero = post(empty());
    zero.headers_mut().insert("content-length", 0.into());
    for (at, (request, length)) in [
        (post(empty()), None),
        (zero, Some("0")),
        (post(full("abc")), Some("3")),
        (post(streamed(body)), None),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = caller.call(request).await;
        answer.into_body().collect().await.unwrap();
        let call = &edge.calls()[at];
        let seen = call.request.headers().get("content-length").map(|length| length.to_str().unwrap());
        // hyper's own caller names a length of zero for a POST without a body.
        assert!(seen == length || (at == 0 && seen == Some("0")), "{at}: {seen:?}");
        assert_eq!(call.upload.bytes, if at < 2 { 0 } else { 3 });
    }
    rest.stop().await;
}

#[tokio::test]
async fn trailers_pass_both_ways_while_both_ways_are_open() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let (feeder, body) = fed();
    let answer = caller.call(Request::post("http://a/").body(streamed(body)).unwrap()).await;
    let mut answer = answer.into_body();
    for piece in ["one", "two"] {
        feeder.send(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).await.unwrap();
        let frame = within("the piece comes back", answer.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    feeder.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
    drop(feeder);
    let frame = within("the trailers come back", answer.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap(), trailers);
    rest.stop().await;
}

#[tokio::test]
async fn a_cut_answer_is_a_reset_and_delays_no_other_call() {
    let edge = FakeEdge::behaving(Behaviour::CutAfter(3));
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let answer = caller.call(Request::post("http://a/").body(full("abcdef")).unwrap()).await;
    let error = within("the body ends", answer.into_body().collect()).await.expect_err("it was cut");
    assert!(!error.is_closed(), "the connection goes on: {error:?}");
    edge.behave(Behaviour::Echo);
    let answer = caller.call(Request::post("http://a/").body(full("abcdef")).unwrap()).await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "abcdef");
    rest.stop().await;
}

#[tokio::test]
async fn an_answer_of_another_length_than_declared_is_a_reset() {
    for length in ["4", "6"] {
        let edge = FakeEdge::answering(move |_, _| async move {
            let body = Body::new(crate::bodies::unsized_body("hello"));
            Ok(Response::builder().header("content-length", length).body(body).unwrap())
        });
        let rest = Rest::start(&edge).await;
        let mut caller = plain(&rest).await;
        let answer = caller.call(get("/")).await;
        within("the body ends", answer.into_body().collect()).await.expect_err("it was cut");
        rest.stop().await;
    }
}

#[tokio::test]
async fn a_caller_that_resets_its_stream_cancels_its_call() {
    let edge = FakeEdge::behaving(Behaviour::Stall);
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let waiting = caller.send.send_request(get("/"));
    let waiting = tokio::spawn(waiting);
    edge.wait_in_flight(1).await;
    waiting.abort();
    edge.wait_cancelled(1).await;
    drop(caller);
    // And one that goes away altogether, all of its calls. With its runtime, its socket is closed as it is.
    let callers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = rest.address;
    callers.spawn(async move {
        let mut caller = Caller::new(TcpStream::connect(address).await.unwrap()).await;
        for _ in 0..5 {
            tokio::spawn(caller.send.send_request(get("/")));
        }
        std::future::pending::<()>().await;
    });
    edge.wait_in_flight(5).await;
    callers.shutdown_background();
    edge.wait_cancelled(6).await;
    rest.stop().await;
}

#[tokio::test]
async fn a_request_that_its_caller_resets_is_never_whole() {
    let edge = FakeEdge::answering(|request, _| async move {
        request.into_body().collect(1 << 20).await.map(|bytes| Response::new(bytes.into()))
    });
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let (feeder, body) = fed();
    let call =
        tokio::spawn(caller.send.send_request(Request::post("http://a/").body(streamed(body)).unwrap()));
    feeder.send(Ok(Frame::data(Bytes::from_static(b"abc")))).await.unwrap();
    edge.wait_for("the bytes reach the edge", |calls| calls.iter().any(|call| call.upload.bytes == 3)).await;
    feeder.send(Err(Fault::new(FaultCode::Cancelled))).await.unwrap();
    edge.wait_for("the body is cut", |calls| matches!(calls[0].upload.end, End::Fault(_) | End::Dropped))
        .await;
    assert!(within("the call ends", call).await.unwrap().is_err());
    rest.stop().await;
}

#[tokio::test]
async fn faults_and_limits_are_those_of_http_1() {
    let edge = FakeEdge::behaving(Behaviour::Fault(FaultCode::NodeOffline));
    let limits = json!({"limits": {"requestBody": 4, "headerCount": 10, "headerBytes": "8KiB", "concurrentStreams": 3}});
    let rest = Rest::with(&edge, limits).await;
    let mut caller = plain(&rest).await;
    let answer = caller.call(get("/")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["edgeway-fault"]),
        (503, &"node_offline".parse().unwrap())
    );
    edge.behave(Behaviour::Echo);
    let answer = caller.call(Request::post("http://a/").body(full("abcde")).unwrap()).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["edgeway-fault"]),
        (413, &"request_too_large".parse().unwrap())
    );
    let mut many = get("/");
    for at in 0..11 {
        many.headers_mut().append("x-many", at.into());
    }
    let answer = caller.call(many).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["edgeway-fault"]),
        (400, &"bad_request".parse().unwrap())
    );
    let mut large = get("/");
    large.headers_mut().insert("x-large", "x".repeat(9 << 10).parse().unwrap());
    assert_eq!(caller.call(large).await.status(), 431);
    let answer = caller.call(get("/after")).await;
    assert_eq!(answer.status(), 200);
    // Streams beyond the limit wait at the caller, which was told of it.
    edge.behave(Behaviour::Stall);
    let calls: Vec<_> = (0..5).map(|_| tokio::spawn(caller.send.send_request(get("/")))).collect();
    edge.wait_in_flight(3).await;
    edge.behave(Behaviour::Echo);
    edge.release();
    for call in calls {
        assert_eq!(within("it gets its turn", call).await.unwrap().unwrap().status(), 200);
    }
    rest.stop().await;
}

#[tokio::test]
async fn a_host_that_is_not_the_authority_is_a_bad_request() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let mut request = get("/");
    request.headers_mut().insert("host", "other.example.com".parse().unwrap());
    let answer = caller.call(request).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["edgeway-fault"]),
        (400, &"bad_request".parse().unwrap())
    );
    assert!(edge.calls().is_empty());
    rest.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"timeouts": {"keepAlive": "200ms"}})).await;
    let mut caller = plain(&rest).await;
    assert_eq!(caller.call(get("/")).await.status(), 200);
    within("the connection ends in order", caller.connection).await.unwrap().unwrap();
    rest.stop().await;
}

pub(crate) struct Tls {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) roots: rustls::RootCertStore,
}

impl Tls {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(directory.path().join("rest.crt"), issued.cert.pem()).unwrap();
        std::fs::write(directory.path().join("rest.key"), issued.signing_key.serialize_pem()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        Self { directory, roots }
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn config(&self) -> serde_json::Value {
        let tls = json!({"certificate": self.file("rest.crt"), "key": self.file("rest.key")});
        json!({"listeners": [{"address": "127.0.0.1:0", "tls": tls}], "timeouts": {"requestHead": "2s"}})
    }

    async fn connect(&self, rest: &Rest, alpn: &[&[u8]]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        within("the TLS handshake", connector.connect(name, rest.connect().await)).await.unwrap()
    }
}

#[tokio::test]
async fn tls_negotiates_the_protocol_and_is_told_to_the_service() {
    let edge = FakeEdge::echo();
    let tls = Tls::new();
    let rest = Rest::with(&edge, tls.config()).await;
    let stream = tls.connect(&rest, &[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut caller = Caller::new(stream).await;
    let request = Request::post("https://localhost/").body(full("hello")).unwrap();
    assert_eq!(caller.call(request).await.into_body().collect().await.unwrap().to_bytes(), "hello");
    drop(caller);
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let mut stream = tls.connect(&rest, alpn).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        within("the answer", stream.read_to_string(&mut answer)).await.expect("an end that is no truncation");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    for call in edge.calls() {
        assert_eq!(call.request.headers()["x-forwarded-proto"], "https");
    }
    assert_eq!(edge.calls().len(), 3);
    // Garbage and silence instead of a handshake end by themselves.
    let mut garbage = rest.connect().await;
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = within("garbage is refused", garbage.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP"));
    let mut silent = rest.connect().await;
    assert_eq!(within("silence is not waited for", silent.read(&mut [0; 8])).await.unwrap(), 0);
    rest.stop().await;
}

#[tokio::test]
async fn a_cut_over_tls_is_no_orderly_end() {
    let edge = FakeEdge::behaving(Behaviour::CutAfter(3));
    let tls = Tls::new();
    let rest = Rest::with(&edge, tls.config()).await;
    let mut stream = tls.connect(&rest, &[]).await;
    stream.write_all(b"POST / HTTP/1.0\r\nContent-Length: 6\r\n\r\nabcdef").await.unwrap();
    let mut answer = Vec::new();
    let end = within("the connection ends", stream.read_to_end(&mut answer)).await;
    assert!(end.is_err(), "{}", String::from_utf8_lossy(&answer));
    until("the call is over", || edge.in_flight() == 0).await;
    rest.stop().await;
}

#[tokio::test]
async fn a_response_without_a_body_ends_with_its_head() {
    let edge = FakeEdge::answering(|_, _| async {
        Ok(Response::builder().status(204).body(Body::empty()).unwrap())
    });
    let rest = Rest::start(&edge).await;
    let mut caller = plain(&rest).await;
    let answer = caller.call(get("/")).await;
    assert_eq!(answer.status(), 204);
    assert!(http_body::Body::is_end_stream(answer.body()));
    rest.stop().await;
}
