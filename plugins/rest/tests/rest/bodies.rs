//! Bodies: streamed, bounded, never taken for whole when they are not, and let go when the caller leaves.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use edgeway_plugin::{
    Body, Fault, FaultCode, Response,
    conformance::{Behaviour, End, FakeEdge},
};
use http_body::Frame;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::support::{Rest, assert_fault, read_all, read_until, until, within};

/// A body that a test feeds piece by piece; it has no length.
pub(crate) struct Fed(mpsc::Receiver<Result<Frame<Bytes>, Fault>>);

pub(crate) type Feeder = mpsc::Sender<Result<Frame<Bytes>, Fault>>;

pub(crate) fn fed() -> (Feeder, Fed) {
    let (feeder, pieces) = mpsc::channel(4);
    (feeder, Fed(pieces))
}

/// This text as a body without a length.
pub(crate) fn unsized_body(text: &'static str) -> Fed {
    let (feeder, body) = fed();
    feeder.try_send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).unwrap();
    body
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.0.poll_recv(cx)
    }
}

#[tokio::test]
async fn pieces_are_flushed_as_they_come() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut stream = rest.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    for piece in ["one", "two", "six"] {
        stream.write_all(format!("3\r\n{piece}\r\n").as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, &format!("{piece}\r\n")).await, format!("3\r\n{piece}\r\n"));
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut stream, "0\r\n\r\n").await, "0\r\n\r\n");
    rest.stop().await;
}

