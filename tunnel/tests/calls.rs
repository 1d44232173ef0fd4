//! Calls over real QUIC on loopback: what arrives, what is told apart, and what ends when somebody leaves.

#![allow(missing_docs)]

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use edgeway_proto::{
    Close, CloseCode, Fault, FaultCode, HubName, NodeName, ServiceName, TrustDomain,
    frame::{FrameType, put_frame},
    wire,
};
use edgeway_tunnel::{
    CallInfo, HeadLimits,
    body::RecvBody,
    call::{call, open_pipe},
    identity::{Authority, Identity, write_secret},
    link::{Link, LinkEnd},
    serve::{CallEnd, IncomingCall, accept_call},
    session::{accept_session, open_session, welcome},
    transport::{Budgets, Dialler, Listener},
};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

type TestBody = UnsyncBoxBody<Bytes, Fault>;

const WAIT: Duration = Duration::from_secs(10);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future).await.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

struct Pair {
    hub: Link,
    agent: Link,
    _listener: Listener,
    _dialler: Dialler,
    _directory: tempfile::TempDir,
}

struct Certificates {
    directory: tempfile::TempDir,
    domain: TrustDomain,
}

impl Certificates {
    fn new() -> Self {
        let domain = TrustDomain::new("example.com").expect("a domain");
        let authority = Authority::generate(&domain).expect("an authority");
        let directory = tempfile::tempdir().expect("a directory");
        let at = |file: &str| directory.path().join(file);
        let hub = authority
            .issue_hub(&HubName::new("hub-1").expect("a name"), &["127.0.0.1".into()])
            .expect("issued");
        let node = authority.issue_node(&NodeName::new("berlin-1").expect("a name")).expect("issued");
        write_secret(&at("ca.crt"), authority.certificate_pem()).expect("written");
        write_secret(&at("hub.crt"), &hub.certificate_pem).expect("written");
        write_secret(&at("hub.key"), &hub.key_pem).expect("written");
        write_secret(&at("node.crt"), &node.certificate_pem).expect("written");
        write_secret(&at("node.key"), &node.key_pem).expect("written");
        Self { directory, domain }
    }

    fn hub(&self) -> Arc<Identity> {
        Arc::new(Identity::load_hub(self.directory.path(), &self.domain).expect("a hub").0)
    }

    fn node(&self) -> Arc<Identity> {
        Arc::new(Identity::load_node(self.directory.path(), &self.domain).expect("a node").0)
    }
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

async fn pair_with(budgets: Budgets) -> Pair {
    let certificates = Certificates::new();
    let listener = Listener::bind(loopback(), certificates.hub(), &budgets).expect("bound");
    let dialler = Dialler::bind(certificates.node(), &budgets, false).expect("bound");
    let address = listener.local_address().expect("an address");
    let accepting = async { listener.accept().await.expect("open").finish().await.expect("a link") };
    let dialling = async { dialler.dial(address, "127.0.0.1").await.expect("a link") };
    let ((hub, node), (agent, name)) = tokio::join!(accepting, dialling);
    assert_eq!((node.as_str(), name.as_str()), ("berlin-1", "hub-1"));
    Pair { hub, agent, _listener: listener, _dialler: dialler, _directory: certificates.directory }
}

async fn pair() -> Pair {
    pair_with(Budgets::default()).await
}

fn info() -> CallInfo {
    CallInfo {
        id: 1,
        parent: 0,
        plugin: "test".into(),
        route: "test".into(),
        service: ServiceName::new("echo").expect("a name"),
        remaining_ms: None,
        priority: 0,
    }
}

/// Serves every call with `answer`, and reports how each ended.
fn serve<F>(
    link: Link,
    answer: impl Fn(Request<RecvBody>) -> F + Clone + Send + 'static,
) -> mpsc::UnboundedReceiver<CallEnd>
where
    F: Future<Output = Result<Response<TestBody>, Fault>> + Send,
{
    let (ends, ended) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((send, recv)) = link.accept().await {
            let (answer, ends) = (answer.clone(), ends.clone());
            tokio::spawn(async move {
                match accept_call(send, recv, HeadLimits::default()).await {
                    Ok(IncomingCall::Http { request, responder, .. }) => {
                        let end = responder.respond(answer(request)).await;
                        let _ = ends.send(end);
                    }
                    Ok(IncomingCall::Pipe { responder, .. }) => {
                        let pipe = responder.accept().await.expect("the caller is there");
                        let (mut read, mut write) = tokio::io::split(pipe);
                        let copied = tokio::io::copy(&mut read, &mut write).await;
                        if copied.is_ok() {
                            write.shutdown().await.expect("ended");
                        }
                    }
                    Err(fault) => {
                        let _ = ends.send(CallEnd::Fault(fault));
                    }
                }
            });
        }
    });
    ended
}

