//! Bodies: streamed, and never reported complete when they were cut.

use std::io::{Read, Write};

use bytes::Bytes;
use edgeway_plugin::{Fault, FaultCode};
use http_body::Frame;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn pieces_pass_as_they_come_in_both_directions() {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let call = call(&service, post(body));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut answer = joined(call).await.unwrap().into_body();
    for _ in 0..3 {
        feeder.send(piece("up")).await.unwrap();
        assert_eq!(peer.until(b"up\r\n").await, "2\r\nup\r\n");
        peer.send("4\r\ndown\r\n").await;
        assert_eq!(in_time(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), Bytes::from("down"));
    }
    drop(feeder);
    assert_eq!(peer.until(b"\r\n\r\n").await, "0\r\n\r\n");
    peer.send("0\r\n\r\n").await;
    assert!(in_time(answer.frame()).await.is_none());
}

#[tokio::test]
async fn a_callers_cut_body_is_aborted_and_the_fault_comes_back_as_it_was() {
    for declared in [None, Some("10")] {
        let (listener, service) = http().await;
        let (feeder, body) = fed();
        let mut request = post(body);
        if let Some(length) = declared {
            request.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let call = call(&service, request);
        let mut peer = accept(&listener).await;
        peer.head().await;
        feeder.send(piece("abc")).await.unwrap();
        peer.until(b"abc").await;
        let cut = Fault::with_detail(FaultCode::SessionLost, "the caller is gone");
        feeder.send(Err(cut.clone())).await.unwrap();
        assert_eq!(joined(call).await.unwrap_err(), cut);
        let (rest, _) = peer.rest().await;
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "the cut body was ended cleanly");
    }
}

#[tokio::test]
async fn a_callers_cut_body_ends_an_answer_that_has_begun() {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let call = call(&service, post(body));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
    let mut answer = joined(call).await.unwrap().into_body();
    in_time(answer.frame()).await.unwrap().unwrap();
    let cut = Fault::with_detail(FaultCode::Cancelled, "left");
    feeder.send(Err(cut.clone())).await.unwrap();
    assert_eq!(in_time(answer.frame()).await.unwrap().unwrap_err(), cut);
    assert!(in_time(answer.frame()).await.is_none());
    assert!(!String::from_utf8_lossy(&peer.rest().await.0).contains("0\r\n\r\n"));
}

#[tokio::test]
async fn a_body_that_breaks_its_declared_length_is_cut() {
    for (pieces, word) in [(&["ab"][..], "shorter"), (&["abc", "defg"], "longer")] {
        let (listener, service) = http().await;
        let (feeder, body) = fed();
        let mut request = post(body);
        request.headers_mut().insert("content-length", "5".parse().unwrap());
        let call = call(&service, request);
        let mut peer = accept(&listener).await;
        peer.head().await;
        for bytes in pieces {
            feeder.send(piece(bytes)).await.unwrap();
        }
        drop(feeder);
        let fault = joined(call).await.unwrap_err();
        assert_eq!(fault.code(), FaultCode::BadRequest);
        assert!(fault.detail().contains(word), "{fault}");
        assert!(peer.rest().await.0.len() < 5, "the service got a whole body");
    }
}

#[tokio::test]
async fn a_full_body_that_is_shorter_than_declared_is_cut() {
    let (listener, service) = http().await;
    let mut request = post("ab");
    request.headers_mut().insert("content-length", "5".parse().unwrap());
    let call = call(&service, request);
    let mut peer = accept(&listener).await;
    assert_eq!(joined(call).await.unwrap_err().code(), FaultCode::BadRequest);
    assert!(!peer.rest().await.0.ends_with(b"ab"));
}

