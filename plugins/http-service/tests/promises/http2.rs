//! HTTP/2: shared connections, trailers, resets.

use std::{convert::Infallible, future::Future, sync::Arc};

use bytes::Bytes;
use edgeway_http_service::HttpService;
use edgeway_plugin::{Body, Fault, FaultCode};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http2::Builder, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::support::*;

/// Serves a connection by answering with method, URI and body of each request.
pub(crate) async fn serve_echo(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    serve(stream, 200, |request: Request<Incoming>| async {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = format!("{} {} {}", parts.method, parts.uri, String::from_utf8_lossy(&body));
        Response::new(Body::from(text))
    })
    .await;
}

async fn serve<F: Future<Output = Response<Body>> + Send + 'static>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    streams: u32,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) {
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let _ = Builder::new(TokioExecutor::new())
        .max_concurrent_streams(streams)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An h2c service that hands each request to the test, with the way to answer it.
type Asked = (Request<Incoming>, oneshot::Sender<Response<Body>>);

async fn asking(
    streams: u32,
    more: serde_json::Value,
) -> (mpsc::Receiver<Asked>, Arc<HttpService>, JoinHandle<()>) {
    let (listener, service) = listening("h2c", more).await;
    let (ask, asked) = mpsc::channel::<Asked>(1000);
    let serving = tokio::spawn(accept_all(listener, streams, ask));
    (asked, service, serving)
}

async fn accept_all(listener: TcpListener, streams: u32, ask: mpsc::Sender<Asked>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let ask = ask.clone();
        tokio::spawn(serve(stream, streams, move |request| {
            let ask = ask.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                let _ = ask.send((request, answer)).await;
                answered.await.unwrap_or_else(|_| Response::new(Body::from("unanswered")))
            }
        }));
    }
}

#[tokio::test]
async fn heads_lengths_and_trailers_pass() {
    let (mut asked, service, _serving) = asking(100, json!({})).await;
    let (feeder, body) = fed();
    let mut request = post(body);
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let call = call(&service, request);
    let (request, answer) = in_time(asked.recv()).await.unwrap();
    assert_eq!(request.uri(), "http://api.example.com/");
    assert_eq!(request.headers()["te"], "trailers");
    assert!(!request.headers().contains_key("host") && !request.headers().contains_key("content-length"));
    feeder.send(piece("up")).await.unwrap();
    let mut sum = HeaderMap::new();
    sum.insert("x-sum", "7".parse().unwrap());
    feeder.send(Ok(Frame::trailers(sum))).await.unwrap();
    let collected = in_time(request.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "7");
    assert_eq!(collected.to_bytes(), "up");

    let (down, body) = fed();
    answer.send(Response::new(body)).unwrap();
    let mut body = joined(call).await.unwrap().into_body();
    down.send(piece("down")).await.unwrap();
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "down");
    let mut status = HeaderMap::new();
    status.insert("grpc-status", "0".parse().unwrap());
    down.send(Ok(Frame::trailers(status))).await.unwrap();
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
    assert!(in_time(body.frame()).await.is_none());
}