async fn echo(request: Request<RecvBody>) -> Result<Response<TestBody>, Fault> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(body.boxed_unsync());
    *response.headers_mut() = parts.headers;
    Ok(response)
}

async fn send(link: &Link, request: Request<TestBody>) -> Result<Response<RecvBody>, Fault> {
    let stream = link.open().await?;
    soon("an answer", call(link, stream, &info(), request, HeadLimits::default())).await
}

fn full(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn stream_of(pieces: mpsc::Receiver<Result<http_body::Frame<Bytes>, Fault>>) -> TestBody {
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    StreamBody::new(Box::pin(pieces)).boxed_unsync()
}

fn data(bytes: &'static [u8]) -> Result<http_body::Frame<Bytes>, Fault> {
    Ok(http_body::Frame::data(Bytes::from_static(bytes)))
}

async fn collect(response: Response<RecvBody>) -> Result<(Bytes, Option<HeaderMap>), Fault> {
    let collected = soon("the whole body", response.into_body().collect()).await?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}

#[tokio::test]
async fn bodies_of_every_size_come_back_as_they_went() {
    let pair = pair().await;
    let _ends = serve(pair.agent.clone(), echo);
    for size in [0usize, 1, 8 * 1024, 8 * 1024 + 1, 1024 * 1024, 3 * 1024 * 1024 + 17] {
        let body: Bytes = (0..size).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>().into();
        let response = send(&pair.hub, Request::post("/").body(full(body.clone())).expect("a request")).await;
        let (back, trailers) = collect(response.expect("an answer")).await.expect("a whole body");
        assert!(back == body, "{size} bytes came back changed");
        assert_eq!(trailers, None);
    }
}

#[tokio::test]
async fn no_body_and_a_body_of_length_zero_stay_apart() {
    let pair = pair().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let _ends = serve(pair.agent.clone(), move |request| {
        let _ = tell.send(http_body::Body::is_end_stream(request.body()));
        async { Ok(Response::new(empty())) }
    });
    let (pieces, body) = mpsc::channel(1);
    drop(pieces);
    send(&pair.hub, Request::get("/").body(empty()).expect("a request")).await.expect("an answer");
    send(&pair.hub, Request::get("/").body(stream_of(body)).expect("a request")).await.expect("an answer");
    assert_eq!(soon("a call", told.recv()).await, Some(true));
    assert_eq!(soon("a call", told.recv()).await, Some(false));
}

#[tokio::test]
async fn a_body_streams_both_ways_and_ends_with_its_trailers() {
    let pair = pair().await;
    let _ends = serve(pair.agent.clone(), echo);
    let (pieces, body) = mpsc::channel(1);
    let response = send(&pair.hub, Request::post("/").body(stream_of(body)).expect("a request")).await;
    let mut body = response.expect("the head comes before the body is sent").into_body();
    for piece in [b"one" as &'static [u8], b"two"] {
        pieces.send(data(piece)).await.expect("the call lives");
        let frame = soon("an echo", body.frame()).await.expect("a frame").expect("data");
        assert_eq!(frame.into_data().expect("data"), piece);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "2".parse().expect("a value"));
    pieces.send(Ok(http_body::Frame::trailers(trailers.clone()))).await.expect("the call lives");
    let frame = soon("trailers", body.frame()).await.expect("a frame").expect("trailers");
    assert_eq!(frame.into_trailers().expect("trailers"), trailers);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn an_answer_cut_by_the_service_is_never_complete_and_says_why() {
    let pair = pair().await;
    let mut ends = serve(pair.agent.clone(), |_| async {
        let (pieces, body) = mpsc::channel(2);
        pieces.send(data(b"half")).await.expect("room");
        pieces.send(Err(Fault::with_detail(FaultCode::ServiceReset, "it died"))).await.expect("room");
        Ok(Response::new(stream_of(body)))
    });
    let response =
        send(&pair.hub, Request::get("/").body(empty()).expect("a request")).await.expect("a head");
    let fault = collect(response).await.expect_err("a cut body");
    assert_eq!((fault.code(), fault.detail()), (FaultCode::ServiceReset, "it died"));
    assert!(matches!(soon("the end", ends.recv()).await, Some(CallEnd::Fault(_))));
}

#[tokio::test]
async fn a_request_cut_by_the_caller_is_never_complete_at_the_service() {
    let pair = pair().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let _ends = serve(pair.agent.clone(), move |request| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(request.into_body().collect().await.map(|_| ()));
            std::future::pending().await
        }
    });
    let (pieces, body) = mpsc::channel(2);
    pieces.send(data(b"half")).await.expect("room");
    pieces.send(Err(Fault::new(FaultCode::RequestTooLarge))).await.expect("room");
    let fault = send(&pair.hub, Request::post("/").body(stream_of(body)).expect("a request"))
        .await
        .expect_err("the body was cut");
    assert_eq!(fault.code(), FaultCode::RequestTooLarge);
    // Some of it may have been read before the cut; a clean end must never have been.
    if let Ok(Some(read)) = tokio::time::timeout(Duration::from_secs(2), told.recv()).await {
        assert!(read.is_err());
    }
}

