//! `expect: 100-continue`.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use edgeway_plugin::{Body, Fault, Request};
use http_body::Frame;

use crate::support::*;

/// A body of `hello` that knows whether it was asked for.
struct Watched {
    polled: Arc<AtomicBool>,
    bytes: Option<Bytes>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.polled.store(true, Ordering::SeqCst);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn expecting() -> (Arc<AtomicBool>, Request<Body>) {
    let polled = Arc::new(AtomicBool::new(false));
    let body = Body::new(Watched { polled: Arc::clone(&polled), bytes: Some(Bytes::from("hello")) });
    let request = Request::post("/")
        .header("host", "a")
        .header("expect", "100-continue")
        .header("content-length", "5")
        .body(body)
        .unwrap();
    (polled, request)
}

#[tokio::test]
async fn the_body_waits_for_the_services_word() {
    // A machine that stalls for a second can make the clock win once; it can't do so every time.
    for _ in 0..5 {
        let (listener, service) = http().await;
        let (polled, request) = expecting();
        let call = call(&service, request);
        let mut peer = accept(&listener).await;
        assert!(peer.head().await.contains("expect: 100-continue\r\n"));
        let waited = !polled.load(Ordering::SeqCst);
        peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let asked = Instant::now();
        assert_eq!(peer.exactly(5).await, b"hello");
        let at_once = asked.elapsed().as_millis() < 900;
        peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        joined(call).await.unwrap();
        if waited && at_once {
            return;
        }
    }
    panic!("it was the clock that let the body go");
}

#[tokio::test]
async fn a_service_that_knows_no_100_gets_the_body_after_a_second() {
    let (listener, service) = http().await;
    let (polled, request) = expecting();
    let start = Instant::now();
    let call = call(&service, request);
    let mut peer = accept(&listener).await;
    peer.head().await;
    // Another interim answer is not the word.
    peer.send("HTTP/1.1 102 Processing\r\n\r\n").await;
    assert_eq!(peer.exactly(5).await, b"hello");
    assert!(start.elapsed().as_millis() > 500);
    assert!(polled.load(Ordering::SeqCst));
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(call).await.unwrap();
}

#[tokio::test]
async fn a_final_answer_first_means_that_the_body_is_never_asked_for() {
    let (listener, service) = http().await;
    let (polled, request) = expecting();
    let first = call(&service, request);
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await;
    let response = joined(first).await.unwrap();
    assert_eq!(response.status(), 417);
    assert_eq!(text(response).await.unwrap(), "no");
    // The service could still take what comes next for that body, so the connection is closed.
    assert!(peer.rest().await.0.is_empty());
    assert!(!polled.load(Ordering::SeqCst));

    let next = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(next).await.unwrap();
}