#[tokio::test]
async fn trailers_pass_both_ways_without_what_only_a_head_may_say() {
    let (seen, mut trailers_seen) = mpsc::channel(1);
    let edge = FakeEdge::answering(move |request, _| {
        let seen = seen.clone();
        async move {
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                if let Ok(trailers) = frame.unwrap().into_trailers() {
                    seen.send(trailers).await.unwrap();
                }
            }
            let (feeder, body) = fed();
            feeder.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", http::HeaderValue::from_static("7"));
            feeder.send(Ok(Frame::trailers(trailers))).await.unwrap();
            Ok(Response::builder().header("trailer", "x-sum").body(Body::new(body)).unwrap())
        }
    });
    let rest = Rest::start(&edge).await;
    let answer = rest
        .raw(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: x-up\r\nTransfer-Encoding: chunked\r\n\
             Connection: close, te\r\n\r\n1\r\na\r\n0\r\nx-up: 5\r\ncontent-length: 9\r\nhost: b\r\n\r\n",
        )
        .await;
    assert!(answer.ends_with("1\r\nx\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
    let up = within("the trailers reach the edge", trailers_seen.recv()).await.unwrap();
    assert_eq!(up.len(), 1);
    assert_eq!(up["x-up"], "5");
    let calls = edge.calls();
    assert_eq!(calls[0].request.headers()["te"], "trailers");
    assert_eq!(calls[0].request.headers()["trailer"], "x-up");
    rest.stop().await;
}

#[tokio::test]
async fn a_cut_answer_is_never_whole() {
    for version in ["1.1", "1.0"] {
        let edge = FakeEdge::behaving(Behaviour::CutAfter(3));
        let rest = Rest::start(&edge).await;
        let mut stream = rest.connect().await;
        let request = format!("POST / HTTP/{version}\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = within("the connection ends", stream.read_to_end(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer);
        match version {
            // The last chunk is missing.
            "1.1" => {
                let chunked = text.contains("transfer-encoding: chunked");
                assert!(chunked && text.ends_with("\r\n\r\n3\r\nabc\r\n"), "{text}");
            }
            // Here the end of the connection is the end of the body, so it must not be an orderly one.
            _ => assert!(end.is_err(), "{text}"),
        }
        rest.stop().await;
    }
}

#[tokio::test]
async fn an_answer_shorter_than_its_length_is_never_whole() {
    let edge = FakeEdge::answering(|request, _| async move {
        let body = match request.uri().path() {
            "/none" => Body::empty(),
            _ => Body::new(unsized_body("hello")),
        };
        Ok(Response::builder().header("content-length", "9").body(body).unwrap())
    });
    let rest = Rest::start(&edge).await;
    let answer = rest.raw("GET /some HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.contains("content-length: 9\r\n") && answer.ends_with("hello"), "{answer}");
    let answer = rest.raw("GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_fault(&answer, 502, "service_reset");
    rest.stop().await;
}

#[tokio::test]
async fn a_cut_request_is_never_whole() {
    for framing in ["Content-Length: 6\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let edge = FakeEdge::answering(|request, _| async move {
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            Ok(Response::new(Body::empty()))
        });
        let rest = Rest::start(&edge).await;
        let mut stream = rest.connect().await;
        stream.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).await.unwrap();
        edge.wait_for("three bytes reach the edge", |calls| calls.iter().any(|call| call.upload.bytes == 3))
            .await;
        drop(stream);
        let ended = |end: &End| matches!(end, End::Fault(_) | End::Dropped);
        edge.wait_for("the body is cut", |calls| ended(&calls[0].upload.end)).await;
        rest.stop().await;
    }
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_its_call() {
    // Before the answer's head, and in the middle of its body.
    for behaviour in [Behaviour::Stall, Behaviour::StallAfter(3)] {
        let edge = FakeEdge::behaving(behaviour.clone());
        let rest = Rest::start(&edge).await;
        let mut stream = rest.connect().await;
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef").await.unwrap();
        edge.wait_in_flight(1).await;
        if behaviour != Behaviour::Stall {
            read_until(&mut stream, "abc").await;
        }
        drop(stream);
        edge.wait_cancelled(1).await;
        rest.stop().await;
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_its_length_at_once() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"limits": {"requestBody": "1KiB"}})).await;
    let answer = rest.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n").await;
    assert_fault(&answer, 413, "request_too_large");
    assert!(edge.calls().is_empty(), "no service hears of it");
    let body = "x".repeat(1024);
    let request =
        format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1024\r\n\r\n{body}");
    assert!(rest.raw(request).await.starts_with("HTTP/1.1 200 OK"), "exactly the limit passes");
    rest.stop().await;
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_body_that_grows_over_the_limit_is_refused_when_it_does() {
    // Answers only to a whole body, so that the refusal can still be told; on `/wait`, to none that broke off.
    let edge = FakeEdge::answering(|request, _| async move {
        let waits = request.uri() == "/wait";
        match request.into_body().collect(1 << 20).await {
            Ok(bytes) => Ok(Response::new(bytes.into())),
            Err(_) if waits => std::future::pending().await,
            Err(_) => Err(Fault::with_detail(FaultCode::ServiceReset, "the service heard no end")),
        }
    });
    let rest = Rest::with(&edge, json!({"limits": {"requestBody": "1KiB"}})).await;
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let mut stream = rest.connect().await;
    stream.write_all(format!("{CHUNKED}{chunk}0\r\n\r\n").as_bytes()).await.unwrap();
    assert!(read_until(&mut stream, "xxxx").await.starts_with("HTTP/1.1 200 OK"), "exactly the limit passes");
    drop(stream);
    let over = format!("{chunk}1\r\nx\r\n0\r\n\r\n");
    assert_fault(&rest.raw(format!("{CHUNKED}{over}")).await, 413, "request_too_large");
    let waiting = CHUNKED.replace("POST /", "POST /wait");
    assert_fault(&rest.raw(format!("{waiting}{over}")).await, 413, "request_too_large");
    // The edge was never told that it was complete.
    for call in &edge.calls()[1..] {
        assert!(matches!(&call.upload.end, End::Fault(fault) if fault.code() == FaultCode::RequestTooLarge));
    }
    // If the answer has begun by then, it is cut.
    edge.behave(Behaviour::Echo);
    let answer = rest.raw(format!("{CHUNKED}{over}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    rest.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_on_sending_still_gets_to_read_why_it_was_refused() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"limits": {"requestBody": "1KiB"}})).await;
    let piece = vec![b'x'; 64 << 10];
    for _ in 0..10 {
        let mut stream = rest.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2097152\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..32 {
            stream.write_all(&piece).await.expect("it is read, if only to be thrown away");
            tokio::task::yield_now().await;
        }
        assert_fault(&read_all(&mut stream).await, 413, "request_too_large");
    }
    rest.stop().await;
}

#[tokio::test]
async fn a_broken_chunk_is_a_bad_request() {
    let edge = FakeEdge::answering(|request, _| async move {
        request.into_body().collect(1 << 20).await.map(|bytes| Response::new(bytes.into()))
    });
    let rest = Rest::start(&edge).await;
    for body in [
        "xyz\r\n",
        "3\r\nabcdef\r\n",
        "-1\r\na\r\n",
        "ffffffffffffffffff\r\na\r\n",
        "3 \r\n\0\0\0\r\r0\r\n\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_fault(&rest.raw(format!("{head}{body}")).await, 400, "bad_request");
    }
    rest.stop().await;
}

#[tokio::test]
async fn the_edge_decides_when_a_caller_is_told_to_continue() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let edge = FakeEdge::answering(move |request, _| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|go| *go).await.unwrap();
            let bytes = request.into_body().collect(100).await?;
            Ok(Response::new(bytes.into()))
        }
    });
    let rest = Rest::start(&edge).await;
    let mut stream = rest.connect().await;
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let calls = edge.wait_calls(1).await;
    assert_eq!(calls[0].request.headers()["expect"], "100-continue");
    let mut one = [0];
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), stream.peek(&mut one)).await;
    assert!(early.is_err(), "nobody has polled the body, but the caller was told something");
    go.send(true).unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("abc"));
    rest.stop().await;
}

#[tokio::test]
async fn an_answer_that_does_not_want_the_body_comes_without_continue() {
    let edge = FakeEdge::answering(|_, _| async {
        Ok(Response::builder().status(401).body(Body::full("who are you")).unwrap())
    });
    let rest = Rest::start(&edge).await;
    let answer =
        rest.raw("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("who are you"), "{answer}");
    rest.stop().await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_service_back() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let total: u64 = 64 << 20;
    let mut stream = rest.connect().await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {total}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let upload = tokio::spawn(async move {
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..(total >> 16) {
            writer.write_all(&piece).await.unwrap();
        }
        writer
    });
    // Nothing is read, so what is under way is bounded by buffers, and both ways come to rest.
    let mut last = 0;
    within("the transfer comes to rest", async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let now = edge.calls().first().map_or(0, |call| call.upload.bytes);
            if now == last && now > 0 {
                break;
            }
            last = now;
        }
    })
    .await;
    assert!(last < total / 2, "{last} of {total} bytes were taken for a caller that reads none");
    let mut answer = vec![0; 1 << 16];
    let mut read = 0;
    within("the rest arrives once it is read", async {
        loop {
            match reader.read(&mut answer).await.unwrap() {
                0 => break,
                n => read += n as u64,
            }
        }
    })
    .await;
    assert!(read > total);
    upload.await.unwrap();
    until("the call is over", || edge.in_flight() == 0).await;
    rest.stop().await;
}
