//! Switching protocols.

use bytes::Bytes;
use edgeway_plugin::{Body, Fault, FaultCode, Request};

use crate::support::*;

fn upgrade(body: Body) -> Request<Body> {
    Request::get("/chat")
        .header("host", "a")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(body)
        .unwrap()
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

async fn switched(first: &str) -> (Peer, Feeder, Body) {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let call = call(&service, upgrade(body));
    let mut peer = accept(&listener).await;
    let head = peer.head().await;
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
    peer.send(format!("{SWITCH}{first}")).await;
    let response = joined(call).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["connection"], "upgrade");
    // The connection is the call's own now: the connector may not end before it, so the test keeps it.
    (peer, feeder, response.into_body().with_guard(service))
}

async fn read(body: &mut Body, length: usize) -> Bytes {
    let mut read = Vec::new();
    while read.len() < length {
        read.extend_from_slice(&in_time(body.frame()).await.unwrap().unwrap().into_data().unwrap());
    }
    read.into()
}

#[tokio::test]
async fn bytes_pass_both_ways_from_the_first_on() {
    let (mut peer, feeder, mut body) = switched("first").await;
    assert_eq!(read(&mut body, 5).await, "first");
    for _ in 0..3 {
        feeder.send(piece("ping")).await.unwrap();
        assert_eq!(peer.exactly(4).await, b"ping");
        peer.send("pong").await;
        assert_eq!(read(&mut body, 4).await, "pong");
    }
}

#[tokio::test]
async fn the_caller_is_heard_while_nobody_reads_the_service() {
    let (mut peer, feeder, _body) = switched("").await;
    feeder.send(piece("ping")).await.unwrap();
    assert_eq!(peer.exactly(4).await, b"ping");
}

#[tokio::test]
async fn the_callers_end_leaves_the_services_half_open() {
    let (mut peer, feeder, mut body) = switched("").await;
    feeder.send(piece("last")).await.unwrap();
    drop(feeder);
    assert_eq!(peer.rest().await, (b"last".to_vec(), Ended::Closed));
    peer.send("and more").await;
    assert_eq!(read(&mut body, 8).await, "and more");
    drop(peer);
    assert!(in_time(body.frame()).await.is_none());
}

#[tokio::test]
async fn the_services_end_leaves_the_callers_half_open() {
    let (mut peer, feeder, mut body) = switched("").await;
    tokio::io::AsyncWriteExt::shutdown(&mut peer.stream).await.unwrap();
    assert!(in_time(body.frame()).await.is_none());
    feeder.send(piece("still here")).await.unwrap();
    assert_eq!(peer.exactly(10).await, b"still here");
    drop(feeder);
    assert_eq!(peer.rest().await, (Vec::new(), Ended::Closed));
}

#[tokio::test]
async fn a_callers_cut_is_a_reset_for_the_service_and_comes_back() {
    let (mut peer, feeder, mut body) = switched("").await;
    let cut = Fault::with_detail(FaultCode::SessionLost, "gone");
    feeder.send(Err(cut.clone())).await.unwrap();
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap_err(), cut);
    drop(body);
    assert_eq!(peer.rest().await.1, Ended::Reset);
}

#[tokio::test]
async fn a_dropped_answer_resets_the_connection_and_drops_the_callers_body() {
    let (mut peer, feeder, body) = switched("").await;
    drop(body);
    in_time(feeder.closed()).await;
    assert_eq!(peer.rest().await.1, Ended::Reset);
}

#[tokio::test]
async fn a_services_reset_is_no_end() {
    let (peer, _feeder, mut body) = switched("").await;
    peer.stream.set_zero_linger().unwrap();
    drop(peer);
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap_err().code(), FaultCode::ServiceReset);
}

#[tokio::test]
async fn a_service_that_declines_answers_like_any_other() {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let first = call(&service, upgrade(body));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno").await;
    let response = joined(first).await.unwrap();
    assert_eq!(response.status(), 426);
    assert_eq!(text(response).await.unwrap(), "no");
    in_time(feeder.closed()).await;
    // And its connection is as good as before.
    let next = call(&service, get("/next"));
    assert!(peer.head().await.starts_with("GET /next "));
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(next).await.unwrap();
}