#[tokio::test]
async fn a_fault_in_place_of_an_answer_arrives_whole() {
    let pair = pair().await;
    let _ends =
        serve(pair.agent.clone(), |_| async { Err(Fault::overloaded("no room", Duration::from_secs(7))) });
    let fault =
        send(&pair.hub, Request::get("/").body(empty()).expect("a request")).await.expect_err("a fault");
    assert_eq!(fault, Fault::overloaded("no room", Duration::from_secs(7)));
}

#[tokio::test]
async fn caller_disconnect_drops_the_services_future_and_resets_the_stream() {
    struct Tell(mpsc::UnboundedSender<()>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let pair = pair().await;
    let (tell, mut dropped) = mpsc::unbounded_channel();
    let mut ends = serve(pair.agent.clone(), move |_| {
        let tell = Tell(tell.clone());
        async move {
            let _tell = tell;
            std::future::pending().await
        }
    });
    // Before the head, and with a request that is still being sent.
    for body in [empty(), {
        let (pieces, body) = mpsc::channel(1);
        std::mem::forget(pieces);
        stream_of(body)
    }] {
        let stream = pair.hub.open().await.expect("a stream");
        let request = Request::post("/").body(body).expect("a request");
        let info = info();
        let waiting = call(&pair.hub, stream, &info, request, HeadLimits::default());
        let left = tokio::time::timeout(Duration::from_millis(200), waiting).await;
        assert!(left.is_err(), "nobody answers");
        soon("the service's future dropped", dropped.recv()).await;
        assert_eq!(soon("the end", ends.recv()).await, Some(CallEnd::Cancelled));
    }
}

#[tokio::test]
async fn a_caller_that_leaves_a_silent_answer_ends_it_at_the_service() {
    let pair = pair().await;
    let mut ends = serve(pair.agent.clone(), |_| async {
        let (pieces, body) = mpsc::channel(2);
        pieces.send(data(b"tick")).await.expect("room");
        // Keeps the body open for ever.
        std::mem::forget(pieces);
        Ok(Response::new(stream_of(body)))
    });
    let response =
        send(&pair.hub, Request::get("/").body(empty()).expect("a request")).await.expect("a head");
    let mut body = response.into_body();
    soon("a tick", body.frame()).await.expect("a frame").expect("data");
    drop(body);
    assert_eq!(soon("the end", ends.recv()).await, Some(CallEnd::Cancelled));
}

#[tokio::test]
async fn stalled_calls_delay_no_other_call_and_no_heartbeat() {
    let budgets = Budgets {
        calls: 64,
        stream_window: 64 * 1024,
        keep_alive: Duration::from_millis(200),
        idle_timeout: Duration::from_secs(1),
        ..Budgets::default()
    };
    let pair = pair_with(budgets).await;
    let _ends = serve(pair.agent.clone(), |request| async move {
        if request.uri().path() == "/large" {
            return Ok(Response::new(full(vec![7u8; 4_000_000])));
        }
        echo(request).await
    });
    let mut stalled = Vec::new();
    for _ in 0..63 {
        stalled.push(
            send(&pair.hub, Request::get("/large").body(empty()).expect("a request")).await.expect("a head"),
        );
    }
    // Longer than the idle timeout: were heartbeats held up, the link would be gone.
    let until = tokio::time::Instant::now() + Duration::from_millis(2500);
    let mut calls = 0;
    while tokio::time::Instant::now() < until {
        let response = send(&pair.hub, Request::post("/").body(full("quick")).expect("a request")).await;
        assert_eq!(collect(response.expect("an answer")).await.expect("a body").0, "quick");
        calls += 1;
    }
    assert!(calls > 10, "only {calls} calls went through beside the stalled ones");
    let first = stalled.pop().expect("one of them");
    assert_eq!(collect(first).await.expect("it goes on").0.len(), 4_000_000);
}

#[tokio::test]
async fn the_body_is_polled_only_once_the_service_asks_for_it() {
    let pair = pair().await;
    let (ask, asks) = mpsc::channel::<()>(1);
    let asks = Arc::new(tokio::sync::Mutex::new(asks));
    let _ends = serve(pair.agent.clone(), move |request| {
        let asks = asks.clone();
        async move {
            if request.uri().path() == "/refuse" {
                let mut response = Response::new(empty());
                *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
                return Ok(response);
            }
            asks.lock().await.recv().await;
            echo(request).await
        }
    });
    let polled = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let body = |bytes: &'static str| {
        let polled = polled.clone();
        let pieces = futures_util::stream::once(async move {
            polled.store(true, std::sync::atomic::Ordering::SeqCst);
            data(bytes.as_bytes())
        });
        StreamBody::new(Box::pin(pieces)).boxed_unsync()
    };
    let request = |path: &str, body| {
        Request::post(path).header("expect", "100-continue").body(body).expect("a request")
    };
    let refused = send(&pair.hub, request("/refuse", body("never"))).await.expect("an answer");
    assert_eq!(refused.status(), 413);
    assert!(!polled.load(std::sync::atomic::Ordering::SeqCst), "nobody asked for the body");
    let (response, ()) = tokio::join!(send(&pair.hub, request("/", body("wanted"))), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!polled.load(std::sync::atomic::Ordering::SeqCst), "nobody asked for the body yet");
        ask.send(()).await.expect("the service waits");
    });
    assert_eq!(collect(response.expect("an answer")).await.expect("a body").0, "wanted");
}