#[tokio::test]
async fn no_body_and_a_body_of_zero_stay_apart() {
    let (mut asked, service, _serving) = asking(100, json!({})).await;
    for length in [None, Some("0"), Some("2")] {
        let mut request = post(if length == Some("2") { Body::from("ab") } else { Body::empty() });
        if let Some(length) = length {
            request.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let call = call(&service, request);
        let (request, answer) = in_time(asked.recv()).await.unwrap();
        assert_eq!(request.headers().get("content-length").map(|value| value.to_str().unwrap()), length);
        answer.send(Response::new(Body::empty())).unwrap();
        joined(call).await.unwrap();
    }
}

#[tokio::test]
async fn more_calls_than_one_connection_allows_are_all_served() {
    let (mut asked, service, _serving) = asking(10, json!({})).await;
    let calls: Vec<_> = (0..250).map(|n| call(&service, get(&format!("/{n}")))).collect();
    for _ in 0..250 {
        let (request, answer) = in_time(asked.recv()).await.unwrap();
        answer.send(Response::new(Body::from(request.uri().path().to_owned()))).unwrap();
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(text(joined(call).await.unwrap()).await.unwrap(), format!("/{n}"));
    }
}

#[tokio::test]
async fn a_full_connection_gets_a_second_one_and_the_limit_refuses_at_once() {
    let (mut asked, service, _serving) = asking(1, json!({"limits": {"connections": 2}})).await;
    let mut held = Vec::new();
    let first = call(&service, get("/warm"));
    let (_, answer_first) = in_time(asked.recv()).await.unwrap();
    answer_first.send(Response::new(Body::empty())).unwrap();
    joined(first).await.unwrap();
    for n in 0..2 {
        held.push((call(&service, get(&format!("/{n}"))), in_time(asked.recv()).await.unwrap()));
        // The connection's settings are known now, so that each holds one call.
    }
    let third = answer(&service, get("/3"));
    let fault = match in_time(third).await {
        Err(fault) => fault,
        Ok(_) => panic!("there are two places"),
    };
    assert_eq!(fault.code(), FaultCode::Overloaded);
    for (call, (_, answer)) in held {
        answer.send(Response::new(Body::empty())).unwrap();
        joined(call).await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_leaves_resets_the_stream() {
    let (mut asked, service, _serving) = asking(100, json!({})).await;
    // Before the answer, with the upload under way.
    let (feeder, body) = fed();
    let left = call(&service, post(body));
    let (request, _answer) = in_time(asked.recv()).await.unwrap();
    feeder.send(piece("some")).await.unwrap();
    let mut upload = request.into_body();
    in_time(upload.frame()).await.unwrap().unwrap();
    left.abort();
    assert!(in_time(upload.frame()).await.unwrap().is_err(), "the upload seemed complete");
    in_time(feeder.closed()).await;

    // In the answer, with the upload under way.
    let (feeder, body) = fed();
    let begun = call(&service, post(body));
    let (request, answer) = in_time(asked.recv()).await.unwrap();
    let (down, body) = fed();
    answer.send(Response::new(body)).unwrap();
    let response = joined(begun).await.unwrap();
    down.send(piece("some")).await.unwrap();
    drop(response);
    let mut upload = request.into_body();
    assert!(in_time(upload.frame()).await.unwrap().is_err(), "the upload seemed complete");
    in_time(feeder.closed()).await;
    in_time(down.closed()).await;
}

#[tokio::test]
async fn a_callers_cut_body_resets_the_stream_and_comes_back() {
    let (mut asked, service, _serving) = asking(100, json!({})).await;
    let (feeder, body) = fed();
    let call = call(&service, post(body));
    let (request, answer) = in_time(asked.recv()).await.unwrap();
    let (_down, body) = fed();
    answer.send(Response::new(body)).unwrap();
    let mut answer = joined(call).await.unwrap().into_body();
    let cut = Fault::with_detail(FaultCode::SessionLost, "gone");
    feeder.send(Err(cut.clone())).await.unwrap();
    assert!(in_time(request.into_body().collect()).await.is_err());
    assert_eq!(in_time(answer.frame()).await.unwrap().unwrap_err(), cut);
}

#[tokio::test]
async fn a_cut_answer_is_never_complete() {
    let (mut asked, service, _serving) = asking(100, json!({})).await;
    let call = call(&service, get("/"));
    let (_, answer) = in_time(asked.recv()).await.unwrap();
    let (down, body) = fed();
    answer.send(Response::new(body)).unwrap();
    let mut body = joined(call).await.unwrap().into_body();
    down.send(piece("half")).await.unwrap();
    in_time(body.frame()).await.unwrap().unwrap();
    down.send(Err(Fault::new(FaultCode::Internal))).await.unwrap();
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap_err().code(), FaultCode::ServiceReset);
}

/// Frames by hand: what no honest library sends.
mod frames {
    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    pub(super) fn settings() -> Vec<u8> {
        [frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat()
    }

    /// Plays the service up to the head of the first request, which is on stream 1.
    pub(super) async fn first_request(listener: &tokio::net::TcpListener) -> crate::support::Peer {
        let mut peer = crate::support::accept(listener).await;
        assert!(peer.exactly(24).await.starts_with(b"PRI * HTTP/2.0"));
        peer.send(settings()).await;
        loop {
            let header = peer.exactly(9).await;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            peer.exactly(length as usize).await;
            if header[3] == 1 {
                return peer;
            }
        }
    }

    /// `:status: 200` and nothing else.
    pub(super) fn ok(stream: u32) -> Vec<u8> {
        frame(1, 4, stream, &[0x88])
    }
}

#[tokio::test]
async fn a_reset_without_error_in_the_middle_is_no_end() {
    let (listener, service) = listening("h2c", json!({})).await;
    let call = call(&service, get("/"));
    let mut peer = frames::first_request(&listener).await;
    let no_error = frames::frame(3, 0, 1, &[0; 4]);
    peer.send([frames::ok(1), frames::frame(0, 0, 1, b"half")].concat()).await;
    let mut body = joined(call).await.unwrap().into_body();
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
    peer.send(no_error).await;
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap_err().code(), FaultCode::ServiceReset);
}

#[tokio::test]
async fn an_early_answer_with_a_reset_without_error_is_complete() {
    let (listener, service) = listening("h2c", json!({})).await;
    let (feeder, body) = fed();
    let call = call(&service, post(body));
    let mut peer = frames::first_request(&listener).await;
    let end = frames::frame(0, 1, 1, b"whole");
    let no_error = frames::frame(3, 0, 1, &[0; 4]);
    peer.send([frames::ok(1), end, no_error].concat()).await;
    assert_eq!(text(joined(call).await.unwrap()).await.unwrap(), "whole");
    in_time(feeder.closed()).await;
}

#[tokio::test]
async fn after_a_goaway_the_next_call_gets_a_new_connection() {
    let (listener, service) = listening("h2c", json!({})).await;
    for _ in 0..3 {
        let call = call(&service, get("/"));
        let mut peer = frames::first_request(&listener).await;
        let goaway = frames::frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
        peer.send([frames::frame(1, 5, 1, &[0x88]), goaway].concat()).await;
        assert_eq!(joined(call).await.unwrap().status(), 200);
        peer.rest().await;
    }
}

#[tokio::test]
async fn a_service_that_speaks_no_http_2_is_a_reset() {
    let (listener, service) = listening("h2c", json!({})).await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.exactly(24).await;
    peer.send("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
    drop(peer);
    assert_eq!(joined(call).await.unwrap_err().code(), FaultCode::ServiceReset);
}

#[tokio::test]
async fn too_many_fields_are_refused() {
    let (mut asked, service, _serving) = asking(100, json!({"limits": {"headerCount": 10}})).await;
    let call = call(&service, get("/"));
    let (_, answer) = in_time(asked.recv()).await.unwrap();
    let mut response = Response::new(Body::empty());
    for n in 0..20 {
        response
            .headers_mut()
            .insert(http::HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap());
    }
    answer.send(response).unwrap();
    let fault = joined(call).await.unwrap_err();
    assert_eq!(fault.code(), FaultCode::ServiceReset);
    assert!(fault.detail().contains("10 fields"), "{fault}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let (listener, service) = listening("h2c", json!({"pool": {"idleTimeout": "50ms"}})).await;
    let call = call(&service, get("/"));
    let mut peer = frames::first_request(&listener).await;
    peer.send([frames::frame(1, 5, 1, &[0x88])].concat()).await;
    joined(call).await.unwrap();
    peer.rest().await;
}

#[tokio::test]
async fn a_large_body_passes_whole_in_both_directions() {
    let (mut asked, service, _serving) = asking(100, json!({})).await;
    let (feeder, body) = fed();
    let call = call(&service, post(body));
    let (request, answer) = in_time(asked.recv()).await.unwrap();
    // The service sends back what it gets, so that both directions are full at once.
    let (mut upload, (down, back)) = (request.into_body(), fed());
    answer.send(Response::new(back)).unwrap();
    let echo = tokio::spawn(async move {
        while let Some(frame) = upload.frame().await {
            down.send(Ok(Frame::data(frame.unwrap().into_data().unwrap()))).await.unwrap();
        }
    });
    let up = tokio::spawn(async move {
        for _ in 0..128 {
            feeder.send(Ok(Frame::data(Bytes::from(vec![7; 64 << 10])))).await.unwrap();
        }
    });
    let all = in_time(joined(call).await.unwrap().into_body().collect(16 << 20)).await.unwrap();
    assert_eq!(all.len(), 8 << 20);
    in_time(up).await.unwrap();
    in_time(echo).await.unwrap();
}
