//! C3: what streams is passed on as it comes, both ways, at constant memory.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    raw::{self, Caller},
    service::Service,
    world::{ECHO, Plan, http, within},
};

#[tokio::test]
async fn each_event_of_a_stream_arrives_before_the_next_one_is_sent() {
    let (next, nexts) = tokio::sync::mpsc::channel::<()>(1);
    let nexts = std::sync::Arc::new(tokio::sync::Mutex::new(nexts));
    let service = Service::start(move |mut connection| {
        let nexts = nexts.clone();
        async move {
            connection.request().await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            connection.send(head).await;
            let mut at = 0;
            while nexts.lock().await.recv().await.is_some() {
                let event = format!("data: {at}\n\n");
                connection.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
                at += 1;
            }
            connection.send("0\r\n\r\n").await;
        }
    })
    .await;
    let world = Plan::default().node("berlin-1", http("clock", service.address)).start().await;
    let mut caller = Caller::connect(world.rest).await;
    caller.send("GET /any/clock HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n").await;
    let head = caller.head().await.expect("the head comes before any event");
    assert_eq!((head.status, head.header("content-type")), (200, "text/event-stream"));
    for at in 0..20 {
        next.send(()).await.expect("the service waits");
        caller.until(format!("data: {at}\n\n").as_bytes()).await;
    }
    drop(next);
    caller.until(b"0\r\n\r\n").await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_request_streams_while_its_answer_streams_back() {
    let service = Service::start(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        // Whatever comes goes back, frame by frame, framing included.
        while let Some(bytes) = connection.some().await {
            connection.send(bytes).await;
        }
    })
    .await;
    let world = Plan::default().node("berlin-1", http("duet", service.address)).start().await;
    let mut caller = Caller::connect(world.rest).await;
    caller.send("POST /any/duet HTTP/1.1\r\nHost: e2e\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(caller.head().await.expect("a head before the request is over").status, 200);
    for at in 0..20 {
        caller.send(format!("4\r\n<{at:02}>\r\n")).await;
        caller.until(format!("<{at:02}>").as_bytes()).await;
    }
    caller.send("0\r\n\r\n").await;
    caller.until(b"0\r\n\r\n").await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_whole_both_ways() {
    const PIECES: usize = 1000;
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let stream = TcpStream::connect(world.rest).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    let driver = tokio::spawn(connection);
    let piece = Bytes::from((0..100_000_u32).map(|at| at.to_le_bytes()[0]).collect::<Vec<_>>());
    let sent = piece.clone();
    let pieces = futures_util::stream::iter(0..PIECES)
        .map(move |_| Ok::<_, std::convert::Infallible>(http_body::Frame::data(sent.clone())));
    let request = http::Request::post("/any/echo").header("host", "e2e").body(StreamBody::new(pieces));
    let answer =
        within("the head", sender.send_request(request.expect("a request"))).await.expect("an answer");
    let mut body = answer.into_body();
    let (mut read, mut right) = (0, true);
    while let Some(frame) = within("a piece", body.frame()).await {
        let frame = frame.expect("an intact body");
        for byte in frame.data_ref().into_iter().flatten() {
            right &= *byte == piece[read % piece.len()];
            read += 1;
        }
    }
    assert!(right && read == PIECES * piece.len(), "{read} bytes came");
    drop(sender);
    let _ = driver.await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_websocket_passes_messages_both_ways_and_closes_cleanly() {
    let service = websocket_echo().await;
    let world = Plan::default().node("berlin-1", http("chat", service.address)).start().await;
    let url = format!("ws://{}/any/chat/room", world.rest);
    let (mut socket, answer) =
        within("the switch", tokio_tungstenite::connect_async(url)).await.expect("a WebSocket");
    assert_eq!(answer.status(), 101);
    for size in [0, 1, 125, 126, 70_000, 1_000_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).await.expect("sent");
        let back = within("the echo", socket.next()).await.expect("a message").expect("intact");
        assert_eq!(back.into_text().expect("text").as_str(), text);
    }
    socket.close(None).await.expect("sent");
    within("the close handshake", async {
        while let Some(message) = socket.next().await {
            assert!(message.expect("a clean end").is_close());
        }
    })
    .await;
    world.until("the call is over", |nodes| nodes.iter().all(|node| node.in_flight == 0)).await;
    world.shutdown().await;
}

async fn websocket_echo() -> Service {
    Service::start(|connection| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(connection.stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                let _ = socket.send(message).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_upgrade_ends_one_way_and_then_the_other() {
    let service = Service::start(|mut connection| async move {
        connection.head().await;
        connection
            .send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n")
            .await;
        let mut said = Vec::new();
        // To the caller's end, and only then the answer.
        while let Some(bytes) = connection.some().await {
            said.extend(bytes);
        }
        connection.send(said.to_ascii_uppercase()).await;
    })
    .await;
    let world = Plan::default().node("berlin-1", http("shout", service.address)).start().await;
    let mut caller = Caller::connect(world.rest).await;
    caller
        .send("GET /any/shout HTTP/1.1\r\nHost: e2e\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n")
        .await;
    let head = caller.head().await.expect("an answer");
    assert_eq!((head.status, head.header("upgrade")), (101, "shout"));
    caller.send("hello ").await;
    caller.send("there").await;
    caller.stream.shutdown().await.expect("an open socket");
    assert_eq!(caller.rest().await, b"HELLO THERE");
    world.shutdown().await;
}

#[tokio::test]
async fn an_upgrade_that_the_service_declines_is_an_ordinary_answer() {
    let service =
        Service::answering("HTTP/1.1 426 Upgrade Required\r\nupgrade: h9\r\ncontent-length: 2\r\n\r\nno")
            .await;
    let world = Plan::default().node("berlin-1", http("old", service.address)).start().await;
    let request = "GET /any/old HTTP/1.1\r\nHost: e2e\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = raw::call(world.rest, request).await;
    assert_eq!((answer.status, answer.text()), (426, "no"));
    world.shutdown().await;
}

#[tokio::test]
async fn http_2_carries_many_calls_and_trailers_end_to_end() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let stream = TcpStream::connect(world.rest).await.expect("a connection");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let calls = (0..100).map(|at| {
        let mut sender = sender.clone();
        let address = world.rest;
        async move {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-at", at.into());
            let frames = [
                http_body::Frame::data(Bytes::from(format!("call {at}"))),
                http_body::Frame::trailers(trailers),
            ];
            let frames = futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>));
            let request = http::Request::post(format!("http://{address}/any/echo")).header("te", "trailers");
            let answer = sender.send_request(request.body(StreamBody::new(frames)).expect("a request")).await;
            let body = answer.expect("an answer").into_body().collect().await.expect("an intact body");
            let trailer = body.trailers().and_then(|trailers| trailers.get("x-at")).cloned();
            assert_eq!(trailer.expect("a trailer"), at.to_string());
            assert_eq!(body.to_bytes(), format!("call {at}"));
        }
    });
    within("all calls", futures_util::future::join_all(calls)).await;
    drop(sender);
    let _ = tokio::time::timeout(Duration::from_secs(1), driver).await;
    world.shutdown().await;
}