#[tokio::test]
async fn a_lost_link_cuts_running_calls_with_session_lost() {
    let pair = pair().await;
    let _ends = serve(pair.agent.clone(), |_| std::future::pending());
    let request = Request::get("/").body(empty()).expect("a request");
    let (answer, ()) = tokio::join!(send(&pair.hub, request), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pair.agent.close(&Close::new(CloseCode::Shutdown, "bye"));
    });
    assert_eq!(answer.expect_err("nobody answers").code(), FaultCode::SessionLost);
    let end = soon("the end", pair.hub.closed()).await;
    assert_eq!(end, LinkEnd::Peer(Close::new(CloseCode::Shutdown, "bye")));
}

#[tokio::test]
async fn pipes_carry_bytes_both_ways_and_half_close() {
    let pair = pair().await;
    let _ends = serve(pair.agent.clone(), echo);
    let stream = pair.hub.open().await.expect("a stream");
    let pipe = soon("a pipe", open_pipe(stream, &info(), HeadLimits::default())).await.expect("opened");
    let (mut read, mut write) = tokio::io::split(pipe);
    let sent: Vec<u8> = (0..2_000_000).map(|at| (at % 253) as u8).collect();
    let writing = async {
        write.write_all(&sent).await.expect("written");
        write.shutdown().await.expect("ended");
    };
    let mut back = Vec::new();
    let reading = async { read.read_to_end(&mut back).await.expect("a clean end") };
    soon("the echo", async { tokio::join!(writing, reading) }).await;
    assert!(back == sent);
}

