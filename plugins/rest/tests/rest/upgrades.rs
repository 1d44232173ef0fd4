//! Calls that leave HTTP.

use bytes::Bytes;
use edgeway_plugin::{
    Body, Fault, FaultCode, Response,
    conformance::{Behaviour, End, FakeEdge},
};
use http_body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    bodies::fed,
    support::{Rest, assert_fault, read_all, read_until, until, within},
};

const ASK: &[u8] =
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn switched(rest: &Rest) -> TcpStream {
    let mut stream = rest.connect().await;
    stream.write_all(ASK).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(
        head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: websocket\r\n"),
        "{head}"
    );
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    stream
}

#[tokio::test]
async fn bytes_pass_both_ways_after_the_switch_and_both_halves_end() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut stream = switched(&rest).await;
    let calls = edge.calls();
    assert_eq!(calls[0].request.headers()["connection"], "upgrade");
    assert_eq!(calls[0].request.headers()["upgrade"], "websocket");
    for piece in ["hello", "\0\x01GET / HTTP/1.1\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        read_until(&mut stream, piece).await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "", "the service has ended its half, too");
    edge.wait_for("the upload ends in order", |calls| calls[0].upload.end == End::Complete).await;
    rest.stop().await;
}

#[tokio::test]
async fn bytes_sent_along_with_the_request_are_not_lost() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut stream = rest.connect().await;
    stream.write_all(&[ASK, b"early"].concat()).await.unwrap();
    read_until(&mut stream, "\r\n\r\nearly").await;
    drop(stream);
    rest.stop().await;
}

#[tokio::test]
async fn the_services_end_reaches_the_caller_while_it_still_sends() {
    let (feeder, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let edge = FakeEdge::answering(move |request, _| {
        let body = body.lock().unwrap().take().unwrap();
        // The request's body lives on, as it would until its caller ends it.
        let upload = request.into_body();
        async move {
            tokio::spawn(async move { upload.collect(1 << 20).await });
            Ok(Response::builder().status(101).body(Body::new(body)).unwrap())
        }
    });
    let rest = Rest::start(&edge).await;
    let mut stream = switched(&rest).await;
    feeder.send(Ok(Frame::data(Bytes::from_static(b"bye")))).await.unwrap();
    drop(feeder);
    assert_eq!(read_all(&mut stream).await, "bye");
    stream.write_all(b"one more").await.unwrap();
    edge.wait_for("it is still heard", |calls| calls[0].upload.bytes == 8).await;
    stream.shutdown().await.unwrap();
    edge.wait_for("and ends in order", |calls| calls[0].upload.end == End::Complete).await;
    rest.stop().await;
}

#[tokio::test]
async fn a_refused_switch_is_an_ordinary_answer() {
    let edge = FakeEdge::answering(|request, _| async move {
        if request.uri().path() == "/fault" {
            return Err(Fault::new(FaultCode::NoRoute));
        }
        Ok(Response::builder().status(403).body(Body::full("no")).unwrap())
    });
    let rest = Rest::start(&edge).await;
    let mut stream = rest.connect().await;
    stream.write_all(ASK).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\nno").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    stream.write_all(b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 403 "), "the connection goes on");
    let answer = rest
        .raw("GET /fault HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_fault(&answer, 404, "no_route");
    rest.stop().await;
}

#[tokio::test]
async fn what_is_no_request_to_switch_is_an_ordinary_call() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    for (at, lines) in [
        "Upgrade: websocket\r\nConnection: close\r\n\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: upgrade, http2-settings, close\r\n\r\n",
        "Upgrade: websocket\r\nConnection: upgrade, close\r\nContent-Length: 3\r\n\r\nabc",
    ]
    .into_iter()
    .enumerate()
    {
        let answer = rest.raw(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{lines}: {answer}");
        let calls = edge.wait_calls(at + 1).await;
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!calls[at].request.headers().contains_key(name), "{lines}: {name}");
        }
    }
    rest.stop().await;
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_fault() {
    let edge = FakeEdge::answering(|_, _| async {
        Ok(Response::builder().status(101).header("upgrade", "x").body(Body::empty()).unwrap())
    });
    let rest = Rest::start(&edge).await;
    let answer = rest.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_fault(&answer, 502, "service_reset");
    rest.stop().await;
}

#[tokio::test]
async fn a_cut_after_the_switch_resets_the_caller() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut stream = switched(&rest).await;
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut stream, "hello").await;
    edge.lose_session();
    let mut rest_of_it = Vec::new();
    let end = within("the connection ends", stream.read_to_end(&mut rest_of_it)).await;
    assert!(end.is_err(), "it looked like an orderly end");
    rest.stop().await;
}

#[tokio::test]
async fn a_caller_that_breaks_off_after_the_switch_is_noticed() {
    let edge = FakeEdge::behaving(Behaviour::Echo);
    let rest = Rest::start(&edge).await;
    let stream = switched(&rest).await;
    // Closed with this set, a socket is reset.
    stream.set_zero_linger().unwrap();
    drop(stream);
    edge.wait_for("the upload breaks off", |calls| {
        matches!(&calls[0].upload.end, End::Fault(fault) if fault.code() == FaultCode::Cancelled)
            || calls[0].upload.end == End::Dropped
    })
    .await;
    until("the call is over", || edge.in_flight() == 0).await;
    rest.stop().await;
}