#[tokio::test]
async fn an_early_answer_passes_at_once_and_the_upload_goes_on() {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let early = call(&service, post(body));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(text(joined(early).await.unwrap()).await.unwrap(), "ok");
    feeder.send(piece("more")).await.unwrap();
    assert_eq!(peer.until(b"more\r\n").await, "4\r\nmore\r\n");
    // The connection still carries that upload: another call gets one of its own.
    let other = call(&service, get("/other"));
    let mut second = accept(&listener).await;
    second.head().await;
    second.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(other).await.unwrap();
    drop(feeder);
    assert_eq!(peer.until(b"\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn an_early_answer_is_not_lost_when_the_service_closes_in_the_upload() {
    for round in 0..20 {
        let (listener, service) = http().await;
        let (feeder, body) = fed();
        let call = call(&service, post(body));
        let mut peer = accept(&listener).await;
        peer.head().await;
        // More than the sockets hold, so that writes are under way when the service goes.
        let flood = tokio::spawn(async move {
            let chunk = Bytes::from(vec![0; 64 << 10]);
            while feeder.send(Ok(Frame::data(chunk.clone()))).await.is_ok() {}
        });
        peer.exactly(256 << 10).await;
        peer.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
        drop(peer);
        let response = joined(call).await.unwrap_or_else(|fault| panic!("round {round}: {fault}"));
        assert_eq!(response.status(), 413);
        assert_eq!(text(response).await.unwrap(), "big");
        in_time(flood).await.unwrap();
    }
}

/// The answer of a service that answers and resets the connection while the upload's next write is under way: that write
/// fails before anybody has looked whether there is something to read.
async fn answer_behind_a_failed_write(bytes: &'static [u8]) -> Answer {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let service = connector(json!({"url": format!("http://{}", listener.local_addr().unwrap())}));
    let (feeder, body) = fed();
    feeder.send(piece("first")).await.unwrap();
    let call = call(&service, post(body));
    let (ask, asked) = std::sync::mpsc::channel();
    let (closed, is_closed) = std::sync::mpsc::channel();
    let (arrived, has_arrived) = tokio::sync::oneshot::channel();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The rest is left unread, so that closing resets the connection.
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
        }
        arrived.send(()).unwrap();
        asked.recv().unwrap();
        stream.write_all(bytes).unwrap();
        drop(stream);
        closed.send(()).unwrap();
    });
    in_time(has_arrived).await.unwrap();
    // Blocks the only thread: answer and reset are in the kernel, and nobody has looked.
    ask.send(()).unwrap();
    is_closed.recv().unwrap();
    feeder.try_send(piece("second")).unwrap();
    serving.join().unwrap();
    // The answer's body needs the connector only as long as it runs on its tasks.
    joined(call).await.map(|response| response.map(|body| body.with_guard((service, feeder))))
}

#[tokio::test]
async fn an_early_answer_is_not_lost_behind_a_write_that_fails() {
    let whole = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let response = answer_behind_a_failed_write(whole).await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(text(response).await.unwrap(), "big");
}

#[tokio::test]
async fn an_answer_without_length_behind_a_write_that_fails_has_no_true_end() {
    let perhaps_half = b"HTTP/1.1 413 Too Large\r\n\r\nbi";
    let fault = match answer_behind_a_failed_write(perhaps_half).await {
        Ok(response) => text(response).await.expect_err("nobody knows whether that was all"),
        Err(fault) => fault,
    };
    assert_eq!(fault.code(), FaultCode::ServiceReset);
}

#[tokio::test]
async fn a_large_body_passes_whole_in_both_directions() {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let call = call(&service, post(body));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 8388608\r\n\r\n").await;
    let down = joined(call).await.unwrap();
    let up = async {
        for _ in 0..128 {
            feeder.send(Ok(Frame::data(Bytes::from(vec![7; 64 << 10])))).await.unwrap();
        }
        drop(feeder);
    };
    // The service sends back what it gets, so that both directions are full at once.
    let echo = async {
        for _ in 0..128 {
            assert_eq!(peer.until(b"\r\n").await, "10000\r\n");
            let chunk = peer.exactly(64 << 10).await;
            peer.until(b"\r\n").await;
            peer.send(chunk).await;
        }
        assert_eq!(peer.until(b"\r\n\r\n").await, "0\r\n\r\n");
    };
    let (_, _, down) = in_time(async { tokio::join!(up, echo, down.into_body().collect(16 << 20)) }).await;
    let down = down.unwrap();
    assert_eq!(down.len(), 8 << 20);
    assert!(down.iter().all(|byte| *byte == 7));
}