#[tokio::test]
async fn the_control_stream_introduces_and_drains() {
    let pair = pair().await;
    let hello = wire::Hello { max_calls: 7, agent_version: "test".into(), ..Default::default() };
    let hub = async {
        let (mut control, hello) = accept_session(&pair.hub).await.expect("a Hello");
        let answer = wire::Welcome { hub: "hub-1".into(), generation: 3, ..Default::default() };
        welcome(&mut control, &answer).await.expect("sent");
        (control, hello)
    };
    let agent = async { open_session(&pair.agent, &hello).await.expect("a Welcome") };
    let ((mut hub, heard), (mut agent, welcome)) =
        soon("the opening", async { tokio::join!(hub, agent) }).await;
    assert_eq!((heard.max_calls, welcome.generation), (7, 3));
    hub.drain("bye", Some(Duration::from_secs(2))).await.expect("sent");
    let event = soon("an event", agent.next()).await.expect("an event");
    let drain = edgeway_tunnel::session::ControlEvent::Drain {
        reason: "bye".into(),
        retry_after: Some(Duration::from_secs(2)),
    };
    assert_eq!(event, drain);
    drop(hub);
    soon("the end", agent.next()).await.expect_err("the control stream ended");
}

#[tokio::test]
async fn nonsense_on_a_call_stream_is_refused_and_the_session_goes_on() {
    let pair = pair().await;
    let mut ends = serve(pair.agent.clone(), echo);
    let head = |service: &str| {
        let mut out = BytesMut::new();
        let head = wire::CallHead {
            service: service.into(),
            kind: Some(wire::call_head::Kind::Http(wire::HttpHead {
                method: "POST".into(),
                target: Bytes::from_static(b"/"),
                ..Default::default()
            })),
            ..Default::default()
        };
        edgeway_proto::frame::put_message(&mut out, FrameType::Head, &head);
        out
    };
    let framed = |kind, payload: &[u8]| {
        let mut out = BytesMut::new();
        put_frame(&mut out, kind, payload);
        out
    };
    let mut head_twice = head("echo");
    head_twice.unsplit(head("echo"));
    let mut huge = head("echo");
    huge.extend_from_slice(&[0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let cases: Vec<(&str, BytesMut)> = vec![
        ("DATA before HEAD", framed(FrameType::Data, b"x")),
        ("TRAILERS before HEAD", framed(FrameType::Trailers, b"")),
        ("HELLO on a call stream", framed(FrameType::Hello, b"")),
        ("a head that does not decode", framed(FrameType::Head, b"\xff\xff\xff")),
        ("a head without a service", head("")),
        ("a head with a bad service", head("NO/PE")),
        ("HEAD twice", head_twice),
        ("a length of 2^62", huge),
        (
            "a length of 2^62 before HEAD",
            BytesMut::from(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..]),
        ),
        ("half a head", {
            let mut whole = head("echo");
            whole.truncate(5);
            whole
        }),
        ("nothing", BytesMut::new()),
    ];
    assert!(!cases.is_empty());
    for (what, bytes) in cases {
        let (mut sending, mut receiving) = pair.hub.open().await.expect("a stream");
        // A stream is there once a byte of it is sent: an unknown frame is skipped.
        sending.write(Bytes::from_static(&[0x7f, 0x00])).await.expect("written");
        sending.write(bytes.freeze()).await.expect("written");
        sending.finish();
        let end = soon(what, ends.recv()).await.expect("an end");
        let CallEnd::Fault(fault) = end else { panic!("{what}: {end:?}") };
        assert_eq!(fault.code(), FaultCode::BadRequest, "{what}");
        // Whatever comes back ends; nothing hangs.
        soon(what, async { while let Ok(Some(_)) = receiving.read().await {} }).await;
        let response = send(&pair.hub, Request::post("/").body(full("well")).expect("a request")).await;
        assert_eq!(
            collect(response.expect("the session lives")).await.expect("a body").0,
            "well",
            "after {what}"
        );
        assert_eq!(soon(what, ends.recv()).await, Some(CallEnd::Complete));
    }
}

#[tokio::test]
async fn frames_of_unknown_type_are_skipped_within_a_call() {
    let pair = pair().await;
    let _ends = serve(pair.agent.clone(), echo);
    let (mut sending, mut receiving) = pair.hub.open().await.expect("a stream");
    let mut out = BytesMut::from(&[0x6e, 0x02, 1, 2][..]);
    let head = wire::CallHead {
        service: "echo".into(),
        kind: Some(wire::call_head::Kind::Http(wire::HttpHead {
            method: "POST".into(),
            target: Bytes::from_static(b"/"),
            ..Default::default()
        })),
        ..Default::default()
    };
    edgeway_proto::frame::put_message(&mut out, FrameType::Head, &head);
    out.extend_from_slice(&[0x6f, 0x00]);
    put_frame(&mut out, FrameType::Data, b"data");
    put_frame(&mut out, FrameType::Trailers, b"");
    sending.write(out.freeze()).await.expect("written");
    sending.finish();
    let mut back = Vec::new();
    while let Some(bytes) = soon("an answer", receiving.read()).await.expect("a clean end") {
        back.extend_from_slice(&bytes);
    }
    assert!(back.windows(4).any(|window| window == b"data"), "{back:?}");
}

#[tokio::test]
async fn strangers_are_refused() {
    let ours = Certificates::new();
    let theirs = Certificates::new();
    let budgets = Budgets::default();
    let listener = Listener::bind(loopback(), ours.hub(), &budgets).expect("bound");
    let address = listener.local_address().expect("an address");
    // Another authority: neither side takes the other.
    let dialler = Dialler::bind(theirs.node(), &budgets, false).expect("bound");
    let accepting = async { listener.accept().await.expect("open").finish().await };
    let (accepted, dialled) =
        soon("a refusal", async { tokio::join!(accepting, dialler.dial(address, "127.0.0.1")) }).await;
    assert!(accepted.is_err() && dialled.is_err());
    // The right one still gets in.
    let dialler = Dialler::bind(ours.node(), &budgets, false).expect("bound");
    let accepting = async { listener.accept().await.expect("open").finish().await };
    let (accepted, dialled) =
        soon("a link", async { tokio::join!(accepting, dialler.dial(address, "127.0.0.1")) }).await;
    assert!(accepted.is_ok() && dialled.is_ok());
}
